//! Operations that treat every channel (last dimension) alike, fused so that each map is read and
//! written once: bias, scale and shift, batch normalisation, all with the activation that follows.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::kernel::{Real, slice};

/// What follows the affine part. Its sign is that of its argument, so the result alone tells the
/// slope.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    None,
    Relu,
    /// Negative values times this.
    Leaky(f64),
}

impl Activation {
    fn slope(self) -> f64 {
        match self {
            Self::None => 1.0,
            Self::Relu => 0.0,
            Self::Leaky(slope) => slope,
        }
    }
}

/// `activation(x scale + shift)` with `[c]` vectors on `[..., c]`.
pub fn affine(
    x: &Tensor,
    scale: &Tensor,
    shift: &Tensor,
    activation: Activation,
) -> Result<Tensor> {
    let op = Affine {
        normalise: None,
        slope: activation.slope(),
    };
    x.contiguous()?.apply_op3(scale, shift, op)
}

/// `activation((x - mean) / sqrt(variance + epsilon) scale + shift)` with the batch's own
/// statistics over all but the last dimension, and these: mean and population variance, `[c]`.
pub fn batch_norm(
    x: &Tensor,
    scale: &Tensor,
    shift: &Tensor,
    epsilon: f64,
    activation: Activation,
) -> Result<(Tensor, Vec<f64>, Vec<f64>)> {
    let x = x.contiguous()?;
    let channels = x.dims()[x.rank() - 1];
    let (mean, variance) = {
        let (storage, layout) = x.storage_and_layout();
        match &*storage {
            candle_core::Storage::Cpu(CpuStorage::F32(v)) => {
                moments(slice("bn", v, layout)?, channels)
            }
            candle_core::Storage::Cpu(CpuStorage::F64(v)) => {
                moments(slice("bn", v, layout)?, channels)
            }
            _ => bail!("batch-norm: wants f32 or f64 on the CPU"),
        }
    };
    let deviation = variance.iter().map(|v| (v + epsilon).sqrt()).collect();
    let normalise = Some((mean.clone(), deviation));
    let y = x.apply_op3(
        scale,
        shift,
        Affine {
            normalise,
            slope: activation.slope(),
        },
    )?;
    Ok((y, mean, variance))
}

/// Sum over all but the last dimension, `[c]`, in f64 and a fixed order.
pub fn sum(x: &Tensor) -> Result<Tensor> {
    let channels = x.dims()[x.rank() - 1];
    let (storage, layout) = x.storage_and_layout();
    match &*storage {
        candle_core::Storage::Cpu(CpuStorage::F32(v)) => total(slice("sum", v, layout)?, channels),
        candle_core::Storage::Cpu(CpuStorage::F64(v)) => total(slice("sum", v, layout)?, channels),
        _ => bail!("channel-sum: wants f32 or f64 on the CPU"),
    }
}

fn total<T: Real + candle_core::WithDType>(x: &[T], channels: usize) -> Result<Tensor> {
    let sums = sums::<1>(x.len() / channels, channels, |r, sum| {
        for row in x[r.start * channels..r.end * channels].chunks_exact(channels) {
            for (s, v) in sum.iter_mut().zip(row) {
                s[0] += v.f64();
            }
        }
    });
    let sums: Vec<T> = sums.into_iter().map(|s| T::new(s[0])).collect();
    Tensor::from_vec(sums, channels, &candle_core::Device::Cpu)
}

/// Mean and deviation per channel of the batch, when it normalises first.
#[derive(Clone)]
struct Affine {
    normalise: Option<(Vec<f64>, Vec<f64>)>,
    slope: f64,
}

/// Rows (positions) a task takes at once: by shape only, so that sums do not depend on threads.
fn chunk(channels: usize) -> usize {
    (32 * 1024usize).div_ceil(channels)
}

