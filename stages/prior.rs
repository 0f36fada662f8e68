//! A flow prior trained on a frozen VAE's latents, with early stopping (section 4.2; A16).

use anyhow::{Context, Result, ensure};
use candle_core::DType;
use contract::{Input, Job, Output, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::latents::Latents;
use crate::models::latent_set::Posterior;
use crate::models::prior::{Config, Prior as Model};
use crate::models::real_nvp;
use crate::nn::device;
use crate::nn::noise::Draws;
use crate::nn::weights::Weights;
use crate::train::{Dataset, Loss, Trainable, Training};

pub struct Prior;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    pub seed: u64,
    pub start: Start,
    pub flow: real_nvp::Config,
    pub train: Training,
}

/// The weights that training starts from (A16).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Start {
    /// AnyImages from the seed: the flow is a permutation.
    #[serde(rename = "fresh")]
    Fresh,
    /// Those of `in.prior`, which phase 1 has trained together with the VAE.
    #[serde(rename = "phase-1")]
    Phase1,
}

/// -ln p(z), with z drawn anew from each image's posterior.
struct PriorTraining(Model);

impl Trainable<Posterior> for PriorTraining {
    fn loss(&self, batch: &Posterior, noise: &mut Draws) -> Result<Loss> {
        let total = self.0.log_prob(&batch.draw(noise)?)?.neg()?.mean_all()?;
        Ok(Loss {
            total,
            parts: Vec::new(),
        })
    }

    fn validate(&self, batch: &Posterior, noise: &mut Draws) -> Result<Loss> {
        self.loss(batch, noise)
    }
}

impl Stage for Prior {
    const KIND: &'static str = "prior";
    const ABOUT: &'static str = "Trains a flow prior on the latents of a frozen VAE.";
    const INPUTS: &'static [Input] = &[
        Input::one("train", "latents"),
        Input::one("valid", "latents"),
        // Read only if training starts from it.
        Input::optional("prior", "prior"),
    ];
    const OUTPUTS: &'static [Output] = &[
        Output::new("model", "prior", "prior.safetensors"),
        Output::new("history", "history", "history.jsonl"),
    ];
    const EXTENDS: Option<&'static str> = Training::EXTENDS;
    type Params = Params;

    fn run(params: &Params, job: &mut Job) -> Result<()> {
        let device = device::open(&job.spec().device)?;
        let train = Latents::load(job.input("train")?, &device)?;
        let valid = Latents::load(job.input("valid")?, &device)?;
        let dim = train.mean.dim(1)?;
        ensure!(
            dim == valid.mean.dim(1)?,
            "training and held-out latents differ in size"
        );
        let config = Config::Flow {
            dim,
            flow: params.flow,
        };
        let weights = Weights::new(params.seed, DType::F32, &device);
        let model = PriorTraining(Model::new(&config, &weights)?);
        if params.start == Start::Phase1 {
            let path = job.optional_input("prior")?;
            let path = path.context(
                "start = \"phase-1\" wants an input prior; hint: in.prior = \"vae.prior\"",
            )?;
            let (given, theirs): (_, Config) = Weights::load(path, DType::F32, &device)?;
            ensure!(
                theirs == config,
                "{}: a prior {}, and params.flow wants one {}; hint: start = \"fresh\", or the \
                 flow that the VAE's prior has",
                path.display(),
                serde_json::to_string(&theirs)?,
                serde_json::to_string(&config)?
            );
            weights.set(&given)?;
        }
        let named = (Self::KIND, params.seed);
        let sets: [&dyn Dataset<_>; 2] = [&train, &valid];
        params.train.run(named, &weights, &model, sets, job)?;
        weights.save(job.output("model")?, &config)
    }
}
