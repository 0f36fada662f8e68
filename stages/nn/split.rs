//! Priors of a multi-scale flow as bijections: a Gaussian whose mean and deviation depend on what
//! stays is the map to standard normal noise.
//!
//! So a whole Glow is one bijection between images and noise, and sampling at temperature T is its
//! inverse on T times noise.

use anyhow::{Result, ensure};
use candle_core::{D, Tensor};

use super::bijector::Bijector;
use super::coupling::interleaved;
use super::glow_conv::ZeroConv;
use super::weights::Weights;

/// Split prior: of `[n, h, w, c]` the first half of the channels stays; the second half z2 becomes
/// `(z2 - mean) exp(-log_std)`, with mean (even channels) and log_std (odd) a zero convolution of
/// the first half.
pub struct Split {
    half: usize,
    conv: ZeroConv,
}

impl Split {
    pub fn new(channels: usize, w: &Weights) -> Result<Self> {
        ensure!(
            channels.is_multiple_of(2),
            "a split needs an even number of channels, got {channels}"
        );
        let half = channels / 2;
        Ok(Self {
            half,
            conv: ZeroConv::new(half, channels, w)?,
        })
    }

    fn prior(&self, z1: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        interleaved(&self.conv.forward(z1)?)
    }

    fn halves(&self, x: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        Ok((
            x.narrow(D::Minus1, 0, self.half)?,
            x.narrow(D::Minus1, self.half, self.half)?,
        ))
    }
}

impl Bijector for Split {
    fn forward(&self, x: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        let (z1, z2) = self.halves(x)?;
        let (mean, log_std) = self.prior(&z1)?;
        let (noise, log_det) = to_noise(&z2, &mean, &log_std)?;
        Ok((Tensor::cat(&[&z1, &noise], D::Minus1)?, log_det))
    }

    fn inverse(&self, y: &Tensor) -> candle_core::Result<Tensor> {
        let (z1, noise) = self.halves(y)?;
        let (mean, log_std) = self.prior(&z1)?;
        let z2 = ((noise * log_std.exp()?)? + mean)?;
        Tensor::cat(&[&z1, &z2], D::Minus1)
    }
}

/// The learned prior of the last level (`learntop`): mean (first half) and log_std (second half)
/// from a zero convolution of an all-zero image, so that they know only where the border is.
pub struct Top {
    conv: ZeroConv,
    channels: usize,
}

impl Top {
    pub fn new(channels: usize, w: &Weights) -> Result<Self> {
        Ok(Self {
            conv: ZeroConv::new(2 * channels, 2 * channels, w)?,
            channels,
        })
    }

    fn prior(&self, like: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        let (_, h, w, _) = like.dims4()?;
        let out = self.conv.of_zeros((h, w))?;
        Ok((
            out.narrow(3, 0, self.channels)?,
            out.narrow(3, self.channels, self.channels)?,
        ))
    }
}

impl Bijector for Top {
    fn forward(&self, x: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        let (mean, log_std) = self.prior(x)?;
        to_noise(
            x,
            &mean.broadcast_as(x.shape())?,
            &log_std.broadcast_as(x.shape())?,
        )
    }

    fn inverse(&self, y: &Tensor) -> candle_core::Result<Tensor> {
        let (mean, log_std) = self.prior(y)?;
        y.broadcast_mul(&log_std.exp()?)?.broadcast_add(&mean)
    }
}

fn to_noise(z: &Tensor, mean: &Tensor, log_std: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
    let noise = ((z - mean)? * log_std.neg()?.exp()?)?;
    Ok((noise, log_std.flatten_from(1)?.sum(1)?.neg()?))
}
