//! Our operations on NVIDIA GPUs.
//!
//! [`machine`] says what a kernel needs of a device; [`channel`], [`conv`], … are the host's side of
//! the kernels in `stages/kernels`, written against it. So the same launches run on a GPU
//! ([`gpu`]) and, in tests without one, on an emulation of it ([`emulate`]).

pub mod channel;
pub mod conv;
pub mod coupling;
pub mod coupling_parameters;
pub mod cudnn_layout;
pub mod machine;
pub mod matrix;
pub mod noise;
pub mod optim;
pub mod pixel;
pub mod pool;
pub mod resize;
pub mod source;
pub mod trouble;

#[cfg(feature = "cuda")]
pub mod adam;
#[cfg(feature = "cuda")]
pub mod channel_op;
#[cfg(feature = "cuda")]
pub mod conv_op;
#[cfg(feature = "cuda")]
pub mod coupling_op;
#[cfg(feature = "cuda")]
pub mod cudnn;
#[cfg(feature = "cuda")]
pub mod driver;
#[cfg(feature = "cuda")]
pub mod gpu;
#[cfg(feature = "cuda")]
pub mod library;
#[cfg(feature = "cuda")]
pub mod matrix_op;
#[cfg(feature = "cuda")]
pub mod noise_op;
#[cfg(feature = "cuda")]
pub mod pixel_op;
#[cfg(feature = "cuda")]
pub mod pool_op;
#[cfg(feature = "cuda")]
pub mod resize_op;
#[cfg(feature = "cuda")]
pub mod tensor;

#[cfg(test)]
mod emulate;
#[cfg(all(test, feature = "cuda"))]
mod gpu_tests;
#[cfg(test)]
mod tests;
