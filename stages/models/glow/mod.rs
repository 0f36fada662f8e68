//! The multi-scale Glow baseline (Kingma & Dhariwal 2018; official code openai/glow).

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};
use contract::{Input, Job};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::image_model::{Density, ImageModel, Kinds, Latent};
use super::step::{self, Step};
use super::{gaussian, pixels};
use crate::metrics::bits::bits_per_dim;
use crate::nn::act_norm::Start;
use crate::nn::bijector::{Bijector, no_change};
use crate::nn::coupling::{self, CouplingKind, CouplingNetwork, Roles};
use crate::nn::init::Init;
use crate::nn::inv_conv::InvConvForm;
use crate::nn::noise::Draws;
use crate::nn::split::{Split, Top};
use crate::nn::squeeze::Squeeze;
use crate::nn::weights::Weights;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Flow {
    /// Times the image is squeezed.
    pub levels: usize,
    /// Steps per level.
    pub depth: usize,
    /// Channels inside the coupling networks.
    pub width: usize,
    pub coupling: CouplingKind,
    pub network: CouplingNetwork,
    pub inv_conv: InvConvForm,
    /// Whether the prior of the last level is learned (`learntop`) or standard normal.
    pub learn_top: bool,
}

#[cfg(test)]
impl Flow {
    /// As in the official code, with a learned top.
    pub fn official(levels: usize, depth: usize, width: usize, coupling: CouplingKind) -> Self {
        Self {
            levels,
            depth,
            width,
            coupling,
            network: CouplingNetwork::Official,
            inv_conv: InvConvForm::Plain,
            learn_top: true,
        }
    }
}

/// What a file of weights says of its model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    pub flow: Flow,
    /// Height, width, channels of the images.
    pub image: [usize; 3],
}

/// A bijection between images `[n, h, w, c]` and standard normal noise `[n, h w c]`.
pub struct Glow {
    levels: Vec<Level>,
    top: Option<Top>,
    image: [usize; 3],
    dtype: DType,
    device: Device,
}

/// Squeeze, steps, and, but for the last level, a split.
struct Level {
    steps: Vec<Step>,
    split: Option<Split>,
    /// Height, width and channels after the squeeze.
    shape: [usize; 3],
}

impl Level {
    /// Values per image that leave at this level's end.
    fn leaving(&self) -> usize {
        let all: usize = self.shape.iter().product();
        if self.split.is_some() { all / 2 } else { all }
    }
}

impl Glow {
    pub fn new(config: &Config, w: &Weights) -> Result<Self> {
        let (flow, [mut height, mut width, mut channels]) = (&config.flow, config.image);
        let side = 1 << flow.levels;
        ensure!(
            flow.levels > 0 && height % side == 0 && width % side == 0,
            "{} levels need at least one squeeze and image sides that are multiples of {side}, \
             the images are {height}x{width}",
            flow.levels
        );
        let of_step = step::Config {
            norm: Start::Data,
            mix: Init::Orthogonal,
            inv_conv: flow.inv_conv,
            coupling: coupling::Config {
                kind: flow.coupling,
                network: flow.network,
                width: flow.width,
            },
        };
        let mut levels = Vec::new();
        for i in 0..flow.levels {
            (height, width, channels) = (height / 2, width / 2, channels * 4);
            let level = w.pp(format!("level{i}"));
            // An even number of channels: both roles are a half (A3 is about three).
            let roles = Roles::official(channels)?;
            let step = |k| Step::new(of_step, roles, &level.pp(format!("step{k}")));
            let steps = (0..flow.depth).map(step).collect::<Result<_>>()?;
            let last = i + 1 == flow.levels;
            let split = match last {
                true => None,
                false => Some(Split::new(channels, &level.pp("split"))?),
            };
            levels.push(Level {
                steps,
                split,
                shape: [height, width, channels],
            });
            if !last {
                channels /= 2;
            }
        }
        let top = match flow.learn_top {
            true => Some(Top::new(channels, &w.pp("top"))?),
            false => None,
        };
        Ok(Self {
            levels,
            top,
            image: config.image,
            dtype: w.dtype(),
            device: w.device().clone(),
        })
    }

    /// Sub-pixels of an image.
    pub fn dims(&self) -> usize {
        self.image.iter().product()
    }

    /// `ln p(x)` in nats, `[n]`, of images as [`preprocess`] gives them.
    pub fn log_density(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (noise, log_det) = self.forward(x)?;
        gaussian::log_standard(&noise)? + log_det
    }

    /// Bits per dimension of images as [`preprocess`] gives them, `[n]`.
    pub fn bits_of(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        bits_per_dim(&self.log_density(x)?, self.dims(), 1.0 / 256.0)
    }