/// Sums of `K` quantities per channel over all rows, in f64 and a fixed order.
fn sums<const K: usize>(
    rows: usize,
    channels: usize,
    add: impl Fn(std::ops::Range<usize>, &mut [[f64; K]]) + Sync,
) -> Vec<[f64; K]> {
    let step = chunk(channels);
    let parts: Vec<Vec<[f64; K]>> = (0..rows.div_ceil(step))
        .into_par_iter()
        .map(|i| {
            let mut sum = vec![[0.0; K]; channels];
            add(i * step..rows.min((i + 1) * step), &mut sum);
            sum
        })
        .collect();
    let mut total = vec![[0.0; K]; channels];
    for part in parts {
        for (t, p) in total.iter_mut().zip(part) {
            for k in 0..K {
                t[k] += p[k];
            }
        }
    }
    total
}

/// Mean and population variance of each channel, in two passes.
fn moments<T: Real>(x: &[T], channels: usize) -> (Vec<f64>, Vec<f64>) {
    let rows = x.len() / channels;
    let rows_of =
        |r: std::ops::Range<usize>| x[r.start * channels..r.end * channels].chunks_exact(channels);
    let sum = sums::<1>(rows, channels, |r, sum| {
        for row in rows_of(r) {
            for (s, v) in sum.iter_mut().zip(row) {
                s[0] += v.f64();
            }
        }
    });
    let mean: Vec<f64> = sum.iter().map(|s| s[0] / rows as f64).collect();
    let squares = sums::<1>(rows, channels, |r, sum| {
        for row in rows_of(r) {
            for ((s, v), m) in sum.iter_mut().zip(row).zip(&mean) {
                let d = v.f64() - m;
                s[0] += d * d;
            }
        }
    });
    (mean, squares.iter().map(|s| s[0] / rows as f64).collect())
}

impl Affine {
    /// Per channel: what to multiply x with and what to add.
    fn coefficients<T: Real>(&self, scale: &[T], shift: &[T]) -> (Vec<T>, Vec<T>) {
        match &self.normalise {
            None => (scale.to_vec(), shift.to_vec()),
            Some((mean, deviation)) => {
                let a: Vec<f64> = scale
                    .iter()
                    .zip(deviation)
                    .map(|(s, d)| s.f64() / d)
                    .collect();
                let b = shift
                    .iter()
                    .zip(mean)
                    .zip(&a)
                    .map(|((b, m), a)| T::new(b.f64() - m * a));
                let b = b.collect();
                (a.into_iter().map(T::new).collect(), b)
            }
        }
    }

