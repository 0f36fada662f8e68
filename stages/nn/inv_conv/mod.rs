//! Invertible 1x1 convolution of Glow.

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Shape, Tensor, bail};
use faer::linalg::solvers::DenseSolveCore;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bijector::{Bijector, positions};
use super::init::Init;
use super::weights::{Weights, assign};
use lu::Lu;

mod lu;

/// Form of the 1x1 convolution (A6): how its matrix W is kept and learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum InvConvForm {
    /// W itself.
    Plain,
    /// `W = P L (U + diag(s))` with L and U triangular: they and ln |s| are learned, the permutation P
    /// and the signs of s stay. The start is the same W.
    Lu,
}

/// Each pixel's channels, as a row, times a matrix W.
pub struct InvConv(Kept);

enum Kept {
    Plain(Tensor),
    Lu(Lu),
}

impl InvConv {
    /// Starts as `init` says: the identity or a random rotation.
    pub fn new(form: InvConvForm, channels: usize, init: Init, w: &Weights) -> Result<Self> {
        Ok(Self(match form {
            InvConvForm::Plain => Kept::Plain(w.get((channels, channels), "weight", init)?),
            InvConvForm::Lu => Kept::Lu(Lu::new(channels, init, w)?),
        }))
    }

    /// Replaces the matrix.
    pub fn set(&self, matrix: &Tensor) -> candle_core::Result<()> {
        match &self.0 {
            Kept::Plain(weight) => assign(weight, matrix),
            Kept::Lu(lu) => lu.set(matrix),
        }
    }

    /// W: `[c, c]`.
    pub fn matrix(&self) -> candle_core::Result<Tensor> {
        match &self.0 {
            Kept::Plain(weight) => Ok(weight.clone()),
            Kept::Lu(lu) => lu.matrix(),
        }
    }

    /// `ln |det|` of one pixel: a scalar.
    pub fn log_det(&self) -> candle_core::Result<Tensor> {
        match &self.0 {
            Kept::Plain(weight) => log_abs_det(weight),
            Kept::Lu(lu) => lu.log_det(),
        }
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
        Ok((times(x, &self.matrix()?)?, log_det.broadcast_as(x.dim(0)?)?))
    }

    fn inverse(&self, y: &Tensor) -> candle_core::Result<Tensor> {
        let matrix = self.matrix()?.detach();
        let inverse = matrix.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
        let inverse = inverse.apply_op1_no_bwd(&Inverse)?;
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
mod tests;
