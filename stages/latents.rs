//! The posterior of every image under a frozen VAE.

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};
use contract::{Input, Interrupted, Job, Output, Progress, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::images::Images;
use crate::data::latents::Latents as Posterior;
use crate::models::vae::Vae;
use crate::nn::device;
use crate::nn::noise::Noise;

pub struct Latents;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Images encoded at once.
    pub batch: usize,
}

impl Stage for Latents {
    const KIND: &'static str = "latents";
    const ABOUT: &'static str =
        "Encodes images with a frozen VAE: mean and ln deviation of q(z|x).";
    const INPUTS: &'static [Input] = &[
        Input::one("vae", "vae"),
        Input::one("train", "images"),
        Input::one("valid", "images"),
    ];
    const OUTPUTS: &'static [Output] = &[
        Output::new("train", "latents", "train.safetensors"),
        Output::new("valid", "latents", "valid.safetensors"),
    ];
    type Params = Params;

    fn run(params: &Params, job: &mut Job) -> Result<()> {
        ensure!(params.batch > 0, "params.batch must be positive");
        let device = device::open(&job.spec().device)?;
        let vae = Vae::load(job.input("vae")?, DType::F32, &device)?;
        let sets = [
            ("train", Images::load(job.input("train")?)?),
            ("valid", Images::load(job.input("valid")?)?),
        ];
        let total: usize = sets.iter().map(|(_, images)| images.n).sum();
        let mut done = 0;
        for (port, images) in &sets {
            // One draw of the dequantisation noise per image; z is drawn anew at each use.
            let noise = Noise::new(0, &format!("latents.{port}"));
            let (mut means, mut log_stds) = (Vec::new(), Vec::new());
            let all: Vec<usize> = (0..images.n).collect();
            for (i, chosen) in all.chunks(params.batch).enumerate() {
                if job.should_stop() {
                    return Err(Interrupted.into());
                }
                let x = images.batch(chosen, DType::F32, &device)?;
                let (mean, log_std) = vae.encode(&vae.prepare(&x, &mut noise.at(i as u64))?)?;
                means.push(mean.to_device(&Device::Cpu)?);
                log_stds.push(log_std.to_device(&Device::Cpu)?);
                done += chosen.len();
                job.progress(Progress {
                    done: done as u64,
                    total: total as u64,
                    unit: "image".into(),
                    ..Progress::default()
                });
            }
            let stack = |parts: &[Tensor]| match parts {
                [] => Tensor::zeros((0, vae.config().latent), DType::F32, &Device::Cpu),
                parts => Tensor::cat(parts, 0),
            };
            let posterior = Posterior {
                mean: stack(&means)?,
                log_std: stack(&log_stds)?,
            };
            posterior.save(job.output(port)?)?;
        }
        Ok(())
    }
}
