//! What the command line offers besides stages.

pub mod device;
pub mod fid;
pub mod found;
mod measure;
pub mod operations;
mod sets;
pub mod versions;
