//! Models: layers put together, and what they are trained on.

pub mod glow;
pub mod step;
