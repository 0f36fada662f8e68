//! Spectral normalisation (Miyato et al. 2018) as Dai & Wipf's code has it: one power iteration
//! per training pass, on the kernel as a matrix `[kh kw cin, cout]`.

use anyhow::Result;
use candle_core::{Tensor, Var};

use super::batch_norm::Mode;
use super::init::Init;
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
        let sigma = v.matmul(&matrix)?.matmul(&u.t()?)?;
        Ok(matrix.broadcast_div(&sigma)?.reshape(weight.shape())?)
    }
}

fn unit(x: &Tensor) -> candle_core::Result<Tensor> {
    x.broadcast_div(&(x.sqr()?.sum_all()?.sqrt()? + 1e-12)?)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

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
