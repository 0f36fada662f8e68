//! Kind `timing`: how long an epoch of each model takes on this machine (Table 4, A36).

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candle_core::DType;
use contract::metrics::{self, Better, Metric};
use contract::{Event, Input, Job, Output, Progress, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::Timed;
use crate::data::images::Images;
use crate::metrics::bits::mean_and_error;
use crate::nn::device;
use crate::nn::noise::Noise;
use crate::train::optim::Optimiser;
use crate::train::{Dataset, ImageSet, Trained};

pub struct Timing;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Steps before the clock starts.
    pub warmup_steps: u64,
    /// Steps that are timed.
    pub steps: u64,
    /// What is timed, by the name that ends its metric: the kind that trains it, and that kind's
    /// parameters.
    models: BTreeMap<String, Timed>,
    /// Means of several of them, by name.
    pub means: BTreeMap<String, Vec<String>>,
}

impl Stage for Timing {
    const KIND: &'static str = "timing";
    const ABOUT: &'static str = "Times complete training steps of models of images.";
    const INPUTS: &'static [Input] = &[Input::one("images", "images")];
    const OUTPUTS: &'static [Output] = &[Output::new("metrics", "metrics", "metrics.json")];
    const MEASURES_MACHINE: bool = true;
    type Params = Params;

    fn run(params: &Params, job: &mut Job) -> Result<()> {
        ensure!(params.steps > 0, "steps must be at least 1");
        let names = params.models.keys().cloned().collect::<Vec<_>>().join(", ");
        for (mean, of) in &params.means {
            let unknown = of.iter().find(|name| !params.models.contains_key(*name));
            ensure!(
                unknown.is_none() && !of.is_empty() && !params.models.contains_key(mean),
                "params.means.{mean} = {of:?} must be a mean, of another name, of models that are timed: {names}"
            );
        }
        let device = device::open(&job.spec().device)?;
        let images = Images::load(job.input("images")?)?;
        let set = ImageSet {
            images: &images,
            dtype: DType::F32,
            device: &device,
        };
        job.say(&Event::Device {
            name: device::name(&device),
        });
        let mut clock = Clock {
            params,
            set: &set,
            job,
        };
        let mut metrics = BTreeMap::new();
        for (name, timed) in &params.models {
            // One model at a time in memory.
            let trained = timed.build(images.shape(), &device);
            let trained = trained.with_context(|| format!("params.models.{name}"))?;
            metrics.insert(name, clock.time(name, &trained)?);
        }
        let mut all: Vec<Metric> = metrics.values().cloned().collect();
        for (mean, of) in &params.means {
            let values = of.iter().map(|name| metrics[name].value);
            all.push(Metric {
                name: format!("seconds-per-epoch.{mean}"),
                value: values.sum::<f64>() / of.len() as f64,
                std_error: None,
                ..metrics[&of[of.len() - 1]].clone()
            });
        }
        metrics::save(job.output("metrics")?, &all)
    }
}

struct Clock<'a> {
    params: &'a Params,
    set: &'a ImageSet<'a>,
    job: &'a mut Job,
}

impl Clock<'_> {
    /// Seconds per epoch of a training: noise, forward, backward, optimiser.
    fn time(&mut self, name: &str, trained: &Trained) -> Result<Metric> {
        let Trained {
            model,
            weights,
            training,
        } = trained;
        let batch = training.batch;
        // All that are timed are full.
        let full = self.set.len() / batch.max(1);
        ensure!(
            full > 0,
            "{} images do not fill a batch of {batch}",
            self.set.len()
        );
        let steps = training.steps(self.set.len())?;
        model.start(self.set)?;
        let optimiser = Optimiser::new(&training.optim, weights.trained(), steps.count())?;
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
            model.moved()?;
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
    use crate::stories::{diagonal, flow_prior, training};
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
        let vae = json!({
            "seed": 0, "latent": 4,
            "covariance": diagonal(),
            "network": {
                "kind": "resnet", "width": 4, "scales": 2, "blocks": 1,
                "head": "average-pool", "dense": 8, "max_width": 8, "norm_decay": 0.999,
            },
            "prior": flow_prior(2, 8),
            "range": "unit", "kl": "analytic", "dequantise": true, "train": training(1, 4, "drop", optim.clone()),
        });
        let flow_layer = json!({
            "seed": 0, "init_images": 8,
            "flow": {
                "depth": 2, "width": 8, "start": "identity", "split": "condition-on-one",
                "network": "official", "inv_conv": "plain",
            },
            "z": "posterior-draw",
            "train": training(1, 4, "drop", optim.clone()),
        });
        let glow = json!({
            "seed": 0, "init_images": 8,
            "augment": "none",
            "flow": {
                "levels": 2, "depth": 1, "width": 8, "coupling": "additive",
                "network": "official", "inv_conv": "plain", "learn_top": true,
            },
            "train": training(1, 4, "drop", optim.clone()),
        });
        let mut params = json!({
            "warmup_steps": 1, "steps": 3,
            "models": {
                "vae": { "kind": "vae", "params": vae },
                "flow-layer": { "kind": "flow-layer", "params": { "vae": vae, "flow_layer": flow_layer } },
                "glow": { "kind": "glow", "params": glow },
            },
            "means": { "average": ["vae", "flow-layer"] },
        });
        bench.run::<Timing>(&params)?;
        let text = std::fs::read_to_string(bench.output::<Timing>("metrics"))?;
        let metrics: Value = serde_json::from_str(&text)?;
        let value = |i: usize| metrics["metrics"][i]["value"].as_f64().unwrap_or(0.0);
        let names: Vec<_> = (0..4).map(|i| &metrics["metrics"][i]["name"]).collect();
        let expected = ["flow-layer", "glow", "vae", "average"];
        assert!(
            names
                .iter()
                .zip(expected)
                .all(|(n, e)| **n == format!("seconds-per-epoch.{e}"))
        );
        assert!((0..4).all(|i| value(i) > 0.0), "{text}");
        assert_eq!(value(3), (value(2) + value(0)) / 2.0);

        params["means"]["average"] = json!(["vae", "glwo"]);
        let error = bench.run::<Timing>(&params).err().map(|e| e.to_string());
        let text = "params.means.average = [\"vae\", \"glwo\"] must be a mean, of another name, of \
                    models that are timed: flow-layer, glow, vae";
        assert_eq!(error.as_deref(), Some(text));
        Ok(())
    }
}
