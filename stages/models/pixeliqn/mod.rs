//! PixelIQN (Ostrovski et al. 2018): the trunk of the PixelCNN, which for a sub-pixel and a number tau from
//! 0 to 1 gives the tau-quantile of its value. It has no likelihood (TABLE2 3).

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};
use contract::{Input, Job};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::image_model::{ImageModel, Kinds};
use super::pixelcnn::Range;
use super::pixelcnn::network::{Network, Trunk};
use super::pixelcnn::sampler::{Sampler, ToldBy};
use crate::nn::init::Init;
use crate::nn::noise::Draws;
use crate::nn::weights::Weights;

#[cfg(test)]
mod tests;

/// How the network is told tau (C2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Tau {
    /// `2 tau - 1`, times weights, into every gate of the horizontal stack.
    Linear {},
    /// The same with `cos(pi j tau)` for j from 0 on.
    Cosine { features: usize },
    /// The cosines' embedding times what the head reads: the trunk does not see tau.
    Head { features: usize },
}

impl Tau {
    /// Numbers that tau becomes.
    fn features(self) -> usize {
        match self {
            Self::Linear {} => 1,
            Self::Cosine { features } | Self::Head { features } => features,
        }
    }

    /// `[n, h, w, c]` to `[n, h, w, c features]`.
    fn apply(self, tau: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Linear {} => tau.affine(2.0, -1.0),
            Self::Cosine { features } | Self::Head { features } => {
                let (n, h, w, c) = tau.dims4()?;
                let waves = (0..features).map(|j| j as f64 * std::f64::consts::PI);
                let waves = Tensor::from_iter(waves, &Device::Cpu)?;
                let waves = waves.to_dtype(tau.dtype())?.to_device(tau.device())?;
                let all = tau.unsqueeze(4)?.broadcast_mul(&waves)?.cos()?;
                all.reshape((n, h, w, c * features))
            }
        }
    }

    /// The same for one number.
    fn fill(self, tau: f64, to: &mut [f32]) {
        match self {
            Self::Linear {} => to[0] = (2.0 * tau - 1.0) as f32,
            _ => {
                for (j, to) in to.iter_mut().enumerate() {
                    *to = (j as f64 * std::f64::consts::PI * tau).cos() as f32;
                }
            }
        }
    }
}

/// What a file of weights says of its model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    pub network: Network,
    pub tau: Tau,
    pub input: Range,
    /// Height, width, channels of the images.
    pub image: [usize; 3],
}

/// Tau's embedding before the head: weight `[features, maps]` and bias.
struct Embedding {
    weight: Tensor,
    bias: Tensor,
    /// 1 where a map has the colour, `[colours, maps]`.
    own: Tensor,
}

impl Embedding {
    /// Of features `[n, h, w, colours features]`, each map of its own colour's.
    fn forward(&self, features: &Tensor) -> candle_core::Result<Tensor> {
        let (n, h, w, all) = features.dims4()?;
        let (colours, maps) = self.own.dims2()?;
        let rows = features.reshape((n * h * w * colours, all / colours))?;
        let each = rows
            .matmul(&self.weight)?
            .reshape((n * h * w, colours, maps))?;
        let own = each.broadcast_mul(&self.own)?.sum(1)?;
        own.broadcast_add(&self.bias)?.reshape((n, h, w, maps))
    }
}

pub struct PixelIqn {
    trunk: Trunk,
    head: Option<Embedding>,
    config: Config,
}

impl PixelIqn {
    /// Before training, every quantile is near one half (C8).
    pub fn new(config: &Config, w: &Weights) -> Result<Self> {
        let features = config.tau.features();
        ensure!(features > 0, "tau.features must be at least 1");
        let (network, colours) = (&config.network, config.image[2]);
        let in_head = matches!(config.tau, Tau::Head { .. });
        let told = if in_head { 0 } else { features };
        start_near_a_half(network.head, colours, w)?;
        let trunk = Trunk::new(network, colours, 1, told, w)?;
        let head = match in_head {
            false => None,
            true => {
                let of = network.colours.of(network.read(), colours);
                let own = (0..colours).flat_map(|c| of.iter().map(move |o| f32::from(*o == c)));
                let own: Vec<f32> = own.collect();
                let (w, maps) = (w.pp("tau"), of.len());
                let own = Tensor::from_vec(own, (colours, maps), &Device::Cpu)?;
                Some(Embedding {
                    weight: w.get((features, maps), "weight", Init::fan_in(features))?,
                    bias: w.get(maps, "bias", Init::Zeros)?,
                    own: own.to_dtype(w.dtype())?.to_device(w.device())?,
                })
            }
        };
        Ok(Self {
            trunk,
            head,
            config: config.clone(),
        })
    }

