//! Phase 1: a VAE and its prior, trained together (equation 1 of the paper).

use anyhow::Result;
use candle_core::Tensor;

use super::gaussian;
use super::prior::Prior;
use super::vae::Vae;
use crate::metrics::bits::bits_per_dim;
use crate::nn::batch_norm::Mode;
use crate::nn::noise::Draws;
use crate::train::{Loss, Trainable};

/// A VAE and its prior, trained together: -ln p(y|z) - ln p(z) - H[q], one draw of z (A17).
/// With N(0, I) the last two terms are the KL divergence in closed form.
pub struct Phase1 {
    pub vae: Vae,
    pub prior: Prior,
}

impl Phase1 {
    fn loss_in(&self, x: &Tensor, noise: &mut Draws, mode: Mode) -> Result<Loss> {
        let y = self.vae.prepare(x, noise)?;
        let e = noise.normal((y.dim(0)?, self.vae.config().latent), y.dtype(), y.device())?;
        self.loss_of(&y, &e, mode)
    }

    /// The loss of prepared images, with z drawn by standard normal `e`.
    pub fn loss_of(&self, y: &Tensor, e: &Tensor, mode: Mode) -> Result<Loss> {
        let (mean, log_std) = self.vae.encode_in(y, mode)?;
        let z = (&mean + (log_std.exp()? * e)?)?;
        let (mu, log_sigma) = self.vae.decode_in(&z, mode)?;
        let density = gaussian::log_density(y, &mu, &log_sigma)?;
        let reconstruction = density.neg()?.mean_all()?;
        let kl = match &self.prior {
            Prior::Normal { .. } => gaussian::divergence(&mean, &log_std)?,
            prior => (prior.log_prob(&z)? + gaussian::entropy(&log_std)?)?.neg()?,
        };
        let kl = kl.mean_all()?;
        let total = (&reconstruction + &kl)?;
        let mut parts = vec![("reconstruction", reconstruction), ("kl", kl)];
        if self.vae.config().dequantise {
            let bits = bits_per_dim(&total.neg()?, self.vae.dims(), 1.0 / 256.0)?;
            parts.push(("bits/dim", bits));
        }
        if let Some(log_gamma) = self.vae.log_gamma() {
            parts.push(("gamma", log_gamma.exp()?));
        }
        Ok(Loss { total, parts })
    }
}

impl Trainable<Tensor> for Phase1 {
    fn loss(&self, x: &Tensor, noise: &mut Draws) -> Result<Loss> {
        self.loss_in(x, noise, Mode::Train)
    }

