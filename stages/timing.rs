//! Kind `timing`: how long an epoch of each model takes on this machine (Table 4, A36).

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Tensor};
use contract::metrics::{self, Better, Metric};
use contract::{Event, Input, Job, Output, Progress, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::data::images::Images;
use crate::metrics::bits::mean_and_error;
use crate::models::prior::Prior;
use crate::models::vae::Vae;
use crate::nn::device;
use crate::nn::noise::Noise;
use crate::nn::weights::Weights;
use crate::train::optim::Optimiser;
use crate::train::{Dataset, ImageSet, LastBatch, Optim, Steps, Trainable};
use crate::{flow_layer, glow, vae};

pub struct Timing;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Steps before the clock starts.
    pub warmup_steps: u64,
    /// Steps that are timed.
    pub steps: u64,
    /// Parameters of the stages whose training is timed.
    pub vae: vae::Params,
    pub flow_layer: flow_layer::Params,
    pub glow: glow::Params,
}

impl Stage for Timing {
    const KIND: &'static str = "timing";
    const ABOUT: &'static str =
        "Times complete training steps of the VAE, the flow layer and Glow.";
    const INPUTS: &'static [Input] = &[Input::one("images", "images")];
    const OUTPUTS: &'static [Output] = &[Output::new("metrics", "metrics", "metrics.json")];
    const MEASURES_MACHINE: bool = true;
    type Params = Params;

    fn run(params: &Params, job: &mut Job) -> Result<()> {
        ensure!(params.steps > 0, "steps must be at least 1");
        let device = device::open(&job.spec().device)?;
        let images = Images::load(job.input("images")?)?;
        let shape = images.shape();
        let set = ImageSet {
            images: &images,
            dtype: DType::F32,
            device: &device,
        };
        job.say(&Event::Device {
            name: device::name(&device),
        });
        let fresh = |seed| Weights::new(seed, DType::F32, &device);
        let mut clock = Clock {
            params,
            set: &set,
            job,
        };

        // One model at a time in memory.
        let w = fresh(params.vae.seed);
        let model = params.vae.build(shape, &w).context("params.vae")?;
        let p = &params.vae;
        let vae = clock.time("vae", &model, &w, p.batch, p.last_batch, &p.optim)?;

        let p = &params.flow_layer;
        let flow = fresh(p.seed);
        let frozen = Vae::new(&params.vae.config(shape), &w.pp("vae").frozen())?;
        let prior = params.vae.prior.config(params.vae.latent);
        let prior = Prior::new(&prior, &w.pp("prior").frozen())?;
        let model = p.build(frozen, prior, images.channels, &flow);
        let model = model.context("params.flow_layer")?;
        let flow_layer =
            clock.time("flow-layer", &model, &flow, p.batch, p.last_batch, &p.optim)?;
        drop((model, flow));

        let p = &params.glow;
        let w = fresh(p.seed);
        let model = p.build(shape, &w).context("params.glow")?;
        let glow = clock.time("glow", &model, &w, p.batch, p.last_batch, &p.optim)?;

        // As in the paper: both phases have the same number of epochs.
        let average = Metric {
            name: "seconds-per-epoch.average".into(),
            value: (vae.value + flow_layer.value) / 2.0,
            std_error: None,
            ..flow_layer.clone()
        };
        metrics::save(job.output("metrics")?, &[vae, flow_layer, glow, average])
    }
}

struct Clock<'a> {
    params: &'a Params,
    set: &'a ImageSet<'a>,
    job: &'a mut Job,
}

