//! Kind `sample`: images from a VAE with a prior, with or without the flow layer.

use anyhow::Result;
use candle_core::{DType, Tensor};
use contract::{Input, Job, Output, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::drawn::Floats;
use crate::data::images::Images;
use crate::data::tensors::Number;
use crate::models::full::Full;
use crate::models::pixels::{Pixels, to_bytes};
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
    /// What is kept of the images (A23).
    pub pixels: Pixels,
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
        let size = [params.n, params.batch];
        let shape = model.vae.config().shape;
        draw(size, shape, params.pixels, job, |i, n| {
            model.sample(n, params.temperature, &mut noise.at(i))
        })
    }
}

/// Writes `n` images of `shape` (height, width, channels). Of batch `i`, `pixels(i, n)` gives `n` of them
/// as floats on the scale of bytes.
pub fn draw(
    [n, batch]: [usize; 2],
    shape: [usize; 3],
    keep: Pixels,
    job: &mut Job,
    pixels: impl Fn(u64, usize) -> Result<Tensor>,
) -> Result<()> {
    let dims: usize = shape.iter().product();
    match keep {
        Pixels::Bytes => {
            let bytes = in_batches(job, n, batch, dims, |i, images| {
                let bytes = to_bytes(&pixels(i, images.len())?)?;
                Ok(bytes.flatten_all()?.to_vec1()?)
            })?;
            Images::new(shape, bytes, None)?.save(job.output("images")?)
        }
        Pixels::Floats => {
            let floats = in_batches(job, n, batch, dims * size_of::<f32>(), |i, images| {
                let floats = pixels(i, images.len())?.flatten_all()?.to_vec1()?;
                Ok(f32::to_bytes(&floats))
            })?;
            Floats::save(job.output("images")?, shape, &floats)
        }
    }
}