    fn validate(&self, x: &Tensor, noise: &mut Draws) -> Result<Loss> {
        self.loss_in(x, noise, Mode::Eval)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::super::prior;
    use super::super::vae::{Config, Covariance, Network};
    use super::*;
    use crate::nn::noise::Noise;
    use crate::nn::weights::Weights;

    const CPU: Device = Device::Cpu;

    fn small(covariance: Covariance, dequantise: bool) -> Config {
        let network = Network::Resnet {
            width: 4,
            scales: 2,
            blocks: 1,
            dense: 8,
            max_width: 8,
            norm_decay: 0.999,
        };
        Config {
            shape: [8, 8, 3],
            latent: 4,
            network,
            covariance,
            dequantise,
        }
    }

    fn model(config: &Config, w: &Weights, prior: &prior::Config) -> Result<Phase1> {
        let vae = Vae::new(config, &w.pp("vae"))?;
        Ok(Phase1 {
            vae,
            prior: Prior::new(prior, &w.pp("prior"))?,
        })
    }

    fn images(n: usize) -> Result<Tensor> {
        let u = Noise::new(6, "images")
            .at(0)
            .uniform((n, 8, 8, 3), DType::F64, &CPU)?;
        Ok((u * 255.0)?.round()?)
    }

    fn parts(model: &Phase1, x: &Tensor, mode: Mode) -> Result<Vec<(&'static str, f64)>> {
        let loss = model.loss_in(x, &mut Noise::new(2, "loss").at(0), mode)?;
        let mut parts = vec![("loss", loss.total)];
        parts.extend(loss.parts);
        let number =
            |(name, t): (&'static str, Tensor)| Ok((name, t.flatten_all()?.to_vec1::<f64>()?[0]));
        parts.into_iter().map(number).collect()
    }

    /// Oracle 14, for any image: with gamma = 1 and x^ = 1/2 the reconstruction term is
    /// D (0.918939 + mean((x / 255 - 1/2)^2) / 2).
    #[test]
    fn the_first_reconstruction_loss_is_known() -> Result<()> {
        let w = Weights::new(0, DType::F64, &CPU);
        let model = model(
            &small(Covariance::Isotropic, false),
            &w,
            &prior::Config::Normal { dim: 4 },
        )?;
        let all = w.all();
        for name in ["vae.decoder.output.weight", "vae.decoder.output.bias"] {
            all[name].set(&all[name].zeros_like()?)?;
        }
        let x = images(6)?;
        let distance = ((&x / 255.0)? - 0.5)?
            .sqr()?
            .mean_all()?
            .to_scalar::<f64>()?;
        let found = parts(&model, &x, Mode::Train)?[1];
        let expect = 192.0 * (gaussian::HALF_LN_TAU + 0.5 * distance);
        assert_eq!(found.0, "reconstruction");
        assert!((found.1 - expect).abs() < 1e-9);
        Ok(())
    }

    /// With a flow at its start the joint loss differs from the VAE's own only by the draw of z:
    /// the same mean. Oracle 19: another prior changes the loss only through ln p(z).
    #[test]
    fn a_prior_enters_through_its_density_alone() -> Result<()> {
        let config = small(Covariance::Diagonal, true);
        let w = Weights::new(0, DType::F64, &CPU);
        let x = images(6)?;
        let normal = model(&config, &w, &prior::Config::Normal { dim: 4 })?;
        let flow = super::super::real_nvp::Config {
            layers: 3,
            width: 8,
            max_log_scale: 2.0,
        };
        let flow = model(&config, &w, &prior::Config::Flow { dim: 4, flow })?;
        let (a, b) = (
            parts(&normal, &x, Mode::Eval)?,
            parts(&flow, &x, Mode::Eval)?,
        );
        assert_eq!(a[1], b[1]);
        assert!((a[2].1 - b[2].1).abs() < 3.0, "{a:?} {b:?}");
        // bits/dim = loss / (D ln 2) + 8.
        assert_eq!(b[3].0, "bits/dim");
        assert!((b[3].1 - (b[0].1 / (192.0 * std::f64::consts::LN_2) + 8.0)).abs() < 1e-12);
        Ok(())
    }

    /// Oracle 18 for evaluation: it changes no tensor, and a training step changes the statistics.
    #[test]
    fn evaluation_changes_nothing() -> Result<()> {
        let network = Network::Infogan {
            width: 4,
            dense: 8,
            norm_decay: 0.999,
        };
        for config in [
            small(Covariance::Diagonal, true),
            Config {
                network,
                ..small(Covariance::Isotropic, false)
            },
        ] {
            let w = Weights::new(0, DType::F64, &CPU);
            let model = model(&config, &w, &prior::Config::Normal { dim: 4 })?;
            let bytes = || -> Result<Vec<f64>> {
                let all = w.all();
                let flat = all.values().map(|v| v.flatten_all()?.to_vec1::<f64>());
                Ok(flat.collect::<candle_core::Result<Vec<_>>>()?.concat())
            };
            let before = bytes()?;
            parts(&model, &images(4)?, Mode::Eval)?;
            assert!(before == bytes()?);
            parts(&model, &images(4)?, Mode::Train)?;
            assert!(before != bytes()?);
        }
        Ok(())
    }
}
