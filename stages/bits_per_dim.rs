//! Bits per dimension of images under a trained model (REFERENCE 1.6): the kinds `bits-per-dim` and
//! `bits-per-dim-...`, one for each model of `lib.rs` that has a likelihood.

use std::marker::PhantomData;

use anyhow::{Result, ensure};
use candle_core::DType;
use contract::metrics;
use contract::{Input, Job, Output, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::data::images::Images;
use crate::metrics::bits;
use crate::models::image_model::{Density, Latent, Ports};
use crate::nn::device;
use crate::nn::noise::Noise;
use crate::train::batches::numbers_in_batches;

pub struct BitsPerDim<M>(PhantomData<M>);

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    pub seed: u64,
    pub batch: usize,
    /// The first n images; 0: all.
    pub n: usize,
    /// Draws of z per image. More than one gives the tighter importance-weighted bound, which is
    /// labelled as such. 1 for a model whose likelihood is exact.
    pub draws: usize,
}

impl<M: Density> BitsPerDim<M> {
    const PORTS: Ports = Ports::of(&[Input::one("images", "images")], M::PARTS);
}

impl<M: Density> Stage for BitsPerDim<M> {
    const KIND: &'static str = M::KINDS.bits_per_dim;
    const ABOUT: &'static str = M::KINDS.bits_about;
    const INPUTS: &'static [Input] = Self::PORTS.inputs();
    const OUTPUTS: &'static [Output] = &[Output::new("metrics", "metrics", "metrics.json")];
    type Params = Params;

    fn run(params: &Params, job: &mut Job) -> Result<()> {
        ensure!(params.draws > 0, "draws must be at least 1");
        ensure!(
            M::LATENT == Latent::Drawn || params.draws == 1,
            "draws = {}, and this likelihood is exact; hint: draws = 1",
            params.draws
        );
        let device = device::open(&job.spec().device)?;
        let images = Images::load(job.input("images")?)?;
        let model = M::load(job, &device)?;
        ensure!(
            model.shape() == images.shape(),
            "the model is of images {:?}, input images has {:?}",
            model.shape(),
            images.shape()
        );
        let n = if params.n == 0 {
            images.n
        } else {
            images.n.min(params.n)
        };
        let noise = Noise::new(params.seed, Self::KIND);
        let bits = numbers_in_batches(job, n, params.batch, |i, chosen| {
            let x = images.batch(&chosen.collect::<Vec<_>>(), DType::F32, &device)?;
            let bits = model.bits(&x, params.draws, &mut noise.at(i))?;
            Ok(bits.to_dtype(DType::F64)?.to_vec1()?)
        })?;
        let mut protocol = json!({ "dequantisation": M::DEQUANTISATION, "images": images.source });
        let label = match (M::LATENT, params.draws) {
            (Latent::None, _) => "bits/dim".to_string(),
            (Latent::Drawn, 1) => "bits/dim (bound)".to_string(),
            (Latent::Drawn, draws) => format!("bits/dim (bound, {draws} draws)"),
        };
        if M::LATENT == Latent::Drawn {
            protocol["draws"] = params.draws.into();
        }
        for (name, value) in model.protocol().as_object().into_iter().flatten() {
            protocol[name] = value.clone();
        }
        let metric = bits::metric(&label, &bits, &protocol);
        metrics::save(job.output("metrics")?, &[metric])
    }
}
