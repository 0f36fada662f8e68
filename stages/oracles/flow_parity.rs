//! The flow layer and the multi-scale Glow against independent PyTorch models
//! (`tests/golden/flows.py`): outputs, log-determinants, losses, the gradient of every parameter,
//! 20 optimiser steps.

use anyhow::Result;
use candle_core::{DType, Device, Tensor};

use super::golden::{Golden, Tolerance, Training, adam, cases};
use crate::models::flow_layer::{self, FlowLayer, FlowStart};
use crate::models::gaussian;
use crate::models::glow::{self, Glow};
use crate::nn::bijector::Bijector;
use crate::nn::coupling::{ChannelSplit, CouplingKind, CouplingNetwork};
use crate::nn::inv_conv::InvConvForm;
use crate::nn::weights::Weights;
use crate::train::optim::Optim;
use crate::train::optim::{Form, Rule};

/// In f32 twenty steps let a last digit grow.
const AFTER: f64 = 2e-3;

fn compare(
    golden: &Golden,
    w: &Weights,
    flow: &dyn Bijector,
    loss: &dyn Fn(&Tensor) -> Result<Tensor>,
    (rule, steps_per_epoch): (Optim, u64),
    tolerance: Tolerance,
) -> Result<()> {
    golden.assign("b.", w)?;
    golden.assign("w.", w)?;
    let x = golden.get("x")?;
    let (y, log_det) = flow.forward(&x.get(0)?)?;
    for (name, ours) in [("y", &y), ("log_det", &log_det)] {
        let pair = (ours, golden.get(name)?);
        golden.close(("outputs", name), pair, 0.0, tolerance.first)?;
    }
    if x.dtype() == DType::F64 {
        // These weights are far from a trained flow's: in f32 the way back loses digits.
        let back = flow.inverse(&y)?;
        golden.close(("inverse", "x"), (&back, &x.get(0)?), 0.0, tolerance.first)?;
    }
    let training = Training {
        golden,
        weights: w,
        rule,
        steps_per_epoch,
        loss: &|t| loss(&x.get((t + 1) % 2)?),
        floor: 0.0,
    };
    training.check(tolerance)?;
    let pair = (&loss(&x.get(0)?)?, &golden.get("eval")?.get(0)?);
    golden.close(("20 steps", "evaluation"), pair, 1.0, tolerance.after)
}

fn flow_layer(name: &str, flow: &flow_layer::Flow) -> Result<()> {
    for (dtype, tolerance) in cases(AFTER) {
        let golden = Golden::load(name, dtype)?;
        let w = Weights::new(0, dtype, &Device::Cpu);
        let flow = flow.clone();
        let flow = FlowLayer::new(&flow_layer::Config { flow, channels: 3 }, &w)?;
        let loss = |x: &Tensor| {
            let (y, log_det) = flow.forward(x)?;
            let (mu, log_sigma) = (golden.get("mu")?, golden.get("log_sigma")?);
            let density = gaussian::log_density(&y, mu, log_sigma)?;
            Ok((density + log_det)?.neg()?.mean_all()?)
        };
        let rule = (adam(Form::Torch), 1000);
        compare(&golden, &w, &flow, &loss, rule, tolerance)?;
    }
    Ok(())
}

#[test]
fn flow_layer_on_a_diagonal_base() -> Result<()> {
    let flow = flow_layer::Flow::of(3, 5, FlowStart::Identity);
    flow_layer("flow_layer", &flow)
}

/// The other choices of A3, A5 and A6 together.
#[test]
fn plain_flow_layer_by_lu_factors() -> Result<()> {
    let flow = flow_layer::Flow {
        split: ChannelSplit::Alternate,
        network: CouplingNetwork::Plain,
        inv_conv: InvConvForm::Lu,
        ..flow_layer::Flow::of(3, 5, FlowStart::Identity)
    };
    flow_layer("flow_layer_plain", &flow)
}

fn glow(name: &str, image: [usize; 3], flow: &glow::Flow, rule: &(Optim, u64)) -> Result<()> {
    for (dtype, tolerance) in cases(AFTER) {
        let golden = Golden::load(name, dtype)?;
        let w = Weights::new(0, dtype, &Device::Cpu);
        let flow = flow.clone();
        let model = Glow::new(&glow::Config { flow, image }, &w)?;
        let loss = |x: &Tensor| Ok(model.bits_of(x)?.mean_all()?);
        compare(&golden, &w, &model, &loss, rule.clone(), tolerance)?;
    }
    Ok(())
}

#[test]
fn additive_glow_of_two_levels() -> Result<()> {
    let flow = glow::Flow::official(2, 2, 5, CouplingKind::Additive);
    let rule = (adam(Form::Torch), 1000);
    glow("glow_additive", [8, 8, 1], &flow, &rule)
}

#[test]
fn affine_glow_of_one_level() -> Result<()> {
    let flow = glow::Flow {
        learn_top: false,
        ..glow::Flow::official(1, 2, 5, CouplingKind::Affine)
    };
    let rule = (adam(Form::Torch), 1000);
    glow("glow_affine", [4, 4, 3], &flow, &rule)
}

/// Trained as the official code does: Adamax, beta2 from the steps of an epoch, warm-up.
#[test]
fn affine_glow_of_two_levels_under_adamax() -> Result<()> {
    let flow = glow::Flow::official(2, 2, 4, CouplingKind::Affine);
    let rule = Optim {
        kind: Rule::Adamax,
        beta2: 0.0,
        warmup_epochs: 2.0,
        ..adam(Form::Tensorflow)
    };
    glow("glow_official", [8, 8, 1], &flow, &(rule, 4))
}
