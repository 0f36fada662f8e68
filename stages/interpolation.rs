//! Kind `interpolation`: images of the full model between two codes (Figure 5).

use anyhow::{Result, ensure};
use contract::{Input, Job, Output, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::grid::Layout;
use crate::flow_vs_vae::draw;
use crate::models::image_model::ImageModel;
use crate::models::path::Path;
use crate::models::vae_with_flow::VaeWithFlow;
use crate::nn::device;
use crate::nn::noise::Noise;

pub struct Interpolation;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    seed: u64,
    /// Multiplies the base density's deviation (A20). A row has one base noise, so that all
    /// change along it comes from the code.
    temperature: f64,
    path: Path,
    layout: Layout,
}

impl Stage for Interpolation {
    const KIND: &'static str = "interpolation";
    const ABOUT: &'static str = "Draws images of the full model between two codes of the prior.";
    const INPUTS: &'static [Input] = &[
        Input::one("vae", "vae"),
        Input::one("prior", "prior"),
        Input::one("flow", "flow"),
    ];
    const OUTPUTS: &'static [Output] = &[Output::new("picture", "figure", "interpolation.png")];
    type Params = Params;

    fn run(params: &Params, job: &mut Job) -> Result<()> {
        let device = device::open(&job.spec().device)?;
        let model = VaeWithFlow::load(job, &device)?;
        let Layout { rows, columns, .. } = params.layout;
        ensure!(columns > 1, "params.layout.columns must be at least 2");
        let noise = Noise::new(params.seed, "interpolation");
        let mut all = vec![];
        for z in params.path.codes(&model.prior, rows, columns, &noise)? {
            let y = model.decode(&z, params.temperature, &mut noise.at(2))?;
            all.push(model.quantise(&y)?);
        }
        draw(&all, &params.layout, &model, job)
    }
}
