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
use crate::metrics::bits::bits_per_dim;
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
                    dense,
                    max_width,
                    norm_decay,
                    output,
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
                };
                let encoder = Encoder::Infogan(Box::new(infogan::Encoder::new(&c, &e)?));
                (
                    encoder,
                    Decoder::Infogan(Box::new(infogan::Decoder::new(&c, &d)?)),
                )
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
        let e = noise.normal((y.dim(0)?, self.vae.config.latent), y.dtype(), y.device())?;
        self.loss_of(&y, &e, mode)
    }

    /// The loss of prepared images, with z drawn by standard normal `e`.
    pub fn loss_of(&self, y: &Tensor, e: &Tensor, mode: Mode) -> Result<Loss> {
        let (mean, log_std) = self.vae.encode_in(y, mode)?;
        let z = (&mean + (log_std.exp()? * e)?)?;
        let (mu, log_sigma) = self.vae.decode_in(&z, mode)?;
        let density = gaussian::log_density(y, &mu, &log_sigma)?;
        let reconstruction = density.neg()?.mean_all()?;
        let kl = match &self.prior {
            Prior::Normal { .. } => gaussian::divergence(&mean, &log_std)?,
            prior => (prior.log_prob(&z)? + gaussian::entropy(&log_std)?)?.neg()?,
        };
        let kl = kl.mean_all()?;
        let total = (&reconstruction + &kl)?;
        let mut parts = vec![("reconstruction", reconstruction), ("kl", kl)];
        if self.vae.config.dequantise {
            let bits = bits_per_dim(&total.neg()?, self.vae.dims() as usize, 1.0 / 256.0)?;
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

#[cfg(test)]
mod tests {
    use super::super::prior;
    use super::*;
    use crate::nn::noise::Noise;

    const CPU: Device = Device::Cpu;

    fn resnet(side: usize, width: usize, blocks: usize, latent: usize) -> Config {
        let scales = if side == 64 { 4 } else { 3 };
        let network = Network::Resnet {
            width,
            scales,
            blocks,
            dense: 512,
            max_width: 1024,
            norm_decay: 0.999,
        };
        let covariance = Covariance::Isotropic;
        Config {
            shape: [side, side, 3],
            latent,
            network,
            covariance,
            dequantise: true,
        }
    }

    fn counts(config: &Config) -> Result<[usize; 3]> {
        let w = Weights::new(0, DType::F32, &CPU);
        Vae::new(config, &w)?;
        Ok([
            w.pp("encoder").part().count(),
            w.pp("decoder").part().count(),
            w.count(),
        ])
    }

    /// REFERENCE 2.2, 2.3.
    #[test]
    fn paper_sizes_have_the_known_numbers_of_parameters() -> Result<()> {
        let c = resnet(32, 16, 1, 64);
        assert_eq!(counts(&c)?, [564_400, 1_048_115, 1_612_516]);
        let c = resnet(32, 32, 1, 64);
        assert_eq!(counts(&c)?, [1_135_840, 4_054_627, 5_190_468]);
        let diagonal = Config {
            covariance: Covariance::Diagonal,
            ..c
        };
        assert_eq!(counts(&diagonal)?[2], 5_191_334);
        assert_eq!(counts(&resnet(32, 32, 2, 64))?[2], 8_126_084);
        assert_eq!(counts(&resnet(32, 32, 1, 128))?[2], 5_387_204);
        assert_eq!(counts(&resnet(32, 64, 1, 64))?[2], 19_230_724);
        assert_eq!(counts(&resnet(64, 32, 1, 64))?[2], 19_321_668);
        assert_eq!(
            counts(&resnet(64, 32, 1, 128))?,
            [3_399_008, 16_250_467, 19_649_476]
        );

        let network = Network::Infogan {
            width: 64,
            dense: 1024,
            norm_decay: 0.999,
        };
        let fashion = Config {
            shape: [28, 28, 1],
            network: network.clone(),
            ..resnet(32, 1, 1, 64)
        };
        assert_eq!(
            counts(&fashion)?,
            [6_689_344, 6_642_241, 6_689_344 + 6_642_241 + 1]
        );
        let cifar = Config {
            network,
            ..resnet(32, 1, 1, 64)
        };
        assert_eq!(
            counts(&cifar)?,
            [8_657_472, 8_616_131, 8_657_472 + 8_616_131 + 1]
        );
        Ok(())
    }

    fn small(covariance: Covariance, dequantise: bool) -> Config {
        let network = Network::Resnet {
            width: 4,
            scales: 2,
            blocks: 1,
            dense: 8,
            max_width: 8,
            norm_decay: 0.999,
        };
        Config {
            shape: [8, 8, 3],
            latent: 4,
            network,
            covariance,
            dequantise,
        }
    }

    fn model(config: &Config, w: &Weights, prior: &prior::Config) -> Result<Phase1> {
        let vae = Vae::new(config, &w.pp("vae"))?;
        Ok(Phase1 {
            vae,
            prior: Prior::new(prior, &w.pp("prior"))?,
        })
    }

    fn images(n: usize) -> Result<Tensor> {
        let u = Noise::new(6, "images")
            .at(0)
            .uniform((n, 8, 8, 3), DType::F64, &CPU)?;
        Ok((u * 255.0)?.round()?)
    }

    fn parts(model: &Phase1, x: &Tensor, mode: Mode) -> Result<Vec<(&'static str, f64)>> {
        let loss = model.loss_in(x, &mut Noise::new(2, "loss").at(0), mode)?;
        let mut parts = vec![("loss", loss.total)];
        parts.extend(loss.parts);
        let number =
            |(name, t): (&'static str, Tensor)| Ok((name, t.flatten_all()?.to_vec1::<f64>()?[0]));
        parts.into_iter().map(number).collect()
    }

    /// Oracle 14, for any image: with gamma = 1 and x^ = 1/2 the reconstruction term is
    /// D (0.918939 + mean((x / 255 - 1/2)^2) / 2).
    #[test]
    fn the_first_reconstruction_loss_is_known() -> Result<()> {
        let w = Weights::new(0, DType::F64, &CPU);
        let model = model(
            &small(Covariance::Isotropic, false),
            &w,
            &prior::Config::Normal { dim: 4 },
        )?;
        let all = w.all();
        for name in ["vae.decoder.output.weight", "vae.decoder.output.bias"] {
            all[name].set(&all[name].zeros_like()?)?;
        }
        let x = images(6)?;
        let distance = ((&x / 255.0)? - 0.5)?
            .sqr()?
            .mean_all()?
            .to_scalar::<f64>()?;
        let found = parts(&model, &x, Mode::Train)?[1];
        let expect = 192.0 * (gaussian::HALF_LN_TAU + 0.5 * distance);
        assert_eq!(found.0, "reconstruction");
        assert!((found.1 - expect).abs() < 1e-9);
        Ok(())
    }

    /// With a flow at its start the joint loss differs from the VAE's own only by the draw of z:
    /// the same mean. Oracle 19: another prior changes the loss only through ln p(z).
    #[test]
    fn a_prior_enters_through_its_density_alone() -> Result<()> {
        let config = small(Covariance::Diagonal, true);
        let w = Weights::new(0, DType::F64, &CPU);
        let x = images(6)?;
        let normal = model(&config, &w, &prior::Config::Normal { dim: 4 })?;
        let flow = super::super::real_nvp::Config {
            layers: 3,
            width: 8,
            max_log_scale: 2.0,
        };
        let flow = model(&config, &w, &prior::Config::Flow { dim: 4, flow })?;
        let (a, b) = (
            parts(&normal, &x, Mode::Eval)?,
            parts(&flow, &x, Mode::Eval)?,
        );
        assert_eq!(a[1], b[1]);
        assert!((a[2].1 - b[2].1).abs() < 3.0, "{a:?} {b:?}");
        // bits/dim = loss / (D ln 2) + 8.
        assert_eq!(b[3].0, "bits/dim");
        assert!((b[3].1 - (b[0].1 / (192.0 * std::f64::consts::LN_2) + 8.0)).abs() < 1e-12);
        Ok(())
    }

    /// Oracle 18 for evaluation: it changes no tensor, and a training step changes the statistics.
    #[test]
    fn evaluation_changes_nothing() -> Result<()> {
        let network = Network::Infogan {
            width: 4,
            dense: 8,
            norm_decay: 0.999,
        };
        for config in [
            small(Covariance::Diagonal, true),
            Config {
                network,
                ..small(Covariance::Isotropic, false)
            },
        ] {
            let w = Weights::new(0, DType::F64, &CPU);
            let model = model(&config, &w, &prior::Config::Normal { dim: 4 })?;
            let bytes = || -> Result<Vec<f64>> {
                let all = w.all();
                let flat = all.values().map(|v| v.flatten_all()?.to_vec1::<f64>());
                Ok(flat.collect::<candle_core::Result<Vec<_>>>()?.concat())
            };
            let before = bytes()?;
            parts(&model, &images(4)?, Mode::Eval)?;
            assert!(before == bytes()?);
            parts(&model, &images(4)?, Mode::Train)?;
            assert!(before != bytes()?);
        }
        Ok(())
    }
}
