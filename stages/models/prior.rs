//! A distribution of latent codes that can be sampled: N(0, I), a flow, or a second-stage VAE.

use std::path::Path;

use anyhow::{Result, bail};
use candle_core::{DType, Device, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::second_vae::SecondVae;
use super::{gaussian, real_nvp, second_vae};
use crate::nn::noise::Draws;
use crate::nn::weights::Weights;

/// The priors that train together with a VAE.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Joint {
    /// N(0, I).
    Normal,
    /// A flow, trained jointly (section 4.2 of the paper).
    Flow(real_nvp::Config),
}

/// What stands in a `prior` artifact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Config {
    Normal { dim: usize },
    Flow { dim: usize, flow: real_nvp::Config },
    SecondVae { dim: usize, vae: second_vae::Config },
}

impl Joint {
    pub fn config(&self, dim: usize) -> Config {
        match *self {
            Self::Normal => Config::Normal { dim },
            Self::Flow(flow) => Config::Flow { dim, flow },
        }
    }
}

/// p(z).
pub enum Prior {
    Normal {
        dim: usize,
        dtype: DType,
        device: Device,
    },
    Flow(real_nvp::RealNvp, DType, Device),
    SecondVae(SecondVae, DType, Device),
}

impl Prior {
    pub fn new(config: &Config, w: &Weights) -> Result<Self> {
        let (dtype, device) = (w.dtype(), w.device().clone());
        Ok(match config {
            Config::Normal { dim } => Self::Normal {
                dim: *dim,
                dtype,
                device,
            },
            Config::Flow { dim, flow } => {
                Self::Flow(real_nvp::RealNvp::new(flow, *dim, w)?, dtype, device)
            }
            Config::SecondVae { dim, vae } => {
                Self::SecondVae(SecondVae::new(vae, *dim, w)?, dtype, device)
            }
        })
    }

    /// Reads a `prior` artifact, frozen.
    pub fn load(path: &Path, dtype: DType, device: &Device) -> Result<Self> {
        let (weights, config): (_, Config) = Weights::load(path, dtype, device)?;
        Self::new(&config, &weights)
    }

    /// Latent size.
    pub fn dim(&self) -> usize {
        match self {
            Self::Normal { dim, .. } => *dim,
            Self::Flow(flow, ..) => flow.dim(),
            Self::SecondVae(vae, ..) => vae.dim(),
        }
    }

    /// `n` codes `[n, d]`.
    pub fn sample(&self, n: usize, noise: &mut Draws) -> Result<Tensor> {
        self.code(&self.base(n, noise)?, noise)
    }

    /// `n` draws u `[n, d]` of the N(0, I) that codes are made from.
    pub fn base(&self, n: usize, noise: &mut Draws) -> Result<Tensor> {
        let (Self::Normal { dtype, device, .. }
        | Self::Flow(_, dtype, device)
        | Self::SecondVae(_, dtype, device)) = self;
        Ok(noise.normal((n, self.dim()), *dtype, device)?)
    }

    /// Codes `[n, d]` of base draws u. Only a second-stage VAE adds noise of its own.
    pub fn code(&self, u: &Tensor, noise: &mut Draws) -> Result<Tensor> {
        match self {
            Self::Normal { .. } => Ok(u.clone()),
            Self::Flow(flow, ..) => flow.inverse(u),
            Self::SecondVae(vae, ..) => {
                let e = noise.normal(u.shape(), u.dtype(), u.device())?;
                vae.sample(u, &e)
            }
        }
    }

    /// ln p(z) in nats, `[n]`. A second-stage VAE has none in closed form.
    pub fn log_prob(&self, z: &Tensor) -> Result<Tensor> {
        match self {
            Self::Normal { .. } => Ok(gaussian::log_standard(z)?),
            Self::Flow(flow, ..) => flow.log_prob(z),
            Self::SecondVae(..) => {
                bail!("a second-stage VAE has no density; hint: give in.prior a flow or N(0, I)")
            }
        }
    }
}
