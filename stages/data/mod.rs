//! Artifacts as files, one module each, and what reads public data sets.

pub mod any_images;
pub mod gaussian;
pub mod grid;
pub mod guess;
pub mod images;
pub mod latents;
pub mod npy;
pub mod pickle;
pub mod protocol;
pub mod tensors;
pub mod vectors;

pub mod celeba;
pub mod cifar10;
mod download;
pub mod embedded;
pub mod fashion_mnist;
pub mod fetch;
mod hub;
mod image_folder;
pub mod jpeg;
pub mod picture_list;
pub mod pictures;
pub mod source;
