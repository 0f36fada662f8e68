//! The convolutions of nn/conv/ops.rs on a GPU.

use candle_core::{CudaStorage, DType, Layout};

use super::super::conv::ops::{Conv, Map};
use super::conv;
use super::gpu::at;
use super::tensor::{Made, Number, by_dtype, make};

type Stored<'a> = (&'a CudaStorage, &'a Layout);

/// One map of a convolution, with a bias or not.
pub fn run(op: &Conv, dtype: DType, a: Stored, b: Stored, bias: Option<Stored>) -> Made {
    by_dtype!("conv2d", dtype, of::<T>(op, a, b, bias))
}

fn of<T: Number>(op: &Conv, a: Stored, b: Stored, bias: Option<Stored>) -> Made {
    let values = |(storage, layout)| at::<T>("conv2d", storage, layout);
    let (x, y, bias) = (values(a)?, values(b)?, bias.map(values).transpose()?);
    make(&a.0.device, op.shape(), |m, out| match op.map {
        Map::Forward => conv::forward(m, &op.g, x, y, bias, out),
        Map::Input => conv::input_gradient(m, &op.g, x, y, bias, out),
        Map::Kernel => conv::kernel_gradient(m, &op.g, x, y, out),
    })
}
