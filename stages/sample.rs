//! Kind `sample`: images from a VAE with a prior, with or without the flow layer.

use anyhow::Result;
use candle_core::DType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::contract::{Input, Job, Output, Stage};
use crate::data::images::Images;
use crate::models::full::Full;
use crate::nn::device;
use crate::nn::noise::Noise;
use crate::train::batches::in_batches;

pub struct Sample;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    pub seed: u64,
    pub n: usize,
    pub batch: usize,
    /// Multiplies the base density's deviation (A20); 0: the decoder's mean.
    pub temperature: f64,
}

impl Stage for Sample {
    const KIND: &'static str = "sample";
    const ABOUT: &'static str = "Draws images from a VAE with a prior and perhaps a flow layer.";
    const INPUTS: &'static [Input] = &[
        Input::one("vae", "vae"),
        Input::one("prior", "prior"),
        Input::optional("flow", "flow"),
    ];
    const OUTPUTS: &'static [Output] = &[Output::new("images", "images", "images.safetensors")];
    type Params = Params;

    fn run(params: &Params, job: &mut Job) -> Result<()> {
        let device = device::open(&job.spec().device)?;
        let (vae, prior) = (job.input("vae")?, job.input("prior")?);
        let flow = job.optional_input("flow")?;
        let model = Full::load(vae, prior, flow, DType::F32, &device)?;
        let noise = Noise::new(params.seed, "sample");
        let pixels = in_batches(job, params.n, params.batch, model.dims(), |i, images| {
            let x = model.sample(images.len(), params.temperature, &mut noise.at(i))?;
            Ok(x.flatten_all()?.to_vec1()?)
        })?;
        Images::new(model.vae.config().shape, pixels, None)?.save(job.output("images")?)
    }
}
