//! Layers and what they stand on: noise, weights, convolution. No losses, no files of a pipeline.

pub mod act_norm;
pub mod batch_norm;
pub mod bijector;
pub mod categorical;
pub mod chain;
pub mod channel;
pub mod clamp;
pub mod conv;
pub mod conv_layer;
pub mod coupling;
pub mod cpu;
#[cfg(any(feature = "cuda", test))]
pub mod cuda;
pub mod dense;
pub mod device;
pub mod fused;
pub mod gate;
pub mod glow_conv;
pub mod init;
pub mod inv_conv;
pub mod lip_swish;
pub mod noise;
pub mod normal_density;
pub mod residual;
pub mod slices;
pub mod spectral;
pub mod spectral_conv;
pub mod split;
pub mod squeeze;
pub mod tensor_file;
pub mod weights;
