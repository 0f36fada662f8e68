//! The full model: a VAE, a prior of its codes, and perhaps the flow layer on top (section 3 of
//! the paper). Its bound on the likelihood and its samples.

use std::path::Path;

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};
use contract::{Input, Job};

use super::flow_layer::FlowLayer;
use super::image_model::{Density, ImageModel, Kinds, Latent};
use super::prior::Prior;
use super::vae::Vae;
use super::{gaussian, pixels};
use crate::metrics::bits::bits_per_dim;
use crate::nn::bijector::Bijector;
use crate::nn::noise::Draws;

/// p(x) with x = f^-1(y), y ~ p(y|z), z ~ p(z).
pub struct VaeWithFlow {
    pub vae: Vae,
    pub prior: Prior,
    /// Without it, images are what the VAE decodes.
    pub flow: Option<FlowLayer>,
}

/// The two parts of the negative bound in nats, `[n]` each.
pub struct Terms {
    /// `-ln p(f(y)|z) - ln |det df/dy|`.
    pub reconstruction: Tensor,
    /// One-draw estimate of the KL divergence: `-ln p(z) - H[q]` with the exact entropy, however
    /// phase 1 took it (A17).
    pub kl: Tensor,
}

impl VaeWithFlow {
    /// Reads the artifacts, frozen.
    pub fn open(
        vae: &Path,
        prior: &Path,
        flow: Option<&Path>,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let model = Vae::load(vae, dtype, device)?;
        let (latent, shape) = (model.config().latent, model.config().shape);
        let codes = Prior::load(prior, dtype, device)?;
        ensure!(
            codes.dim() == latent,
            "{}: a prior of {} dimensions, the VAE has {latent}",
            prior.display(),
            codes.dim()
        );
        let mut layer = None;
        if let Some(path) = flow {
            let (flow, config) = FlowLayer::load(path, dtype, device)?;
            ensure!(
                config.channels == shape[2],
                "{}: a flow layer of {} channels, the VAE has images {shape:?}",
                path.display(),
                config.channels
            );
            layer = Some(flow);
        }
        Ok(Self {
            vae: model,
            prior: codes,
            flow: layer,
        })
    }

    /// Sub-pixels of an image.
    pub fn dims(&self) -> usize {
        self.vae.config().shape.iter().product()
    }

    /// The terms for images 0 to 255, with one draw of the dequantisation noise and of z. They are
    /// drawn as in phase 1, so that the same noise gives the VAE's own bound.
    pub fn terms(&self, flow: Option<&FlowLayer>, x: &Tensor, noise: &mut Draws) -> Result<Terms> {
        let y = self.vae.dequantise(x, noise)?;
        let e = noise.normal((y.dim(0)?, self.prior.dim()), y.dtype(), y.device())?;
        self.terms_of(flow, &y, &e)
    }

    /// The terms of prepared images, with z drawn by standard normal `e`.
    pub fn terms_of(&self, flow: Option<&FlowLayer>, y: &Tensor, e: &Tensor) -> Result<Terms> {
        let (mean, log_std) = self.vae.encode(y)?;
        let z = (&mean + (log_std.exp()? * e)?)?;
        let kl = (self.prior.log_prob(&z)? + gaussian::entropy(&log_std)?)?.neg()?;
        let reconstruction = self.reconstruction(flow, y, &z)?;
        Ok(Terms { reconstruction, kl })
    }

    /// `-ln p(f(y)|z) - ln |det df/dy|` of prepared images given their codes, `[n]`.
    pub fn reconstruction(
        &self,
        flow: Option<&FlowLayer>,
        y: &Tensor,
        z: &Tensor,
    ) -> Result<Tensor> {
        Ok(self.log_likelihood(&through(flow, y)?, z)?.neg()?)
    }

    /// `ln p(f(y)|z) + ln |det df/dy|`, given both of the flow layer.
    fn log_likelihood(
        &self,
        (base, log_det): &(Tensor, Option<Tensor>),
        z: &Tensor,
    ) -> Result<Tensor> {
        let (mu, log_sigma) = self.vae.decode(z)?;
        let density = gaussian::log_density(base, &mu, &log_sigma)?;
        Ok(match log_det {
            Some(log_det) => (density + log_det)?,
            None => density,
        })
    }

    /// Bits per dimension of a negative log-likelihood in nats.
    pub fn in_bits(&self, nats: &Tensor) -> candle_core::Result<Tensor> {
        bits_per_dim(&nats.neg()?, self.dims(), 1.0 / 256.0)
    }

