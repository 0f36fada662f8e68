//! Kind `pixeliqn`: trains a PixelIQN.

use anyhow::Result;
use candle_core::Device;
use contract::{Input, Job, Output, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::models::augment::Augment;
use crate::models::pixelcnn::Range;
use crate::models::pixelcnn::network::Network;
use crate::models::pixeliqn::{Config, Tau};
use crate::models::pixeliqn_training::PixelIqnTraining;
use crate::train::{Trained, Training, train_images};

pub struct PixelIqn;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    pub seed: u64,
    /// Training images: the first ones; 0: all.
    pub images: usize,
    pub augment: Augment,
    pub network: Network,
    pub input: Range,
    pub tau: Tau,
    /// Differences from a quantile below which the loss is a parabola, on the scale where a byte is
    /// x / 255; 0: none.
    pub kappa: f64,
    pub train: Training,
}

impl Params {
    /// All that its training begins with, in f32.
    pub fn trained(&self, shape: [usize; 3], device: &Device) -> Result<Trained> {
        let config = self.config(shape);
        Trained::new((self.seed, &self.train), device, |w| {
            PixelIqnTraining::new(&config, self.augment, self.kappa, w)
        })
    }

    fn config(&self, image: [usize; 3]) -> Config {
        Config {
            network: self.network.clone(),
            tau: self.tau,
            input: self.input,
            image,
        }
    }
}

impl Stage for PixelIqn {
    const KIND: &'static str = "pixeliqn";
    const ABOUT: &'static str = "Trains a PixelIQN on images.";
    const INPUTS: &'static [Input] =
        &[Input::one("train", "images"), Input::one("valid", "images")];
    const OUTPUTS: &'static [Output] = &[
        Output::new("model", "pixeliqn", "pixeliqn.safetensors"),
        Output::new("history", "history", "history.jsonl"),
    ];
    const EXTENDS: Option<&'static str> = Training::EXTENDS;
    type Params = Params;

    fn run(params: &Params, job: &mut Job) -> Result<()> {
        let named = (Self::KIND, params.seed);
        let of = (params.images, &params.train);
        let config = |shape| params.config(shape);
        train_images(named, of, job, config, |config, w| {
            PixelIqnTraining::new(config, params.augment, params.kappa, w)
        })
    }
}

#[cfg(test)]
pub mod tests {
    use serde_json::{Value, json};

    use crate::pixelcnn;

    pub fn params() -> Value {
        let mut params = pixelcnn::tests::params();
        params["tau"] = json!({ "kind": "linear" });
        params["kappa"] = json!(0.002);
        params
    }
}
