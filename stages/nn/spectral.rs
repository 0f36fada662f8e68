//! Spectral normalisation (Miyato et al. 2018) as Dai & Wipf's code has it: one power iteration
//! per training pass, on the kernel as a matrix `[kh kw cin, cout]`.

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp3, DType, Layout, Shape, Tensor, Var};

use super::batch_norm::Mode;
use super::cpu::simd::vectorised;
use super::cpu::{Real, slice};
use super::init::Init;
use super::slices::with_slices;
use super::weights::Weights;

/// The estimate of a kernel's largest right singular vector, `[1, cout]`.
pub struct SpectralNorm {
    u: Var,
}

impl SpectralNorm {
    pub fn new(output: usize, w: &Weights) -> Result<Self> {
        Ok(Self {
            u: w.buffer((1, output), "u", Init::TruncatedNormal { std: 1.0 })?,
        })
    }

    /// The kernel divided by its largest singular value, as estimated after one more iteration.
    /// Gradients stop at the singular vectors. Only training keeps the iteration: an evaluation
    /// that changed the network would not be one.
    pub fn normalise(&self, weight: &Tensor, mode: Mode) -> Result<Tensor> {
        let columns = self.u.dim(1)?;
        let matrix = weight.reshape(((), columns))?;
        let fixed = matrix.detach();
        let v = unit(&self.u.as_detached_tensor().matmul(&fixed.t()?)?)?;
        let u = unit(&v.matmul(&fixed)?)?;
        if mode == Mode::Train {
            self.u.set(&u)?;
        }
        if weight.device().is_cpu() {
            return Ok(weight.contiguous()?.apply_op3(&v, &u, OverNorm)?);
        }
        let sigma = v.matmul(&matrix)?.matmul(&u.t()?)?;
        Ok(matrix.broadcast_div(&sigma)?.reshape(weight.shape())?)
    }
}

/// `W / s` with `s = v W u'`, W a kernel as a matrix and v and u held fixed. The gradient of W is
/// `(d - <d, W / s> v' u) / s`, in two passes.
struct OverNorm;

const NAME: &str = "spectral-norm";

/// `v W u'` of a matrix whose rows are as long as `u`.
#[inline(always)]
fn bilinear<T: Real>(w: &[T], v: &[T], u: &[T]) -> f64 {
    let mut columns = vec![T::default(); u.len()];
    for (row, v) in w.chunks_exact(u.len()).zip(v) {
        for (sum, w) in columns.iter_mut().zip(row) {
            *sum += *w * *v;
        }
    }
    columns.iter().zip(u).map(|(c, u)| c.f64() * u.f64()).sum()
}

/// The sum of products, column by column.
#[inline(always)]
fn inner<T: Real>(a: &[T], b: &[T], columns: usize) -> f64 {
    let mut sums = vec![0.0; columns];
    for (a, b) in a.chunks_exact(columns).zip(b.chunks_exact(columns)) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += (*a * *b).f64();
        }
    }
    sums.iter().sum()
}

impl OverNorm {
    fn forward<T: Real>(w: &[T], v: &[T], u: &[T]) -> Vec<T> {
        let inverse = T::new(1.0 / vectorised(|| bilinear(w, v, u)));
        w.iter().map(|w| *w * inverse).collect()
    }

    fn backward<T: Real>([w, v, u, d]: [&[T]; 4]) -> Vec<T> {
        let inverse = 1.0 / vectorised(|| bilinear(w, v, u));
        let along = vectorised(|| inner(w, d, u.len()));
        let (scale, along) = (T::new(inverse), T::new(-along * inverse * inverse));
        let mut dw = vec![T::default(); w.len()];
        let rows = dw.chunks_exact_mut(u.len()).zip(d.chunks_exact(u.len()));
        for ((dw, d), v) in rows.zip(v) {
            let of_row = *v * along;
            for ((dw, d), u) in dw.iter_mut().zip(d).zip(u) {
                *dw = *d * scale + *u * of_row;
            }
        }
        dw
    }
}

