//! Kind `flow-layer`: phase 2 of the paper, the flow layer on the frozen VAE.

use anyhow::Result;
use candle_core::{DType, Device};
use contract::{Input, Job, Output, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::models::flow_layer::{Codes, Config, Flow, FlowLayerTraining};
use crate::models::prior::Prior;
use crate::models::vae::Vae;
use crate::nn::device;
use crate::nn::weights::Weights;
use crate::train::{ImageSets, Trained, Training};
use crate::vae;

pub struct FlowLayer;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    pub seed: u64,
    pub flow: Flow,
    /// Training images on which actnorms start.
    pub init_images: usize,
    pub z: Codes,
    pub train: Training,
}

impl Params {
    /// The model on a frozen VAE and prior, for images of a number of channels.
    pub fn build(
        &self,
        vae: Vae,
        prior: Prior,
        channels: usize,
        w: &Weights,
    ) -> Result<FlowLayerTraining> {
        let config = self.config(channels);
        let (z, images, seed) = (self.z, self.init_images, self.seed);
        FlowLayerTraining::new(vae, prior, &config, z, images, seed, w)
    }

    fn config(&self, channels: usize) -> Config {
        Config {
            flow: self.flow.clone(),
            channels,
        }
    }
}

/// A flow layer and the VAE that it stands on.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OnVae {
    pub vae: vae::Params,
    pub flow_layer: Params,
}

impl OnVae {
    /// All that its training begins with, in f32, on a VAE and a prior that have learned nothing.
    pub fn trained(&self, shape: [usize; 3], device: &Device) -> Result<Trained> {
        let (params, vae) = (&self.flow_layer, &self.vae);
        let below = Weights::new(vae.seed, DType::F32, device);
        vae.build(shape, &below)?;
        let frozen = Vae::new(&vae.config(shape), &below.pp("vae").frozen())?;
        let prior = vae.prior.config(vae.latent);
        let prior = Prior::new(&prior, &below.pp("prior").frozen())?;
        Trained::new((params.seed, &params.train), device, |w| {
            params.build(frozen, prior, shape[2], w)
        })
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
    const EXTENDS: Option<&'static str> = Training::EXTENDS;
    type Params = Params;

    fn run(params: &Params, job: &mut Job) -> Result<()> {
        let device = device::open(&job.spec().device)?;
        let images = ImageSets::load(job)?;
        let vae = Vae::load(job.input("vae")?, DType::F32, &device)?;
        let prior = Prior::load(job.input("prior")?, DType::F32, &device)?;
        images.ensure_shape(job.input("vae")?, vae.config().shape)?;
        let weights = Weights::new(params.seed, DType::F32, &device);
        let channels = images.train.channels;
        let model = params.build(vae, prior, channels, &weights)?;
        let named = (Self::KIND, params.seed);
        images.fit(&params.train, named, &weights, &model, job)?;
        weights.save(job.output("flow")?, &params.config(channels))
    }
}
