//! Kind `flow-layer`: phase 2 of the paper, the flow layer on the frozen VAE.

use anyhow::{Result, ensure};
use candle_core::DType;
use contract::history;
use contract::{Input, Job, Output, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::images::Images;
use crate::models::flow_layer::{Codes, Config, Flow, Phase2};
use crate::models::prior::Prior;
use crate::models::vae::Vae;
use crate::nn::device;
use crate::nn::weights::Weights;
use crate::train::{ImageSet, Keep, LastBatch, Optim, Plan, fit};

pub struct FlowLayer;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    pub seed: u64,
    pub epochs: u64,
    pub batch: usize,
    pub last_batch: LastBatch,
    pub flow: Flow,
    /// Training images on which actnorms start.
    pub init_images: usize,
    pub z: Codes,
    pub keep: Keep,
    pub optim: Optim,
}

impl Params {
    /// The model on a frozen VAE and prior, for images of a number of channels.
    pub fn build(&self, vae: Vae, prior: Prior, channels: usize, w: &Weights) -> Result<Phase2> {
        let config = self.config(channels);
        let (z, images, seed) = (self.z, self.init_images, self.seed);
        Phase2::new(vae, prior, &config, z, images, seed, w)
    }

    fn config(&self, channels: usize) -> Config {
        Config {
            flow: self.flow.clone(),
            channels,
        }
    }
}

impl Stage for FlowLayer {
    const KIND: &'static str = "flow-layer";
    const ABOUT: &'static str = "Trains the flow layer on a frozen VAE.";
    const INPUTS: &'static [Input] = &[
        Input::one("vae", "vae"),
        // Learns nothing and teaches nothing here: the history reports the whole bound.
        Input::one("prior", "prior"),
        Input::one("train", "images"),
        Input::one("valid", "images"),
    ];
    const OUTPUTS: &'static [Output] = &[
        Output::new("flow", "flow", "flow.safetensors"),
        Output::new("history", "history", "history.jsonl"),
    ];
    const EXTENDS: Option<&'static str> = Some("epochs");
    type Params = Params;

    fn run(params: &Params, job: &mut Job) -> Result<()> {
        let device = device::open(&job.spec().device)?;
        let train = Images::load(job.input("train")?)?;
        let valid = Images::load(job.input("valid")?)?;
        let vae = Vae::load(job.input("vae")?, DType::F32, &device)?;
        let prior = Prior::load(job.input("prior")?, DType::F32, &device)?;
        ensure!(
            vae.config().shape == train.shape(),
            "input vae is of images {:?}, input train has {:?}",
            vae.config().shape,
            train.shape()
        );
        let weights = Weights::new(params.seed, DType::F32, &device);
        let model = params.build(vae, prior, train.channels, &weights)?;
        let set = |images| ImageSet {
            images,
            dtype: DType::F32,
            device: &device,
        };
        let plan = Plan {
            seed: params.seed,
            purpose: "flow-layer",
            epochs: params.epochs,
            batch: params.batch,
            last_batch: params.last_batch,
            optim: &params.optim,
            keep: params.keep,
            patience: 0,
        };
        let fitted = fit(&plan, &weights, &model, &set(&train), &set(&valid), job)?;
        weights.save(job.output("flow")?, &params.config(train.channels))?;
        history::save(job.output("history")?, &fitted.history)
    }
}
