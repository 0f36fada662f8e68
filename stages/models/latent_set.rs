//! Latent codes as training data: posteriors of images, from which z is drawn anew in every step.

use anyhow::Result;
use candle_core::{Device, Tensor};

use crate::data::latents::Latents;
use crate::nn::noise::Draws;
use crate::train::Dataset;

/// Means and ln deviations of some images, `[b, d]` each.
pub struct Posterior {
    mean: Tensor,
    log_std: Tensor,
}

impl Posterior {
    /// One draw of z for each image.
    pub fn draw(&self, noise: &mut Draws) -> candle_core::Result<Tensor> {
        let e = noise.normal(self.mean.shape(), self.mean.dtype(), self.mean.device())?;
        &self.mean + (self.log_std.exp()? * e)?
    }
}

impl Dataset<Posterior> for Latents {
    fn len(&self) -> usize {
        self.mean.dims()[0]
    }

    fn batch(&self, indices: &[usize]) -> Result<Posterior> {
        let chosen: Vec<u32> = indices.iter().map(|i| *i as u32).collect();
        let chosen = Tensor::new(chosen, &Device::Cpu)?.to_device(self.mean.device())?;
        Ok(Posterior {
            mean: self.mean.index_select(&chosen, 0)?,
            log_std: self.log_std.index_select(&chosen, 0)?,
        })
    }
}