    fn forward<T: Real>(&self, x: &[T], scale: &[T], shift: &[T]) -> Vec<T> {
        let c = scale.len();
        let (a, b) = self.coefficients(scale, shift);
        let slope = T::new(self.slope);
        let mut y = vec![T::default(); x.len()];
        let step = chunk(c) * c;
        y.par_chunks_mut(step)
            .zip(x.par_chunks(step))
            .for_each(|(y, x)| {
                for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
                    for (((y, x), a), b) in y.iter_mut().zip(x).zip(&a).zip(&b) {
                        let v = *x * *a + *b;
                        *y = if v > T::default() { v } else { v * slope };
                    }
                }
            });
        y
    }

    /// `dx`, `dscale`, `dshift`.
    fn backward<T: Real>(
        &self,
        x: &[T],
        scale: &[T],
        y: &[T],
        dy: &[T],
    ) -> (Vec<T>, Vec<T>, Vec<T>) {
        let (c, slope) = (scale.len(), T::new(self.slope));
        let rows = x.len() / c;
        let zero = T::default();
        let inner = |y: T, dy: T| if y > zero { dy } else { dy * slope };
        let centre: Vec<T> = match &self.normalise {
            Some((mean, _)) => mean.iter().map(|m| T::new(*m)).collect(),
            None => vec![zero; c],
        };
        // Per channel: sum of dz, and of dz (x - centre). Four rows are summed in T before f64.
        let sum = sums::<2>(rows, c, |r, sum| {
            let all = r.start * c..r.end * c;
            let rows = y[all.clone()]
                .chunks(c)
                .zip(dy[all.clone()].chunks(c))
                .zip(x[all].chunks(c));
            for ((y, dy), x) in rows {
                for ((((s, y), dy), x), m) in sum.iter_mut().zip(y).zip(dy).zip(x).zip(&centre) {
                    let dz = inner(*y, *dy);
                    s[0] += dz.f64();
                    s[1] += (dz * (*x - *m)).f64();
                }
            }
        });
        let mut dx = vec![zero; x.len()];
        let dshift = sum.iter().map(|s| T::new(s[0])).collect();
        let step = chunk(c) * c;
        let work = dx.par_chunks_mut(step).zip(x.par_chunks(step));
        let work = work.zip(y.par_chunks(step)).zip(dy.par_chunks(step));
        let dscale = match &self.normalise {
            None => {
                work.for_each(|(((dx, _), y), dy)| {
                    for ((dx, y), dy) in dx.chunks_mut(c).zip(y.chunks(c)).zip(dy.chunks(c)) {
                        for (((dx, y), dy), s) in dx.iter_mut().zip(y).zip(dy).zip(scale) {
                            *dx = inner(*y, *dy) * *s;
                        }
                    }
                });
                sum.iter().map(|s| T::new(s[1])).collect()
            }
            Some((_, deviation)) => {
                // dx = scale / deviation (dz - mean(dz) - x^ mean(dz x^))
                let coefficient = |i: usize| {
                    let (n, d, s) = (rows as f64, deviation[i], scale[i].f64());
                    (
                        T::new(s / d),
                        T::new(-s / d * sum[i][0] / n),
                        T::new(-s / d * sum[i][1] / (n * d * d)),
                    )
                };
                let k: Vec<(T, T, T)> = (0..c).map(coefficient).collect();
                work.for_each(|(((dx, x), y), dy)| {
                    let rows = dx
                        .chunks_mut(c)
                        .zip(x.chunks(c))
                        .zip(y.chunks(c))
                        .zip(dy.chunks(c));
                    for (((dx, x), y), dy) in rows {
                        let row = dx.iter_mut().zip(x).zip(y).zip(dy).zip(&k).zip(&centre);
                        for (((((dx, x), y), dy), (p, q, r)), m) in row {
                            *dx = inner(*y, *dy) * *p + *q + (*x - *m) * *r;
                        }
                    }
                });
                sum.iter()
                    .zip(deviation)
                    .map(|(s, d)| T::new(s[1] / d))
                    .collect()
            }
        };
        (dx, dscale, dshift)
    }
}