    /// The bound in bits per dimension for images 0 to 255, `[n]`. One draw of z: the evidence
    /// lower bound; more: the importance-weighted bound `ln mean exp(ln p(y, z) - ln q(z|y))`.
    pub fn bound(&self, x: &Tensor, draws: usize, noise: &mut Draws) -> Result<Tensor> {
        if draws == 1 {
            let terms = self.terms(self.flow.as_ref(), x, noise)?;
            return Ok(self.in_bits(&(terms.reconstruction + terms.kl)?)?);
        }
        let y = self.vae.dequantise(x, noise)?;
        let shape = (y.dim(0)?, self.prior.dim());
        let draw = |_| noise.normal(shape, y.dtype(), y.device());
        self.importance_weighted(&y, (0..draws).map(draw))
    }

    /// The importance-weighted bound of prepared images, in bits per dimension, with a z for each
    /// standard normal of `draws`.
    pub fn importance_weighted(
        &self,
        y: &Tensor,
        draws: impl Iterator<Item = candle_core::Result<Tensor>>,
    ) -> Result<Tensor> {
        let (mean, log_std) = self.vae.encode(y)?;
        let base = through(self.flow.as_ref(), y)?;
        let mut weights = Vec::new();
        for e in draws {
            let z = (&mean + (log_std.exp()? * e?)?)?;
            let joint = (self.log_likelihood(&base, &z)? + self.prior.log_prob(&z)?)?;
            let weight = (joint - gaussian::log_density(&z, &mean, &log_std)?)?;
            weights.push(weight.to_dtype(DType::F64)?);
        }
        let bound = Tensor::stack(&weights, 0)?.log_sum_exp(0)?;
        let bound = (bound - (weights.len() as f64).ln())?;
        Ok(self.in_bits(&bound.neg()?)?)
    }

    /// Images given codes, as y.
    pub fn decode(&self, z: &Tensor, temperature: f64, noise: &mut Draws) -> Result<Tensor> {
        let base = self.base(z, temperature, noise)?;
        Ok(match &self.flow {
            Some(flow) => flow.inverse(&base)?,
            None => base,
        })
    }

    /// What the VAE alone makes of codes: the decoder's mean and `temperature` times its deviation
    /// in fresh noise.
    pub fn base(&self, z: &Tensor, temperature: f64, noise: &mut Draws) -> Result<Tensor> {
        let (mean, log_sigma) = self.vae.decode(z)?;
        if temperature == 0.0 {
            return Ok(mean);
        }
        let e = noise.normal(mean.shape(), mean.dtype(), mean.device())?;
        Ok((mean + (log_sigma.exp()? * (e * temperature)?)?)?)
    }

    /// Images as pixels, floats on the scale of bytes.
    pub fn pixels(&self, y: &Tensor) -> Result<Tensor> {
        let y = self.vae.to_unit(y)?;
        // With a flow layer y had noise, whatever phase 1 did.
        let noisy = self.flow.is_some() || self.vae.config().dequantise;
        Ok(match noisy {
            true => pixels::of_dequantised(&y)?,
            false => (y * 255.0)?,
        })
    }

    /// Images as bytes.
    pub fn quantise(&self, y: &Tensor) -> Result<Tensor> {
        Ok(pixels::to_bytes(&self.pixels(y)?)?)
    }
}

impl ImageModel for VaeWithFlow {
    const KINDS: Kinds = Kinds {
        sample: "sample",
        bits_per_dim: "bits-per-dim",
        sample_about: "Draws images from a VAE with a prior and perhaps a flow layer.",
        bits_about: "A bound on the bits per dimension of images under a VAE.",
    };
    const PARTS: &'static [Input] = &[
        Input::one("vae", "vae"),
        Input::one("prior", "prior"),
        Input::optional("flow", "flow"),
    ];

    fn load(job: &Job, device: &Device) -> Result<Self> {
        let (vae, prior) = (job.input("vae")?, job.input("prior")?);
        Self::open(vae, prior, job.optional_input("flow")?, DType::F32, device)
    }

    fn shape(&self) -> [usize; 3] {
        self.vae.config().shape
    }

    /// z from the prior, base noise scaled by `temperature`, back through the flow layer (section 3.5).
    fn sample(&self, n: usize, temperature: f64, noise: &mut Draws) -> Result<Tensor> {
        let z = self.prior.sample(n, noise)?;
        self.pixels(&self.decode(&z, temperature, noise)?)
    }
}

impl Density for VaeWithFlow {
    const LATENT: Latent = Latent::Drawn;

    fn bits(&self, x: &Tensor, draws: usize, noise: &mut Draws) -> Result<Tensor> {
        self.bound(x, draws, noise)
    }
}

/// Through the flow layer, if there is one: `f(y)` and its log-determinant.
fn through(flow: Option<&FlowLayer>, y: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
    Ok(match flow {
        Some(flow) => {
            let (base, log_det) = flow.forward(y)?;
            (base, Some(log_det))
        }
        None => (y.clone(), None),
    })
}

#[cfg(test)]
mod tests;
