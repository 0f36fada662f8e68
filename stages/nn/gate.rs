//! The gate of PixelCNN: `tanh(t) sigmoid(s)`, t and s the halves of the last dimension (van den Oord
//! et al. 2016, equation 2).

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, WithDType, bail};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::cpu::simd::dispatch;
use super::cpu::{Real, slice};
#[cfg(feature = "cuda")]
use super::cuda::pixel_op;
use super::slices::with_slices;

/// `[.., 2p]` to `[.., p]`.
pub fn gate(x: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return pixel_op::gate(x);
    }
    x.contiguous()?.apply_op1(Gate)
}

/// The same over slices: `x` holds rows of both halves, `y` rows of one.
pub fn gate_rows<T: Real>(x: &[T], y: &mut [T], width: usize) {
    dispatch(Values { x, y, width });
}

// Not closures: those are too large to be compiled into what has the processor's instructions.
struct Values<'a, T> {
    x: &'a [T],
    y: &'a mut [T],
    width: usize,
}

impl<T: Real> WithSimd for Values<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let rows = self.x.chunks_exact(2 * self.width);
        for (x, y) in rows.zip(self.y.chunks_exact_mut(self.width)) {
            let (t, s) = x.split_at(self.width);
            for ((y, t), s) in y.iter_mut().zip(t).zip(s) {
                *y = tanh(*t) * sigmoid(*s);
            }
        }
    }
}

struct Slopes<'a, T> {
    x: &'a [T],
    dy: &'a [T],
    dx: &'a mut [T],
    width: usize,
}

impl<T: Real> WithSimd for Slopes<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let (one, width) = (T::new(1.0), self.width);
        let rows = self.dx.chunks_exact_mut(2 * width);
        let rows = rows.zip(self.x.chunks_exact(2 * width));
        for ((dx, x), dy) in rows.zip(self.dy.chunks_exact(width)) {
            let ((dt, ds), (t, s)) = (dx.split_at_mut(width), x.split_at(width));
            let row = dt.iter_mut().zip(ds).zip(t).zip(s).zip(dy);
            for ((((dt, ds), t), s), dy) in row {
                let (th, sg) = (tanh(*t), sigmoid(*s));
                *dt = *dy * sg * (one - th * th);
                *ds = *dy * th * sg * (one - sg);
            }
        }
    }
}

/// Absolute error a few units of 1's last place.
#[inline(always)]
fn tanh<T: Real>(t: T) -> T {
    let one = T::new(1.0);
    one - T::new(2.0) / (one + (t + t).exp())
}

#[inline(always)]
fn sigmoid<T: Real>(s: T) -> T {
    let one = T::new(1.0);
    one / (one + (T::default() - s).exp())
}

/// Rows a task takes at once.
fn step(width: usize) -> usize {
    (16 * 1024usize).div_ceil(width)
}

struct Gate;

impl Gate {
    fn forward<T: Real + WithDType>(x: &CpuStorage, layout: &Layout) -> Result<CpuStorage> {
        let x = slice("gate", x.as_slice::<T>()?, layout)?;
        let width = width(layout.shape())?;
        let mut y = vec![T::default(); x.len() / 2];
        y.par_chunks_mut(step(width) * width)
            .zip(x.par_chunks(step(width) * 2 * width))
            .for_each(|(y, x)| gate_rows(x, y, width));
        Ok(T::to_cpu_storage_owned(y))
    }

    fn backward<T: Real + WithDType>(x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let width = width(x.shape())?;
        let mut dx = vec![T::default(); x.elem_count()];
        with_slices::<T, 2, _>("gate", [x, dy], |[x, dy]| {
            dx.par_chunks_mut(step(width) * 2 * width)
                .zip(x.par_chunks(step(width) * 2 * width))
                .zip(dy.par_chunks(step(width) * width))
                .for_each(|((dx, x), dy)| dispatch(Slopes { x, dy, dx, width }));
        })?;
        Tensor::from_vec(dx, x.shape().clone(), x.device())
    }
}

/// Half of the last dimension.
fn width(shape: &Shape) -> Result<usize> {
    match shape.dims().last() {
        Some(both) if both % 2 == 0 && *both > 0 => Ok(both / 2),
        _ => bail!("gate: {shape:?} has no two halves"),
    }
}

impl CustomOp1 for Gate {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut dims = layout.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last /= 2;
        }
        let y = match x {
            CpuStorage::F32(_) => Self::forward::<f32>(x, layout)?,
            CpuStorage::F64(_) => Self::forward::<f64>(x, layout)?,
            _ => bail!("gate: wants f32 or f64"),
        };
        Ok((y, dims.into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let dx = match x.dtype() {
            candle_core::DType::F64 => Self::backward::<f64>(x, &dy)?,
            _ => Self::backward::<f32>(x, &dy)?,
        };
        Ok(Some(dx))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;
    use crate::nn::noise::Noise;

    /// Values and gradients of the fused operation are those of the plain ones.
    #[test]
    fn is_tanh_times_sigmoid() -> Result<()> {
        for (dtype, tolerance) in [(DType::F64, 1e-14), (DType::F32, 1e-6)] {
            let mut noise = Noise::new(0, "gate").at(0);
            let x = (noise.normal((3, 50, 14), dtype, &Device::Cpu)? * 4.0)?;
            let weight = noise.normal((3, 50, 7), dtype, &Device::Cpu)?;
            let x = Var::from_tensor(&x)?;
            let halves = x.as_tensor().chunk(2, 2)?;
            let plain = (halves[0].tanh()? * (((halves[1].neg()?.exp()? + 1.0)?).recip()?))?;
            let fused = gate(x.as_tensor())?;
            let gradient = |y: &Tensor| -> Result<Tensor> {
                let grads = (y * &weight)?.sum_all()?.backward()?;
                grads
                    .get(x.as_tensor())
                    .cloned()
                    .ok_or_else(|| candle_core::Error::Msg("no gradient".into()))
            };
            for (a, b) in [
                (fused.clone(), plain.clone()),
                (gradient(&fused)?, gradient(&plain)?),
            ] {
                let gap = (a - b)?.abs()?.max_all()?.to_dtype(DType::F64)?;
                let gap = gap.to_scalar::<f64>()?;
                assert!(gap < tolerance, "{dtype:?} {gap:e}");
            }
        }
        assert!(gate(&Tensor::zeros((2, 3), DType::F32, &Device::Cpu)?).is_err());
        Ok(())
    }
}
