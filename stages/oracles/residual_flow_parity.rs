//! Residual Flow against an independent PyTorch model (`tests/golden/residual_flow.py`): the start of actnorms,
//! noise, log-determinants estimated and exact, bits per dimension, losses, the gradient of every parameter, 20
//! optimiser steps with a power iteration after each.

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use serde_json::{from_value, json};

use super::golden::{Golden, Tolerance, Training, adam, cases};
use crate::models::residual_flow::{Config, Probes, ResidualFlow, Series};
use crate::nn::spectral_conv::Power;
use crate::nn::weights::Weights;
use crate::train::optim::{Form, Optim};

const BLOCKS: usize = 5;

/// As the published command trains.
const POWER: Power = Power {
    tolerance: 1e-3,
    most: 200,
};

fn config(dtype: DType) -> Result<Config> {
    let tolerance = match dtype {
        DType::F64 => 1e-13,
        _ => 1e-6,
    };
    Ok(from_value(json!({
        "network": {
            "blocks": [2, 1],
            "width": 5,
            "dense_blocks": 2,
            "dense_width": 4,
            "coefficient": 0.98,
            "alpha": 0.05,
        },
        "evaluation": evaluation()?,
        "probe": "gaussian",
        "inverse": { "rule": "strict", "tolerance": tolerance, "most": 1000 },
        "image": [4, 6, 3],
    }))?)
}

fn training() -> Result<Series> {
    Ok(from_value(
        json!({ "law": "poisson", "mean": 2.0, "exact": 2 }),
    )?)
}

fn evaluation() -> Result<Series> {
    Ok(from_value(
        json!({ "law": "geometric", "mean": 2.0, "exact": 3 }),
    )?)
}

/// Weights of terms where these are added, which must be the other side's `[terms, ...]`, 0 beyond the end.
fn terms(golden: &Golden, series: Series, more: &Tensor, theirs: &Tensor) -> Result<Vec<Vec<f64>>> {
    let more = more.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    let more: Vec<usize> = more.into_iter().map(|n| n as usize).collect();
    let ours = series.weights(&more);
    let mut all: Vec<f64> = ours.concat();
    all.resize(theirs.elem_count(), 0.0);
    let all = Tensor::from_vec(all, theirs.shape(), &Device::Cpu)?;
    let pair = (&all.to_dtype(theirs.dtype())?, theirs);
    golden.close(("weights", "of terms"), pair, 0.0, 1e-6)?;
    Ok(ours)
}

fn probe(golden: &Golden, block: usize, batch: usize) -> Result<Tensor> {
    Ok(golden.get(&format!("probe.{block}"))?.get(batch)?)
}

/// What a training step on a batch draws.
fn of_training(golden: &Golden, batch: usize) -> Result<Probes> {
    let (more, weights) = (golden.get("more")?.get(batch)?, golden.get("weights")?);
    let of_block = |i: usize| {
        let theirs = weights.get(batch * BLOCKS + i)?;
        terms(golden, training()?, &more.narrow(0, i, 1)?, &theirs)
    };
    Ok(Probes {
        weights: (0..BLOCKS).map(of_block).collect::<Result<_>>()?,
        vectors: (0..BLOCKS)
            .map(|i| probe(golden, i, batch))
            .collect::<Result<_>>()?,
    })
}

/// What an evaluation of the first batch draws.
fn of_evaluation(golden: &Golden) -> Result<Probes> {
    let of_block = |i: usize| {
        let theirs = golden.get(&format!("eval_weights.{i}"))?;
        let more = golden.get("eval_more")?.get(i)?;
        terms(golden, evaluation()?, &more, theirs)
    };
    Ok(Probes {
        weights: (0..BLOCKS).map(of_block).collect::<Result<_>>()?,
        vectors: (0..BLOCKS)
            .map(|i| probe(golden, i, 0))
            .collect::<Result<_>>()?,
    })
}

/// The mean over these copies of an image is no estimate: their vectors are a basis, scaled so that `e' A e`
/// has `tr A` as its mean, and what is cut off the series is below rounding.
fn of_traces(golden: &Golden, dims: usize) -> Result<Probes> {
    let basis = (Tensor::eye(dims, DType::F64, &Device::Cpu)? * (dims as f64).sqrt())?;
    let vector = |i: usize| {
        let mut shape = probe(golden, i, 0)?.dims().to_vec();
        shape[0] = dims;
        Ok(basis.reshape(shape)?)
    };
    Ok(Probes {
        weights: vec![vec![vec![1.0]; 30]; BLOCKS],
        vectors: (0..BLOCKS).map(vector).collect::<Result<_>>()?,
    })
}