impl CustomOp3 for OverNorm {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        w: &CpuStorage,
        wl: &Layout,
        v: &CpuStorage,
        vl: &Layout,
        u: &CpuStorage,
        ul: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        macro_rules! run {
            ($kind:ident, $w:expr, $v:expr, $u:expr) => {
                CpuStorage::$kind(Self::forward(
                    slice(NAME, $w, wl)?,
                    slice(NAME, $v, vl)?,
                    slice(NAME, $u, ul)?,
                ))
            };
        }
        let scaled = match (w, v, u) {
            (CpuStorage::F32(w), CpuStorage::F32(v), CpuStorage::F32(u)) => run!(F32, w, v, u),
            (CpuStorage::F64(w), CpuStorage::F64(v), CpuStorage::F64(u)) => run!(F64, w, v, u),
            _ => candle_core::bail!("{NAME}: wants three f32 or three f64 tensors"),
        };
        Ok((scaled, wl.shape().clone()))
    }

    fn bwd(
        &self,
        w: &Tensor,
        v: &Tensor,
        u: &Tensor,
        _: &Tensor,
        d: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let operands = [w, v, u, &d.contiguous()?];
        let (shape, device) = (w.shape().clone(), w.device());
        let dw = match w.dtype() {
            DType::F32 => {
                let dw = with_slices::<f32, 4, _>(NAME, operands, Self::backward)?;
                Tensor::from_vec(dw, shape, device)?
            }
            _ => {
                let dw = with_slices::<f64, 4, _>(NAME, operands, Self::backward)?;
                Tensor::from_vec(dw, shape, device)?
            }
        };
        Ok((Some(dw), None, None))
    }
}

fn unit(x: &Tensor) -> candle_core::Result<Tensor> {
    x.broadcast_div(&(x.sqr()?.sum_all()?.sqrt()? + 1e-12)?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::noise::Noise;
    use super::*;

    /// The gradient is that of the operations it stands for.
    #[test]
    fn the_gradient_goes_through_the_norm() -> Result<()> {
        for (dtype, limit) in [(DType::F64, 1e-13), (DType::F32, 1e-5)] {
            let mut noise = Noise::new(2, "spectral").at(0);
            let mut draw = |shape: &[usize]| noise.normal(shape, dtype, &Device::Cpu);
            let kernel = Var::from_tensor(&draw(&[3, 3, 2, 5])?)?;
            let (v, u, weights) = (draw(&[1, 18])?, draw(&[1, 5])?, draw(&[3, 3, 2, 5])?);
            let fused = kernel.apply_op3(&v, &u, OverNorm)?;
            let sigma = v.matmul(&kernel.reshape((18, 5))?)?.matmul(&u.t()?)?;
            let plain = kernel.broadcast_div(&sigma.reshape(())?)?;
            let gradient = |y: &Tensor| -> Result<Tensor> {
                let gradients = (y * &weights)?.sum_all()?.backward()?;
                Ok(gradients.get(&kernel).cloned().unwrap())
            };
            for (a, b) in [
                (gradient(&fused)?, gradient(&plain)?),
                (fused.clone(), plain.clone()),
            ] {
                let gap = ((a - &b)?.abs()? / (b.abs()? + 1.0)?)?.max_all()?;
                assert!(gap.to_dtype(DType::F64)?.to_scalar::<f64>()? < limit);
            }
        }
        Ok(())
    }

    /// REFERENCE 7, oracle 29: for a kernel with known singular values the iteration finds the
    /// largest, and the normalised kernel has norm one.
    #[test]
    fn the_largest_singular_value_becomes_one() -> Result<()> {
        let w = Weights::new(0, DType::F64, &Device::Cpu);
        let norm = SpectralNorm::new(3, &w)?;
        // An orthogonal matrix times diag(5, 2, 1): a rotation in the first two coordinates.
        let (s, c) = 0.7f64.sin_cos();
        let rows = [
            [5.0 * c, -2.0 * s, 0.0],
            [5.0 * s, 2.0 * c, 0.0],
            [0.0, 0.0, 1.0],
        ];
        let kernel = Tensor::new(&rows, &Device::Cpu)?.reshape((1, 3, 1, 3))?;
        let before = norm.normalise(&kernel, Mode::Eval)?;
        let again = norm.normalise(&kernel, Mode::Eval)?;
        assert_eq!(
            before.flatten_all()?.to_vec1::<f64>()?,
            again.flatten_all()?.to_vec1::<f64>()?
        );
        for _ in 0..60 {
            norm.normalise(&kernel, Mode::Train)?;
        }
        let ratio = (&kernel / norm.normalise(&kernel, Mode::Eval)?)?;
        // The 1e-12 in `unit` shows as a relative error of that size.
        assert!((ratio.flatten_all()?.to_vec1::<f64>()?[0] - 5.0).abs() < 1e-10);
        Ok(())
    }
}
