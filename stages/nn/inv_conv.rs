//! Invertible 1x1 convolution of Glow, with a plain weight matrix (A6).

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Shape, Tensor, bail};
use faer::linalg::solvers::DenseSolveCore;

use super::bijector::{Bijector, positions};
use super::init::Init;
use super::weights::{Weights, assign};

/// Each pixel's channels, as a row, times `weight`.
pub struct InvConv {
    weight: Tensor,
}

impl InvConv {
    /// Starts as `init` says: the identity or a random rotation.
    pub fn new(channels: usize, init: Init, w: &Weights) -> Result<Self> {
        Ok(Self {
            weight: w.get((channels, channels), "weight", init)?,
        })
    }

    /// Replaces the matrix.
    pub fn set(&self, weight: &Tensor) -> candle_core::Result<()> {
        assign(&self.weight, weight)
    }

    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// `ln |det|` of one pixel: a scalar.
    pub fn log_det(&self) -> candle_core::Result<Tensor> {
        log_abs_det(&self.weight)
    }
}

/// `[.., c]` times a matrix `[c, d]`.
pub fn times(x: &Tensor, matrix: &Tensor) -> candle_core::Result<Tensor> {
    let mut dims = x.dims().to_vec();
    let rows = x.flatten_to(x.rank() - 2)?.matmul(matrix)?;
    dims[x.rank() - 1] = matrix.dim(1)?;
    rows.reshape(dims)
}

impl Bijector for InvConv {
    fn forward(&self, x: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        let log_det = (self.log_det()? * positions(x)?)?;
        Ok((times(x, &self.weight)?, log_det.broadcast_as(x.dim(0)?)?))
    }

    fn inverse(&self, y: &Tensor) -> candle_core::Result<Tensor> {
        let inverse = self.weight.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
        let inverse = inverse.detach().apply_op1_no_bwd(&Inverse)?;
        times(y, &inverse.to_dtype(y.dtype())?.to_device(y.device())?)
    }
}

/// `ln |det W|` of a square matrix, as a scalar, computed in f64. Its gradient is the
/// transposed inverse.
pub fn log_abs_det(w: &Tensor) -> candle_core::Result<Tensor> {
    #[cfg(feature = "cuda")]
    if w.device().is_cuda() {
        return super::cuda::matrix_op::log_abs_det(w);
    }
    let value = w
        .to_device(&Device::Cpu)?
        .to_dtype(DType::F64)?
        .contiguous()?;
    value
        .apply_op1(LogAbsDet)?
        .to_dtype(w.dtype())?
        .to_device(w.device())
}

struct LogAbsDet;
struct Inverse;

fn matrix(name: &str, s: &CpuStorage, l: &Layout) -> candle_core::Result<faer::Mat<f64>> {
    match (s, l.contiguous_offsets(), l.dims()) {
        (CpuStorage::F64(data), Some((from, _)), &[n, m]) if n == m => {
            Ok(faer::Mat::from_fn(n, n, |i, j| data[from + i * n + j]))
        }
        _ => bail!(
            "{name}: wants a contiguous square f64 matrix, got {:?}",
            l.dims()
        ),
    }
}

impl CustomOp1 for LogAbsDet {
    fn name(&self) -> &'static str {
        "log-abs-det"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let lu = matrix(self.name(), s, l)?.partial_piv_lu();
        // The determinant itself leaves the range of f64 for wide matrices.
        let value = lu
            .U()
            .diagonal()
            .column_vector()
            .iter()
            .map(|u| u.abs().ln())
            .sum();
        Ok((CpuStorage::F64(vec![value]), Shape::from(())))
    }

    fn bwd(&self, w: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let inverse = w.detach().apply_op1_no_bwd(&Inverse)?;
        Ok(Some(inverse.t()?.broadcast_mul(grad)?))
    }
}

impl CustomOp1 for Inverse {
    fn name(&self) -> &'static str {
        "matrix-inverse"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let inverse = matrix(self.name(), s, l)?.partial_piv_lu().inverse();
        let n = inverse.nrows();
        let rows = (0..n * n).map(|k| inverse[(k / n, k % n)]).collect();
        Ok((CpuStorage::F64(rows), (n, n).into()))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;

