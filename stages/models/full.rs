//! The full model: a VAE, a prior of its codes, and perhaps the flow layer on top (section 3 of
//! the paper). Its bound on the likelihood and its samples.

use std::path::Path;

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};

use super::flow_layer::FlowLayer;
use super::gaussian;
use super::prior::Prior;
use super::vae::Vae;
use crate::metrics::bits::bits_per_dim;
use crate::nn::bijector::Bijector;
use crate::nn::noise::Draws;

/// p(x) with x = f^-1(y), y ~ p(y|z), z ~ p(z).
pub struct Full {
    pub vae: Vae,
    pub prior: Prior,
    /// Without it, images are what the VAE decodes.
    pub flow: Option<FlowLayer>,
}

/// The two parts of the negative bound in nats, `[n]` each.
pub struct Terms {
    /// `-ln p(f(y)|z) - ln |det df/dy|`.
    pub reconstruction: Tensor,
    /// One-draw estimate of the KL divergence: `-ln p(z) - H[q]` with the exact entropy (A17).
    pub kl: Tensor,
}

impl Full {
    /// Reads the artifacts, frozen.
    pub fn load(
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
        let y = self.vae.prepare(x, noise)?;
        let e = noise.normal((y.dim(0)?, self.prior.dim()), y.dtype(), y.device())?;
        self.terms_of(flow, &y, &e)
    }

