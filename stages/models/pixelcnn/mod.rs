//! Gated PixelCNN (van den Oord et al. 2016): the exact distribution of an image's bytes, one after the
//! other, each a softmax over its 256 values (TABLE2 2).

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use contract::{Input, Job};
use pulp::{Simd, WithSimd};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::image_model::{Density, ImageModel, Kinds, Latent};
use crate::nn::categorical;
use crate::nn::cpu::Real;
use crate::nn::cpu::simd::dispatch;
use crate::nn::noise::Draws;
use crate::nn::weights::Weights;
use network::{Network, Trunk};
use sampler::{Sampler, Scale};

pub mod network;
pub mod sampler;
#[cfg(test)]
pub mod tests;

/// Values of a byte.
const LEVELS: usize = 256;

/// What the network is shown of a byte x (B8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Range {
    /// `2 x / 255 - 1`.
    Centred,
    /// `x / 255`.
    Unit,
}

impl Range {
    /// Factor and offset.
    pub fn scale(self) -> Scale {
        match self {
            Self::Centred => Scale {
                by: 2.0 / 255.0,
                plus: -1.0,
            },
            Self::Unit => Scale {
                by: 1.0 / 255.0,
                plus: 0.0,
            },
        }
    }

    pub fn apply(self, images: &Tensor) -> candle_core::Result<Tensor> {
        let Scale { by, plus } = self.scale();
        images.affine(by, plus)
    }
}

/// What a file of weights says of its model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    pub network: Network,
    pub input: Range,
    /// Height, width, channels of the images.
    pub image: [usize; 3],
}

pub struct PixelCnn {
    trunk: Trunk,
    config: Config,
}

impl PixelCnn {
    pub fn new(config: &Config, w: &Weights) -> Result<Self> {
        Ok(Self {
            trunk: Trunk::new(&config.network, config.image[2], LEVELS, 0, w)?,
            config: config.clone(),
        })
    }

    /// `[n, h, w, c, 256]` of images 0 to 255, `[n, h, w, c]`.
    pub fn logits(&self, images: &Tensor) -> candle_core::Result<Tensor> {
        let maps = self.trunk.maps(&self.config.input.apply(images)?, None)?;
        let dims = [images.dims(), &[LEVELS]].concat();
        self.trunk.read(&maps)?.reshape(dims)
    }

    /// Bits of every sub-pixel, `[n, h, w, c]`.
    pub fn bits_of(&self, images: &Tensor) -> candle_core::Result<Tensor> {
        categorical::bits(&self.logits(images)?, images)
    }
}

impl ImageModel for PixelCnn {
    const KINDS: Kinds = Kinds {
        sample: "sample-pixelcnn",
        bits_per_dim: "bits-per-dim-pixelcnn",
        sample_about: "Draws images from a PixelCNN, sub-pixel by sub-pixel, on the CPU.",
        bits_about: "Bits per dimension of images under a PixelCNN: exact, of bytes.",
    };
    const PARTS: &'static [Input] = &[Input::one("pixelcnn", "pixelcnn")];

    fn load(job: &Job, device: &Device) -> Result<Self> {
        let (weights, config) = Weights::load(job.input("pixelcnn")?, DType::F32, device)?;
        Self::new(&config, &weights)
    }

    fn shape(&self) -> [usize; 3] {
        self.config.image
    }

    /// Logits are divided by the temperature; 0: always the likeliest value.
    fn sample(&self, n: usize, temperature: f64, noise: &mut Draws) -> Result<Tensor> {
        let [height, width, colours] = self.config.image;
        let u = noise.uniform((n, height, width, colours), DType::F64, &Device::Cpu)?;
        let sampler = Sampler::<f32>::new(&self.trunk, self.config.input.scale(), None)?;
        let mut u = u.flatten_all()?.to_vec1::<f64>()?;
        sampler.fill([height, width], &mut u, |logits, u| {
            f64::from(drawn(logits, u, temperature))
        });
        let images = Tensor::from_vec(u, (n, height, width, colours), &Device::Cpu)?;
        Ok(images.to_dtype(DType::F32)?)
    }
}

/// `e^(by (logit - largest))`.
struct Exponentials<'a, T> {
    logits: &'a [T],
    largest: T,
    by: T,
    to: &'a mut [T],
}

impl<T: Real> WithSimd for Exponentials<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (w, l) in self.to.iter_mut().zip(self.logits) {
            *w = ((*l - self.largest) * self.by).exp();
        }
    }
}

/// The value at which the sum of probabilities first exceeds u, from 0 to 1.
fn drawn<T: Real>(logits: &[T], u: f64, temperature: f64) -> u8 {
    let mut largest = logits[0];
    for l in logits {
        largest = if *l > largest { *l } else { largest };
    }
    if temperature == 0.0 {
        let first = logits.iter().position(|l| *l == largest);
        return first.unwrap_or(0).min(LEVELS - 1) as u8;
    }
    let mut weights = [T::default(); LEVELS];
    let (weights, by) = (&mut weights[..logits.len()], T::new(1.0 / temperature));
    dispatch(Exponentials {
        logits,
        largest,
        by,
        to: weights,
    });
    let target = u * weights.iter().map(|w| w.f64()).sum::<f64>();
    let mut sum = 0.0;
    let below = weights.iter().take_while(|w| {
        sum += w.f64();
        sum <= target
    });
    below.count().min(logits.len() - 1) as u8
}

impl Density for PixelCnn {
    const LATENT: Latent = Latent::None;
    const DEQUANTISATION: &'static str = "none";

    fn bits(&self, x: &Tensor, _draws: usize, _noise: &mut Draws) -> Result<Tensor> {
        let bits = self.bits_of(x)?.flatten_from(1)?;
        // In f64, as a mean of thousands.
        Ok(bits.to_dtype(DType::F64)?.mean(1)?)
    }
}
