//! The flow layer and the multi-scale Glow against an independent PyTorch model
//! (`tests/golden/flows.py`): outputs, log-determinants, losses, the gradient of every parameter,
//! 20 optimiser steps.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};

use super::flow_layer::{self, FlowLayer, FlowStart};
use super::gaussian;
use super::glow::{self, Glow};
use crate::nn::bijector::Bijector;
use crate::nn::coupling::CouplingKind;
use crate::nn::tensor_file;
use crate::nn::weights::Weights;
use crate::train::Optim;
use crate::train::optim::{Form, Optimiser, Rule};

type Golden = BTreeMap<String, Tensor>;

fn load(name: &str, dtype: DType) -> Result<Golden> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let (tensors, _) = tensor_file::read(&folder.join(format!("{name}.safetensors")))?;
    let convert = |(name, t): (String, Tensor)| Ok((name, t.to_dtype(dtype)?));
    tensors.into_iter().map(convert).collect()
}

fn largest(t: &Tensor) -> Result<f64> {
    let t = t.to_dtype(DType::F64)?;
    Ok(t.abs()?.flatten_all()?.max(0)?.to_scalar()?)
}

/// The largest difference, relative to the largest value.
fn close(what: &str, ours: &Tensor, theirs: &Tensor, tolerance: f64) -> Result<()> {
    let (gap, size) = (largest(&(ours - theirs)?)?, largest(theirs)?);
    ensure!(
        gap <= tolerance * size,
        "{what}: differs by {gap:e} of {size:e}"
    );
    Ok(())
}

/// `first` for one pass and its gradients, `after` for 20 steps.
fn compare(
    golden: &Golden,
    w: &Weights,
    flow: &dyn Bijector,
    loss: &dyn Fn(&Tensor) -> Result<Tensor>,
    (first, after): (f64, f64),
) -> Result<()> {
    let trained = w.trained();
    let theirs = golden.keys().filter(|name| name.starts_with("w."));
    ensure!(theirs.count() == trained.len(), "not the same parameters");
    let get = |name: &str| {
        golden
            .get(name)
            .with_context(|| format!("no golden {name}"))
    };
    for (name, var) in &trained {
        var.set(get(&format!("w.{name}"))?)?;
    }
    let (x, losses) = (get("x")?, get("losses")?);
    let (y, log_det) = flow.forward(&x.get(0)?)?;
    close("output", &y, get("y")?, first)?;
    close("log-determinant", &log_det, get("log_det")?, first)?;
    let rule = Optim {
        kind: Rule::Adam,
        lr: 1e-3,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        form: Form::Torch,
        halve_every: 0,
        warmup_epochs: 0,
        clip_norm: 0.0,
    };
    let optimiser = Optimiser::new(&rule, trained.clone(), 1000)?;
    for t in 1..=20 {
        let value = loss(&x.get(t % 2)?)?;
        let limit = if t == 1 { first } else { after };
        close(&format!("loss {t}"), &value, &losses.get(t - 1)?, limit)?;
        let gradients = value.backward()?;
        for (name, var) in trained.iter().filter(|_| t == 1) {
            let gradient = gradients.get(var);
            let gradient = gradient.with_context(|| format!("no gradient of {name}"))?;
            close(name, gradient, get(&format!("g.{name}"))?, first)?;
        }
        optimiser.step(&gradients, t as u64 - 1)?;
    }
    for (name, var) in &trained {
        close(name, var, get(&format!("f.{name}"))?, after)?;
    }
    close(
        "evaluation",
        &loss(&x.get(0)?)?,
        &get("eval")?.get(0)?,
        after,
    )
}

/// In f32 twenty steps let a last digit grow.
const CASES: [(DType, (f64, f64)); 2] = [(DType::F64, (1e-9, 1e-9)), (DType::F32, (1e-4, 2e-3))];

#[test]
fn flow_layer_on_a_diagonal_base() -> Result<()> {
    for (dtype, tolerance) in CASES {
        let golden = load("flow_layer", dtype)?;
        let w = Weights::new(0, dtype, &Device::Cpu);
        let flow = flow_layer::Flow {
            depth: 3,
            width: 5,
            start: FlowStart::Identity,
        };
        let flow = FlowLayer::new(&flow_layer::Config { flow, channels: 3 }, &w)?;
        let loss = |x: &Tensor| {
            let (y, log_det) = flow.forward(x)?;
            let density = gaussian::log_density(&y, &golden["mu"], &golden["log_sigma"])?;
            Ok((density + log_det)?.neg()?.mean_all()?)
        };
        compare(&golden, &w, &flow, &loss, tolerance).with_context(|| format!("{dtype:?}"))?;
    }
    Ok(())
}

fn glow(name: &str, image: [usize; 3], flow: &glow::Flow) -> Result<()> {
    for (dtype, tolerance) in CASES {
        let golden = load(name, dtype)?;
        let w = Weights::new(0, dtype, &Device::Cpu);
        let flow = flow.clone();
        let model = Glow::new(&glow::Config { flow, image }, &w)?;
        let loss = |x: &Tensor| Ok(model.bits_of(x)?.mean_all()?);
        compare(&golden, &w, &model, &loss, tolerance).with_context(|| format!("{dtype:?}"))?;
    }
    Ok(())
}

#[test]
fn additive_glow_of_two_levels() -> Result<()> {
    let flow = glow::Flow {
        levels: 2,
        depth: 2,
        width: 5,
        coupling: CouplingKind::Additive,
        learn_top: true,
    };
    glow("glow_additive", [8, 8, 1], &flow)
}

#[test]
fn affine_glow_of_one_level() -> Result<()> {
    let flow = glow::Flow {
        levels: 1,
        depth: 2,
        width: 5,
        coupling: CouplingKind::Affine,
        learn_top: false,
    };
    glow("glow_affine", [4, 4, 3], &flow)
}