    /// The last level's prior.
    fn top(&self, z: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        match &self.top {
            Some(top) => top.forward(z),
            None => Ok((z.clone(), no_change(z)?)),
        }
    }

    /// `n` images as [`preprocess`] gives them, from noise scaled by `temperature` at every split and at
    /// the top.
    pub fn draw(
        &self,
        n: usize,
        temperature: f64,
        noise: &mut Draws,
    ) -> candle_core::Result<Tensor> {
        let noise = noise.normal((n, self.dims()), self.dtype, &self.device)?;
        self.inverse(&(noise * temperature)?)
    }
}

impl ImageModel for Glow {
    const KINDS: Kinds = Kinds {
        sample: "sample-glow",
        bits_per_dim: "bits-per-dim-glow",
        sample_about: "Draws images from the Glow baseline.",
        bits_about: "Bits per dimension of images under the Glow baseline.",
    };
    const PARTS: &'static [Input] = &[Input::one("glow", "glow")];

    fn load(job: &Job, device: &Device) -> Result<Self> {
        let (weights, config) = Weights::load(job.input("glow")?, DType::F32, device)?;
        Self::new(&config, &weights)
    }

    fn shape(&self) -> [usize; 3] {
        self.image
    }

    fn sample(&self, n: usize, temperature: f64, noise: &mut Draws) -> Result<Tensor> {
        Ok(postprocess(&self.draw(n, temperature, noise)?)?)
    }
}

impl Density for Glow {
    const LATENT: Latent = Latent::None;

    fn bits(&self, x: &Tensor, _draws: usize, noise: &mut Draws) -> Result<Tensor> {
        Ok(self.bits_of(&preprocess(x, noise)?)?)
    }
}

impl Bijector for Glow {
    fn forward(&self, x: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        let (mut x, mut log_det) = (x.clone(), no_change(x)?);
        let mut noise = Vec::new();
        for level in &self.levels {
            let (z, by_steps) = level.steps.forward(&Squeeze.forward(&x)?.0)?;
            log_det = (log_det + by_steps)?;
            match &level.split {
                Some(split) => {
                    let half = level.shape[2] / 2;
                    let (z, by_prior) = split.forward(&z)?;
                    noise.push(z.narrow(3, half, half)?.flatten_from(1)?);
                    x = z.narrow(3, 0, half)?;
                    log_det = (log_det + by_prior)?;
                }
                None => {
                    let (z, by_prior) = self.top(&z)?;
                    noise.push(z.flatten_from(1)?);
                    log_det = (log_det + by_prior)?;
                }
            }
        }
        Ok((Tensor::cat(&noise, 1)?, log_det))
    }

    fn inverse(&self, noise: &Tensor) -> candle_core::Result<Tensor> {
        let n = noise.dim(0)?;
        let mut end = noise.dim(1)?;
        let mut x: Option<Tensor> = None;
        for level in self.levels.iter().rev() {
            let [h, w, _] = level.shape;
            let len = level.leaving();
            end -= len;
            let z = noise
                .narrow(1, end, len)?
                .reshape((n, h, w, len / (h * w)))?;
            let z = match (&level.split, &self.top, x) {
                (Some(split), _, Some(x)) => split.inverse(&Tensor::cat(&[&x, &z], 3)?)?,
                (None, Some(top), _) => top.inverse(&z)?,
                _ => z,
            };
            x = Some(Squeeze.inverse(&level.steps.inverse(&z)?)?);
        }
        match x {
            Some(x) => Ok(x),
            None => candle_core::bail!("BUG: a Glow without levels"),
        }
    }

    fn start(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let mut x = x.clone();
        for level in &self.levels {
            x = level.steps.start(&Squeeze.forward(&x)?.0)?;
            // Priors start at N(0, I), and only the half that stays is needed further on.
            if level.split.is_some() {
                x = x.narrow(3, 0, level.shape[2] / 2)?;
            }
        }
        Ok(x)
    }
}

/// Images of whole numbers 0 to 255 and uniform noise to `x / 256 - 0.5 + u / 256`.
pub fn preprocess(images: &Tensor, noise: &mut Draws) -> candle_core::Result<Tensor> {
    let u = noise.uniform(images.shape(), images.dtype(), images.device())?;
    ((images + u)? / 256.0)? - 0.5
}

/// Back from [`preprocess`]: pixels, floats on the scale of bytes.
pub fn postprocess(x: &Tensor) -> candle_core::Result<Tensor> {
    pixels::of_dequantised(&(x + 0.5)?)
}

#[cfg(test)]
mod tests;
