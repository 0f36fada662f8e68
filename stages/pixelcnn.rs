//! Kind `pixelcnn`: trains a Gated PixelCNN.

use anyhow::Result;
use candle_core::Device;
use contract::{Input, Job, Output, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::models::augment::Augment;
use crate::models::pixelcnn::network::Network;
use crate::models::pixelcnn::{Config, Range};
use crate::models::pixelcnn_training::PixelCnnTraining;
use crate::train::{Trained, Training, train_images};

pub struct PixelCnn;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    pub seed: u64,
    /// Training images: the first ones; 0: all.
    pub images: usize,
    pub augment: Augment,
    pub network: Network,
    pub input: Range,
    pub train: Training,
}

impl Params {
    /// All that its training begins with, in f32.
    pub fn trained(&self, shape: [usize; 3], device: &Device) -> Result<Trained> {
        let config = self.config(shape);
        Trained::new((self.seed, &self.train), device, |w| {
            PixelCnnTraining::new(&config, self.augment, w)
        })
    }

    fn config(&self, image: [usize; 3]) -> Config {
        Config {
            network: self.network.clone(),
            input: self.input,
            image,
        }
    }
}

impl Stage for PixelCnn {
    const KIND: &'static str = "pixelcnn";
    const ABOUT: &'static str = "Trains a Gated PixelCNN on images.";
    const INPUTS: &'static [Input] =
        &[Input::one("train", "images"), Input::one("valid", "images")];
    const OUTPUTS: &'static [Output] = &[
        Output::new("model", "pixelcnn", "pixelcnn.safetensors"),
        Output::new("history", "history", "history.jsonl"),
    ];
    const EXTENDS: Option<&'static str> = Training::EXTENDS;
    type Params = Params;

    fn run(params: &Params, job: &mut Job) -> Result<()> {
        let named = (Self::KIND, params.seed);
        let of = (params.images, &params.train);
        let config = |shape| params.config(shape);
        train_images(named, of, job, config, |config, w| {
            PixelCnnTraining::new(config, params.augment, w)
        })
    }
}

#[cfg(test)]
pub mod tests {
    use serde_json::{Value, json};

    use crate::stories::training;

    pub fn network() -> Value {
        json!({
            "layers": 1, "width": 5, "kernel": 3, "first_kernel": 3, "skip": 6, "head": 4,
            "colours": "contiguous", "vertical_residual": false,
        })
    }

    pub fn params() -> Value {
        json!({
            "seed": 0, "images": 0, "augment": "none", "network": network(), "input": "centred",
            "train": training(2, 8, "drop", json!({
                "kind": "adam", "lr": 1e-3, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8,
                "form": "torch", "halve_every": 0, "warmup_epochs": 0.5, "clip_norm": 1.0,
            })),
        })
    }
}
