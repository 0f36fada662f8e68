//! The machine learning of the pipeline. Here a file is a stage and a folder is a library.
//!
//! Only [`contract`], [`STAGES`] and [`devices`] are public: the runner can name no model.

pub mod contract;

use contract::StageDef;

/// Every kind, in the order in which a paper uses them.
pub const STAGES: &[StageDef] = &[];
