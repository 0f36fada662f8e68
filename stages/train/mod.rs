//! Training: the one loop, its optimisers and its checkpoints.

pub mod batches;
pub mod checkpoint;
pub mod fit;
pub mod optim;
pub mod steps;
pub mod trainable;

pub use fit::{Keep, Plan, fit};
pub use optim::Optim;
pub use steps::{LastBatch, Steps};
pub use trainable::{Dataset, ImageSet, Loss, Trainable};

#[cfg(all(test, feature = "cuda"))]
mod gpu_tests;
