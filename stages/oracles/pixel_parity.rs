//! PixelCNN and PixelIQN against independent PyTorch models (`tests/golden/pixel.py`): outputs, losses, the
//! gradient of every parameter, 20 optimiser steps.

use anyhow::Result;
use candle_core::{Device, Tensor};

use super::golden::{Golden, Training, adam, cases};
use crate::models::pixelcnn::network::{Colours, Network};
use crate::models::pixelcnn::{self, PixelCnn, Range};
use crate::models::pixeliqn::{self, PixelIqn, Tau, quantile_loss};
use crate::nn::weights::Weights;
use crate::train::optim::Form;

fn network(skip: usize) -> Network {
    Network {
        layers: 2,
        width: 7,
        kernel: 3,
        first_kernel: 5,
        skip,
        head: 5,
        colours: Colours::Contiguous,
        vertical_residual: false,
    }
}

/// What the model gives for the first batch, then twenty steps.
fn compare(
    golden: &Golden,
    w: &Weights,
    tolerance: super::golden::Tolerance,
    run: &dyn Fn(usize) -> Result<(Tensor, Tensor)>,
) -> Result<()> {
    let pair = (&run(0)?.1, golden.get("y")?);
    golden.close(("outputs", "y"), pair, 0.0, tolerance.first)?;
    Training {
        golden,
        weights: w,
        rule: adam(Form::Torch),
        steps_per_epoch: 1000,
        loss: &|t| Ok(run(t % 2)?.0),
        floor: 1e-6,
    }
    .check(tolerance)
}

#[test]
fn pixelcnn_with_skips() -> Result<()> {
    for (dtype, tolerance) in cases(1e-3) {
        let golden = Golden::load("pixelcnn", dtype)?;
        let w = Weights::new(0, dtype, &Device::Cpu);
        let config = pixelcnn::Config {
            network: network(6),
            input: Range::Centred,
            image: [4, 5, 3],
        };
        let model = PixelCnn::new(&config, &w)?;
        golden.assign("w.", &w)?;
        compare(&golden, &w, tolerance, &|i| {
            let x = golden.get("x")?.get(i)?;
            Ok((model.bits_of(&x)?.mean_all()?, model.logits(&x)?))
        })?;
    }
    Ok(())
}

#[test]
fn pixeliqn_without_skips_and_with_colours_in_turn() -> Result<()> {
    for (dtype, tolerance) in cases(1e-3) {
        let golden = Golden::load("pixeliqn", dtype)?;
        let w = Weights::new(0, dtype, &Device::Cpu);
        let network = Network {
            colours: Colours::Interleaved,
            vertical_residual: true,
            ..network(0)
        };
        let config = pixeliqn::Config {
            network,
            tau: Tau::Linear {},
            input: Range::Unit,
            image: [4, 5, 3],
        };
        let model = PixelIqn::new(&config, &w)?;
        golden.assign("w.", &w)?;
        compare(&golden, &w, tolerance, &|i| {
            let (x, tau) = (golden.get("x")?.get(i)?, golden.get("tau")?.get(i)?);
            let q = model.quantiles(&x, &tau)?;
            let loss = quantile_loss(&((x / 255.0)? - &q)?, &tau, 0.002)?;
            Ok((loss.mean_all()?, q))
        })?;
    }
    Ok(())
}
