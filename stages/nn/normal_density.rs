//! Densities of diagonal Gaussians, summed over each example, in one pass each way: without tensors of
//! differences, squares and their gradients.

use std::borrow::Cow;

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor, WithDType, bail};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::cpu::simd::dispatch;
use super::cpu::{Real, slice};
use super::slices::with_slices;

const NAME: &str = "normal-density";

/// ln(2 pi) / 2.
pub const HALF_LN_TAU: f64 = 0.918_938_533_204_672_7;

/// `ln N(x; mean, exp(log_std)^2)` of each example: x and mean `[n, ..]`, to `[n]`. `log_std` has the shape
/// of x, or one value for each of the last dimension, or one.
pub fn log_density(x: &Tensor, mean: &Tensor, log_std: &Tensor) -> Result<Tensor> {
    let last = x.dims().last().copied().unwrap_or(1);
    let shared = log_std.elem_count() == 1 || log_std.dims() == [last];
    let fits = x.shape() == mean.shape() && (shared || log_std.shape() == x.shape());
    if !fits || !x.device().is_cpu() || x.elem_count() == 0 {
        return composed(x, mean, log_std);
    }
    let [x, mean, log_std] = [x.contiguous()?, mean.contiguous()?, log_std.contiguous()?];
    x.apply_op3(&mean, &log_std, Op)
}

/// The same from operations that every device has.
fn composed(x: &Tensor, mean: &Tensor, log_std: &Tensor) -> Result<Tensor> {
    let scaled = (x - mean)?.broadcast_mul(&log_std.neg()?.exp()?)?;
    let each = ((scaled.sqr()? * -0.5)?.broadcast_sub(log_std)? - HALF_LN_TAU)?;
    each.flatten_from(1)?.sum(1)
}

/// Numbers summed side by side, so that a loop over them can use vectors.
const SIDE: usize = 16;

/// Values that are treated as one row, at least.
const ROW: usize = 64 * SIDE;

/// ln of deviations: of all values, or few repeated to make a row that stands for every one.
struct Deviations<'a, T: Clone> {
    log_std: Cow<'a, [T]>,
    /// How many are shared by all examples, if they are.
    shared: Option<usize>,
    row: usize,
}

impl<'a, T: Real> Deviations<'a, T> {
    fn new(log_std: &'a [T], values: usize) -> Self {
        let few = log_std.len();
        if few == values {
            return Self {
                log_std: Cow::Borrowed(log_std),
                shared: None,
                row: ROW,
            };
        }
        let row = few * ROW.div_ceil(few);
        Self {
            log_std: Cow::Owned(log_std.repeat(row / few)),
            shared: Some(few),
            row,
        }
    }

    /// One row, or all of example `i`, which has `size` values.
    fn of(&self, i: usize, size: usize) -> &[T] {
        match self.shared {
            Some(_) => &self.log_std,
            None => &self.log_std[i * size..(i + 1) * size],
        }
    }
}

/// An example and the deviations of its rows, which are used again from the first when they end.
#[derive(Clone, Copy)]
struct Example<'a, T> {
    x: &'a [T],
    mean: &'a [T],
    log_std: &'a [T],
    row: usize,
}

impl<T: Real> WithSimd for Example<'_, T> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f64 {
        let (half, mut parts) = (T::new(0.5), [0.0; SIDE]);
        let rows = self.x.chunks(self.row).zip(self.mean.chunks(self.row));
        for ((x, mean), l) in rows.zip(self.log_std.chunks(self.row).cycle()) {
            let (x, mean, l) = (chunks(x), chunks(mean), chunks(&l[..x.len()]));
            for ((x, mean), l) in x.0.iter().zip(mean.0).zip(l.0) {
                for (((part, x), mean), l) in parts.iter_mut().zip(x).zip(mean).zip(l) {
                    let s = (*x - *mean) * (T::default() - *l).exp();
                    *part += (s * s * half + *l).f64();
                }
            }
            for (((part, x), mean), l) in parts.iter_mut().zip(x.1).zip(mean.1).zip(l.1) {
                let s = (*x - *mean) * (T::default() - *l).exp();
                *part += (s * s * half + *l).f64();
            }
        }
        -parts.iter().sum::<f64>() - HALF_LN_TAU * self.x.len() as f64
    }
}

