//! Training of the PixelIQN: the quantile loss at a number tau drawn for every sub-pixel and step.

use anyhow::{Result, ensure};
use candle_core::Tensor;

use super::augment::Augment;
use super::pixeliqn::{Config, PixelIqn, quantile_loss};
use crate::nn::noise::Draws;
use crate::nn::weights::Weights;
use crate::train::{Loss, Trainable};

pub struct PixelIqnTraining {
    model: PixelIqn,
    /// The same weights without gradients.
    frozen: PixelIqn,
    augment: Augment,
    kappa: f64,
}

impl PixelIqnTraining {
    pub fn new(config: &Config, augment: Augment, kappa: f64, w: &Weights) -> Result<Self> {
        ensure!(
            kappa >= 0.0 && kappa.is_finite(),
            "kappa = {kappa} must be a finite number, 0 or more"
        );
        Ok(Self {
            model: PixelIqn::new(config, w)?,
            frozen: PixelIqn::new(config, &w.frozen())?,
            augment,
            kappa,
        })
    }

    fn loss_of(&self, model: &PixelIqn, images: &Tensor, noise: &mut Draws) -> Result<Loss> {
        let tau = noise.uniform(images.shape(), images.dtype(), images.device())?;
        let u = ((images / 255.0)? - model.quantiles(images, &tau)?)?;
        let total = quantile_loss(&u, &tau, self.kappa)?.mean_all()?;
        let crps = (quantile_loss(&u.detach(), &tau, 0.0)?.mean_all()? * CRPS)?;
        Ok(Loss {
            parts: vec![("quantile loss", total.clone()), ("CRPS", crps)],
            total,
        })
    }
}

/// From a mean pinball loss on the scale of x / 255 to CRPS in grey levels: CRPS is twice its mean over tau.
pub const CRPS: f64 = 510.0;

impl Trainable<Tensor> for PixelIqnTraining {
    fn loss(&self, images: &Tensor, noise: &mut Draws) -> Result<Loss> {
        let images = self.augment.apply(images, noise)?;
        self.loss_of(&self.model, &images, noise)
    }

    fn validate(&self, images: &Tensor, noise: &mut Draws) -> Result<Loss> {
        self.loss_of(&self.frozen, images, noise)
    }
}