    #[test]
    fn a_random_start_is_orthogonal() -> Result<()> {
        for n in [3, 12, 48] {
            let w = Weights::new(1, DType::F64, &Device::Cpu);
            let layer = InvConv::new(n, Init::Orthogonal, &w)?;
            let gram = layer.weight().t()?.matmul(layer.weight())?;
            let error = (gram - Tensor::eye(n, DType::F64, &Device::Cpu)?)?
                .abs()?
                .sum_all()?;
            assert!(error.to_scalar::<f64>()? < 1e-10);
            assert!(layer.log_det()?.to_scalar::<f64>()?.abs() < 1e-10);
        }
        Ok(())
    }

    /// The other form of the official code, `P L (U + diag(sign exp(log_s)))` with P and sign fixed:
    /// of the same matrix it has the same log-determinant, the sum of log_s, and the same effect.
    /// At the orthogonal start, and after log_s was moved.
    #[test]
    fn the_lu_form_agrees() -> Result<()> {
        for n in [3, 12, 48] {
            let w = Weights::new(1, DType::F64, &Device::Cpu);
            let layer = InvConv::new(n, Init::Orthogonal, &w)?;
            let start = layer.weight().to_vec2::<f64>()?;
            let lu = faer::Mat::from_fn(n, n, |i, j| start[i][j]).partial_piv_lu();
            let (lower, upper) = (lu.P().inverse() * lu.L(), lu.U());
            let x = crate::nn::noise::Noise::new(0, "x").at(0);
            let x = x.clone().normal((2, 3, 3, n), DType::F64, &Device::Cpu)?;
            for moved in [0.0, 0.3] {
                let log_s = |i: usize| upper[(i, i)].abs().ln() + moved * (i as f64 + 1.0).sin();
                let scaled = faer::Mat::from_fn(n, n, |i, j| match i.cmp(&j) {
                    std::cmp::Ordering::Less => upper[(i, j)],
                    std::cmp::Ordering::Equal => upper[(i, i)].signum() * log_s(i).exp(),
                    std::cmp::Ordering::Greater => 0.0,
                });
                let tensor = |m: &faer::Mat<f64>| {
                    let rows = (0..n * n).map(|k| m[(k / n, k % n)]).collect::<Vec<_>>();
                    Tensor::from_vec(rows, (n, n), &Device::Cpu)
                };
                layer.set(&tensor(&(&lower * &scaled))?)?;
                let (y, log_det) = layer.forward(&x)?;
                let expected = 9.0 * (0..n).map(log_s).sum::<f64>();
                for value in log_det.to_vec1::<f64>()? {
                    assert!((value - expected).abs() < 1e-10, "{value} {expected}");
                }
                let by_factors = times(&times(&x, &tensor(&lower)?)?, &tensor(&scaled)?)?;
                let far = (y - by_factors)?.abs()?.max_all()?.to_scalar::<f64>()?;
                assert!(far < 1e-12, "{far:e}");
            }
        }
        Ok(())
    }

    /// The gradient against differences.
    #[test]
    fn the_gradient_of_log_det_is_the_transposed_inverse() -> Result<()> {
        let draw =
            crate::nn::noise::Noise::new(0, "w")
                .at(0)
                .normal((5, 5), DType::F64, &Device::Cpu)?;
        let w = Var::from_tensor(&draw)?;
        let gradient = log_abs_det(&w)?.backward()?;
        let gradient = gradient.get(&w).unwrap().flatten_all()?.to_vec1::<f64>()?;
        for (i, claimed) in gradient.into_iter().enumerate() {
            let mut unit = vec![0f64; 25];
            unit[i] = 1e-6;
            let unit = Tensor::from_vec(unit, (5, 5), &Device::Cpu)?;
            let at = |w: Tensor| -> Result<f64> { Ok(log_abs_det(&w)?.to_scalar()?) };
            let slope = (at((&draw + &unit)?)? - at((&draw - &unit)?)?) / 2e-6;
            assert!((claimed - slope).abs() < 1e-7, "{claimed} {slope}");
        }
        Ok(())
    }

    #[test]
    fn the_identity_changes_no_bit() -> Result<()> {
        let w = Weights::new(1, DType::F32, &Device::Cpu);
        let x = crate::nn::noise::Noise::new(0, "x").at(0);
        let x = x.clone().normal((2, 4, 4, 3), DType::F32, &Device::Cpu)?;
        let (y, log_det) = InvConv::new(3, Init::Identity, &w)?.forward(&x)?;
        assert_eq!(
            y.flatten_all()?.to_vec1::<f32>()?,
            x.flatten_all()?.to_vec1::<f32>()?
        );
        assert_eq!(log_det.to_vec1::<f32>()?, [0.0, 0.0]);
        Ok(())
    }
}
