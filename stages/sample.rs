//! Images drawn from a trained model: the kinds `sample` and `sample-...`, one for each model of `lib.rs`.

use std::marker::PhantomData;

use anyhow::Result;
use candle_core::Tensor;
use contract::{Input, Job, Output, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::any_images::Floats;
use crate::data::images::Images;
use crate::data::tensors::Number;
use crate::models::image_model::ImageModel;
use crate::models::pixels::{Pixels, to_bytes};
use crate::nn::device;
use crate::nn::noise::Noise;
use crate::train::batches::in_batches;

pub struct Sample<M>(PhantomData<M>);

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    pub seed: u64,
    pub n: usize,
    pub batch: usize,
    /// Multiplies the deviation of the noise that images are made from (A20): of a VAE's decoder, of
    /// Glow's noise at every level. 0: no noise. What it is for another model, that model says.
    pub temperature: f64,
    /// What is kept of the images (A23).
    pub pixels: Pixels,
}

impl<M: ImageModel> Stage for Sample<M> {
    const KIND: &'static str = M::KINDS.sample;
    const ABOUT: &'static str = M::KINDS.sample_about;
    const INPUTS: &'static [Input] = M::PARTS;
    const OUTPUTS: &'static [Output] = &[Output::new("images", "images", "images.safetensors")];
    type Params = Params;

    fn run(params: &Params, job: &mut Job) -> Result<()> {
        let device = device::open(&job.spec().device)?;
        let model = M::load(job, &device)?;
        let noise = Noise::new(params.seed, Self::KIND);
        let size = [params.n, params.batch];
        draw(size, model.shape(), params.pixels, job, |i, n| {
            model.sample(n, params.temperature, &mut noise.at(i))
        })?;
        if let Some(remark) = model.remark() {
            job.note(remark);
        }
        Ok(())
    }
}

/// Writes `n` images of `shape` (height, width, channels). Of batch `i`, `pixels(i, n)` gives `n` of them
/// as floats on the scale of bytes.
fn draw(
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
