//! Training of a Residual Flow (official code rtqichen/residual-flows, `train_img.py`).

use anyhow::Result;
use candle_core::Tensor;

use super::augment::Augment;
use super::residual_flow::{Config, ResidualFlow, Series};
use crate::nn::noise::{Draws, Noise};
use crate::nn::spectral_conv::Power;
use crate::nn::weights::Weights;
use crate::train::{Dataset, Loss, Trainable};

/// How a Residual Flow is trained.
#[derive(Clone, Copy, Debug)]
pub struct How {
    pub augment: Augment,
    /// Terms of log-determinants, in training and for the curve of held-out images.
    pub series: Series,
    /// How exactly the norms of layers are known.
    pub power: Power,
    /// Images on which actnorms start.
    pub init_images: usize,
    pub seed: u64,
}

/// Training by an unbiased estimate of the gradient of `-ln p` in bits per dimension.
pub struct ResidualFlowTraining {
    flow: ResidualFlow,
    /// The same weights without gradients.
    frozen: ResidualFlow,
    how: How,
}

impl ResidualFlowTraining {
    pub fn new(config: &Config, how: How, w: &Weights) -> Result<Self> {
        how.series.check("series")?;
        Ok(Self {
            flow: ResidualFlow::new(config, w)?,
            frozen: ResidualFlow::new(config, &w.frozen())?,
            how,
        })
    }
}

impl Trainable<Tensor> for ResidualFlowTraining {
    fn start(&self, train: &dyn Dataset<Tensor>) -> Result<()> {
        let noise = Noise::new(self.how.seed, "residual-flow.start");
        let order = noise.at(0).permutation(train.len());
        let chosen = order.iter().take(self.how.init_images);
        let chosen: Vec<usize> = chosen.map(|i| *i as usize).collect();
        let y = ResidualFlow::dequantise(&train.batch(&chosen)?, &mut noise.at(1))?;
        self.flow.settle(self.how.power)?;
        Ok(self.flow.start(&y)?)
    }

    /// A value that has the right gradient. It is no bits per dimension, and so not called that.
    fn loss(&self, images: &Tensor, noise: &mut Draws) -> Result<Loss> {
        let images = self.how.augment.apply(images, noise)?;
        let y = ResidualFlow::dequantise(&images, noise)?;
        let probes = self.flow.probes(y.dim(0)?, &self.how.series, true, noise)?;
        Ok(Loss {
            total: self.flow.objective(&y, &probes)?,
            parts: Vec::new(),
        })
    }

    fn validate(&self, images: &Tensor, noise: &mut Draws) -> Result<Loss> {
        let y = ResidualFlow::dequantise(images, noise)?;
        let probes = self
            .frozen
            .probes(y.dim(0)?, &self.how.series, false, noise)?;
        let total = self.frozen.bits_of(&y, &probes)?.mean_all()?;
        Ok(Loss {
            parts: vec![("bits/dim", total.clone())],
            total,
        })
    }

    /// Norms of layers are those of the weights as they are now.
    fn moved(&self) -> Result<()> {
        Ok(self.flow.settle(self.how.power)?)
    }
}
