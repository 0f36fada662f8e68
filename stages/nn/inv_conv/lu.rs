//! An invertible matrix by its LU factors.

use anyhow::Result;
use candle_core::{DType, Device, Tensor, Var};

use crate::nn::init::Init;
use crate::nn::weights::{Weights, assign};

/// `W = P L (U + diag(s))` (Kingma & Dhariwal 2018, equations 10 and 11), with ones on the diagonal of L
/// and zeros on that of U.
pub struct Lu {
    /// What is learned, `[c, c]`, as LAPACK packs it: L below the diagonal, U above it, and on it
    /// ln |s|.
    packed: Tensor,
    /// P: `[c, c]`.
    permutation: Var,
    /// Signs of s: `[c]`.
    sign: Var,
    /// Ones below the diagonal, above it, and on it.
    below: Tensor,
    above: Tensor,
    diagonal: Tensor,
}

impl Lu {
    /// The factors of the matrix that the plain form would start with.
    pub fn new(channels: usize, init: Init, w: &Weights) -> Result<Self> {
        let (shape, dtype, device) = ((channels, channels), w.dtype(), w.device());
        let start = w.draw_unless("lu", shape, "weight", init)?;
        let diagonal = Tensor::eye(channels, dtype, device)?;
        let lu = Self {
            packed: w.get(shape, "lu", Init::Zeros)?,
            permutation: w.buffer(shape, "permutation", Init::Identity)?,
            sign: w.buffer(channels, "sign", Init::Ones)?,
            below: (Tensor::tril2(channels, dtype, device)? - &diagonal)?,
            above: (Tensor::triu2(channels, dtype, device)? - &diagonal)?,
            diagonal,
        };
        if let Some(matrix) = start {
            lu.set(&matrix)?;
        }
        Ok(lu)
    }

    /// Takes the factors of another matrix, found in f64 with partial pivoting.
    pub fn set(&self, matrix: &Tensor) -> candle_core::Result<()> {
        let rows = matrix.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
        let rows = rows.to_vec2::<f64>()?;
        let n = rows.len();
        let lu = faer::Mat::from_fn(n, n, |i, j| rows[i][j]).partial_piv_lu();
        let (lower, upper) = (lu.L(), lu.U());
        let permutation = lu.P().inverse() * faer::Mat::<f64>::identity(n, n);
        let square = |at: &dyn Fn(usize, usize) -> f64| {
            let entries = (0..n * n).map(|k| at(k / n, k % n)).collect();
            self.like(Tensor::from_vec::<_, f64>(entries, (n, n), &Device::Cpu)?)
        };
        let packed = square(&|i, j| match i.cmp(&j) {
            std::cmp::Ordering::Less => upper[(i, j)],
            std::cmp::Ordering::Equal => upper[(i, i)].abs().ln(),
            std::cmp::Ordering::Greater => lower[(i, j)],
        })?;
        let sign: Vec<f64> = (0..n).map(|i| upper[(i, i)].signum()).collect();
        assign(&self.packed, &packed)?;
        self.permutation
            .set(&square(&|i, j| permutation[(i, j)])?)?;
        self.sign
            .set(&self.like(Tensor::from_vec(sign, n, &Device::Cpu)?)?)
    }

    pub fn matrix(&self) -> candle_core::Result<Tensor> {
        let lower = ((&self.packed * &self.below)? + &self.diagonal)?;
        let scale = (self.log_scale()?.exp()? * self.sign.as_detached_tensor())?;
        let upper = ((&self.packed * &self.above)? + self.diagonal.broadcast_mul(&scale)?)?;
        let permutation = self.permutation.as_detached_tensor();
        permutation.matmul(&lower)?.matmul(&upper)
    }

    /// `ln |det W|`: the sum of ln |s|, a scalar.
    pub fn log_det(&self) -> candle_core::Result<Tensor> {
        self.log_scale()?.sum_all()
    }

    /// ln |s|: `[c]`.
    fn log_scale(&self) -> candle_core::Result<Tensor> {
        (&self.packed * &self.diagonal)?.sum(1)
    }

    fn like(&self, values: Tensor) -> candle_core::Result<Tensor> {
        let values = values.to_dtype(self.packed.dtype())?;
        values.to_device(self.packed.device())
    }
}
