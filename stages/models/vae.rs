//! The variational autoencoder of phase 1: q(z|y), p(y|z) with an isotropic or a diagonal Gaussian,
//! and its loss with a prior (equation 1 of the paper; REFERENCE 1.6, 2.1, 3.2).

use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::gaussian;
use super::prior::Prior;
use super::{infogan, resnet};
use crate::nn::batch_norm::Mode;
use crate::nn::init::Init;
use crate::nn::noise::Draws;
use crate::nn::weights::Weights;
use crate::train::{Loss, Trainable};

/// The networks, as pipeline.toml has them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Network {
    /// Dai & Wipf's ResNet (A9, A10).
    Resnet {
        width: usize,
        scales: usize,
        blocks: usize,
        dense: usize,
        max_width: usize,
    },
    /// Their InfoGAN-style network (A26).
    Infogan { width: usize, dense: usize },
}

/// The covariance of p(y|z).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Covariance {
    /// One learned deviation for all.
    Isotropic,
    /// A decoded deviation for each pixel and channel (A12).
    Diagonal,
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
    /// y = (x + u) / 256 with uniform u (A13), or x / 255 without noise.
    pub dequantise: bool,
}

/// Bounds of the decoded ln deviation (A12).
const LOG_SIGMA: (f64, f64) = (-7.0, 2.0);

enum Encoder {
    Resnet(resnet::Encoder),
    Infogan(infogan::Encoder),
}

enum Decoder {
    Resnet(resnet::Decoder),
    Infogan(infogan::Decoder),
}

pub struct Vae {
    config: Config,
    encoder: Encoder,
    decoder: Decoder,
    /// ln of the one deviation, `[1]`.
    log_gamma: Option<Tensor>,
}

impl Vae {
    pub fn new(config: &Config, w: &Weights) -> Result<Self> {
        let [side, breadth, channels] = config.shape;
        let latent = config.latent;
        let output = match config.covariance {
            Covariance::Isotropic => channels,
            Covariance::Diagonal => 2 * channels,
        };
        let (e, d) = (w.pp("encoder"), w.pp("decoder"));
        let (encoder, decoder) = match config.network {
            Network::Resnet {
                width,
                scales,
                blocks,
                dense,
                max_width,
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
                    dense,
                    max_width,
                    output,
                };
                let encoder = Encoder::Resnet(resnet::Encoder::new(&c, &e)?);
                (encoder, Decoder::Resnet(resnet::Decoder::new(&c, &d)?))
            }
            Network::Infogan { width, dense } => {
                let c = infogan::Config {
                    height: side,
                    breadth,
                    channels,
                    latent,
                    width,
                    dense,
                    output,
                };
                let encoder = Encoder::Infogan(infogan::Encoder::new(&c, &e)?);
                (encoder, Decoder::Infogan(infogan::Decoder::new(&c, &d)?))
            }
        };
        let log_gamma = match config.covariance {
            Covariance::Isotropic => Some(w.get(1, "log_gamma", Init::Zeros)?),
            Covariance::Diagonal => None,
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

    /// Images 0 to 255 as the model sees them: y, with dequantisation noise where it was trained
    /// with it.
    pub fn prepare(&self, x: &Tensor, noise: &mut Draws) -> Result<Tensor> {
        if self.config.dequantise {
            let u = noise.uniform(x.shape(), x.dtype(), x.device())?;
            Ok(((x + u)? / 256.0)?)
        } else {
            Ok((x / 255.0)?)
        }
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

    fn encode_in(&self, y: &Tensor, mode: Mode) -> Result<(Tensor, Tensor)> {
        match &self.encoder {
            Encoder::Resnet(net) => net.forward(y, mode),
            Encoder::Infogan(net) => net.forward(y, mode),
        }
    }

    /// As [`Vae::decode`]; the one deviation of an isotropic model comes as `[1]`.
    fn decode_in(&self, z: &Tensor, mode: Mode) -> Result<(Tensor, Tensor)> {
        let out = match &self.decoder {
            Decoder::Resnet(net) => net.forward(z, mode)?,
            Decoder::Infogan(net) => net.forward(z, mode)?,
        };
        let channels = self.config.shape[2];
        let mean = candle_nn::ops::sigmoid(&out.narrow(3, 0, channels)?.contiguous()?)?;
        let log_sigma = match &self.log_gamma {
            Some(log_gamma) => log_gamma.clone(),
            None => {
                let raw = out.narrow(3, channels, channels)?.contiguous()?;
                raw.clamp(LOG_SIGMA.0, LOG_SIGMA.1)?
            }
        };
        Ok((mean, log_sigma))
    }

    /// Sub-pixels of an image.
    fn dims(&self) -> f64 {
        self.config.shape.iter().product::<usize>() as f64
    }
}

/// A VAE and its prior, trained together: -ln p(y|z) - ln p(z) - H[q], one draw of z (A17).
/// With N(0, I) the last two terms are the KL divergence in closed form.
pub struct Phase1 {
    pub vae: Vae,
    pub prior: Prior,
}

impl Phase1 {
    fn loss_in(&self, x: &Tensor, noise: &mut Draws, mode: Mode) -> Result<Loss> {
        let y = self.vae.prepare(x, noise)?;
        let (mean, log_std) = self.vae.encode_in(&y, mode)?;
        let e = noise.normal(mean.shape(), y.dtype(), y.device())?;
        let z = (&mean + (log_std.exp()? * e)?)?;
        let (mu, log_sigma) = self.vae.decode_in(&z, mode)?;
        let density = gaussian::log_density(&y, &mu, &log_sigma)?;
        let reconstruction = density.neg()?.mean_all()?;
        let kl = match &self.prior {
            Prior::Normal { .. } => gaussian::divergence(&mean, &log_std)?,
            prior => (prior.log_prob(&z)? + gaussian::entropy(&log_std)?)?.neg()?,
        };
        let kl = kl.mean_all()?;
        let total = (&reconstruction + &kl)?;
        let mut parts = vec![("reconstruction", reconstruction), ("kl", kl)];
        if self.vae.config.dequantise {
            // REFERENCE 1.6 with a = 1/256.
            let bits = ((&total / (self.vae.dims() * std::f64::consts::LN_2))? + 8.0)?;
            parts.push(("bits/dim", bits));
        }
        if let Some(log_gamma) = &self.vae.log_gamma {
            parts.push(("gamma", log_gamma.exp()?));
        }
        Ok(Loss { total, parts })
    }
}

impl Trainable<Tensor> for Phase1 {
    fn loss(&self, x: &Tensor, noise: &mut Draws) -> Result<Loss> {
        self.loss_in(x, noise, Mode::Train)
    }

    fn validate(&self, x: &Tensor, noise: &mut Draws) -> Result<Loss> {
        self.loss_in(x, noise, Mode::Eval)
    }
}
