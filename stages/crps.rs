//! Kind `crps`: how close a PixelIQN's distributions are to the images (TABLE2 3.2), for there is no
//! likelihood.

use anyhow::{Result, ensure};
use candle_core::DType;
use contract::metrics::{self, Better, Metric};
use contract::{Input, Job, Output, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::images::Images;
use crate::metrics::bits::mean_and_error;
use crate::models::image_model::ImageModel;
use crate::models::pixeliqn::{PixelIqn, quantile_loss};
use crate::models::pixeliqn_training::CRPS;
use crate::nn::device;
use crate::nn::noise::Noise;
use crate::train::batches::numbers_in_batches;

pub struct Crps;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    pub seed: u64,
    pub batch: usize,
    /// The first n images; 0: all.
    pub n: usize,
}

impl Stage for Crps {
    const KIND: &'static str = "crps";
    const ABOUT: &'static str =
        "Continuous ranked probability score of sub-pixels under a PixelIQN, in grey levels.";
    const INPUTS: &'static [Input] = &[
        Input::one("images", "images"),
        Input::one("pixeliqn", "pixeliqn"),
    ];
    const OUTPUTS: &'static [Output] = &[Output::new("metrics", "metrics", "metrics.json")];
    type Params = Params;

    fn run(params: &Params, job: &mut Job) -> Result<()> {
        let device = device::open(&job.spec().device)?;
        let images = Images::load(job.input("images")?)?;
        let model = PixelIqn::load(job, &device)?;
        ensure!(
            model.shape() == images.shape(),
            "the model is of images {:?}, input images has {:?}",
            model.shape(),
            images.shape()
        );
        let n = match params.n {
            0 => images.n,
            n => images.n.min(n),
        };
        let noise = Noise::new(params.seed, Self::KIND);
        let each = numbers_in_batches(job, n, params.batch, |i, chosen| {
            let x = images.batch(&chosen.collect::<Vec<_>>(), DType::F32, &device)?;
            let tau = noise.at(i).uniform(x.shape(), DType::F32, &device)?;
            let u = ((&x / 255.0)? - model.quantiles(&x, &tau)?)?;
            let pinball = quantile_loss(&u, &tau, 0.0)?.flatten_from(1)?;
            let mean = (pinball.to_dtype(DType::F64)?.mean(1)? * CRPS)?;
            Ok(mean.to_vec1()?)
        })?;
        let (value, std_error) = mean_and_error(&each);
        let mut protocol = serde_json::Map::new();
        if let Some(source) = &images.source {
            protocol.insert("images".into(), source.clone().into());
        }
        let metric = Metric {
            name: "crps".into(),
            label: "CRPS".into(),
            value,
            std_error,
            n: Some(each.len() as u64),
            better: Better::Lower,
            unit: "grey levels".into(),
            protocol,
        };
        metrics::save(job.output("metrics")?, &[metric])
    }
}
