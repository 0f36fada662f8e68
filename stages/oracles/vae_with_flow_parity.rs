//! Phase 2 and the bounds on bits per dimension against an independent PyTorch model
//! (`tests/golden/full.py`): the flow layer on a frozen VAE with a flow prior.

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};

use super::golden::{Golden, Training, adam, cases};
use crate::models::flow_layer::{self, FlowLayer, FlowStart};
use crate::models::prior::{self, Prior};
use crate::models::real_nvp;
use crate::models::resnet::Head;
use crate::models::vae::{Config, Covariance, Network, Range, Vae};
use crate::models::vae_with_flow::VaeWithFlow;
use crate::nn::weights::Weights;
use crate::train::optim::Form;

fn config() -> Config {
    let network = Network::Resnet {
        width: 2,
        scales: 2,
        blocks: 1,
        head: Head::AveragePool,
        dense: 5,
        max_width: 3,
        norm_decay: 0.999,
    };
    Config {
        shape: [8, 8, 3],
        latent: 4,
        network,
        covariance: Covariance::DIAGONAL,
        range: Range::Unit,
        dequantise: true,
    }
}

fn prior() -> prior::Config {
    let flow = real_nvp::Config::of(3, 6);
    prior::Config::Flow { dim: 4, flow }
}

#[test]
fn phase_2_and_its_bounds() -> Result<()> {
    for (dtype, tolerance) in cases(2e-3) {
        let golden = Golden::load("full", dtype)?;
        let fixed = Weights::new(0, dtype, &Device::Cpu);
        Vae::new(&config(), &fixed.pp("vae"))?;
        Prior::new(&prior(), &fixed.pp("prior"))?;
        golden.assign("a.", &fixed)?;
        let frozen = fixed.frozen();
        let w = Weights::new(0, dtype, &Device::Cpu);
        let flow = flow_layer::Flow::of(2, 5, FlowStart::Identity);
        let flow = FlowLayer::new(&flow_layer::Config { flow, channels: 3 }, &w)?;
        golden.assign("w.", &w)?;
        let model = VaeWithFlow {
            vae: Vae::new(&config(), &frozen.pp("vae"))?,
            prior: Prior::new(&prior(), &frozen.pp("prior"))?,
            flow: Some(flow),
        };
        let y = ((golden.get("x")? + golden.get("u")?)? / 256.0)?;
        let e = golden.get("e")?;
        let terms = |i: usize| model.terms_of(model.flow.as_ref(), &y, &e.get(i)?);

        let first = terms(0)?;
        let one = model.in_bits(&(first.reconstruction + first.kl)?)?;
        let draws = (0..e.dim(0)?).map(|i| e.get(i));
        let three = model.importance_weighted(&y, draws)?.to_dtype(dtype)?;
        for (name, ours) in [("one", one), ("three", three)] {
            let pair = (&ours, golden.get(name)?);
            golden.close(("bits/dim", name), pair, 0.0, tolerance.first)?;
        }
        let loss = |t: usize| -> Result<Tensor> { Ok(terms(t % 3)?.reconstruction.mean_all()?) };
        let training = Training {
            golden: &golden,
            weights: &w,
            rule: adam(Form::Torch),
            steps_per_epoch: 1000,
            loss: &loss,
            floor: 0.0,
        };
        training.check(tolerance).context("phase 2")?;
    }
    Ok(())
}
