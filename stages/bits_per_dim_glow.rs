//! Kind `bits-per-dim-glow`: the exact likelihood of images under the Glow baseline, up to the
//! dequantisation noise.

use anyhow::{Result, ensure};
use candle_core::DType;
use contract::metrics;
use contract::{Input, Job, Output, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::data::images::Images;
use crate::metrics::bits;
use crate::models::glow::{Config, Glow};
use crate::nn::device;
use crate::nn::noise::Noise;
use crate::nn::weights::Weights;
use crate::train::batches::numbers_in_batches;

pub struct BitsPerDimGlow;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    pub seed: u64,
    pub batch: usize,
    /// The first n images; 0: all.
    pub n: usize,
}

impl Stage for BitsPerDimGlow {
    const KIND: &'static str = "bits-per-dim-glow";
    const ABOUT: &'static str = "Bits per dimension of images under the Glow baseline.";
    const INPUTS: &'static [Input] = &[Input::one("images", "images"), Input::one("glow", "glow")];
    const OUTPUTS: &'static [Output] = &[Output::new("metrics", "metrics", "metrics.json")];
    type Params = Params;

    fn run(params: &Params, job: &mut Job) -> Result<()> {
        let device = device::open(&job.spec().device)?;
        let images = Images::load(job.input("images")?)?;
        let path = job.input("glow")?;
        let (weights, config): (_, Config) = Weights::load(path, DType::F32, &device)?;
        ensure!(
            config.image == images.shape(),
            "{}: the model is of images {:?}, input images has {:?}",
            path.display(),
            config.image,
            images.shape()
        );
        let glow = Glow::new(&config, &weights)?;
        let n = if params.n == 0 {
            images.n
        } else {
            images.n.min(params.n)
        };
        let noise = Noise::new(params.seed, "bits-per-dim-glow");
        let bits = numbers_in_batches(job, n, params.batch, |i, chosen| {
            let x = images.batch(&chosen.collect::<Vec<_>>(), DType::F32, &device)?;
            let bits = glow.bits(&x, &mut noise.at(i))?;
            Ok(bits.to_dtype(DType::F64)?.to_vec1()?)
        })?;
        let protocol = json!({ "dequantisation": "uniform", "images": images.source });
        let metric = bits::metric("bits/dim", &bits, &protocol);
        metrics::save(job.output("metrics")?, &[metric])
    }
}
