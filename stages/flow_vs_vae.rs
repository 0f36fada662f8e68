//! Kind `flow-vs-vae`: what the flow layer adds to the VAE (Figure 4). Each row is one code: the
//! VAE's image at the left, then samples of the full model with fresh base noise.

use anyhow::{Result, ensure};
use candle_core::Tensor;
use contract::{Input, Job, Output, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::grid::Layout;
use crate::models::image_model::ImageModel;
use crate::models::vae_with_flow::VaeWithFlow;
use crate::nn::device;
use crate::nn::noise::Noise;

pub struct FlowVsVae;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    seed: u64,
    /// Multiplies the base density's deviation (A20).
    temperature: f64,
    vae_image: VaeImage,
    layout: Layout,
}

/// What is shown as the VAE's image of a code (A33).
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VaeImage {
    /// The decoder's mean.
    Mean,
    /// A draw of p(y|z): the mean and once the deviation in noise, whatever the temperature.
    Sample,
}

impl Stage for FlowVsVae {
    const KIND: &'static str = "flow-vs-vae";
    const ABOUT: &'static str =
        "Draws the VAE's image and samples of the full model, code by code.";
    const INPUTS: &'static [Input] = &[
        Input::one("vae", "vae"),
        Input::one("prior", "prior"),
        Input::one("flow", "flow"),
    ];
    const OUTPUTS: &'static [Output] = &[Output::new("picture", "figure", "flow-vs-vae.png")];
    type Params = Params;

    fn run(params: &Params, job: &mut Job) -> Result<()> {
        let device = device::open(&job.spec().device)?;
        let model = VaeWithFlow::load(job, &device)?;
        let Layout { rows, columns, .. } = params.layout;
        ensure!(columns > 1, "params.layout.columns must be at least 2");
        // Named as the kind once was: the pictures stay.
        let noise = Noise::new(params.seed, "same-code");
        let z = model.prior.sample(rows, &mut noise.at(0))?;
        let deviations = match params.vae_image {
            VaeImage::Mean => 0.0,
            VaeImage::Sample => 1.0,
        };
        // The columns beside it take the noise of 1 and on.
        let alone = model.base(&z, deviations, &mut noise.at(columns as u64))?;
        let mut all = vec![model.quantise(&alone)?];
        for column in 1..columns {
            let y = model.decode(&z, params.temperature, &mut noise.at(column as u64))?;
            all.push(model.quantise(&y)?);
        }
        draw(&all, &params.layout, &model, job)
    }
}

/// Lays columns of images, `[rows, h, w, c]` each, side by side.
pub fn draw(columns: &[Tensor], layout: &Layout, model: &VaeWithFlow, job: &mut Job) -> Result<()> {
    let pixels = Tensor::stack(columns, 1)?.flatten_all()?.to_vec1::<u8>()?;
    layout.save(&pixels, model.vae.config().shape, job.output("picture")?)
}