impl Clock<'_> {
    /// Seconds per epoch of training `model`: noise, forward, backward, optimiser.
    fn time(
        &mut self,
        name: &str,
        model: &dyn Trainable<Tensor>,
        weights: &Weights,
        batch: usize,
        last_batch: LastBatch,
        optim: &Optim,
    ) -> Result<Metric> {
        // All that are timed are full.
        let full = self.set.len() / batch.max(1);
        ensure!(
            full > 0,
            "{} images do not fill a batch of {batch}",
            self.set.len()
        );
        let steps = Steps::new(self.set.len(), batch, last_batch)?;
        model.start(self.set)?;
        let optimiser = Optimiser::new(optim, weights.trained(), steps.count())?;
        let noise = Noise::new(0, &format!("timing.{name}"));
        let mut seconds = Vec::new();
        let total = self.params.warmup_steps + self.params.steps;
        for step in 0..total {
            let first = (step as usize % full) * batch;
            let images = self
                .set
                .batch(&(first..first + batch).collect::<Vec<_>>())?;
            // A GPU works behind the host: what was given to it before must be done.
            self.set.device.synchronize()?;
            let start = Instant::now();
            let loss = model.loss(&images, &mut noise.at(step))?;
            optimiser.step(&loss.total.backward()?, step)?;
            self.set.device.synchronize()?;
            if step >= self.params.warmup_steps {
                seconds.push(start.elapsed().as_secs_f64() * steps.full_batches());
            }
            self.job.progress(Progress {
                done: step + 1,
                total,
                unit: "step".into(),
                ..Default::default()
            });
        }
        let (value, std_error) = mean_and_error(&seconds);
        let protocol = json!({
            "device": device::name(self.set.device),
            "batch": batch,
            "steps": self.params.steps,
            "dtype": "f32",
            "images": self.set.len(),
        });
        Ok(Metric {
            name: format!("seconds-per-epoch.{name}"),
            label: "s/epoch".into(),
            value,
            std_error,
            n: Some(seconds.len() as u64),
            better: Better::Lower,
            unit: "s".into(),
            protocol: protocol.as_object().cloned().unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::stories::{diagonal, flow_prior};
    use contract::testing::Bench;

    #[test]
    fn every_model_is_timed() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("images");
        Images::new([8, 8, 3], vec![100; 20 * 8 * 8 * 3], None)?.save(&path)?;
        let optim = json!({
            "kind": "adam", "lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8,
            "form": "torch", "halve_every": 0, "warmup_epochs": 0, "clip_norm": 0.0,
        });
        let bench = Bench::new::<Timing>(&[("images", &path)]);
        bench.run::<Timing>(&json!({
            "warmup_steps": 1, "steps": 3,
            "vae": {
                "seed": 0, "epochs": 1, "batch": 4, "last_batch": "drop",
                "keep": { "kind": "last" }, "latent": 4,
                "covariance": diagonal(),
                "network": {
                    "kind": "resnet", "width": 4, "scales": 2, "blocks": 1,
                    "head": "average-pool", "dense": 8, "max_width": 8, "norm_decay": 0.999,
                },
                "prior": flow_prior(2, 8),
                "range": "unit", "kl": "analytic", "dequantise": true, "optim": optim,
            },
            "flow_layer": {
                "seed": 0, "epochs": 1, "batch": 4, "last_batch": "drop",
                "keep": { "kind": "last" }, "init_images": 8,
                "flow": {
                    "depth": 2, "width": 8, "start": "identity", "split": "condition-on-one",
                    "network": "official", "inv_conv": "plain",
                },
                "z": "posterior-draw",
                "optim": optim,
            },
            "glow": {
                "seed": 0, "epochs": 1, "batch": 4, "last_batch": "drop",
                "keep": { "kind": "last" }, "init_images": 8,
                "augment": "none",
                "flow": {
                    "levels": 2, "depth": 1, "width": 8, "coupling": "additive",
                    "network": "official", "inv_conv": "plain", "learn_top": true,
                },
                "optim": optim,
            },
        }))?;
        let text = std::fs::read_to_string(bench.output::<Timing>("metrics"))?;
        let metrics: Value = serde_json::from_str(&text)?;
        let value = |i: usize| metrics["metrics"][i]["value"].as_f64().unwrap_or(0.0);
        let names: Vec<_> = (0..4).map(|i| &metrics["metrics"][i]["name"]).collect();
        let expected = ["vae", "flow-layer", "glow", "average"];
        assert!(
            names
                .iter()
                .zip(expected)
                .all(|(n, e)| **n == format!("seconds-per-epoch.{e}"))
        );
        assert!((0..4).all(|i| value(i) > 0.0), "{text}");
        assert_eq!(value(3), (value(0) + value(1)) / 2.0);
        Ok(())
    }
}
