//! Training: the one loop, its optimisers and its checkpoints.

pub mod batches;
pub mod checkpoint;
pub mod fit;
pub mod optim;
pub mod steps;
pub mod trainable;
pub mod training;

pub use trainable::{Dataset, ImageSet, Loss, Trainable};
pub use training::{ImageSets, Trained, Training, train_images};

#[cfg(all(test, feature = "cuda"))]
mod gpu_tests;
