//! The second-stage VAE on a frozen VAE's latents: the prior that Table 1 compares with the flow.

use anyhow::{Result, ensure};
use candle_core::DType;
use contract::{Input, Job, Output, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::latents::Latents;
use crate::models::latent_set::Posterior;
use crate::models::prior::Config;
use crate::models::second_vae;
use crate::nn::device;
use crate::nn::noise::Draws;
use crate::nn::weights::Weights;
use crate::train::{Dataset, Loss, Trainable, Training};

pub struct SecondVae;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    pub seed: u64,
    pub width: usize,
    /// Hidden layers of each network.
    pub depth: usize,
    pub train: Training,
}

struct SecondVaeTraining(second_vae::SecondVae);

impl Trainable<Posterior> for SecondVaeTraining {
    fn loss(&self, batch: &Posterior, noise: &mut Draws) -> Result<Loss> {
        let z = batch.draw(noise)?;
        let e = noise.normal(z.shape(), z.dtype(), z.device())?;
        let (reconstruction, kl) = self.0.losses(&z, &e)?;
        let (reconstruction, kl) = (reconstruction.mean_all()?, kl.mean_all()?);
        let gamma = self.0.log_gamma().exp()?;
        Ok(Loss {
            total: (&reconstruction + &kl)?,
            parts: vec![
                ("reconstruction", reconstruction),
                ("kl", kl),
                ("gamma", gamma),
            ],
        })
    }

    fn validate(&self, batch: &Posterior, noise: &mut Draws) -> Result<Loss> {
        self.loss(batch, noise)
    }
}

impl Stage for SecondVae {
    const KIND: &'static str = "second-vae";
    const ABOUT: &'static str =
        "Trains Dai & Wipf's second-stage VAE on the latents of a frozen VAE.";
    const INPUTS: &'static [Input] = &[
        Input::one("train", "latents"),
        Input::one("valid", "latents"),
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
        let vae = second_vae::Config {
            width: params.width,
            depth: params.depth,
        };
        let weights = Weights::new(params.seed, DType::F32, &device);
        let model = SecondVaeTraining(second_vae::SecondVae::new(&vae, dim, &weights)?);
        let named = (Self::KIND, params.seed);
        let sets: [&dyn Dataset<_>; 2] = [&train, &valid];
        params.train.run(named, &weights, &model, sets, job)?;
        weights.save(job.output("model")?, &Config::SecondVae { dim, vae })
    }
}
