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
mod crps;
mod dataset;
mod extractor;
mod features;
mod fid;
mod flow_layer;
mod flow_vs_vae;
mod glow;
mod grid;
mod interpolation;
mod kid;
mod latents;
mod pixelcnn;
mod pixeliqn;
mod precision_recall;
mod prior;
mod residual_flow;
mod sample;
mod second_vae;
mod timing;
mod vae;
mod vectors;

#[cfg(test)]
mod oracles;
#[cfg(test)]
mod stories;

use anyhow::Result;
use candle_core::Device;
use contract::{StageDef, define};
use models::glow::Glow;
use models::pixelcnn::PixelCnn;
use models::pixeliqn::PixelIqn;
use models::residual_flow::ResidualFlow;
use models::vae_with_flow::VaeWithFlow;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use train::Trained;

/// What each module's code reaches, made by build.rs: one constant per file of this folder, and below
/// `models` one per model.
#[expect(dead_code, reason = "not every model is put together with a kind here")]
mod code {
    include!(concat!(env!("OUT_DIR"), "/code.rs"));
}

/// Every kind, in the order in which a paper uses them, with the modules that its code is put together
/// from.
pub const STAGES: &[StageDef] = &[
    define::<dataset::Dataset>(&[code::DATASET]),
    define::<extractor::Extractor>(&[code::EXTRACTOR]),
    define::<vae::Vae>(&[code::VAE]),
    define::<latents::Latents>(&[code::LATENTS]),
    define::<second_vae::SecondVae>(&[code::SECOND_VAE]),
    define::<prior::Prior>(&[code::PRIOR]),
    define::<flow_layer::FlowLayer>(&[code::FLOW_LAYER]),
    define::<glow::Glow>(&[code::GLOW]),
    define::<pixelcnn::PixelCnn>(&[code::PIXELCNN]),
    define::<pixeliqn::PixelIqn>(&[code::PIXELIQN]),
    define::<residual_flow::ResidualFlow>(&[code::RESIDUAL_FLOW]),
    define::<sample::Sample<VaeWithFlow>>(&[code::SAMPLE, code::models::VAE_WITH_FLOW]),
    define::<sample::Sample<Glow>>(&[code::SAMPLE, code::models::GLOW]),
    define::<sample::Sample<PixelCnn>>(&[code::SAMPLE, code::models::PIXELCNN]),
    define::<sample::Sample<PixelIqn>>(&[code::SAMPLE, code::models::PIXELIQN]),
    define::<sample::Sample<ResidualFlow>>(&[code::SAMPLE, code::models::RESIDUAL_FLOW]),
    define::<features::Features>(&[code::FEATURES]),
    define::<fid::Fid>(&[code::FID]),
    define::<vectors::Vectors>(&[code::VECTORS]),
    define::<kid::Kid>(&[code::KID]),
    define::<precision_recall::PrecisionRecall>(&[code::PRECISION_RECALL]),
    define::<bits_per_dim::BitsPerDim<VaeWithFlow>>(&[
        code::BITS_PER_DIM,
        code::models::VAE_WITH_FLOW,
    ]),
    define::<bits_per_dim::BitsPerDim<Glow>>(&[code::BITS_PER_DIM, code::models::GLOW]),
    define::<bits_per_dim::BitsPerDim<PixelCnn>>(&[code::BITS_PER_DIM, code::models::PIXELCNN]),
    define::<bits_per_dim::BitsPerDim<ResidualFlow>>(&[
        code::BITS_PER_DIM,
        code::models::RESIDUAL_FLOW,
    ]),
    define::<crps::Crps>(&[code::CRPS]),
    define::<grid::Grid>(&[code::GRID]),
    define::<flow_vs_vae::FlowVsVae>(&[code::FLOW_VS_VAE]),
    define::<interpolation::Interpolation>(&[code::INTERPOLATION]),
    define::<timing::Timing>(&[
        code::TIMING,
        code::VAE,
        code::FLOW_LAYER,
        code::GLOW,
        code::PIXELCNN,
        code::PIXELIQN,
        code::RESIDUAL_FLOW,
    ]),
];

/// A model whose training `timing` can time: the parameters of the kind that trains it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", content = "params", rename_all = "kebab-case")]
enum Timed {
    Vae(vae::Params),
    FlowLayer(flow_layer::OnVae),
    Glow(glow::Params),
    #[serde(rename = "pixelcnn")]
    PixelCnn(pixelcnn::Params),
    #[serde(rename = "pixeliqn")]
    PixelIqn(pixeliqn::Params),
    ResidualFlow(residual_flow::Params),
}

impl Timed {
    fn build(&self, shape: [usize; 3], device: &Device) -> Result<Trained> {
        match self {
            Self::Vae(params) => params.trained(shape, device),
            Self::FlowLayer(params) => params.trained(shape, device),
            Self::Glow(params) => params.trained(shape, device),
            Self::PixelCnn(params) => params.trained(shape, device),
            Self::PixelIqn(params) => params.trained(shape, device),
            Self::ResidualFlow(params) => params.trained(shape, device),
        }
    }
}
