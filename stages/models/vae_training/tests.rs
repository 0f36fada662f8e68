use candle_core::{DType, Device};

use super::super::prior;
use super::super::resnet::Head;
use super::super::vae::{Config, Covariance, Network, Range};
use super::*;
use crate::nn::noise::Noise;
use crate::nn::weights::Weights;

const CPU: Device = Device::Cpu;

fn small(covariance: Covariance, dequantise: bool) -> Config {
    let network = Network::Resnet {
        width: 4,
        scales: 2,
        blocks: 1,
        head: Head::AveragePool,
        dense: 8,
        max_width: 8,
        norm_decay: 0.999,
    };
    Config {
        shape: [8, 8, 3],
        latent: 4,
        network,
        covariance,
        range: Range::Unit,
        dequantise,
    }
}

fn model(config: &Config, w: &Weights, prior: &prior::Config) -> Result<VaeTraining> {
    let vae = Vae::new(config, &w.pp("vae"))?;
    Ok(VaeTraining {
        vae,
        prior: Prior::new(prior, &w.pp("prior"))?,
        kl: Kl::Analytic,
    })
}

fn flow_prior() -> prior::Config {
    let flow = super::super::real_nvp::Config::of(3, 8);
    prior::Config::Flow { dim: 4, flow }
}

fn images(n: usize) -> Result<Tensor> {
    let u = Noise::new(6, "images")
        .at(0)
        .uniform((n, 8, 8, 3), DType::F64, &CPU)?;
    Ok((u * 255.0)?.round()?)
}

fn parts(model: &VaeTraining, x: &Tensor, mode: Mode) -> Result<Vec<(&'static str, f64)>> {
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
        &small(Covariance::Isotropic {}, false),
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
    let config = small(Covariance::DIAGONAL, true);
    let w = Weights::new(0, DType::F64, &CPU);
    let x = images(6)?;
    let normal = model(&config, &w, &prior::Config::Normal { dim: 4 })?;
    let flow = model(&config, &w, &flow_prior())?;
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
        small(Covariance::DIAGONAL, true),
        Config {
            network,
            ..small(Covariance::Isotropic {}, false)
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

/// Both estimates of the divergence have one mean (A17): under N(0, I) that in closed form.
#[test]
fn estimates_of_the_divergence_have_one_mean() -> Result<()> {
    let config = small(Covariance::DIAGONAL, true);
    let w = Weights::new(0, DType::F64, &CPU);
    let mut model = model(&config, &w, &prior::Config::Normal { dim: 4 })?;
    let x = images(6)?;
    let y = model.vae.prepare(&x, &mut Noise::new(2, "y").at(0))?;
    let mut kl = |kl, round| -> Result<f64> {
        model.kl = kl;
        let e = Noise::new(3, "e")
            .at(round)
            .normal((6, 4), DType::F64, &CPU)?;
        let loss = model.loss_of(&y, &e, Mode::Eval)?;
        Ok(loss.parts[1].1.to_scalar()?)
    };
    let exact = kl(Kl::Analytic, 0)?;
    assert_eq!(exact, kl(Kl::Analytic, 1)?);
    let drawn: Vec<f64> = (0..300)
        .map(|i| kl(Kl::MonteCarlo, i))
        .collect::<Result<_>>()?;
    let (mean, error) = crate::metrics::bits::mean_and_error(&drawn);
    let error = error.unwrap_or_default();
    assert!(
        (mean - exact).abs() < 4.0 * error,
        "{mean} +- {error}, exactly {exact}"
    );
    assert!(error > 0.0);
    Ok(())
}

/// Under a flow they differ by what the draw says of q's entropy, `sum (1 - e^2) / 2`, which has
/// mean 0 and, e being given, no gradient.
#[test]
fn under_a_flow_estimates_differ_by_a_constant() -> Result<()> {
    let w = Weights::new(0, DType::F64, &CPU);
    let mut model = model(&small(Covariance::DIAGONAL, true), &w, &flow_prior())?;
    crate::nn::bijector::check::disturb(&w.pp("prior").part(), 0.05)?;
    let y = model
        .vae
        .prepare(&images(6)?, &mut Noise::new(2, "y").at(0))?;
    let e = Noise::new(3, "e").at(0).normal((6, 4), DType::F64, &CPU)?;
    let exact = model.loss_of(&y, &e, Mode::Eval)?.total;
    model.kl = Kl::MonteCarlo;
    let drawn = model.loss_of(&y, &e, Mode::Eval)?.total;
    let constant = ((e.sqr()?.sum_all()?.to_scalar::<f64>()? * -0.5) + 12.0) / 6.0;
    let gap = (&drawn - &exact)?.to_scalar::<f64>()?;
    assert!((gap - constant).abs() < 1e-10, "{gap} {constant}");
    let (exact, drawn) = (exact.backward()?, drawn.backward()?);
    for (name, var) in w.trained() {
        let (Some(a), Some(b)) = (exact.get(&var), drawn.get(&var)) else {
            panic!("no gradient of {name}")
        };
        let gap = (a - b)?.abs()?.max_all()?.to_scalar::<f64>()?;
        assert!(gap < 1e-10, "{name}: {gap}");
    }
    Ok(())
}

/// A shift of images and of the mean by 1/2 changes no likelihood (oracle 16, A14).
#[test]
fn a_centred_range_has_the_same_likelihood() -> Result<()> {
    let mut found = Vec::new();
    for (range, mean) in [
        (Range::Unit, (0.3f64 / 0.7).ln()),
        (Range::Centred, 0.3 - 0.5),
    ] {
        let config = Config {
            range,
            ..small(Covariance::DIAGONAL, true)
        };
        let w = Weights::new(0, DType::F64, &CPU);
        let model = model(&config, &w, &prior::Config::Normal { dim: 4 })?;
        // A decoder that does not look at z, with the same mean in either range.
        let all = w.all();
        let output = &all["vae.decoder.output.weight"];
        output.set(&output.zeros_like()?)?;
        let bias = Tensor::new(&[mean, mean, mean, -1.0, -0.5, 0.1], &CPU)?;
        all["vae.decoder.output.bias"].set(&bias)?;
        let parts = parts(&model, &images(6)?, Mode::Train)?;
        let expected = parts[0].1 / (192.0 * std::f64::consts::LN_2) + 8.0;
        assert!(parts[3].0 == "bits/dim" && (parts[3].1 - expected).abs() < 1e-12);
        found.push(parts[1].1);
    }
    assert!((found[0] - found[1]).abs() < 1e-9, "{found:?}");
    Ok(())
}