#[inline(always)]
fn chunks<T>(values: &[T]) -> (&[[T; SIDE]], &[T]) {
    values.as_chunks()
}

/// Gradients of an example's density times `dy`: of the mean, and of ln deviation where it is not shared.
struct Gradients<'a, T> {
    of: Example<'a, T>,
    dy: T,
    mean: &'a mut [T],
    log_std: Option<&'a mut [T]>,
}

impl<T: Real> WithSimd for Gradients<'_, T> {
    /// Of ln deviation, summed over rows.
    type Output = Vec<f64>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Vec<f64> {
        let (row, one) = (self.of.row, T::new(1.0));
        let (mut sums, mut own) = (vec![0.0; row], vec![T::default(); row]);
        let mut kept = self.log_std.map(|all| all.chunks_mut(row));
        let rows = self.of.x.chunks(row).zip(self.of.mean.chunks(row));
        let rows = rows.zip(self.of.log_std.chunks(row).cycle());
        for (((x, mean), l), dm) in rows.zip(self.mean.chunks_mut(row)) {
            let dl = match kept.as_mut().and_then(Iterator::next) {
                Some(kept) => kept,
                None => &mut own[..x.len()],
            };
            let values = dm.iter_mut().zip(dl.iter_mut()).zip(x).zip(mean).zip(l);
            for ((((dm, dl), x), mean), l) in values {
                let inverse = (T::default() - *l).exp();
                let s = (*x - *mean) * inverse;
                *dm = self.dy * s * inverse;
                *dl = self.dy * (s * s - one);
            }
            if kept.is_none() {
                for (sum, dl) in sums.iter_mut().zip(dl) {
                    *sum += dl.f64();
                }
            }
        }
        sums
    }
}

struct Op;

impl Op {
    fn forward<T: Real>(x: &[T], mean: &[T], log_std: &[T], n: usize) -> Vec<T> {
        let (size, deviations) = (x.len() / n, Deviations::new(log_std, x.len()));
        let examples = x.par_chunks(size).zip(mean.par_chunks(size)).enumerate();
        examples
            .map(|(i, (x, mean))| {
                T::new(dispatch(Example {
                    x,
                    mean,
                    log_std: deviations.of(i, size),
                    row: deviations.row,
                }))
            })
            .collect()
    }

    /// Of the mean and of ln deviation.
    fn backward<T: Real>([x, mean, log_std, dy]: [&[T]; 4]) -> (Vec<T>, Vec<T>) {
        let (size, deviations) = (x.len() / dy.len(), Deviations::new(log_std, x.len()));
        let mut of_mean = vec![T::default(); x.len()];
        let mut of_log_std = vec![T::default(); log_std.len()];
        let of = |i: usize| Example {
            x: &x[i * size..(i + 1) * size],
            mean: &mean[i * size..(i + 1) * size],
            log_std: deviations.of(i, size),
            row: deviations.row,
        };
        let examples = of_mean.par_chunks_mut(size).enumerate();
        let Some(few) = deviations.shared else {
            let work = examples.zip(of_log_std.par_chunks_mut(size));
            work.for_each(|((i, mean), log_std)| {
                dispatch(Gradients {
                    of: of(i),
                    dy: dy[i],
                    mean,
                    log_std: Some(log_std),
                });
            });
            return (of_mean, of_log_std);
        };
        let sums: Vec<Vec<f64>> = examples
            .map(|(i, mean)| {
                dispatch(Gradients {
                    of: of(i),
                    dy: dy[i],
                    mean,
                    log_std: None,
                })
            })
            .collect();
        let mut total = vec![0.0; few];
        for row in sums.iter().flat_map(|sums| sums.chunks(few)) {
            total.iter_mut().zip(row).for_each(|(t, v)| *t += v);
        }
        (of_mean, total.into_iter().map(T::new).collect())
    }
}

