//! `ln |det|` of a small matrix on a GPU, with its gradient: nothing goes to the host.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::gpu::at;
use super::matrix;
use super::tensor::{Made, Number, by_dtype, make, no_cpu};

struct LogDet;

impl CustomOp1 for LogDet {
    fn name(&self) -> &'static str {
        "log-det-and-inverse"
    }
    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        no_cpu(self.name())
    }
    fn cuda_fwd(&self, w: &CudaStorage, l: &Layout) -> Made {
        fn run<T: Number>(w: &CudaStorage, l: &Layout) -> Made {
            let (n, columns) = l.shape().dims2()?;
            if n != columns || n == 0 {
                bail!("log-det: wants a square matrix, got {:?}", l.dims());
            }
            let from = at::<T>("log-det", w, l)?;
            make(&w.device, (1 + n * n).into(), |m, out| {
                matrix::log_det_and_inverse(m, n, from, out)
            })
        }
        by_dtype!(self.name(), w.dtype(), run::<T>(w, l))
    }
    fn bwd(&self, w: &Tensor, y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let n = w.dim(0)?;
        let inverse = y.detach().narrow(0, 1, n * n)?.reshape((n, n))?;
        Ok(Some(inverse.t()?.broadcast_mul(&dy.narrow(0, 0, 1)?)?))
    }
}

/// `ln |det w|` as a scalar. Its gradient is the transposed inverse.
pub fn log_abs_det(w: &Tensor) -> Result<Tensor> {
    w.contiguous()?
        .apply_op1(LogDet)?
        .narrow(0, 0, 1)?
        .squeeze(0)
}
