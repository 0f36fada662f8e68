//! Noise as tensors on a GPU.

use candle_core::{CudaDevice, DType, Result, Shape, Tensor};

use super::noise::{Law, Position, fill};
use super::tensor::{Number, by_dtype, make, tensor};

pub fn noise(
    position: Position,
    law: Law,
    shape: &Shape,
    dtype: DType,
    device: &CudaDevice,
) -> Result<Tensor> {
    fn run<T: Number>(
        at: Position,
        law: Law,
        shape: &Shape,
        device: &CudaDevice,
    ) -> Result<Tensor> {
        let n = shape.elem_count();
        let made = make::<T>(device, shape.clone(), |m, out| fill(m, at, law, n, out))?;
        Ok(tensor(made))
    }
    by_dtype!("noise", dtype, run::<T>(position, law, shape, device))
}
