//! The VAE, the flow prior and the second-stage VAE against independent PyTorch models
//! (`tests/golden/vae.py`): outputs, losses, the gradient of every parameter, 20 optimiser steps.

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};

use super::golden::{Golden, Tolerance, Training, adam, cases};
use crate::models::prior::{self, Prior};
use crate::models::resnet::Head;
use crate::models::vae::{Config, Covariance, Network, Range, Vae};
use crate::models::vae_training::{Kl, VaeTraining};
use crate::models::{real_nvp, second_vae};
use crate::nn::batch_norm::Mode;
use crate::nn::weights::Weights;
use crate::train::optim::Form;

/// Share of the largest gradient below which differences are of rounding: that of a bias before a
/// batch norm is a sum over all pixels that cancels.
const FLOOR: f64 = 4e-3;

fn flow(layers: usize) -> prior::Config {
    let flow = real_nvp::Config::of(layers, 6);
    prior::Config::Flow { dim: 4, flow }
}

/// A model with the golden weights in a store of its own.
fn phase1(
    golden: &Golden,
    config: &Config,
    prior: &prior::Config,
    dtype: DType,
) -> Result<(Weights, VaeTraining)> {
    let w = Weights::new(0, dtype, &Device::Cpu);
    let build = || -> Result<VaeTraining> {
        Ok(VaeTraining {
            vae: Vae::new(config, &w.pp("vae"))?,
            prior: Prior::new(prior, &w.pp("prior"))?,
            kl: Kl::Analytic,
        })
    };
    build()?;
    golden.assign("w.", &w)?;
    golden.assign("b.", &w)?;
    // Built again, since a flow reads its permutations when it is built.
    let model = build()?;
    Ok((w, model))
}

/// Everything the networks give for the `i`-th batch.
fn outputs(
    golden: &Golden,
    model: &VaeTraining,
    i: usize,
    mode: Mode,
) -> Result<Vec<(&'static str, Tensor)>> {
    let (y, e) = (golden.get("x")?.get(i)?, golden.get("e")?.get(i)?);
    let (mean, log_std) = model.vae.encode_in(&y, mode)?;
    let z = (&mean + (log_std.exp()? * e)?)?;
    let (mu, log_sigma) = model.vae.decode_in(&z, mode)?;
    let log_sigma = log_sigma.broadcast_as(mu.shape())?.contiguous()?;
    let mut all = vec![
        ("mean", mean),
        ("log_std", log_std),
        ("mu", mu),
        ("log_sigma", log_sigma),
    ];
    if let Prior::Flow(flow, ..) = &model.prior {
        let (u, log_det) = flow.forward(&z)?;
        all.extend([("u", u), ("log_det", log_det)]);
    }
    Ok(all)
}

fn compare(name: &str, config: &Config, prior: &prior::Config, form: Form) -> Result<()> {
    for (dtype, tolerance) in cases(5e-3) {
        let golden = Golden::load(name, dtype)?;
        // Outputs first, on a copy: a training pass moves averages and singular vectors.
        let (_, copy) = phase1(&golden, config, prior, dtype)?;
        let train = outputs(&golden, &copy, 1, Mode::Train)?;
        golden.outputs("o.", &train, tolerance.first)?;
        let eval = outputs(&golden, &copy, 0, Mode::Eval)?;
        golden.outputs("v.", &eval, tolerance.first)?;

        let (w, model) = phase1(&golden, config, prior, dtype)?;
        let loss = |i: usize, mode| -> Result<Tensor> {
            let (y, e) = (golden.get("x")?.get(i)?, golden.get("e")?.get(i)?);
            Ok(model.loss_of(&y, &e, mode)?.total)
        };
        let training = Training {
            golden: &golden,
            weights: &w,
            rule: adam(form),
            steps_per_epoch: 1000,
            loss: &|t| loss((t + 1) % 2, Mode::Train),
            floor: FLOOR,
        };
        training.check(tolerance)?;
        last(&golden, &loss(0, Mode::Eval)?, tolerance)?;
    }
    Ok(())
}

/// The loss in evaluation mode, after the steps. A bias before a batch norm has walked along the
/// rounding of its gradient; moving averages lag behind it, so evaluation sees a little of that.
fn last(golden: &Golden, loss: &Tensor, tolerance: Tolerance) -> Result<()> {
    let pair = (loss, &golden.get("eval")?.get(0)?);
    let limit = tolerance.after.max(1e-6);
    golden.close(("evaluation after 20 steps", "loss"), pair, 1.0, limit)
}

