//! The VAE, the flow prior and the second-stage VAE against an independent PyTorch model
//! (`tests/golden/vae.py`): losses, the gradient of every parameter, 20 optimiser steps.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};

use super::prior::{self, Prior};
use super::vae::{Config, Covariance, Network, Phase1, Vae};
use super::{real_nvp, second_vae};
use crate::nn::batch_norm::Mode;
use crate::nn::tensor_file;
use crate::nn::weights::Weights;
use crate::train::Optim;
use crate::train::optim::{Form, Optimiser, Rule};

type Loss<'a> = dyn Fn(&Tensor, &Tensor, Mode) -> Result<Tensor> + 'a;

struct Golden(BTreeMap<String, Tensor>);

impl Golden {
    fn load(name: &str, dtype: DType) -> Result<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
        let (tensors, _) = tensor_file::read(&folder.join(format!("{name}.safetensors")))?;
        let convert = |(name, t): (String, Tensor)| Ok((name, t.to_dtype(dtype)?));
        Ok(Self(
            tensors.into_iter().map(convert).collect::<Result<_>>()?,
        ))
    }

    fn get(&self, name: &str) -> Result<&Tensor> {
        self.0
            .get(name)
            .with_context(|| format!("no golden {name}"))
    }

    fn group<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a Tensor)> {
        self.0
            .iter()
            .filter_map(move |(n, t)| Some((n.strip_prefix(prefix)?, t)))
    }
}

fn largest(t: &Tensor) -> Result<f64> {
    Ok(t.to_dtype(DType::F64)?.abs()?.max_all()?.to_scalar()?)
}

/// Largest difference relative to the largest value, or to `floor` where all values are tiny:
/// a bias before a batch norm has no gradient but rounding.
fn close(what: &str, ours: &Tensor, theirs: &Tensor, floor: f64, tolerance: f64) -> Result<()> {
    let (gap, size) = (largest(&(ours - theirs)?)?, largest(theirs)?.max(floor));
    anyhow::ensure!(
        gap <= tolerance * size,
        "{what}: differs by {gap:e} of {size:e}"
    );
    Ok(())
}

/// Compares the first loss and its gradients within `tolerance`, what 20 steps lead to within
/// `after`: in f32 the steps add up their rounding.
fn compare(
    golden: &Golden,
    w: &Weights,
    loss: &Loss,
    form: Form,
    (tolerance, after): (f64, f64),
) -> Result<()> {
    let (all, trained) = (w.all(), w.trained());
    let ours: BTreeSet<&str> = trained.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(ours, golden.group("w.").map(|(n, _)| n).collect());
    for (name, value) in golden.group("w.").chain(golden.group("b.")) {
        all[name].set(value).with_context(|| name.to_owned())?;
    }
    let rule = Optim {
        kind: Rule::Adam,
        lr: 1e-3,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        form,
        halve_every: 0,
        warmup_epochs: 0,
        clip_norm: 0.0,
    };
    let optimiser = Optimiser::new(&rule, trained.clone(), 1000)?;
    let (x, e, losses) = (golden.get("x")?, golden.get("e")?, golden.get("losses")?);
    let norm = golden
        .group("g.")
        .try_fold(0.0, |m, (_, g)| anyhow::Ok(largest(g)?.max(m)))?;
    for t in 1..=20 {
        let value = loss(&x.get(t % 2)?, &e.get(t % 2)?, Mode::Train)?;
        let expect = losses.get(t - 1)?;
        let limit = if t == 1 { tolerance } else { after };
        close(&format!("loss {t}"), &value, &expect, 1.0, limit)?;
        let grads = value.backward()?;
        for (name, var) in trained.iter().filter(|_| t == 1) {
            let grad = grads
                .get(var)
                .with_context(|| format!("no gradient of {name}"))?;
            close(
                name,
                grad,
                golden.get(&format!("g.{name}"))?,
                1e-3 * norm,
                tolerance,
            )?;
        }
        optimiser.step(&grads, t as u64 - 1)?;
    }
    for (name, var) in &trained {
        // A bias before a batch norm has gradient zero but for rounding, which was checked above;
        // Adam divides that rounding by itself, so where such a bias walks means nothing.
        if largest(golden.get(&format!("g.{name}"))?)? > 1e-10 * norm {
            let what = format!("{name} after 20 steps");
            close(&what, var, golden.get(&format!("f.{name}"))?, 1e-2, after)?;
        }
    }
    let value = loss(&x.get(0)?, &e.get(0)?, Mode::Eval)?;
    close(
        "evaluation",
        &value,
        &golden.get("eval")?.get(0)?,
        1.0,
        after,
    )
}

