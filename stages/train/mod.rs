//! Training: the one loop, its optimisers and its checkpoints.

pub mod batches;
pub mod checkpoint;
pub mod fit;
pub mod optim;

pub use fit::{Dataset, ImageSet, Loss, Plan, Trainable, fit};
pub use optim::Optim;
