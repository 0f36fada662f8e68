//! Bits of whole numbers under a softmax: logarithm, sum and gradient in one pass each, without a
//! tensor of probabilities.

use std::f64::consts::LN_2;

use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor, WithDType, bail};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::cpu::simd::dispatch;
use super::cpu::{Real, slice};
#[cfg(feature = "cuda")]
use super::cuda::pixel_op;
use super::slices::with_slices;

/// `-log2 softmax(logits)[value]`: logits `[.., levels]` and values `[..]`, whole numbers below `levels`
/// as floats, to `[..]`. Values get no gradient.
pub fn bits(logits: &Tensor, values: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if logits.device().is_cuda() {
        return pixel_op::bits(logits, values);
    }
    logits
        .contiguous()?
        .apply_op2(&values.detach().contiguous()?, Bits)
}

/// Numbers summed side by side, so that a loop over them can use vectors.
const SIDE: usize = 16;

/// The largest of some values, and the sum of `e^(value - largest)`.
#[inline(always)]
fn largest_and_sum<T: Real>(row: &[T]) -> (T, T) {
    let larger = |a: T, b: T| if b > a { b } else { a };
    let mut best = [row[0]; SIDE];
    let (whole, rest) = row.as_chunks::<SIDE>();
    for chunk in whole {
        for (b, v) in best.iter_mut().zip(chunk) {
            *b = larger(*b, *v);
        }
    }
    let best = best.iter().chain(rest).fold(row[0], |a, b| larger(a, *b));
    let mut sums = [T::default(); SIDE];
    for chunk in whole {
        for (s, v) in sums.iter_mut().zip(chunk) {
            *s += (*v - best).exp();
        }
    }
    let mut sum = T::default();
    for s in sums {
        sum += s;
    }
    for v in rest {
        sum += (*v - best).exp();
    }
    (best, sum)
}

/// The logarithm of the sum of `e^value`.
#[inline(always)]
fn log_sum<T: Real>(row: &[T]) -> T {
    let (best, sum) = largest_and_sum(row);
    best + T::new(sum.f64().ln())
}

/// Rows a task takes at once.
fn step(levels: usize) -> usize {
    (64 * 1024usize).div_ceil(levels)
}

// Not closures: those are too large to be compiled into what has the processor's instructions.
struct Forward<'a, T> {
    x: &'a [T],
    v: &'a [T],
    y: &'a mut [T],
    levels: usize,
}

impl<T: Real> WithSimd for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let rows = self.x.chunks_exact(self.levels);
        for ((y, x), v) in self.y.iter_mut().zip(rows).zip(self.v) {
            *y = (log_sum(x) - x[v.f64() as usize]) * T::new(1.0 / LN_2);
        }
    }
}

struct Backward<'a, T> {
    x: &'a [T],
    v: &'a [T],
    dy: &'a [T],
    dx: &'a mut [T],
    levels: usize,
}

impl<T: Real> WithSimd for Backward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let rows = self.dx.chunks_exact_mut(self.levels);
        let rows = rows.zip(self.x.chunks_exact(self.levels));
        for ((dx, x), (v, dy)) in rows.zip(self.v.iter().zip(self.dy)) {
            let (scale, all) = (*dy * T::new(1.0 / LN_2), log_sum(x));
            for (dx, x) in dx.iter_mut().zip(x) {
                *dx = (*x - all).exp() * scale;
            }
            let hit = &mut dx[v.f64() as usize];
            *hit = *hit - scale;
        }
    }
}

struct Bits;

impl Bits {
    fn forward<T: Real + WithDType>(
        (x, xl): (&CpuStorage, &Layout),
        (v, vl): (&CpuStorage, &Layout),
    ) -> Result<CpuStorage> {
        let (x, v) = (
            slice("bits", x.as_slice::<T>()?, xl)?,
            slice("bits", v.as_slice::<T>()?, vl)?,
        );
        let levels = levels(xl.shape(), vl.shape())?;
        if v.iter().any(|v| index(*v, levels).is_none()) {
            bail!(
                "bits: values must be whole numbers from 0 to {}",
                levels - 1
            );
        }
        let mut y = vec![T::default(); v.len()];
        y.par_chunks_mut(step(levels))
            .zip(x.par_chunks(step(levels) * levels))
            .zip(v.par_chunks(step(levels)))
            .for_each(|((y, x), v)| dispatch(Forward { x, v, y, levels }));
        Ok(T::to_cpu_storage_owned(y))
    }

