//! The InfoGAN-style networks of Dai & Wipf's neutral comparison (REFERENCE 2.3), used for Table 1:
//! an encoder with spectral normalisation and a decoder of transposed convolutions.

use anyhow::{Result, ensure};
use candle_core::Tensor;

use crate::nn::batch_norm::{BatchNorm, Mode};
use crate::nn::channel::Activation::{Leaky, Relu};
use crate::nn::conv_layer::{Conv, ConvTranspose, Window};
use crate::nn::dense::Dense;
use crate::nn::init::Init;
use crate::nn::spectral::SpectralNorm;
use crate::nn::weights::Weights;

const NORMAL: Init = Init::Normal { std: 0.02 };
const TRUNCATED: Init = Init::TruncatedNormal { std: 0.02 };

/// Sizes of the networks.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Multiples of four.
    pub height: usize,
    pub breadth: usize,
    pub channels: usize,
    pub latent: usize,
    /// Channels at half resolution (64 in the paper), twice that at a quarter.
    pub width: usize,
    pub dense: usize,
    /// Decay of batch norm's moving averages.
    pub norm_decay: f64,
    /// Channels the decoder's last convolution gives.
    pub output: usize,
    /// How many of them start drawn; the rest start at zero.
    pub drawn: usize,
}

impl Config {
    /// Values at a quarter of the resolution.
    fn flat(&self) -> usize {
        2 * self.width * (self.height / 4) * (self.breadth / 4)
    }
}

const fn window(input: usize, output: usize) -> Window {
    Window {
        kernel: 4,
        stride: 2,
        input,
        output,
    }
}

pub struct Encoder {
    convs: [(Conv, SpectralNorm); 2],
    dense: [(Dense, SpectralNorm); 2],
    norms: [BatchNorm; 2],
    latent: usize,
}

impl Encoder {
    pub fn new(config: &Config, w: &Weights) -> Result<Self> {
        let c = config;
        ensure!(
            c.height.is_multiple_of(4) && c.breadth.is_multiple_of(4),
            "the InfoGAN-style network wants image sides that are multiples of four, not {}x{}",
            c.height,
            c.breadth
        );
        let conv = |input, output, name| -> Result<_> {
            let w = w.pp(name);
            Ok((
                Conv::new(window(input, output), TRUNCATED, &w)?,
                SpectralNorm::new(output, &w)?,
            ))
        };
        let dense = |input, output, name| -> Result<_> {
            let w = w.pp(name);
            Ok((
                Dense::new(input, output, NORMAL, &w)?,
                SpectralNorm::new(output, &w)?,
            ))
        };
        Ok(Self {
            convs: [
                conv(c.channels, c.width, "conv0")?,
                conv(c.width, 2 * c.width, "conv1")?,
            ],
            dense: [
                dense(c.flat(), c.dense, "dense0")?,
                dense(c.dense, 2 * c.latent, "dense1")?,
            ],
            norms: [
                BatchNorm::new(2 * c.width, c.norm_decay, &w.pp("norm1"))?,
                BatchNorm::new(c.dense, c.norm_decay, &w.pp("norm2"))?,
            ],
            latent: c.latent,
        })
    }

    /// Mean and ln deviation of q(z|y), `[n, latent]`; the deviation is 1e-6 + softplus.
    pub fn forward(&self, y: &Tensor, mode: Mode) -> Result<(Tensor, Tensor)> {
        let leaky = Leaky(0.2);
        let [(conv0, s0), (conv1, s1)] = &self.convs;
        let [(dense0, s2), (dense1, s3)] = &self.dense;
        let h = conv0.activated_with(y, &s0.normalise(conv0.weight(), mode)?, leaky)?;
        let h = conv1.forward_with(&h, &s1.normalise(conv1.weight(), mode)?)?;
        let h = self.norms[0].forward(&h, mode, leaky)?.flatten_from(1)?;
        let h = dense0.forward_with(&h, &s2.normalise(dense0.weight(), mode)?)?;
        let h = self.norms[1].forward(&h, mode, leaky)?;
        let h = dense1.forward_with(&h, &s3.normalise(dense1.weight(), mode)?)?;
        let spread = h.narrow(1, self.latent, self.latent)?;
        let log_std = (softplus(&spread)? + 1e-6)?.log()?;
        Ok((h.narrow(1, 0, self.latent)?.contiguous()?, log_std))
    }
}

/// ln(1 + e^x), without overflow.
pub fn softplus(x: &Tensor) -> candle_core::Result<Tensor> {
    x.relu()? + (x.abs()?.neg()?.exp()? + 1.0)?.log()?
}

pub struct Decoder {
    dense: [Dense; 2],
    deconvs: [ConvTranspose; 2],
    norms: [BatchNorm; 3],
    config: Config,
}

impl Decoder {
    pub fn new(config: &Config, w: &Weights) -> Result<Self> {
        let c = config;
        let deconv = |i, o, name| ConvTranspose::new(window(i, o), NORMAL, &w.pp(name));
        let last = Init::FirstOutputs {
            drawn: c.drawn,
            as_in: &NORMAL,
        };
        Ok(Self {
            dense: [
                Dense::new(c.latent, c.dense, NORMAL, &w.pp("dense0"))?,
                Dense::new(c.dense, c.flat(), NORMAL, &w.pp("dense1"))?,
            ],
            deconvs: [
                deconv(2 * c.width, c.width, "deconv0")?,
                ConvTranspose::new(window(c.width, c.output), last, &w.pp("deconv1"))?,
            ],
            norms: [
                BatchNorm::new(c.dense, c.norm_decay, &w.pp("norm0"))?,
                BatchNorm::new(c.flat(), c.norm_decay, &w.pp("norm1"))?,
                BatchNorm::new(c.width, c.norm_decay, &w.pp("norm2"))?,
            ],
            config: *c,
        })
    }

    /// What the last transposed convolution gives, `[n, h, w, output]`.
    pub fn forward(&self, z: &Tensor, mode: Mode) -> Result<Tensor> {
        let c = &self.config;
        let h = self.norms[0].forward(&self.dense[0].forward(z)?, mode, Relu)?;
        let h = self.norms[1].forward(&self.dense[1].forward(&h)?, mode, Relu)?;
        let h = h.reshape(((), c.height / 4, c.breadth / 4, 2 * c.width))?;
        let h = self.norms[2].forward(&self.deconvs[0].forward(&h)?, mode, Relu)?;
        Ok(self.deconvs[1].forward(&h)?)
    }
}
