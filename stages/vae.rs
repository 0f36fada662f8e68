//! Phase 1: a VAE and its prior, trained together on images.

use anyhow::{Context, Result, ensure};
use candle_core::DType;
use contract::history;
use contract::{Input, Job, Output, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::images::Images;
use crate::models::phase1::{Kl, Phase1};
use crate::models::prior::{Joint, Prior};
use crate::models::vae::{Config, Covariance, Network, Range, Vae as Model};
use crate::nn::device;
use crate::nn::weights::Weights;
use crate::train::{ImageSet, Keep, LastBatch, Optim, Plan, Steps, fit};

pub struct Vae;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    pub seed: u64,
    pub epochs: u64,
    pub batch: usize,
    pub last_batch: LastBatch,
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
    pub keep: Keep,
    pub optim: Optim,
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
    pub fn build(&self, shape: [usize; 3], w: &Weights) -> Result<Phase1> {
        let vae = Model::new(&self.config(shape), &w.pp("vae"))?;
        let prior = Prior::new(&self.prior.config(self.latent), &w.pp("prior"))?;
        let kl = self.kl;
        Ok(Phase1 { vae, prior, kl })
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
    const EXTENDS: Option<&'static str> = Some("epochs");
    type Params = Params;

    fn run(params: &Params, job: &mut Job) -> Result<()> {
        let device = device::open(&job.spec().device)?;
        let train = Images::load(job.input("train")?)?;
        let valid = Images::load(job.input("valid")?)?;
        ensure!(
            train.shape() == valid.shape(),
            "training images are {:?}, held-out images {:?}",
            train.shape(),
            valid.shape()
        );
        let steps = Steps::new(train.n, params.batch, params.last_batch)?;
        ensure!(
            params.batch == 1 || steps.range(steps.count() - 1).len() > 1,
            "{} training images leave 1 for a last batch of {}, and batch norm needs more; hint: \
             another batch, or last_batch = \"drop\"",
            train.n,
            params.batch
        );
        let weights = Weights::new(params.seed, DType::F32, &device);
        let model = params.build(train.shape(), &weights).context("params")?;
        let plan = Plan {
            seed: params.seed,
            purpose: "vae",
            epochs: params.epochs,
            batch: params.batch,
            last_batch: params.last_batch,
            optim: &params.optim,
            keep: params.keep,
            patience: 0,
        };
        let set = |images| ImageSet {
            images,
            dtype: DType::F32,
            device: &device,
        };
        let fitted = fit(&plan, &weights, &model, &set(&train), &set(&valid), job)?;
        weights
            .pp("vae")
            .part()
            .save(job.output("model")?, model.vae.config())?;
        let prior = params.prior.config(params.latent);
        weights
            .pp("prior")
            .part()
            .save(job.output("prior")?, &prior)?;
        history::save(job.output("history")?, &fitted.history)
    }
}
