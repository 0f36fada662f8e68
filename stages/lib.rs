//! The machine learning of the pipeline. Here a file is a stage and a folder is a library.
//!
//! Only [`STAGES`] and [`tools`] are public: the runner can name no model.

mod data;
mod metrics;
mod models;
mod nn;
pub mod tools;
mod train;

mod bits_per_dim;
mod bits_per_dim_glow;
mod dataset;
mod extractor;
mod features;
mod fid;
mod flow_layer;
mod glow;
mod grid;
mod interpolation;
mod kid;
mod latents;
mod precision_recall;
mod prior;
mod same_code;
mod sample;
mod sample_glow;
mod second_vae;
mod timing;
mod vae;
mod vectors;

#[cfg(test)]
mod stories;

use contract::{StageDef, define};

/// What each kind's code reaches, made by build.rs: one constant per file of this folder.
mod code {
    include!(concat!(env!("OUT_DIR"), "/code.rs"));
}

/// Every kind, in the order in which a paper uses them.
pub const STAGES: &[StageDef] = &[
    define::<dataset::Dataset>(code::DATASET),
    define::<extractor::Extractor>(code::EXTRACTOR),
    define::<vae::Vae>(code::VAE),
    define::<latents::Latents>(code::LATENTS),
    define::<second_vae::SecondVae>(code::SECOND_VAE),
    define::<prior::Prior>(code::PRIOR),
    define::<flow_layer::FlowLayer>(code::FLOW_LAYER),
    define::<glow::Glow>(code::GLOW),
    define::<sample::Sample>(code::SAMPLE),
    define::<sample_glow::SampleGlow>(code::SAMPLE_GLOW),
    define::<features::Features>(code::FEATURES),
    define::<fid::Fid>(code::FID),
    define::<vectors::Vectors>(code::VECTORS),
    define::<kid::Kid>(code::KID),
    define::<precision_recall::PrecisionRecall>(code::PRECISION_RECALL),
    define::<bits_per_dim::BitsPerDim>(code::BITS_PER_DIM),
    define::<bits_per_dim_glow::BitsPerDimGlow>(code::BITS_PER_DIM_GLOW),
    define::<grid::Grid>(code::GRID),
    define::<same_code::SameCode>(code::SAME_CODE),
    define::<interpolation::Interpolation>(code::INTERPOLATION),
    define::<timing::Timing>(code::TIMING),
];
