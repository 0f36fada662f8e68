//! Kind `sample-glow`: images from the Glow baseline.

use anyhow::Result;
use candle_core::DType;
use contract::{Input, Job, Output, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::models::glow::{Config, Glow, postprocess};
use crate::models::pixels::Pixels;
use crate::nn::device;
use crate::nn::noise::Noise;
use crate::nn::weights::Weights;
use crate::sample::draw;

pub struct SampleGlow;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    pub seed: u64,
    pub n: usize,
    pub batch: usize,
    /// Multiplies the noise at every level (A20).
    pub temperature: f64,
    /// What is kept of the images (A23).
    pub pixels: Pixels,
}

impl Stage for SampleGlow {
    const KIND: &'static str = "sample-glow";
    const ABOUT: &'static str = "Draws images from the Glow baseline.";
    const INPUTS: &'static [Input] = &[Input::one("glow", "glow")];
    const OUTPUTS: &'static [Output] = &[Output::new("images", "images", "images.safetensors")];
    type Params = Params;

    fn run(params: &Params, job: &mut Job) -> Result<()> {
        let device = device::open(&job.spec().device)?;
        let (weights, config) = Weights::load(job.input("glow")?, DType::F32, &device)?;
        let config: Config = config;
        let glow = Glow::new(&config, &weights)?;
        let noise = Noise::new(params.seed, "sample-glow");
        let size = [params.n, params.batch];
        draw(size, config.image, params.pixels, job, |i, n| {
            let x = glow.sample(n, params.temperature, &mut noise.at(i))?;
            Ok(postprocess(&x)?)
        })
    }
}
