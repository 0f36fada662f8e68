//! Between candle's tensors and our kernels' addresses.

use candle_core::cuda::CudaDType;
use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, CudaDevice, CudaStorage, Result, Shape, Storage, Tensor, bail};

use super::channel::Size;
use super::gpu::{Gpu, at};
use super::machine::{At, Machine, Scalar};

/// Calls a function for the number type of a storage or tensor.
macro_rules! by_dtype {
    ($name:expr, $dtype:expr, $call:ident::<T>($($arg:expr),* $(,)?)) => {
        match $dtype {
            candle_core::DType::F32 => $call::<f32>($($arg),*),
            candle_core::DType::F64 => $call::<f64>($($arg),*),
            other => candle_core::bail!("{}: wants f32 or f64, got {other:?}", $name),
        }
    };
    ($name:expr, $dtype:expr, [$this:ident.$call:ident]::<T>($($arg:expr),* $(,)?)) => {
        match $dtype {
            candle_core::DType::F32 => $this.$call::<f32>($($arg),*),
            candle_core::DType::F64 => $this.$call::<f64>($($arg),*),
            other => candle_core::bail!("{}: wants f32 or f64, got {other:?}", $name),
        }
    };
}

pub(crate) use by_dtype;

/// Types that are both candle's and our kernels'.
pub trait Number: Scalar + CudaDType {}
impl Number for f32 {}
impl Number for f64 {}

pub type Made = Result<(CudaStorage, Shape)>;

/// A result of `len` values, written by `write`.
pub fn make<T: Number>(
    device: &CudaDevice,
    shape: Shape,
    write: impl FnOnce(&Gpu, At<T>) -> Result<()>,
) -> Made {
    let gpu = Gpu(device);
    let memory = gpu.alloc::<T>(shape.elem_count())?;
    write(&gpu, gpu.at(&memory))?;
    Ok((CudaStorage::wrap_cuda_slice(memory, device.clone()), shape))
}

pub fn tensor((storage, shape): (CudaStorage, Shape)) -> Tensor {
    Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false)
}

/// The device of a tensor, which is a GPU.
pub fn gpu_of(x: &Tensor) -> Result<CudaDevice> {
    Ok(x.device().as_cuda_device()?.clone())
}

/// Where a contiguous tensor's values lie. The tensor must outlive the launch.
pub fn of<T: Number>(name: &str, x: &Tensor) -> Result<At<T>> {
    let (storage, layout) = x.storage_and_layout();
    match &*storage {
        Storage::Cuda(storage) => at::<T>(name, storage, layout),
        _ => bail!("{name}: wants tensors on one device"),
    }
}

pub fn no_cpu(name: &str) -> Result<(CpuStorage, Shape)> {
    bail!("BUG: {name} of the GPU was called on the CPU")
}

/// Sizes of `[..., c]`.
pub fn size(dims: &[usize]) -> Size {
    let channels = dims.last().copied().unwrap_or(1);
    let rows = dims.iter().product::<usize>() / channels.max(1);
    Size { rows, channels }
}
