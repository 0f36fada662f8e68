//! Kind `residual-flow`: trains a Residual Flow.

use anyhow::Result;
use candle_core::Device;
use contract::{Input, Job, Output, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::models::augment::Augment;
use crate::models::residual_flow::{Config, Inverse, Network, Probe, Series};
use crate::models::residual_flow_training::{How, ResidualFlowTraining};
use crate::nn::spectral_conv::Power;
use crate::nn::weights::Weights;
use crate::train::{Trained, Training, train_images};

pub struct ResidualFlow;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    pub seed: u64,
    /// Training images: the first ones; 0: all.
    pub images: usize,
    pub augment: Augment,
    pub network: Network,
    /// When the power iteration that follows every step stops.
    pub norm: Power,
    /// Terms of log-determinants in training.
    pub series: Series,
    pub probe: Probe,
    /// How the model is measured once it is trained. It travels with the weights, since the kinds that
    /// measure and sample have the parameters of all models.
    pub evaluation: Evaluation,
    /// How the model is inverted when images are drawn; it travels likewise.
    pub inverse: Inverse,
    /// Training images on which actnorms start.
    pub init_images: usize,
    pub train: Training,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Terms of log-determinants.
    pub series: Series,
}

impl Params {
    /// The model for images of a shape (height, width, channels).
    pub fn build(&self, shape: [usize; 3], w: &Weights) -> Result<ResidualFlowTraining> {
        let how = How {
            augment: self.augment,
            series: self.series,
            power: self.norm,
            init_images: self.init_images,
            seed: self.seed,
        };
        ResidualFlowTraining::new(&self.config(shape), how, w)
    }

    /// All that its training begins with, in f32.
    pub fn trained(&self, shape: [usize; 3], device: &Device) -> Result<Trained> {
        Trained::new((self.seed, &self.train), device, |w| self.build(shape, w))
    }

    fn config(&self, shape: [usize; 3]) -> Config {
        Config {
            network: self.network.clone(),
            evaluation: self.evaluation.series,
            probe: self.probe,
            inverse: self.inverse,
            image: shape,
        }
    }
}

impl Stage for ResidualFlow {
    const KIND: &'static str = "residual-flow";
    const ABOUT: &'static str = "Trains a Residual Flow on images.";
    const INPUTS: &'static [Input] =
        &[Input::one("train", "images"), Input::one("valid", "images")];
    const OUTPUTS: &'static [Output] = &[
        Output::new("model", "residual-flow", "residual-flow.safetensors"),
        Output::new("history", "history", "history.jsonl"),
    ];
    const EXTENDS: Option<&'static str> = Training::EXTENDS;
    type Params = Params;

    fn run(params: &Params, job: &mut Job) -> Result<()> {
        let named = (Self::KIND, params.seed);
        let of = (params.images, &params.train);
        let config = |shape| params.config(shape);
        train_images(named, of, job, config, |config, w| {
            params.build(config.image, w)
        })
    }
}

#[cfg(test)]
pub mod tests {
    use serde_json::{Value, json};

    use crate::stories::training;

    pub fn params() -> Value {
        let mut train = training(
            2,
            8,
            "keep",
            json!({
                "kind": "adam", "lr": 1e-3, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8,
                "form": "tensorflow", "halve_every": 0, "warmup_epochs": 1, "clip_norm": 1.0,
            }),
        );
        train["keep"] = json!({ "kind": "average", "decay": 0.9 });
        json!({
            "seed": 0, "images": 0, "init_images": 16, "augment": "flip", "probe": "gaussian",
            "network": {
                "blocks": [1, 1], "width": 6, "dense_blocks": 1, "dense_width": 5,
                "coefficient": 0.98, "alpha": 0.05,
            },
            "norm": { "tolerance": 1e-3, "most": 200 },
            "series": { "law": "poisson", "mean": 2.0, "exact": 2 },
            "evaluation": { "series": { "law": "geometric", "mean": 2.0, "exact": 5 } },
            "inverse": { "rule": "strict", "tolerance": 1e-5, "most": 1000 },
            "train": train,
        })
    }
}
