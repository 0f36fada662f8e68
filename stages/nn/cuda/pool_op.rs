//! What Inception does between its convolutions, on a GPU; without gradient.

use candle_core::{Result, Tensor};

use super::gpu::Gpu;
use super::pool::{self, Window};
use super::tensor::{Number, by_dtype, gpu_of, make, of, size, tensor};

/// A 3x3 window over `[n, h, w, c]`, without gradient.
pub fn pool(x: &Tensor, window: Window) -> Result<Tensor> {
    fn run<T: Number>(x: &Tensor, window: Window) -> Result<Tensor> {
        let ([n, _, _, c], [oh, ow]) = (window.image, window.output);
        let from = of::<T>("pool", x)?;
        let made = make(&gpu_of(x)?, (n, oh, ow, c).into(), |m, out| {
            pool::pool(m, window, from, out)
        })?;
        Ok(tensor(made))
    }
    let x = x.contiguous()?;
    by_dtype!("pool", x.dtype(), run::<T>(&x, window))
}

/// `relu(y + bias)` in the memory of `y`, which must be nobody else's.
pub fn bias_relu(y: &Tensor, bias: &Tensor) -> Result<()> {
    fn run<T: Number>(y: &Tensor, bias: &Tensor) -> Result<()> {
        let (device, size) = (gpu_of(y)?, size(y.dims()));
        let (y, bias) = (of::<T>("bias-relu", y)?, of::<T>("bias-relu", bias)?);
        pool::bias_relu(&Gpu(&device), size, bias, y)
    }
    by_dtype!("bias-relu", y.dtype(), run::<T>(y, bias))
}