impl CustomOp3 for Affine {
    fn name(&self) -> &'static str {
        "channel-affine"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        a: &CpuStorage,
        al: &Layout,
        b: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let name = self.name();
        let (c, dims) = (al.shape().elem_count(), xl.dims());
        if dims.last() != Some(&c) || bl.shape().elem_count() != c {
            bail!("{name}: {c} scales and {:?} shifts for {dims:?}", bl.dims());
        }
        let y = match (x, a, b) {
            (CpuStorage::F32(x), CpuStorage::F32(a), CpuStorage::F32(b)) => {
                CpuStorage::F32(self.forward(
                    slice(name, x, xl)?,
                    slice(name, a, al)?,
                    slice(name, b, bl)?,
                ))
            }
            (CpuStorage::F64(x), CpuStorage::F64(a), CpuStorage::F64(b)) => {
                CpuStorage::F64(self.forward(
                    slice(name, x, xl)?,
                    slice(name, a, al)?,
                    slice(name, b, bl)?,
                ))
            }
            _ => bail!("{name}: wants three f32 or three f64 tensors"),
        };
        Ok((y, xl.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        scale: &Tensor,
        shift: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let name = self.name();
        let dy = dy.contiguous()?;
        let (xs, xl) = x.storage_and_layout();
        let (ss, sl) = scale.storage_and_layout();
        let (ys, yl) = y.storage_and_layout();
        let (ds, dl) = dy.storage_and_layout();
        use candle_core::Storage::Cpu;
        macro_rules! dispatch {
            ($($kind:ident),*) => {
                match (&*xs, &*ss, &*ys, &*ds) {
                    $((
                        Cpu(CpuStorage::$kind(x)), Cpu(CpuStorage::$kind(s)),
                        Cpu(CpuStorage::$kind(y)), Cpu(CpuStorage::$kind(d)),
                    ) => {
                        let (dx, dscale, dshift) = self.backward(
                            slice(name, x, xl)?, slice(name, s, sl)?,
                            slice(name, y, yl)?, slice(name, d, dl)?,
                        );
                        let device = candle_core::Device::Cpu;
                        (
                            Tensor::from_vec(dx, xl.shape().clone(), &device)?,
                            Tensor::from_vec(dscale, scale.shape().clone(), &device)?,
                            Tensor::from_vec(dshift, shift.shape().clone(), &device)?,
                        )
                    })*
                    _ => bail!("{name}: wants f32 or f64 on the CPU"),
                }
            };
        }
        let (dx, dscale, dshift) = dispatch!(F32, F64);
        let wanted = |of: &Tensor, grad| of.track_op().then_some(grad);
        Ok((wanted(x, dx), wanted(scale, dscale), wanted(shift, dshift)))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::super::noise::Noise;
    use super::*;

    fn var(step: u64, dims: &[usize]) -> Result<Var> {
        Var::from_tensor(&Noise::new(4, "channel").at(step).normal(
            dims,
            DType::F64,
            &Device::Cpu,
        )?)
    }

    /// candle's own operations, one at a time.
    fn plain(
        x: &Tensor,
        scale: &Tensor,
        shift: &Tensor,
        normal: bool,
        act: Activation,
    ) -> Result<Tensor> {
        let dims: Vec<usize> = (0..x.rank() - 1).collect();
        let x = if normal {
            let x = x.broadcast_sub(&x.mean_keepdim(dims.clone())?)?;
            x.broadcast_div(&(x.sqr()?.mean_keepdim(dims)? + 1e-5)?.sqrt()?)?
        } else {
            x.clone()
        };
        let y = x.broadcast_mul(scale)?.broadcast_add(shift)?;
        match act {
            Activation::None => Ok(y),
            Activation::Relu => y.relu(),
            Activation::Leaky(s) => y.relu()? - (y.neg()?.relu()? * s)?,
        }
    }

    #[test]
    fn equals_the_plain_operations_and_so_do_the_gradients() -> Result<()> {
        // More rows than a task takes at once.
        for dims in [vec![3, 5, 4, 6], vec![7, 3], vec![2, 90, 80, 5]] {
            let c = dims[dims.len() - 1];
            let (x, scale, shift) = (var(0, &dims)?, var(1, &[c])?, var(2, &[c])?);
            let r = var(3, &dims)?.as_detached_tensor();
            for act in [Activation::None, Activation::Relu, Activation::Leaky(0.2)] {
                for normal in [false, true] {
                    let ours = match normal {
                        false => affine(&x, &scale, &shift, act)?,
                        true => batch_norm(&x, &scale, &shift, 1e-5, act)?.0,
                    };
                    let theirs = plain(&x, &scale, &shift, normal, act)?;
                    let far =
                        |a: &Tensor, b: &Tensor| (a - b)?.abs()?.max_all()?.to_scalar::<f64>();
                    assert!(far(&ours, &theirs)? < 1e-12);
                    let a = (&ours * &r)?.sum_all()?.backward()?;
                    let b = (&theirs * &r)?.sum_all()?.backward()?;
                    for v in [&x, &scale, &shift] {
                        let (a, b) = (a.get(v).unwrap(), b.get(v).unwrap());
                        let size = b.abs()?.max_all()?.to_scalar::<f64>()?;
                        assert!(
                            far(a, b)? < 1e-11 * (1.0 + size),
                            "{dims:?} {act:?} {normal}"
                        );
                    }
                }
            }
        }
        Ok(())
    }
}