/// The network at the depth for CIFAR-10, or for CelebA.
fn resnet(side: usize, width: usize, scales: usize, blocks: usize) -> Config {
    let network = Network::Resnet {
        width,
        scales,
        blocks,
        head: Head::AveragePool,
        dense: 5,
        max_width: 3,
        norm_decay: 0.999,
    };
    Config {
        shape: [side, side, 3],
        latent: 4,
        network,
        covariance: Covariance::DIAGONAL,
        range: Range::Unit,
        dequantise: true,
    }
}

#[test]
fn resnet_of_three_scales_with_diagonal_covariance_and_flow_prior() -> Result<()> {
    let config = resnet(8, 2, 3, 2);
    compare("resnet_3_scales", &config, &flow(3), Form::Torch)
}

#[test]
fn resnet_of_four_scales_with_diagonal_covariance_and_flow_prior() -> Result<()> {
    let config = resnet(16, 1, 4, 1);
    compare("resnet_4_scales", &config, &flow(3), Form::Torch)
}

#[test]
fn infogan_with_isotropic_covariance() -> Result<()> {
    let network = Network::Infogan {
        width: 2,
        dense: 5,
        norm_decay: 0.999,
    };
    let config = Config {
        shape: [8, 8, 3],
        latent: 4,
        network,
        covariance: Covariance::Isotropic {},
        range: Range::Unit,
        dequantise: false,
    };
    let normal = prior::Config::Normal { dim: 4 };
    compare("infogan", &config, &normal, Form::Tensorflow)
}

#[test]
fn flow_prior_alone() -> Result<()> {
    for (dtype, tolerance) in cases(5e-3) {
        let golden = Golden::load("prior", dtype)?;
        let w = Weights::new(0, dtype, &Device::Cpu);
        Prior::new(&flow(4), &w)?;
        golden.assign("w.", &w)?;
        golden.assign("b.", &w)?;
        let Prior::Flow(flow, ..) = Prior::new(&flow(4), &w)? else {
            anyhow::bail!("BUG: not a flow")
        };
        let x = golden.get("x")?;
        let check = |i: usize, prefix, limit| -> Result<()> {
            let (u, log_det) = flow.forward(&x.get(i)?)?;
            let back = flow.inverse(&u)?;
            golden.close(("inverse", "z"), (&back, &x.get(i)?), 0.0, limit)?;
            golden.outputs(prefix, &[("u", u), ("log_det", log_det)], limit)
        };
        check(1, "o.", tolerance.first)?;
        check(0, "v.", tolerance.first)?;
        let loss = |i: usize| Ok(flow.log_prob(&x.get(i)?)?.neg()?.mean_all()?);
        let training = Training {
            golden: &golden,
            weights: &w,
            rule: adam(Form::Torch),
            steps_per_epoch: 1000,
            loss: &|t| loss((t + 1) % 2),
            floor: FLOOR,
        };
        training.check(tolerance)?;
        last(&golden, &loss(0)?, tolerance)?;
    }
    Ok(())
}

#[test]
fn second_stage() -> Result<()> {
    for (dtype, tolerance) in cases(5e-3) {
        let golden = Golden::load("second_vae", dtype)?;
        let w = Weights::new(0, dtype, &Device::Cpu);
        let config = second_vae::Config { width: 6, depth: 2 };
        let vae = second_vae::SecondVae::new(&config, 4, &w)?;
        golden.assign("w.", &w)?;
        let (x, e) = (golden.get("x")?, golden.get("e")?);
        let check = |i: usize, prefix, limit| -> Result<()> {
            let (mean, log_std) = vae.encode(&x.get(i)?)?;
            let u = (&mean + (log_std.exp()? * e.get(i)?)?)?;
            let back = vae.decode(&u)?;
            let all = [("mean", mean), ("log_std", log_std), ("back", back)];
            golden.outputs(prefix, &all, limit)
        };
        check(1, "o.", tolerance.first)?;
        check(0, "v.", tolerance.first)?;
        let loss = |i: usize| -> Result<Tensor> {
            let (reconstruction, kl) = vae.losses(&x.get(i)?, &e.get(i)?)?;
            Ok((reconstruction + kl)?.mean_all()?)
        };
        let training = Training {
            golden: &golden,
            weights: &w,
            rule: adam(Form::Tensorflow),
            steps_per_epoch: 1000,
            loss: &|t| loss((t + 1) % 2),
            floor: FLOOR,
        };
        training.check(tolerance).context("second_vae")?;
        last(&golden, &loss(0)?, tolerance)?;
    }
    Ok(())
}
