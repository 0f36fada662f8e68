//! Artifacts as files, one module each, and what reads public data sets.

pub mod embedded;
pub mod gaussian;
pub mod history;
pub mod images;
pub mod latents;
pub mod metrics;
pub mod tensors;
