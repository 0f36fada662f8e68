//! The variational autoencoder: q(z|y), and p(y|z) as an isotropic or a diagonal Gaussian
//! (Dai & Wipf 2019; section 3 of the paper).

use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use covariance::Covariance;

use super::resnet::Head;
use super::{infogan, resnet};
use crate::nn::batch_norm::Mode;
use crate::nn::init::Init;
use crate::nn::noise::Draws;
use crate::nn::weights::Weights;

/// The networks, as pipeline.toml has them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Network {
    /// Dai & Wipf's ResNet (A9, A10).
    Resnet {
        width: usize,
        scales: usize,
        blocks: usize,
        /// What the dense block sees of the encoder's last maps (A11).
        head: Head,
        dense: usize,
        max_width: usize,
        /// Decay of batch norm's moving averages.
        norm_decay: f64,
    },
    /// Their InfoGAN-style network (A26).
    Infogan {
        width: usize,
        dense: usize,
        /// Decay of batch norm's moving averages.
        norm_decay: f64,
    },
}

/// Where the values y of an image lie, and what the decoder's mean can reach (A14).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Range {
    /// [0, 1), with a sigmoid as the last layer of the mean.
    Unit,
    /// [-0.5, 0.5), with a linear mean.
    Centred,
}

/// What stands in a `vae` artifact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Height, width, channels of the images.
    pub shape: [usize; 3],
    pub latent: usize,
    pub network: Network,
    pub covariance: Covariance,
    pub range: Range,
    /// In phase 1 y = (x + u) / 256 with uniform u (A13), or x / 255 without noise; 1/2 less if
    /// centred.
    pub dequantise: bool,
}

enum Encoder {
    Resnet(resnet::Encoder),
    Infogan(Box<infogan::Encoder>),
}

enum Decoder {
    Resnet(resnet::Decoder),
    Infogan(Box<infogan::Decoder>),
}

pub struct Vae {
    config: Config,
    encoder: Encoder,
    decoder: Decoder,
    /// ln of the learned deviation: `[1]`, or `[c]` of each channel.
    log_gamma: Option<Tensor>,
}

impl Vae {
    pub fn new(config: &Config, w: &Weights) -> Result<Self> {
        let [side, breadth, channels] = config.shape;
        let latent = config.latent;
        config.covariance.check()?;
        let output = channels + config.covariance.decoded(channels);
        // Outputs of the last convolution that are drawn.
        let drawn = match config.covariance.starts_at_zero() {
            true => channels,
            false => output,
        };
        let (e, d) = (w.pp("encoder"), w.pp("decoder"));
        let (encoder, decoder) = match config.network {
            Network::Resnet {
                width,
                scales,
                blocks,
                head,
                dense,
                max_width,
                norm_decay,
            } => {
                anyhow::ensure!(
                    side == breadth,
                    "the ResNet wants square images, not {side}x{breadth}"
                );
                let c = resnet::Config {
                    side,
                    channels,
                    latent,
                    width,
                    scales,
                    blocks,
                    head,
                    dense,
                    max_width,
                    norm_decay,
                    output,
                    drawn,
                };
                let encoder = Encoder::Resnet(resnet::Encoder::new(&c, &e)?);
                (encoder, Decoder::Resnet(resnet::Decoder::new(&c, &d)?))
            }
            Network::Infogan {
                width,
                dense,
                norm_decay,
            } => {
                let c = infogan::Config {
                    height: side,
                    breadth,
                    channels,
                    latent,
                    width,
                    dense,
                    norm_decay,
                    output,
                    drawn,
                };
                let encoder = Encoder::Infogan(Box::new(infogan::Encoder::new(&c, &e)?));
                (
                    encoder,
                    Decoder::Infogan(Box::new(infogan::Decoder::new(&c, &d)?)),
                )
            }
        };
        let log_gamma = match config.covariance.learned(channels) {
            0 => None,
            n => Some(w.get(n, "log_gamma", Init::Zeros)?),
        };
        Ok(Self {
            config: config.clone(),
            encoder,
            decoder,
            log_gamma,
        })
    }

