//! What the command line offers besides stages.

pub mod device;
pub mod fid;
pub mod found;
mod measure;
pub mod operations;
pub mod parse;
mod sets;
pub mod versions;
