//! What the command line offers besides stages.

pub mod fid;
mod sets;