    /// `(softmax - [value]) dy / ln 2`.
    fn backward<T: Real + WithDType>(x: &Tensor, v: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let levels = levels(x.shape(), v.shape())?;
        let mut dx = vec![T::default(); x.elem_count()];
        with_slices::<T, 3, _>("bits", [x, v, dy], |[x, v, dy]| {
            let rows = v.par_chunks(step(levels)).zip(dy.par_chunks(step(levels)));
            dx.par_chunks_mut(step(levels) * levels)
                .zip(x.par_chunks(step(levels) * levels))
                .zip(rows)
                .for_each(|((dx, x), (v, dy))| {
                    dispatch(Backward {
                        x,
                        v,
                        dy,
                        dx,
                        levels,
                    })
                });
        })?;
        Tensor::from_vec(dx, x.shape().clone(), x.device())
    }
}

fn index<T: Real>(value: T, levels: usize) -> Option<usize> {
    let v = value.f64();
    (v >= 0.0 && v < levels as f64 && v.fract() == 0.0).then_some(v as usize)
}

fn levels(logits: &Shape, values: &Shape) -> Result<usize> {
    match logits.dims().split_last() {
        Some((levels, rows)) if rows == values.dims() && *levels > 0 => Ok(*levels),
        _ => bail!("bits: logits {logits:?} for values {values:?}"),
    }
}

impl CustomOp2 for Bits {
    fn name(&self) -> &'static str {
        "bits"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        v: &CpuStorage,
        vl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let y = match x {
            CpuStorage::F32(_) => Self::forward::<f32>((x, xl), (v, vl))?,
            CpuStorage::F64(_) => Self::forward::<f64>((x, xl), (v, vl))?,
            _ => bail!("bits: wants f32 or f64"),
        };
        Ok((y, vl.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        v: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let dx = match x.dtype() {
            DType::F64 => Self::backward::<f64>(x, v, &dy)?,
            _ => Self::backward::<f32>(x, v, &dy)?,
        };
        Ok((Some(dx), None))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{D, Device, Var};

    use super::*;
    use crate::nn::noise::Noise;

    /// Values and gradients of the fused operation are those of the plain ones.
    #[test]
    fn are_those_of_log_softmax() -> Result<()> {
        for (dtype, tolerance) in [(DType::F64, 1e-13), (DType::F32, 1e-4)] {
            for levels in [1, 2, 16, 256, 300] {
                let mut noise = Noise::new(0, "bits").at(0);
                let x = (noise.normal((2, 400, levels), dtype, &Device::Cpu)? * 30.0)?;
                let weight = noise.normal((2, 400), dtype, &Device::Cpu)?;
                let words = noise.words(800).into_iter();
                let values = words.map(|w| f64::from(w % levels as u32));
                let values = Tensor::from_iter(values, &Device::Cpu)?.reshape((2, 400))?;
                let x = Var::from_tensor(&x)?;
                let log = candle_nn::ops::log_softmax(x.as_tensor(), D::Minus1)?;
                let index = values.to_dtype(DType::U32)?.unsqueeze(2)?;
                let plain = (log.gather(&index, 2)?.squeeze(2)? / -LN_2)?;
                let fused = bits(x.as_tensor(), &values.to_dtype(dtype)?)?;
                let gradient = |y: &Tensor| -> Result<Tensor> {
                    let grads = (y * &weight)?.sum_all()?.backward()?;
                    let grad = grads.get(x.as_tensor()).cloned();
                    grad.ok_or_else(|| candle_core::Error::Msg("no gradient".into()))
                };
                for (a, b) in [
                    (fused.clone(), plain.clone()),
                    (gradient(&fused)?, gradient(&plain)?),
                ] {
                    let gap = (a - b)?.abs()?.max_all()?.to_dtype(DType::F64)?;
                    let gap = gap.to_scalar::<f64>()?;
                    assert!(gap < tolerance, "{dtype:?} {levels} {gap:e}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn values_outside_are_an_error() -> Result<()> {
        let logits = Tensor::zeros((3, 4), DType::F32, &Device::Cpu)?;
        for value in [-1.0, 4.0, 0.5, f64::NAN] {
            let values = Tensor::new(&[0.0, 1.0, value], &Device::Cpu)?.to_dtype(DType::F32)?;
            assert!(bits(&logits, &values).is_err(), "{value}");
        }
        assert!(bits(&logits, &Tensor::zeros(4, DType::F32, &Device::Cpu)?).is_err());
        // Any value costs log2 of the levels where nothing is known.
        let values = Tensor::zeros(3, DType::F32, &Device::Cpu)?;
        assert_eq!(bits(&logits, &values)?.to_vec1::<f32>()?, [2.0; 3]);
        Ok(())
    }
}
