//! Training of the Glow baseline (official code openai/glow).

use anyhow::Result;
use candle_core::Tensor;

use super::augment::Augment;
use super::glow::{Config, Glow, preprocess};
use crate::nn::bijector::Bijector;
use crate::nn::noise::{Draws, Noise};
use crate::nn::weights::Weights;
use crate::train::{Dataset, Loss, Trainable};

/// Training of the baseline: `-ln p` in bits per dimension, the official objective.
pub struct GlowTraining {
    glow: Glow,
    /// The same weights without gradients.
    frozen: Glow,
    augment: Augment,
    /// Images on which actnorms start.
    init_images: usize,
    seed: u64,
}

impl GlowTraining {
    pub fn new(
        config: &Config,
        augment: Augment,
        init_images: usize,
        seed: u64,
        w: &Weights,
    ) -> Result<Self> {
        let glow = Glow::new(config, w)?;
        let frozen = Glow::new(config, &w.frozen())?;
        Ok(Self {
            glow,
            frozen,
            augment,
            init_images,
            seed,
        })
    }
}

impl Trainable<Tensor> for GlowTraining {
    fn start(&self, train: &dyn Dataset<Tensor>) -> Result<()> {
        let noise = Noise::new(self.seed, "glow.start");
        let chosen = start_images(train, self.init_images, &noise)?;
        self.glow.start(&preprocess(&chosen, &mut noise.at(1))?)?;
        Ok(())
    }

    fn loss(&self, images: &Tensor, noise: &mut Draws) -> Result<Loss> {
        let images = self.augment.apply(images, noise)?;
        let total = self
            .glow
            .bits_of(&preprocess(&images, noise)?)?
            .mean_all()?;
        Ok(Loss {
            parts: vec![("bits/dim", total.clone())],
            total,
        })
    }

    fn validate(&self, images: &Tensor, noise: &mut Draws) -> Result<Loss> {
        let total = self
            .frozen
            .bits_of(&preprocess(images, noise)?)?
            .mean_all()?;
        Ok(Loss {
            parts: vec![("bits/dim", total.clone())],
            total,
        })
    }
}

/// `n` different images of a training set, or all where it has fewer.
pub fn start_images(train: &dyn Dataset<Tensor>, n: usize, noise: &Noise) -> Result<Tensor> {
    let order = noise.at(0).permutation(train.len());
    let chosen: Vec<usize> = order.iter().take(n).map(|i| *i as usize).collect();
    train.batch(&chosen)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::super::glow::Flow;
    use super::*;
    use crate::nn::coupling::CouplingKind;

    /// What training starts from is what the first images say, in the weights that are saved.
    #[test]
    fn the_baseline_starts_from_data() -> Result<()> {
        let pixels = (0..8 * 8 * 8 * 3).map(|i| (i * 37 % 100) as u8).collect();
        let images = crate::data::images::Images::new([8, 8, 3], pixels, None)?;
        let device = Device::Cpu;
        let set = crate::train::ImageSet {
            images: &images,
            dtype: DType::F64,
            device: &device,
        };
        let w = Weights::new(0, DType::F64, &device);
        let flow = Flow::official(2, 2, 6, CouplingKind::Additive);
        let config = Config {
            flow,
            image: [8, 8, 3],
        };
        let model = GlowTraining::new(&config, Augment::None, 8, 0, &w)?;
        model.start(&set)?;
        let all = w.all();
        let norms = all.iter().filter(|(name, _)| name.contains("norm"));
        for (name, var) in norms {
            let size = var.abs()?.sum_all()?.to_scalar::<f64>()?;
            assert!(size > 0.0, "{name} is at zero");
        }
        // Standardised channels are close to the N(0, I) of the untrained priors.
        let batch = set.batch(&[0, 1, 2, 3, 4, 5, 6, 7])?;
        let x = preprocess(&batch, &mut Noise::new(0, "u").at(0))?;
        let square = model.glow.forward(&x)?.0.sqr()?.mean_all()?;
        let square = square.to_scalar::<f64>()?;
        assert!((square - 1.0).abs() < 0.2, "{square}");
        Ok(())
    }
}
