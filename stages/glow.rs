//! Kind `glow`: trains the multi-scale Glow baseline.

use anyhow::Result;
use candle_core::Device;
use contract::{Input, Job, Output, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::models::augment::Augment;
use crate::models::glow::{Config, Flow};
use crate::models::glow_training::GlowTraining;
use crate::nn::weights::Weights;
use crate::train::{Trained, Training, train_images};

pub struct Glow;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    pub seed: u64,
    pub augment: Augment,
    pub flow: Flow,
    /// Training images on which actnorms start.
    pub init_images: usize,
    pub train: Training,
}

impl Params {
    /// The model for images of a shape (height, width, channels).
    pub fn build(&self, shape: [usize; 3], w: &Weights) -> Result<GlowTraining> {
        let (augment, images) = (self.augment, self.init_images);
        GlowTraining::new(&self.config(shape), augment, images, self.seed, w)
    }

    /// All that its training begins with, in f32.
    pub fn trained(&self, shape: [usize; 3], device: &Device) -> Result<Trained> {
        Trained::new((self.seed, &self.train), device, |w| self.build(shape, w))
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
    const EXTENDS: Option<&'static str> = Training::EXTENDS;
    type Params = Params;

    fn run(params: &Params, job: &mut Job) -> Result<()> {
        let named = (Self::KIND, params.seed);
        let config = |shape| params.config(shape);
        train_images(named, (0, &params.train), job, config, |config, w| {
            params.build(config.image, w)
        })
    }
}

#[cfg(test)]
pub mod tests {
    use crate::data::images::Images;
    use crate::models::glow::Glow as Model;
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;
    use crate::bits_per_dim::BitsPerDim;
    use crate::nn::noise::Noise;
    use crate::sample::Sample;
    use crate::stories::training;
    use contract::history;
    use contract::testing::Bench;

    pub fn params() -> Value {
        json!({
            "seed": 0,  "init_images": 16,
            "augment": "none",
            "flow": {
                "levels": 2, "depth": 2, "width": 8, "coupling": "affine", "network": "official",
                "inv_conv": "plain", "learn_top": true,
            },
            "train": training(2, 8, "drop", json!({
                "kind": "adamax", "lr": 1e-3, "beta1": 0.9, "beta2": 0.0, "epsilon": 1e-8,
                "form": "tensorflow", "halve_every": 0, "warmup_epochs": 1, "clip_norm": 0.0,
            })),
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
        let measured = Bench::new::<BitsPerDim<Model>>(&[("images", &valid), ("glow", &model)]);
        measured.run::<BitsPerDim<Model>>(&json!({ "seed": 0, "batch": 5, "n": 0, "draws": 1 }))?;
        let text = std::fs::read_to_string(measured.output::<BitsPerDim<Model>>("metrics"))?;
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

        let drawn = Bench::new::<Sample<Model>>(&[("glow", &model)]);
        drawn.run::<Sample<Model>>(
            &json!({ "seed": 0, "n": 7, "batch": 4, "temperature": 1.0, "pixels": "bytes" }),
        )?;
        let images = Images::load(&drawn.output::<Sample<Model>>("images"))?;
        assert_eq!((images.n, images.shape()), (7, [8, 8, 3]));
        Ok(())
    }
}
