//! The networks whose features a Fréchet distance compares, behind one face.

use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use super::classifier::{self, Classifier};
use super::inception::{self, Inception};
use crate::data::protocol::{Protocol, UINT8};
use crate::data::tensors::TensorFile;
use crate::metrics::resize::Resize;
use crate::nn::tensor_file;
use crate::nn::weights::Weights;

/// What stands in the header of an extractor's file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Config {
    Classifier(classifier::Config),
    /// Inception with the weights of a file that has this SHA-256.
    Inception {
        sha256: String,
    },
}

/// The file of pytorch-fid and torch-fidelity, converted from the graph of 2015-12-05: only a
/// distance in its features is an FID.
pub const OFFICIAL_SHA256: &str =
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2";

/// A feature network, ready to use.
pub struct Extractor {
    network: Network,
    device: Device,
    /// Length of a feature vector.
    width: usize,
    /// What a distance in its features may be called, and the network's name.
    label: &'static str,
    name: &'static str,
    /// The digest of the weights: SHA-256 of the file that published them, or BLAKE3 of our own.
    digest: String,
}

enum Network {
    Classifier(Classifier),
    Inception(Inception),
}

impl Extractor {
    /// Reads an artifact of kind `extractor`.
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        match TensorFile::open(path)?.about()? {
            Config::Inception { sha256 } => {
                let (state, _) = tensor_file::read(path)?;
                Self::inception(&state, sha256, device).with_context(|| path.display().to_string())
            }
            Config::Classifier(_) => {
                let (weights, config) = Weights::load::<Config>(path, DType::F32, device)?;
                let Config::Classifier(config) = config else {
                    anyhow::bail!("BUG: {} changed while it was read", path.display())
                };
                let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
                Ok(Self {
                    network: Network::Classifier(Classifier::new(&config, &weights)?),
                    device: device.clone(),
                    width: config.features,
                    label: "Fréchet distance (classifier features)",
                    name: "classifier",
                    digest: blake3::hash(&bytes).to_hex().to_string(),
                })
            }
        }
    }

    /// Inception with the tensors of a file that has this SHA-256.
    pub fn inception(state: &inception::State, sha256: String, device: &Device) -> Result<Self> {
        let official = sha256 == OFFICIAL_SHA256;
        Ok(Self {
            network: Network::Inception(Inception::new(state, device)?),
            device: device.clone(),
            width: inception::FEATURES,
            label: match official {
                true => "FID",
                false => "Fréchet distance (Inception features, weights of another file)",
            },
            name: match official {
                true => "inception-2015-12-05",
                false => "inception, weights of another file",
            },
            digest: sha256,
        })
    }

    /// How features made by this network, from uint8 images resized like that, are to be labelled.
    pub fn protocol(&self, resize: Resize) -> Protocol {
        Protocol {
            label: self.label.into(),
            extractor: self.name.into(),
            digest: self.digest.clone(),
            resize: resize.name().into(),
            pixels: UINT8.into(),
            dtype: "f32".into(),
        }
    }

    /// Side of the square images it sees.
    pub fn side(&self) -> usize {
        match &self.network {
            Network::Classifier(_) => classifier::SIDE,
            Network::Inception(_) => inception::SIDE,
        }
    }

    /// Length of a feature vector.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Feature vectors laid end to end, of uint8 images `[height, width, channels]`.
    pub fn features(
        &self,
        images: &[&[u8]],
        shape: [usize; 3],
        resize: Resize,
    ) -> Result<Vec<f32>> {
        #[cfg(feature = "cuda")]
        if let Device::Cuda(device) = &self.device {
            return self.of_tensor(
                &resized(device, images, shape, self.side(), resize)?,
                resize,
            );
        }
        self.of_pixels(resize.apply(images, shape, self.side()), resize)
    }

    /// Feature vectors of images that [`Resize::apply`] has already made `side` by `side`.
    pub fn of_pixels(&self, pixels: Vec<f32>, resize: Resize) -> Result<Vec<f32>> {
        let side = self.side();
        let n = pixels.len() / (side * side * 3);
        let x = Tensor::from_vec(pixels, (n, side, side, 3), &self.device)?;
        self.of_tensor(&x, resize)
    }

    fn of_tensor(&self, x: &Tensor, resize: Resize) -> Result<Vec<f32>> {
        let features = match &self.network {
            Network::Classifier(network) => network.features(x)?,
            Network::Inception(network) => {
                let (scale, offset) = resize.range();
                network.features(&x.affine(scale, offset)?)?
            }
        };
        Ok(features.flatten_all()?.to_vec1::<f32>()?)
    }
}

/// As [`Resize::apply`], on a GPU.
#[cfg(feature = "cuda")]
fn resized(
    device: &candle_core::CudaDevice,
    images: &[&[u8]],
    shape: [usize; 3],
    side: usize,
    resize: Resize,
) -> Result<Tensor> {
    let tables = [shape[1], shape[0]].map(|from| resize.table(from, side));
    let bytes = images.concat();
    let size = [images.len(), shape[0], shape[1], shape[2]];
    Ok(crate::nn::cuda::resize_op::resize(
        device,
        &bytes,
        size,
        side,
        resize.is_bilinear(),
        &tables,
    )?)
}