/// A first batch starts actnorms; the rest of the weights is there already.
fn start(golden: &Golden, w: &Weights, flow: &ResidualFlow, limit: f64) -> Result<()> {
    flow.start(&golden.get("y")?.get(0)?)?;
    let all = w.all();
    for (name, theirs) in golden.group("start.") {
        let ours = all.get(name).context("no actnorm of that name")?;
        golden.close(("start", name), (ours, theirs), 0.1, limit)?;
    }
    golden.assign("w.", w)
}

/// The first batch before training.
fn outputs(golden: &Golden, flow: &ResidualFlow, limit: f64) -> Result<()> {
    let (x, probes) = (golden.get("x")?, of_evaluation(golden)?);
    let (z, log_det) = flow.noise_of(x, &probes)?;
    let bits = flow.bits_of(&golden.get("y")?.get(0)?, &probes)?;
    for (name, ours) in [("z", &z), ("log_det", &log_det), ("bits", &bits)] {
        let pair = (ours, golden.get(name)?);
        golden.close(("outputs", name), pair, 0.0, limit)?;
    }
    let back = flow.inverse(golden.get("z")?)?;
    golden.close(("inverse", "x"), (&back, x), 0.0, limit)
}

/// Against determinants, and gradients of determinants.
fn exact(golden: &Golden, w: &Weights, flow: &ResidualFlow, limit: f64) -> Result<()> {
    let (y, dims) = (golden.get("y")?.get(0)?, flow.dims());
    let mut shape = y.dims().to_vec();
    shape[0] = dims;
    let y = y.narrow(0, 0, 1)?.broadcast_as(shape)?.contiguous()?;
    let probes = of_traces(golden, dims)?;
    let bits = flow.bits_of(&y, &probes)?.mean_keepdim(0)?;
    let pair = (&bits, golden.get("exact_bits")?);
    golden.close(("exact", "bits"), pair, 0.0, limit)?;
    let gradients = flow.objective(&y, &probes)?.backward()?;
    for (name, var) in w.trained() {
        let ours = gradients.get(&var);
        let ours = ours.with_context(|| format!("no gradient of {name}"))?;
        let pair = (ours, golden.get(&format!("exact.{name}"))?);
        golden.close(("exact gradients", &name), pair, 1e-6, limit)?;
    }
    Ok(())
}

fn train(
    golden: &Golden,
    w: &Weights,
    flow: &ResidualFlow,
    by_layers: bool,
    tolerance: Tolerance,
) -> Result<()> {
    let batches = [of_training(golden, 0)?, of_training(golden, 1)?];
    let loss = |t: usize| {
        if t > 0 {
            flow.settle(POWER)?;
        }
        let y = golden.get("y")?.get(t % 2)?;
        flow.objective_by(&y, &batches[t % 2], by_layers)
    };
    let rule = Optim {
        beta2: 0.99,
        clip_norm: 1.0,
        ..adam(Form::Tensorflow)
    };
    Training {
        golden,
        weights: w,
        rule,
        steps_per_epoch: 1000,
        loss: &loss,
        floor: 1e-6,
    }
    .check(tolerance)?;
    flow.settle(POWER)?;
    let all = w.all();
    for (name, theirs) in golden.group("after.") {
        let ours = all.get(name).context("no vector of that name")?;
        golden.close(("20 steps", name), (ours, theirs), 0.0, tolerance.after)?;
    }
    Ok(())
}

#[test]
fn residual_flow() -> Result<()> {
    for (dtype, tolerance) in cases(1e-3) {
        let golden = Golden::load("residual_flow", dtype)?;
        let w = Weights::new(0, dtype, &Device::Cpu);
        let flow = ResidualFlow::new(&config(dtype)?, &w)?;
        golden.assign("b.", &w)?;
        golden.assign("w.", &w)?;
        start(&golden, &w, &flow, tolerance.first)?;
        outputs(&golden, &flow, tolerance.first)?;
        if dtype == DType::F64 {
            exact(&golden, &w, &flow, tolerance.first)?;
        }
        train(&golden, &w, &flow, false, tolerance)?;
        // The same once more as large networks are trained: layer by layer.
        golden.assign("b.", &w)?;
        golden.assign("w.", &w)?;
        train(&golden, &w, &flow, true, tolerance)?;
    }
    Ok(())
}
