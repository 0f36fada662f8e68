//! Training of the PixelCNN: its bits per dimension.

use anyhow::Result;
use candle_core::Tensor;

use super::augment::Augment;
use super::pixelcnn::{Config, PixelCnn};
use crate::nn::noise::Draws;
use crate::nn::weights::Weights;
use crate::train::{Loss, Trainable};

pub struct PixelCnnTraining {
    model: PixelCnn,
    /// The same weights without gradients.
    frozen: PixelCnn,
    augment: Augment,
}

impl PixelCnnTraining {
    pub fn new(config: &Config, augment: Augment, w: &Weights) -> Result<Self> {
        Ok(Self {
            model: PixelCnn::new(config, w)?,
            frozen: PixelCnn::new(config, &w.frozen())?,
            augment,
        })
    }
}

fn loss(model: &PixelCnn, images: &Tensor) -> Result<Loss> {
    let total = model.bits_of(images)?.mean_all()?;
    Ok(Loss {
        parts: vec![("bits/dim", total.clone())],
        total,
    })
}

impl Trainable<Tensor> for PixelCnnTraining {
    fn loss(&self, images: &Tensor, noise: &mut Draws) -> Result<Loss> {
        loss(&self.model, &self.augment.apply(images, noise)?)
    }

    fn validate(&self, images: &Tensor, _: &mut Draws) -> Result<Loss> {
        loss(&self.frozen, images)
    }
}
