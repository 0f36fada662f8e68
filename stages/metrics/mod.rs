//! Numbers about sets of images. Nothing here knows files or stages.

pub mod bits;
pub mod frechet;
pub mod kid;
pub mod moments;
pub mod neighbours;
pub mod resize;
pub mod stretch;
