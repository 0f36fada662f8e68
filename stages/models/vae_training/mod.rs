//! Phase 1: a VAE and its prior, trained together (equation 1 of the paper).

use anyhow::Result;
use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::gaussian;
use super::prior::Prior;
use super::vae::Vae;
use crate::metrics::bits::bits_per_dim;
use crate::nn::batch_norm::Mode;
use crate::nn::noise::Draws;
use crate::train::{Loss, Trainable};

/// How phase 1 takes the KL divergence of q(z|y) from p(z), with one draw of z (A17).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Kl {
    /// What has a closed form is exact: the entropy of q in `-ln p(z) - H[q]`, and all of it where
    /// the prior is N(0, I).
    Analytic,
    /// `ln q(z|y) - ln p(z)`: the same mean, with the variance of the draw in both terms. Where the
    /// prior is a flow the gradients are those of the other.
    MonteCarlo,
}

/// A VAE and its prior, trained together: -ln p(y|z) and the KL divergence, one draw of z.
pub struct VaeTraining {
    pub vae: Vae,
    pub prior: Prior,
    pub kl: Kl,
}

impl VaeTraining {
    fn loss_in(&self, x: &Tensor, noise: &mut Draws, mode: Mode) -> Result<Loss> {
        let y = self.vae.prepare(x, noise)?;
        let e = noise.normal((y.dim(0)?, self.vae.config().latent), y.dtype(), y.device())?;
        self.loss_of(&y, &e, mode)
    }

    /// The loss of prepared images, with z drawn by standard normal `e`.
    pub fn loss_of(&self, y: &Tensor, e: &Tensor, mode: Mode) -> Result<Loss> {
        let (mean, log_std) = self.vae.encode_in(y, mode)?;
        let z = (&mean + (log_std.exp()? * e)?)?;
        let (mu, log_sigma) = self.vae.decode_in(&z, mode)?;
        let density = gaussian::log_density(y, &mu, &log_sigma)?;
        let reconstruction = density.neg()?.mean_all()?;
        let kl = match (self.kl, &self.prior) {
            (Kl::Analytic, Prior::Normal { .. }) => gaussian::divergence(&mean, &log_std)?,
            (Kl::Analytic, prior) => (prior.log_prob(&z)? + gaussian::entropy(&log_std)?)?.neg()?,
            (Kl::MonteCarlo, prior) => {
                (gaussian::log_density(&z, &mean, &log_std)? - prior.log_prob(&z)?)?
            }
        };
        let kl = kl.mean_all()?;
        let total = (&reconstruction + &kl)?;
        let mut parts = vec![("reconstruction", reconstruction), ("kl", kl)];
        if self.vae.config().dequantise {
            let bits = bits_per_dim(&total.neg()?, self.vae.dims(), 1.0 / 256.0)?;
            parts.push(("bits/dim", bits));
        }
        if let Some(log_gamma) = self.vae.log_gamma() {
            parts.push(("gamma", log_gamma.exp()?.mean_all()?));
        }
        Ok(Loss { total, parts })
    }
}

impl Trainable<Tensor> for VaeTraining {
    fn loss(&self, x: &Tensor, noise: &mut Draws) -> Result<Loss> {
        self.loss_in(x, noise, Mode::Train)
    }

    fn validate(&self, x: &Tensor, noise: &mut Draws) -> Result<Loss> {
        self.loss_in(x, noise, Mode::Eval)
    }
}

#[cfg(test)]
mod tests;
