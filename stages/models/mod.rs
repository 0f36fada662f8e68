//! Models: layers put together, and what they are trained on.

pub mod augment;
pub mod baseline;
pub mod classifier;
pub mod extractor;
pub mod flow_layer;
pub mod full;
pub mod gaussian;
pub mod glow;
pub mod inception;
pub mod inception_weights;
pub mod infogan;
pub mod latent_set;
pub mod path;
pub mod phase1;
pub mod pixels;
pub mod pool;
pub mod prior;
pub mod pth;
pub mod real_nvp;
pub mod resnet;
pub mod second_vae;
pub mod step;
pub mod vae;

#[cfg(test)]
mod cifar_oracles;
#[cfg(test)]
mod flow_parity;
#[cfg(test)]
mod full_oracles;
#[cfg(test)]
mod full_parity;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod parity;
