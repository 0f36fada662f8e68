//! Layers and what they stand on: noise, weights, convolution. No losses, no files of a pipeline.

pub mod conv;
pub mod dense;
pub mod device;
pub mod init;
pub mod noise;
pub mod tensor_file;
pub mod weights;

mod kernel;
