//! What must hold of the full model whatever its weights are, in f64 at a toy size.

use anyhow::Result;
use candle_core::{DType, Device, Tensor};

use crate::models::flow_layer::{self, Flow, FlowLayer, FlowStart};
use crate::models::gaussian::HALF_LN_TAU;
use crate::models::prior::{self, Prior};
use crate::models::real_nvp;
use crate::models::vae::{Config, Covariance, Network, Range, Vae};
use crate::models::vae_with_flow::VaeWithFlow;
use crate::nn::bijector::{Bijector, check};
use crate::nn::noise::Noise;
use crate::nn::weights::Weights;

const CPU: Device = Device::Cpu;
const LATENT: usize = 4;

/// A model every part of which does something, with the prior of a seed.
fn model(prior_seed: u64) -> Result<VaeWithFlow> {
    let config = Config {
        shape: [4, 4, 3],
        latent: LATENT,
        network: Network::Infogan {
            width: 2,
            dense: 4,
            norm_decay: 0.999,
        },
        covariance: Covariance::DIAGONAL,
        range: Range::Unit,
        dequantise: true,
    };
    let vae = Weights::new(1, DType::F64, &CPU);
    let flow = real_nvp::Config::of(2, 8);
    let prior = Weights::new(prior_seed, DType::F64, &CPU);
    let layer = Weights::new(2, DType::F64, &CPU);
    let model = VaeWithFlow {
        vae: Vae::new(&config, &vae)?,
        prior: Prior::new(&prior::Config::Flow { dim: LATENT, flow }, &prior)?,
        flow: Some(FlowLayer::new(
            &flow_layer::Config {
                flow: Flow::of(3, 4, FlowStart::Identity),
                channels: 3,
            },
            &layer,
        )?),
    };
    for w in [&vae, &layer] {
        check::disturb(w, 0.1)?;
    }
    // Noise is drawn by name: another scale makes another prior.
    check::disturb(&prior, 0.1 * prior_seed as f64)?;
    Ok(model)
}

fn draw(purpose: &str, shape: &[usize]) -> Result<Tensor> {
    let noise = &mut Noise::new(0, purpose).at(0);
    Ok(noise.normal(shape, DType::F64, &CPU)?)
}

fn far(a: &Tensor, b: &Tensor) -> Result<f64> {
    Ok((a - b)?.abs()?.max_all()?.to_scalar()?)
}

/// Oracle 10: at temperature 0 an image is f^-1 of the decoder's mean; at T it is f^-1 of base
/// noise whose deviation is T times the decoder's.
#[test]
fn temperature_scales_the_base_deviation() -> Result<()> {
    let model = model(3)?;
    let flow = model.flow.as_ref().unwrap();
    // One code many times, so that there is a variance to measure.
    let n = 4000;
    let z = draw("z", &[1, LATENT])?.broadcast_as((n, LATENT))?;
    let z = z.contiguous()?;
    let (mean, log_sigma) = model.vae.decode(&z)?;
    let image = |t: f64| model.decode(&z, t, &mut Noise::new(0, "base").at(0));
    assert_eq!(far(&image(0.0)?, &flow.inverse(&mean)?)?, 0.0);
    assert!(
        far(&mean, &image(0.0)?)? > 0.01,
        "the flow layer does nothing"
    );
    let standard = |t: f64| -> Result<Tensor> {
        let base = flow.forward(&image(t)?)?.0;
        Ok(((base - &mean)? / log_sigma.exp()?)?)
    };
    let (half, one) = (standard(0.5)?, standard(1.0)?);
    assert!(far(&half, &(&one * 0.5)?)? < 1e-10);
    for (t, e) in [(0.5, half), (1.0, one)] {
        let values = e.elem_count() as f64;
        let variance = e.sqr()?.mean_all()?.to_scalar::<f64>()?;
        // The standard error of a normal sample's variance.
        let error = t * t * (2.0 / values).sqrt();
        assert!((variance - t * t).abs() < 4.0 * error, "{t}: {variance}");
    }
    Ok(())
}

/// Oracle 19: another prior changes the bound by the difference of ln p(z), and by nothing else.
#[test]
fn a_bound_sees_the_prior_through_its_density_alone() -> Result<()> {
    let models = [model(3)?, model(4)?];
    let y = draw("y", &[5, 4, 4, 3])?.affine(0.1, 0.5)?;
    let e = draw("e", &[5, LATENT])?;
    let (mean, log_std) = models[0].vae.encode(&y)?;
    let z = (&mean + (log_std.exp()? * &e)?)?;
    let terms = |m: &VaeWithFlow| m.terms_of(m.flow.as_ref(), &y, &e);
    let [a, b] = [terms(&models[0])?, terms(&models[1])?];
    assert_eq!(far(&a.reconstruction, &b.reconstruction)?, 0.0);
    let densities = (models[0].prior.log_prob(&z)? - models[1].prior.log_prob(&z)?)?;
    assert!(
        far(&densities, &densities.zeros_like()?)? > 0.01,
        "the priors are one"
    );
    assert!(far(&(b.kl - a.kl)?, &densities)? < 1e-12);
    Ok(())
}

/// Oracle 12: the one-draw estimate under a new flow prior has the closed form's mean.
#[test]
fn a_new_prior_has_the_divergence_of_the_closed_form() -> Result<()> {
    let flow = real_nvp::Config::of(4, 8);
    let w = Weights::new(5, DType::F64, &CPU);
    let prior = Prior::new(&prior::Config::Flow { dim: 2, flow }, &w)?;
    let n = 20_000;
    let e = draw("e", &[n, 2])?;
    let (mean, log_std) = ([0.7, -1.2], [-0.5f64, 0.3]);
    let std = Tensor::new(&log_std.map(f64::exp), &CPU)?;
    let z = e
        .broadcast_mul(&std)?
        .broadcast_add(&Tensor::new(&mean, &CPU)?)?;
    let log_q = (e.sqr()?.sum(1)? * -0.5)? - (2.0 * HALF_LN_TAU + log_std.iter().sum::<f64>());
    let gaps = (log_q? - prior.log_prob(&z)?)?.to_vec1::<f64>()?;
    let (average, error) = crate::metrics::bits::mean_and_error(&gaps);
    let exact: f64 = mean
        .iter()
        .zip(log_std)
        .map(|(m, s)| 0.5 * (m * m + (2.0 * s).exp() - 2.0 * s - 1.0))
        .sum();
    assert!(
        (average - exact).abs() < 4.0 * error.unwrap(),
        "{average} {exact}"
    );
    Ok(())
}
