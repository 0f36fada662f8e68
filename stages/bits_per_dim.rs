//! Kind `bits-per-dim`: the bound on the likelihood of images under a VAE with a prior, with or
//! without the flow layer (REFERENCE 1.6).

use anyhow::{Result, ensure};
use candle_core::DType;
use contract::metrics;
use contract::{Input, Job, Output, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::data::images::Images;
use crate::metrics::bits;
use crate::models::full::Full;
use crate::nn::device;
use crate::nn::noise::Noise;
use crate::train::batches::numbers_in_batches;

pub struct BitsPerDim;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    pub seed: u64,
    pub batch: usize,
    /// The first n images; 0: all.
    pub n: usize,
    /// Draws of z per image. More than one gives the tighter importance-weighted bound, which is
    /// labelled as such.
    pub draws: usize,
}

impl Stage for BitsPerDim {
    const KIND: &'static str = "bits-per-dim";
    const ABOUT: &'static str = "A bound on the bits per dimension of images under a VAE.";
    const INPUTS: &'static [Input] = &[
        Input::one("images", "images"),
        Input::one("vae", "vae"),
        Input::one("prior", "prior"),
        Input::optional("flow", "flow"),
    ];
    const OUTPUTS: &'static [Output] = &[Output::new("metrics", "metrics", "metrics.json")];
    type Params = Params;

    fn run(params: &Params, job: &mut Job) -> Result<()> {
        let device = device::open(&job.spec().device)?;
        let images = Images::load(job.input("images")?)?;
        let (vae, prior) = (job.input("vae")?, job.input("prior")?);
        let flow = job.optional_input("flow")?;
        let model = Full::load(vae, prior, flow, DType::F32, &device)?;
        ensure!(
            model.vae.config().shape == images.shape(),
            "input vae is of images {:?}, input images has {:?}",
            model.vae.config().shape,
            images.shape()
        );
        let n = if params.n == 0 {
            images.n
        } else {
            images.n.min(params.n)
        };
        let noise = Noise::new(params.seed, "bits-per-dim");
        let bits = numbers_in_batches(job, n, params.batch, |i, chosen| {
            let x = images.batch(&chosen.collect::<Vec<_>>(), DType::F32, &device)?;
            let bits = model.bound(&x, params.draws, &mut noise.at(i))?;
            Ok(bits.to_dtype(DType::F64)?.to_vec1()?)
        })?;
        let label = match params.draws {
            1 => "bits/dim (bound)".to_string(),
            draws => format!("bits/dim (bound, {draws} draws)"),
        };
        let protocol = json!({
            "dequantisation": "uniform", "draws": params.draws, "images": images.source,
        });
        let metric = bits::metric(&label, &bits, &protocol);
        metrics::save(job.output("metrics")?, &[metric])
    }
}
