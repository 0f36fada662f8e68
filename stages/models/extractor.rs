//! The networks whose features a Fréchet distance compares, behind one face.

use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use super::classifier::{self, Classifier};
use crate::data::gaussian::Protocol;
use crate::metrics::resize::Resize;
use crate::nn::weights::Weights;

/// What stands in the header of an extractor's file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Config {
    Classifier(classifier::Config),
}

/// A feature network, ready to use.
pub struct Extractor {
    network: Network,
    device: Device,
    /// BLAKE3 of its file.
    digest: String,
}

enum Network {
    Classifier(Classifier),
}

impl Extractor {
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        let (weights, config) = Weights::load::<Config>(path, DType::F32, device)?;
        let network = match config {
            Config::Classifier(config) => Network::Classifier(Classifier::new(&config, &weights)?),
        };
        let bytes = std::fs::read(path).with_context(|| format!("{}", path.display()))?;
        let digest = blake3::hash(&bytes).to_hex().to_string();
        Ok(Self {
            network,
            device: device.clone(),
            digest,
        })
    }

    /// How features made by this network, from images resized like that, are to be labelled.
    pub fn protocol(&self, resize: Resize) -> Protocol {
        let (label, extractor) = match &self.network {
            Network::Classifier(_) => ("Fréchet distance (classifier features)", "classifier"),
        };
        Protocol {
            label: label.into(),
            extractor: extractor.into(),
            digest: self.digest.clone(),
            resize: resize.name().into(),
            dtype: "f32".into(),
        }
    }

    /// Feature vectors laid end to end, of uint8 images `[height, width, channels]`.
    pub fn features(
        &self,
        images: &[&[u8]],
        shape: [usize; 3],
        resize: Resize,
    ) -> Result<Vec<f32>> {
        let side = match &self.network {
            Network::Classifier(_) => classifier::SIDE,
        };
        let pixels = resize.apply(images, shape, side);
        let x = Tensor::from_vec(pixels, (images.len(), side, side, 3), &self.device)?;
        let features = match &self.network {
            Network::Classifier(network) => network.features(&x)?,
        };
        Ok(features.flatten_all()?.to_vec1::<f32>()?)
    }
}