    /// Reads a `vae` artifact, frozen.
    pub fn load(path: &Path, dtype: DType, device: &Device) -> Result<Self> {
        let (weights, config): (_, Config) = Weights::load(path, dtype, device)?;
        Self::new(&config, &weights).with_context(|| path.display().to_string())
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Images 0 to 255 as the model sees them in phase 1: y, with dequantisation noise or without.
    pub fn prepare(&self, x: &Tensor, noise: &mut Draws) -> Result<Tensor> {
        match self.config.dequantise {
            true => self.dequantise(x, noise),
            false => self.ranged((x / 255.0)?),
        }
    }

    /// Images 0 to 255 as y with dequantisation noise, whatever phase 1 did: only so does a
    /// density bound bits per dimension.
    pub fn dequantise(&self, x: &Tensor, noise: &mut Draws) -> Result<Tensor> {
        let u = noise.uniform(x.shape(), x.dtype(), x.device())?;
        self.ranged(((x + u)? / 256.0)?)
    }

    fn ranged(&self, y: Tensor) -> Result<Tensor> {
        Ok(match self.config.range {
            Range::Unit => y,
            Range::Centred => (y - 0.5)?,
        })
    }

    /// y as it would be if the range were [0, 1).
    pub fn to_unit(&self, y: &Tensor) -> Result<Tensor> {
        Ok(match self.config.range {
            Range::Unit => y.clone(),
            Range::Centred => (y + 0.5)?,
        })
    }

    /// Mean and ln deviation of q(z|y), each `[n, latent]`, with frozen statistics.
    pub fn encode(&self, y: &Tensor) -> Result<(Tensor, Tensor)> {
        self.encode_in(y, Mode::Eval)
    }

    /// Mean and ln deviation of p(y|z), both of the images' shape, with frozen statistics.
    pub fn decode(&self, z: &Tensor) -> Result<(Tensor, Tensor)> {
        let (mean, log_sigma) = self.decode_in(z, Mode::Eval)?;
        let log_sigma = log_sigma.broadcast_as(mean.shape())?.contiguous()?;
        Ok((mean, log_sigma))
    }

    pub fn encode_in(&self, y: &Tensor, mode: Mode) -> Result<(Tensor, Tensor)> {
        match &self.encoder {
            Encoder::Resnet(net) => net.forward(y, mode),
            Encoder::Infogan(net) => net.forward(y, mode),
        }
    }

    /// As [`Vae::decode`]; learned deviations come as `[1]`, or `[c]` of each channel.
    pub fn decode_in(&self, z: &Tensor, mode: Mode) -> Result<(Tensor, Tensor)> {
        let out = match &self.decoder {
            Decoder::Resnet(net) => net.forward(z, mode)?,
            Decoder::Infogan(net) => net.forward(z, mode)?,
        };
        let channels = self.config.shape[2];
        let mean = out.narrow(3, 0, channels)?.contiguous()?;
        let mean = match self.config.range {
            Range::Unit => candle_nn::ops::sigmoid(&mean)?,
            Range::Centred => mean,
        };
        let log_sigma = match &self.log_gamma {
            Some(log_gamma) => log_gamma.clone(),
            None => {
                let raw = out.narrow(3, channels, channels)?.contiguous()?;
                self.config.covariance.log_sigma(&raw)?
            }
        };
        Ok((mean, log_sigma))
    }

    /// Sub-pixels of an image.
    pub fn dims(&self) -> usize {
        self.config.shape.iter().product()
    }

    /// ln of the learned deviation: `[1]`, or `[c]` of each channel; a decoded one has none.
    pub fn log_gamma(&self) -> Option<&Tensor> {
        self.log_gamma.as_ref()
    }
}

mod covariance;
#[cfg(test)]
mod tests;