const EXACT: (f64, f64) = (1e-9, 1e-9);
/// Adam divides small gradients by themselves, so f32 rounding grows from step to step.
const SINGLE: (f64, f64) = (1e-4, 5e-3);

fn phase1(name: &str, config: &Config, prior: &prior::Config, form: Form) -> Result<()> {
    for (dtype, tolerance) in [(DType::F64, EXACT), (DType::F32, SINGLE)] {
        let w = Weights::new(0, dtype, &Device::Cpu);
        let vae = Vae::new(config, &w.pp("vae"))?;
        let model = Phase1 {
            vae,
            prior: Prior::new(prior, &w.pp("prior"))?,
        };
        // The permutations are read when a flow is built.
        let golden = Golden::load(name, dtype)?;
        for (name, value) in golden.group("b.") {
            w.all()[name].set(value)?;
        }
        let model = Phase1 {
            prior: Prior::new(prior, &w.pp("prior"))?,
            ..model
        };
        let loss = |y: &Tensor, e: &Tensor, mode| Ok(model.loss_of(y, e, mode)?.total);
        compare(&golden, &w, &loss, form, tolerance)
            .with_context(|| format!("{name} {dtype:?}"))?;
    }
    Ok(())
}

#[test]
fn resnet_with_diagonal_covariance_and_flow_prior() -> Result<()> {
    let network = Network::Resnet {
        width: 2,
        scales: 2,
        blocks: 1,
        dense: 5,
        max_width: 3,
        norm_decay: 0.999,
    };
    let covariance = Covariance::Diagonal;
    let config = Config {
        shape: [8, 8, 3],
        latent: 4,
        network,
        covariance,
        dequantise: true,
    };
    let flow = real_nvp::Config {
        layers: 3,
        width: 6,
        max_log_scale: 2.0,
    };
    phase1(
        "resnet",
        &config,
        &prior::Config::Flow { dim: 4, flow },
        Form::Torch,
    )
}

#[test]
fn infogan_with_isotropic_covariance() -> Result<()> {
    let network = Network::Infogan {
        width: 2,
        dense: 5,
        norm_decay: 0.999,
    };
    let covariance = Covariance::Isotropic;
    let config = Config {
        shape: [8, 8, 3],
        latent: 4,
        network,
        covariance,
        dequantise: false,
    };
    phase1(
        "infogan",
        &config,
        &prior::Config::Normal { dim: 4 },
        Form::Tensorflow,
    )
}

#[test]
fn second_stage() -> Result<()> {
    for (dtype, tolerance) in [(DType::F64, EXACT), (DType::F32, SINGLE)] {
        let w = Weights::new(0, dtype, &Device::Cpu);
        let config = second_vae::Config { width: 6, depth: 2 };
        let vae = second_vae::SecondVae::new(&config, 4, &w)?;
        let loss = |z: &Tensor, e: &Tensor, _| {
            let (reconstruction, kl) = vae.losses(z, e)?;
            Ok((reconstruction + kl)?.mean_all()?)
        };
        let golden = Golden::load("second_vae", dtype)?;
        compare(&golden, &w, &loss, Form::Tensorflow, tolerance)?;
    }
    Ok(())
}