impl CustomOp3 for Op {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        mean: &CpuStorage,
        ml: &Layout,
        log_std: &CpuStorage,
        ll: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let n = xl.dims().first().copied().unwrap_or(1);
        macro_rules! run {
            ($kind:ident, $x:expr, $mean:expr, $log_std:expr) => {
                CpuStorage::$kind(Self::forward(
                    slice(NAME, $x, xl)?,
                    slice(NAME, $mean, ml)?,
                    slice(NAME, $log_std, ll)?,
                    n,
                ))
            };
        }
        let density = match (x, mean, log_std) {
            (CpuStorage::F32(x), CpuStorage::F32(m), CpuStorage::F32(l)) => run!(F32, x, m, l),
            (CpuStorage::F64(x), CpuStorage::F64(m), CpuStorage::F64(l)) => run!(F64, x, m, l),
            _ => bail!("{NAME}: wants three f32 or three f64 tensors"),
        };
        Ok((density, n.into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        mean: &Tensor,
        log_std: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        fn run<T: Real + WithDType>(operands: [&Tensor; 4]) -> Result<[Tensor; 2]> {
            let (mean, log_std) = with_slices::<T, 4, _>(NAME, operands, Op::backward)?;
            let like = |values, of: &Tensor| Tensor::from_vec(values, of.shape(), of.device());
            Ok([like(mean, operands[1])?, like(log_std, operands[2])?])
        }
        let operands = [x, mean, log_std, &dy.contiguous()?];
        let [of_mean, of_log_std] = match x.dtype() {
            DType::F32 => run::<f32>(operands)?,
            _ => run::<f64>(operands)?,
        };
        let of_x = x.track_op().then(|| of_mean.neg()).transpose()?;
        let wanted = |of: &Tensor, grad| of.track_op().then_some(grad);
        Ok((of_x, wanted(mean, of_mean), wanted(log_std, of_log_std)))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::super::noise::Noise;
    use super::*;

    fn far(a: &Tensor, b: &Tensor) -> Result<f64> {
        let gap = ((a - b)?.abs()? / (b.abs()? + 1.0)?)?;
        gap.max_all()?.to_dtype(DType::F64)?.to_scalar()
    }

    type Density = fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor>;

    /// Values and all three gradients are those of the operations it stands for, whatever is shared.
    #[test]
    fn densities_and_gradients_are_those_of_the_formula() -> Result<()> {
        for (dtype, limit) in [(DType::F64, 1e-12), (DType::F32, 1e-5)] {
            for (n, side, c) in [(3, 5, 3), (2, 37, 1), (1, 1, 7), (4, 23, 2)] {
                let size = side * side * c;
                for few in [1, c, n * size] {
                    let mut noise = Noise::new(1, "density").at(few as u64);
                    let all = (n, side, side, c);
                    let mut draw = |shape: &[usize]| noise.normal(shape, dtype, &Device::Cpu);
                    let log_std = match few == n * size {
                        true => draw(&[n, side, side, c])?,
                        false => draw(&[few])?,
                    };
                    let (x, mean) = (draw(&[n, side, side, c])?, draw(&[n, side, side, c])?);
                    let drawn = [x, mean, (log_std * 0.3)?];
                    let weights = draw(&[n])?;
                    // The value, and the gradients of all three, in f64.
                    let gradients = |dtype, of: Density| -> Result<Vec<Tensor>> {
                        let [x, mean, log_std] = drawn
                            .each_ref()
                            .map(|t| Var::from_tensor(&t.to_dtype(dtype)?));
                        let vars = [x?, mean?, log_std?];
                        let y = of(&vars[0], &vars[1], &vars[2])?;
                        let total = (&y * weights.to_dtype(dtype)?)?.sum_all()?;
                        let gradients = total.backward()?;
                        let found = vars.iter().filter_map(|v| gradients.get(v));
                        let found = [&y].into_iter().chain(found);
                        found.map(|t| t.to_dtype(DType::F64)).collect()
                    };
                    let fused = gradients(dtype, log_density)?;
                    let plain = gradients(DType::F64, composed)?;
                    assert_eq!((fused[0].dims(), fused.len()), (&[n][..], 4));
                    for (i, (a, b)) in fused.iter().zip(&plain).enumerate() {
                        let gap = far(a, b)?;
                        assert!(gap < limit, "{i} of {all:?} {few}: {gap:e}");
                    }
                }
            }
        }
        Ok(())
    }
}
