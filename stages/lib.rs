//! The machine learning of the pipeline. Here a file is a stage and a folder is a library.
//!
//! Only [`contract`] and [`STAGES`] are public: the runner can name no model.

pub mod contract;
mod data;
mod metrics;
mod models;
mod nn;
mod train;

use contract::StageDef;

/// What each kind's code reaches, made by build.rs: one constant per file of this folder.
mod code {
    include!(concat!(env!("OUT_DIR"), "/code.rs"));
}

/// Every kind, in the order in which a paper uses them.
pub const STAGES: &[StageDef] = &[];
