//! Kind `glow`: trains the multi-scale Glow baseline.

use anyhow::Result;
use candle_core::DType;
use contract::history;
use contract::{Input, Job, Output, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::images::Images;
use crate::models::augment::Augment;
use crate::models::baseline::Baseline;
use crate::models::glow::{Config, Flow};
use crate::nn::device;
use crate::nn::weights::Weights;
use crate::train::{ImageSet, Keep, LastBatch, Optim, Plan, fit};

pub struct Glow;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    pub seed: u64,
    pub epochs: u64,
    pub batch: usize,
    pub last_batch: LastBatch,
    pub augment: Augment,
    pub flow: Flow,
    /// Training images on which actnorms start.
    pub init_images: usize,
    pub keep: Keep,
    pub optim: Optim,
}

impl Params {
    /// The model for images of a shape (height, width, channels).
    pub fn build(&self, shape: [usize; 3], w: &Weights) -> Result<Baseline> {
        let (augment, images) = (self.augment, self.init_images);
        Baseline::new(&self.config(shape), augment, images, self.seed, w)
    }

    fn config(&self, shape: [usize; 3]) -> Config {
        Config {
            flow: self.flow.clone(),
            image: shape,
        }
    }
}

impl Stage for Glow {
    const KIND: &'static str = "glow";
    const ABOUT: &'static str = "Trains the multi-scale Glow baseline on images.";
    const INPUTS: &'static [Input] =
        &[Input::one("train", "images"), Input::one("valid", "images")];
    const OUTPUTS: &'static [Output] = &[
        Output::new("model", "glow", "glow.safetensors"),
        Output::new("history", "history", "history.jsonl"),
    ];
    const EXTENDS: Option<&'static str> = Some("epochs");
    type Params = Params;

    fn run(params: &Params, job: &mut Job) -> Result<()> {
        let device = device::open(&job.spec().device)?;
        let train = Images::load(job.input("train")?)?;
        let valid = Images::load(job.input("valid")?)?;
        let weights = Weights::new(params.seed, DType::F32, &device);
        let model = params.build(train.shape(), &weights)?;
        let set = |images| ImageSet {
            images,
            dtype: DType::F32,
            device: &device,
        };
        let plan = Plan {
            seed: params.seed,
            purpose: "glow",
            epochs: params.epochs,
            batch: params.batch,
            last_batch: params.last_batch,
            optim: &params.optim,
            keep: params.keep,
            patience: 0,
        };
        let fitted = fit(&plan, &weights, &model, &set(&train), &set(&valid), job)?;
        weights.save(job.output("model")?, &params.config(train.shape()))?;
        history::save(job.output("history")?, &fitted.history)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;
    use crate::bits_per_dim_glow::BitsPerDimGlow;
    use crate::nn::noise::Noise;
    use crate::sample_glow::SampleGlow;
    use contract::testing::Bench;

    fn params() -> Value {
        json!({
            "seed": 0, "epochs": 2, "batch": 8, "last_batch": "drop", "init_images": 16,
            "augment": "none", "keep": { "kind": "last" },
            "flow": {
                "levels": 2, "depth": 2, "width": 8, "coupling": "affine", "network": "official",
                "inv_conv": "plain", "learn_top": true,
            },
            "optim": {
                "kind": "adamax", "lr": 1e-3, "beta1": 0.9, "beta2": 0.0, "epsilon": 1e-8,
                "form": "tensorflow", "halve_every": 0, "warmup_epochs": 1, "clip_norm": 0.0,
            },
        })
    }

    fn pictures(path: &Path, n: usize) -> Result<()> {
        let words = Noise::new(1, "pictures").at(0).words(n * 8 * 8 * 3);
        let pixels = words.iter().map(|w| (w >> 26) as u8 + 90).collect();
        Images::new([8, 8, 3], pixels, None)?.save(path)
    }

    /// Training, sampling and measuring through the kinds' own doors.
    #[test]
    fn trains_samples_and_measures() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let (train, valid) = (dir.path().join("train"), dir.path().join("valid"));
        pictures(&train, 32)?;
        pictures(&valid, 16)?;
        let trained = Bench::new::<Glow>(&[("train", &train), ("valid", &valid)]);
        trained.run::<Glow>(&params())?;
        let epochs = history::load(&trained.output::<Glow>("history"))?;
        assert_eq!(epochs.len(), 2);

        let model = trained.output::<Glow>("model");
        let measured = Bench::new::<BitsPerDimGlow>(&[("images", &valid), ("glow", &model)]);
        measured.run::<BitsPerDimGlow>(&json!({ "seed": 0, "batch": 5, "n": 0 }))?;
        let text = std::fs::read_to_string(measured.output::<BitsPerDimGlow>("metrics"))?;
        let metric = &serde_json::from_str::<Value>(&text)?["metrics"][0];
        let (bits, error) = (metric["value"].as_f64(), metric["std_error"].as_f64());
        // Other noise than in the history, so equal within errors only.
        let held_out = epochs[1].valid["bits/dim"];
        assert!(
            (bits.unwrap() - held_out).abs() < 6.0 * error.unwrap(),
            "{text} {held_out}"
        );
        assert_eq!(
            (metric["n"].as_u64(), metric["label"].as_str()),
            (Some(16), Some("bits/dim"))
        );

        let drawn = Bench::new::<SampleGlow>(&[("glow", &model)]);
        drawn.run::<SampleGlow>(
            &json!({ "seed": 0, "n": 7, "batch": 4, "temperature": 1.0, "pixels": "bytes" }),
        )?;
        let images = Images::load(&drawn.output::<SampleGlow>("images"))?;
        assert_eq!((images.n, images.shape()), (7, [8, 8, 3]));
        Ok(())
    }

    #[test]
    fn an_interrupted_training_ends_with_the_same_bytes() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let train = dir.path().join("train");
        pictures(&train, 32)?;
        let inputs: [(&str, &Path); 2] = [("train", &train), ("valid", &train)];
        let whole = Bench::new::<Glow>(&inputs);
        whole.run::<Glow>(&params())?;
        let parts = Bench::new::<Glow>(&inputs);
        let params = serde_json::from_value(params())?;
        while Glow::run(&params, &mut parts.job(Some(3)).0).is_err() {}
        assert!(whole.bytes::<Glow>() == parts.bytes::<Glow>());
        Ok(())
    }
}
