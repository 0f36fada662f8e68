//! The second-stage VAE of Dai & Wipf (2019), trained on latent codes (REFERENCE 2.4).

use anyhow::Result;
use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::gaussian;
use crate::nn::dense::Dense;
use crate::nn::init::Init;
use crate::nn::weights::Weights;

/// Sizes of both networks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub width: usize,
    /// Hidden layers of each network.
    pub depth: usize,
}

/// q(u|z) and p(z|u), both on R^d, with one learned deviation of z.
pub struct SecondVae {
    encoder: Stack,
    mean: Dense,
    log_std: Dense,
    decoder: Stack,
    output: Dense,
    /// ln of the deviation of z given u, `[1]`.
    log_gamma: Tensor,
    dim: usize,
}

/// Dense layers with ReLU, whose input is appended to their output.
struct Stack(Vec<Dense>);

impl Stack {
    fn new(config: &Config, input: usize, w: &Weights) -> Result<Self> {
        let layer = |i| {
            let from = if i == 0 { input } else { config.width };
            Dense::new(
                from,
                config.width,
                Init::GlorotUniform,
                &w.pp(format!("dense{i}")),
            )
        };
        Ok(Self((0..config.depth).map(layer).collect::<Result<_>>()?))
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let hidden = self
            .0
            .iter()
            .try_fold(x.clone(), |h, layer| layer.forward(&h)?.relu())?;
        Tensor::cat(&[&hidden, x], 1)
    }
}

impl SecondVae {
    pub fn new(config: &Config, dim: usize, w: &Weights) -> Result<Self> {
        let (e, d) = (w.pp("encoder"), w.pp("decoder"));
        let head = |w: &Weights, name| {
            Dense::new(config.width + dim, dim, Init::GlorotUniform, &w.pp(name))
        };
        Ok(Self {
            encoder: Stack::new(config, dim, &e)?,
            mean: head(&e, "mean")?,
            log_std: head(&e, "log_std")?,
            decoder: Stack::new(config, dim, &d)?,
            output: head(&d, "output")?,
            log_gamma: w.get(1, "log_gamma", Init::Zeros)?,
            dim,
        })
    }

    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Mean and ln deviation of q(u|z).
    pub fn encode(&self, z: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        let h = self.encoder.forward(z)?;
        Ok((self.mean.forward(&h)?, self.log_std.forward(&h)?))
    }

    /// Mean of p(z|u).
    pub fn decode(&self, u: &Tensor) -> candle_core::Result<Tensor> {
        self.output.forward(&self.decoder.forward(u)?)
    }

    /// Reconstruction loss -ln p(z|u) and KL, each `[n]`, with u drawn by `e`.
    pub fn losses(&self, z: &Tensor, e: &Tensor) -> Result<(Tensor, Tensor)> {
        let (mean, log_std) = self.encode(z)?;
        let u = (&mean + (log_std.exp()? * e)?)?;
        let log_gamma = self.log_gamma.broadcast_as(z.shape())?;
        let reconstruction = gaussian::log_density(z, &self.decode(&u)?, &log_gamma)?.neg()?;
        Ok((reconstruction, gaussian::divergence(&mean, &log_std)?))
    }

    /// z from u and the noise of z, both standard normal.
    pub fn sample(&self, u: &Tensor, e: &Tensor) -> Result<Tensor> {
        Ok((self.decode(u)? + e.broadcast_mul(&self.log_gamma.exp()?)?)?)
    }

    /// ln gamma, `[1]`.
    pub fn log_gamma(&self) -> &Tensor {
        &self.log_gamma
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    /// REFERENCE 2.4.
    #[test]
    fn the_paper_size_has_the_known_number_of_parameters() -> Result<()> {
        let w = Weights::new(0, DType::F32, &Device::Cpu);
        SecondVae::new(
            &Config {
                width: 1024,
                depth: 3,
            },
            64,
            &w,
        )?;
        assert_eq!(w.count(), 4_540_609);
        Ok(())
    }
}
