//! Models: layers put together, and what they are trained on.

pub mod augment;
pub mod classifier;
pub mod extractor;
pub mod flow_layer;
pub mod gaussian;
pub mod glow;
pub mod glow_training;
pub mod image_model;
pub mod inception;
pub mod inception_weights;
pub mod infogan;
pub mod latent_set;
pub mod path;
pub mod pixels;
pub mod pool;
pub mod prior;
pub mod pth;
pub mod real_nvp;
pub mod resnet;
pub mod second_vae;
pub mod step;
pub mod vae;
pub mod vae_training;
pub mod vae_with_flow;
