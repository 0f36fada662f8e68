//! The ResNet of Dai & Wipf's two-stage VAE (REFERENCE 2.2): encoder and decoder.

use anyhow::{Result, ensure};
use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::nn::batch_norm::Mode;
use crate::nn::conv_layer::{Conv, ConvTranspose, Window};
use crate::nn::dense::Dense;
use crate::nn::init::Init::{self, GlorotUniform};
use crate::nn::residual::ResidualBlock as Block;
use crate::nn::weights::Weights;

/// What the encoder's fully connected block sees of the last maps (A11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Head {
    /// The mean of each map, as Dai & Wipf's code has it.
    AveragePool,
    /// All values, as their figure has it: many more weights.
    Flatten,
}

/// Sizes of the networks; all of them TensorFlow-initialised (Glorot).
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Height (= width, a power of two) and channels of the images.
    pub side: usize,
    pub channels: usize,
    pub latent: usize,
    /// Channels at full resolution, doubled at each halving.
    pub width: usize,
    /// Resolutions of the encoder. The decoder always goes down to 2x2.
    pub scales: usize,
    /// Residual blocks per resolution.
    pub blocks: usize,
    pub head: Head,
    /// Width of the encoder's fully connected block.
    pub dense: usize,
    /// Bound of the decoder's channels.
    pub max_width: usize,
    /// Decay of batch norm's moving averages.
    pub norm_decay: f64,
    /// Channels the decoder's last convolution gives.
    pub output: usize,
    /// How many of them start drawn; the rest start at zero.
    pub drawn: usize,
}

fn scale(width: usize, config: &Config, w: &Weights) -> Result<Vec<Block>> {
    (0..config.blocks)
        .map(|i| {
            Block::new(
                width,
                config.norm_decay,
                GlorotUniform,
                &w.pp(format!("block{i}")),
            )
        })
        .collect()
}

fn through(blocks: &[Block], x: Tensor, mode: Mode) -> Result<Tensor> {
    blocks
        .iter()
        .try_fold(x, |h, block| block.forward(&h, mode))
}

pub struct Encoder {
    head: Head,
    input: Conv,
    scales: Vec<Vec<Block>>,
    downs: Vec<Conv>,
    dense: [Dense; 2],
    shortcut: Dense,
    mean: Dense,
    log_std: Dense,
}

impl Encoder {
    pub fn new(config: &Config, w: &Weights) -> Result<Self> {
        let c = config;
        ensure!(
            c.side >> (c.scales - 1) > 0,
            "an image side of {} cannot be halved {} times; hint: fewer network.scales",
            c.side,
            c.scales - 1
        );
        let width = |i: usize| c.width << i;
        let scales = (0..c.scales).map(|i| scale(width(i), c, &w.pp(format!("scale{i}"))));
        let down = |i| {
            let window = Window {
                kernel: 3,
                stride: 2,
                input: width(i),
                output: width(i + 1),
            };
            Conv::new(window, GlorotUniform, &w.pp(format!("down{i}")))
        };
        // Each halving rounds up.
        let side = (1..c.scales).fold(c.side, |side, _| side.div_ceil(2));
        let seen = width(c.scales - 1)
            * match c.head {
                Head::AveragePool => 1,
                Head::Flatten => side * side,
            };
        let dense = |input, output, name| Dense::new(input, output, GlorotUniform, &w.pp(name));
        Ok(Self {
            head: c.head,
            input: Conv::new(
                Window::three(c.channels, c.width),
                GlorotUniform,
                &w.pp("input"),
            )?,
            scales: scales.collect::<Result<_>>()?,
            downs: (0..c.scales - 1).map(down).collect::<Result<_>>()?,
            dense: [
                dense(seen, c.dense, "dense0")?,
                dense(c.dense, c.dense, "dense1")?,
            ],
            shortcut: dense(seen, c.dense, "shortcut")?,
            mean: dense(c.dense, c.latent, "mean")?,
            log_std: dense(c.dense, c.latent, "log_std")?,
        })
    }

    /// Mean and ln deviation of q(z|y), `[n, latent]`.
    pub fn forward(&self, y: &Tensor, mode: Mode) -> Result<(Tensor, Tensor)> {
        let mut h = self.input.forward(y)?;
        for (i, blocks) in self.scales.iter().enumerate() {
            if i > 0 {
                h = self.downs[i - 1].forward(&h)?;
            }
            h = through(blocks, h, mode)?;
        }
        let seen = match self.head {
            Head::AveragePool => h.mean((1, 2))?,
            Head::Flatten => h.flatten_from(1)?,
        };
        let mut h = seen.clone();
        for dense in &self.dense {
            h = dense.forward(&h.relu()?)?;
        }
        let h = (h + self.shortcut.forward(&seen)?)?;
        Ok((self.mean.forward(&h)?, self.log_std.forward(&h)?))
    }
}

pub struct Decoder {
    input: Dense,
    top: usize,
    ups: Vec<(ConvTranspose, Vec<Block>)>,
    output: Conv,
}

impl Decoder {
    pub fn new(config: &Config, w: &Weights) -> Result<Self> {
        let c = config;
        ensure!(
            c.side.is_power_of_two() && c.side >= 4,
            "the ResNet decoder wants a power of two as image side, not {}; hint: network.kind = \
             \"infogan\" takes multiples of four",
            c.side
        );
        // One width per resolution, from the output's side down to 2.
        let widths: Vec<usize> = (0..c.side.ilog2())
            .map(|i| (c.width << i).min(c.max_width))
            .collect();
        let top = widths[widths.len() - 1];
        let mut ups = Vec::new();
        for (i, pair) in widths.windows(2).rev().enumerate() {
            let window = Window {
                kernel: 3,
                stride: 2,
                input: pair[1],
                output: pair[0],
            };
            let up = ConvTranspose::new(window, GlorotUniform, &w.pp(format!("up{i}")))?;
            ups.push((up, scale(pair[0], c, &w.pp(format!("scale{i}")))?));
        }
        Ok(Self {
            input: Dense::new(c.latent, 4 * top, GlorotUniform, &w.pp("input"))?,
            top,
            ups,
            output: Conv::new(
                Window::three(c.width, c.output),
                Init::FirstOutputs {
                    drawn: c.drawn,
                    as_in: &GlorotUniform,
                },
                &w.pp("output"),
            )?,
        })
    }

    /// What the last convolution gives, `[n, side, side, output]`.
    pub fn forward(&self, z: &Tensor, mode: Mode) -> Result<Tensor> {
        let mut h = self.input.forward(z)?.reshape(((), 2, 2, self.top))?;
        for (up, blocks) in &self.ups {
            h = through(blocks, up.forward(&h)?, mode)?;
        }
        Ok(self.output.forward(&h)?)
    }
}