    /// The terms of prepared images, with z drawn by standard normal `e`.
    pub fn terms_of(&self, flow: Option<&FlowLayer>, y: &Tensor, e: &Tensor) -> Result<Terms> {
        let (mean, log_std) = self.vae.encode(y)?;
        let z = (&mean + (log_std.exp()? * e)?)?;
        let kl = (self.prior.log_prob(&z)? + gaussian::entropy(&log_std)?)?.neg()?;
        let reconstruction = (self.log_likelihood(&through(flow, y)?, &z)?).neg()?;
        Ok(Terms { reconstruction, kl })
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
    pub fn bits(&self, nats: &Tensor) -> candle_core::Result<Tensor> {
        bits_per_dim(&nats.neg()?, self.dims(), 1.0 / 256.0)
    }

    /// The bound in bits per dimension for images 0 to 255, `[n]`. One draw of z: the evidence
    /// lower bound; more: the importance-weighted bound `ln mean exp(ln p(y, z) - ln q(z|y))`.
    pub fn bound(&self, x: &Tensor, draws: usize, noise: &mut Draws) -> Result<Tensor> {
        ensure!(
            self.vae.config().dequantise,
            "the VAE was trained without dequantisation noise, so it has no bits per dimension; \
             hint: dequantise = true"
        );
        ensure!(draws > 0, "draws must be at least 1");
        if draws == 1 {
            let terms = self.terms(self.flow.as_ref(), x, noise)?;
            return Ok(self.bits(&(terms.reconstruction + terms.kl)?)?);
        }
        let y = self.vae.prepare(x, noise)?;
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
        Ok(self.bits(&bound.neg()?)?)
    }

    /// `n` images as bytes: z from the prior, base noise scaled by `temperature`, back through the
    /// flow layer (section 3.5).
    pub fn sample(&self, n: usize, temperature: f64, noise: &mut Draws) -> Result<Tensor> {
        let z = self.prior.sample(n, noise)?;
        self.quantise(&self.decode(&z, temperature, noise)?)
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

    /// Images as bytes. y = (x + u) / 256 came from x = floor(256 y), y = x / 255 from the nearest.
    pub fn quantise(&self, y: &Tensor) -> Result<Tensor> {
        let x = match self.vae.config().dequantise {
            true => (y * 256.0)?.floor()?,
            false => (y * 255.0)?.round()?,
        };
        Ok(x.clamp(0.0, 255.0)?.to_dtype(DType::U8)?)
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
mod tests {
    use super::super::vae::{Config, Covariance, Network};
    use super::super::{prior, vae};
    use super::*;
    use crate::nn::noise::Noise;
    use crate::nn::weights::Weights;

    const DIM: usize = 3;

    /// A VAE in f64 whose decoder does not look at z, so that `p(y)` is known: one Gaussian for each
    /// channel, of mean 1/2 and deviation e^-1. All that its encoder says is a loss: the gap of the
    /// bound is the divergence of q from p(z).
    fn blind() -> Result<Full> {
        let w = Weights::new(3, DType::F64, &Device::Cpu);
        let config = Config {
            shape: [4, 4, 1],
            latent: DIM,
            network: Network::Infogan {
                width: 2,
                dense: 4,
                norm_decay: 0.999,
            },
            covariance: Covariance::Diagonal,
            dequantise: true,
        };
        let vae = vae::Vae::new(&config, &w)?;
        let all = w.all();
        let output = &all["decoder.deconv1.weight"];
        output.set(&output.zeros_like()?)?;
        let bias = Tensor::new(&[0.0, -1.0], &Device::Cpu)?;
        all["decoder.deconv1.bias"].set(&bias)?;
        // Far enough from p(z) that the bounds differ, and wide enough that weights stay bounded.
        let head = &all["encoder.dense1.bias"];
        head.set(&Tensor::new(
            &[0.8, -0.9, 0.4, 1.0, 1.1, 1.2],
            &Device::Cpu,
        )?)?;
        let prior = Prior::new(&prior::Config::Normal { dim: DIM }, &w)?;
        Ok(Full {
            vae,
            prior,
            flow: None,
        })
    }

    /// The bounds of an evidence that is known: at one draw the gap is the KL divergence, by either
    /// formula; it shrinks as draws grow, towards zero, and no bound lies above the evidence.
    #[test]
    fn more_draws_come_closer_to_a_known_evidence() -> Result<()> {
        let model = blind()?;
        let (images, rounds) = (8, 60);
        let mut pixels = Noise::new(0, "pixels").at(0);
        let x = (pixels.uniform((images, 4, 4, 1), DType::F64, &Device::Cpu)? * 255.0)?.round()?;
        let nats = |bits: &Tensor| -> Result<Vec<f64>> {
            Ok(((bits - 8.0)? * (16.0 * std::f64::consts::LN_2))?.to_vec1()?)
        };
        // Gaps between bound and evidence, in nats: mean and standard error.
        let gap = |bound: &dyn Fn(&mut Draws) -> Result<Tensor>| -> Result<(f64, f64)> {
            let mut gaps = Vec::new();
            for round in 0..rounds {
                let noise = Noise::new(1, "bound").at(round);
                let y = model.vae.prepare(&x, &mut noise.clone())?;
                let mean = y.zeros_like()?.affine(1.0, 0.5)?;
                let evidence = gaussian::log_density(&y, &mean, &mean.affine(0.0, -1.0)?)?;
                let bound = nats(&bound(&mut noise.clone())?)?;
                gaps.extend(
                    bound
                        .iter()
                        .zip(evidence.to_vec1::<f64>()?)
                        .map(|(b, e)| b + e),
                );
            }
            let (mean, error) = crate::metrics::bits::mean_and_error(&gaps);
            Ok((mean, error.unwrap_or_default()))
        };
        let y = model.vae.prepare(&x, &mut Noise::new(1, "bound").at(0))?;
        let (mean, log_std) = model.vae.encode(&y)?;
        // The encoder is nearly constant here, so that one draw of the noise stands for all.
        let divergence = gaussian::divergence(&mean, &log_std)?
            .mean_all()?
            .to_scalar::<f64>()?;
        let (one, error) = gap(&|noise| model.bound(&x, 1, noise))?;
        assert!(
            (one - divergence).abs() < 5.0 * error,
            "{one} {divergence} {error}"
        );
        let (again, error) = gap(&|noise| {
            let y = model.vae.prepare(&x, noise)?;
            let e = noise.normal((images, DIM), DType::F64, &Device::Cpu);
            model.importance_weighted(&y, std::iter::once(e))
        })?;
        assert!(
            (again - divergence).abs() < 5.0 * error,
            "{again} {divergence} {error}"
        );
        let mut last = one;
        for draws in [2, 8, 32] {
            let (more, error) = gap(&|noise| model.bound(&x, draws, noise))?;
            assert!(
                more < last && more > -4.0 * error,
                "{draws} draws: {more}, before {last}"
            );
            last = more;
        }
        assert!(last < 0.2 * one, "{last} of {one}");
        Ok(())
    }
}
