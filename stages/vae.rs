//! Phase 1: a VAE and its prior, trained together on images.

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device};
use contract::{Input, Job, Output, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::models::prior::{Joint, Prior};
use crate::models::vae::{Config, Covariance, Network, Range, Vae as Model};
use crate::models::vae_training::{Kl, VaeTraining};
use crate::nn::device;
use crate::nn::weights::Weights;
use crate::train::{ImageSets, Trained, Training};

pub struct Vae;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    pub seed: u64,
    /// Dimensions of z.
    pub latent: usize,
    pub network: Network,
    pub covariance: Covariance,
    pub range: Range,
    pub prior: Joint,
    pub kl: Kl,
    /// Phase 1 learns y = (x + u) / 256 with uniform noise u, or x / 255 without. Phase 2 and
    /// bits per dimension always have the noise.
    pub dequantise: bool,
    pub train: Training,
}

impl Params {
    /// The model for images of a shape (height, width, channels).
    pub fn config(&self, shape: [usize; 3]) -> Config {
        Config {
            shape,
            latent: self.latent,
            network: self.network.clone(),
            covariance: self.covariance,
            range: self.range,
            dequantise: self.dequantise,
        }
    }

    /// Model and prior in a store, below `vae` and `prior`.
    pub fn build(&self, shape: [usize; 3], w: &Weights) -> Result<VaeTraining> {
        let vae = Model::new(&self.config(shape), &w.pp("vae"))?;
        let prior = Prior::new(&self.prior.config(self.latent), &w.pp("prior"))?;
        let kl = self.kl;
        Ok(VaeTraining { vae, prior, kl })
    }

    /// All that its training begins with, in f32.
    pub fn trained(&self, shape: [usize; 3], device: &Device) -> Result<Trained> {
        Trained::new((self.seed, &self.train), device, |w| self.build(shape, w))
    }
}

impl Stage for Vae {
    const KIND: &'static str = "vae";
    const ABOUT: &'static str = "Trains a VAE and its prior jointly on images.";
    const INPUTS: &'static [Input] =
        &[Input::one("train", "images"), Input::one("valid", "images")];
    const OUTPUTS: &'static [Output] = &[
        Output::new("model", "vae", "vae.safetensors"),
        Output::new("prior", "prior", "prior.safetensors"),
        Output::new("history", "history", "history.jsonl"),
    ];
    const EXTENDS: Option<&'static str> = Training::EXTENDS;
    type Params = Params;

    fn run(params: &Params, job: &mut Job) -> Result<()> {
        let device = device::open(&job.spec().device)?;
        let images = ImageSets::load(job)?;
        let (n, batch) = (images.train.n, params.train.batch);
        let steps = params.train.steps(n)?;
        ensure!(
            batch == 1 || steps.range(steps.count() - 1).len() > 1,
            "{n} training images leave 1 for a last batch of {batch}, and batch norm needs more; \
             hint: another train.batch, or train.last_batch = \"drop\""
        );
        let weights = Weights::new(params.seed, DType::F32, &device);
        let model = params.build(images.shape(), &weights).context("params")?;
        let named = (Self::KIND, params.seed);
        images.fit(&params.train, named, &weights, &model, job)?;
        weights
            .pp("vae")
            .part()
            .save(job.output("model")?, model.vae.config())?;
        let prior = params.prior.config(params.latent);
        weights
            .pp("prior")
            .part()
            .save(job.output("prior")?, &prior)
    }
}