    /// Quantiles on the scale where a byte is x / 255, `[n, h, w, c]`, of images 0 to 255 and numbers tau
    /// of the same shape: each given the sub-pixels before it.
    pub fn quantiles(&self, images: &Tensor, tau: &Tensor) -> candle_core::Result<Tensor> {
        let features = self.config.tau.apply(tau)?;
        let x = self.config.input.apply(images)?;
        let maps = match &self.head {
            None => self.trunk.maps(&x, Some(&features))?,
            Some(head) => (self.trunk.maps(&x, None)? * head.forward(&features)?)?,
        };
        self.trunk.read(&maps)
    }

    /// Numbers from 0 to 1 as tau, `[n, h, w, c]` in order, become the bytes that they stand for.
    fn draw(&self, numbers: &mut [f64]) -> Result<()> {
        let [height, width, _] = self.config.image;
        let tau = self.config.tau;
        let told = ToldBy {
            features: Box::new(move |number, to: &mut [f32]| tau.fill(number, to)),
            count: tau.features(),
            head: self.head.as_ref().map(|h| (&h.weight, &h.bias)),
        };
        let sampler = Sampler::new(&self.trunk, self.config.input.scale(), Some(told))?;
        sampler.fill([height, width], numbers, |q: &[f32], _| {
            rounded(f64::from(q[0]))
        });
        Ok(())
    }
}

/// A quantile as a byte (C6).
fn rounded(q: f64) -> f64 {
    (q.clamp(0.0, 1.0) * 255.0 + 0.5).floor()
}

/// The last layer starts with a bias of one half and a tenth of its usual weights.
fn start_near_a_half(inner: usize, colours: usize, w: &Weights) -> Result<()> {
    let w = w.pp("head2");
    // A tenth of what is uniform within 1 / sqrt(n) is uniform within 1 / sqrt(100 n).
    let init = Init::fan_in(100 * inner);
    w.get((1, 1, inner, colours), "weight", init)?;
    w.get(colours, "bias", Init::Const(0.5))?;
    Ok(())
}

impl ImageModel for PixelIqn {
    const KINDS: Kinds = Kinds {
        sample: "sample-pixeliqn",
        bits_per_dim: "",
        sample_about: "Draws images from a PixelIQN, sub-pixel by sub-pixel, on the CPU.",
        bits_about: "",
    };
    const PARTS: &'static [Input] = &[Input::one("pixeliqn", "pixeliqn")];

    fn load(job: &Job, device: &Device) -> Result<Self> {
        let (weights, config) = Weights::load(job.input("pixeliqn")?, DType::F32, device)?;
        Self::new(&config, &weights)
    }

    fn shape(&self) -> [usize; 3] {
        self.config.image
    }

    /// Tau is drawn from the middle `temperature` of 0 to 1; 0: the median.
    fn sample(&self, n: usize, temperature: f64, noise: &mut Draws) -> Result<Tensor> {
        let [height, width, colours] = self.config.image;
        let tau = noise.uniform((n, height, width, colours), DType::F64, &Device::Cpu)?;
        let mut tau = tau.flatten_all()?.to_vec1::<f64>()?;
        for t in &mut tau {
            *t = 0.5 + temperature * (*t - 0.5);
        }
        self.draw(&mut tau)?;
        let images = Tensor::from_vec(tau, (n, height, width, colours), &Device::Cpu)?;
        Ok(images.to_dtype(DType::F32)?)
    }
}

/// The quantile loss of differences `u = x - Q`, smoothed within kappa (Huber); kappa 0: the pinball loss
/// itself (C4).
pub fn quantile_loss(u: &Tensor, tau: &Tensor, kappa: f64) -> candle_core::Result<Tensor> {
    let below = u.detach().lt(0.0)?.to_dtype(u.dtype())?;
    let weight = (tau - below)?.abs()?;
    let size = u.abs()?;
    if kappa == 0.0 {
        return weight * size;
    }
    // Both halves of Huber's function at once: with a = min(|u|, kappa), a (|u| - a / 2) / kappa.
    let inner = size.minimum(kappa)?;
    let huber = ((&inner * (&size - (&inner / 2.0)?)?)? / kappa)?;
    weight * huber
}
