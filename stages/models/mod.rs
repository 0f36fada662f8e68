//! Models: layers put together, and what they are trained on.

pub mod classifier;
pub mod extractor;
pub mod glow;
pub mod step;
