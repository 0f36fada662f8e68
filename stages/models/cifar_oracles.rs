//! Densities of real CIFAR-10 under untrained flows (REFERENCE 7, oracle 20). Where the images are:
//! `REPRO_DATA=DIR cargo test --release cifar -- --ignored --nocapture`.

use std::f64::consts::LN_2;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};

use super::flow_layer::{self, FlowLayer, FlowStart};
use super::gaussian;
use super::glow::{self, Glow};
use crate::contract::testing::Bench;
use crate::data::images::Images;
use crate::data::source::Source;
use crate::glow::Glow as Kind;
use crate::nn::bijector::Bijector;
use crate::nn::coupling::CouplingKind;
use crate::nn::noise::Noise;
use crate::nn::weights::Weights;

fn cifar() -> Result<(Images, Images)> {
    let data = std::env::var_os("REPRO_DATA").context("REPRO_DATA is not set")?;
    let mut bench = Bench::new::<Kind>(&[]);
    bench.spec().data = Some(data.into());
    let splits = Source::Cifar10 {}.load(&mut bench.job(None).0)?;
    Ok((splits.train, splits.test))
}

/// Bits per dimension of all test images after a start on 256 training images. Couplings start
/// at zero, so their width does not matter.
fn measure(
    start: impl Fn(&Tensor) -> Result<()>,
    bits: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<f64> {
    let (train, test) = cifar()?;
    let noise = Noise::new(0, "oracle");
    let batch = |images: &Images, indices: &[usize], step| -> Result<Tensor> {
        let x = images.batch(indices, DType::F32, &Device::Cpu)?;
        Ok(glow::preprocess(&x, &mut noise.at(step))?)
    };
    start(&batch(&train, &(0..256).collect::<Vec<_>>(), 0)?)?;
    let all: Vec<usize> = (0..test.n).collect();
    let mut sum = 0.0;
    for (i, indices) in all.chunks(100).enumerate() {
        let bits = bits(&batch(&test, indices, 1 + i as u64)?)?;
        sum += bits.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()?;
    }
    Ok(sum / test.n as f64)
}

#[test]
#[ignore = "needs CIFAR-10"]
fn cifar_under_a_multi_scale_glow_at_its_start() -> Result<()> {
    for coupling in [CouplingKind::Additive, CouplingKind::Affine] {
        let w = Weights::new(0, DType::F32, &Device::Cpu);
        let flow = glow::Flow {
            levels: 3,
            depth: 32,
            width: 4,
            coupling,
            learn_top: true,
        };
        let image = [32, 32, 3];
        let config = glow::Config { flow, image };
        let model = Glow::new(&config, &w)?;
        let frozen = Glow::new(&config, &w.frozen())?;
        let bits = measure(
            |x| Ok(model.start(x).map(drop)?),
            |x| Ok(frozen.bits_of(x)?),
        )?;
        println!("Glow, 3 levels, {coupling:?}, at its start: {bits:.4} bits/dim");
        assert!((5.75..=5.90).contains(&bits));
    }
    Ok(())
}

#[test]
#[ignore = "needs CIFAR-10"]
fn cifar_under_a_single_level_flow_at_its_start() -> Result<()> {
    let w = Weights::new(0, DType::F32, &Device::Cpu);
    let flow = flow_layer::Flow {
        depth: 32,
        width: 4,
        start: FlowStart::Data,
    };
    let config = flow_layer::Config { flow, channels: 3 };
    let model = FlowLayer::new(&config, &w)?;
    let frozen = FlowLayer::new(&config, &w.frozen())?;
    let bits = measure(
        |x| Ok(model.start(x).map(drop)?),
        |x| {
            let (y, log_det) = frozen.forward(x)?;
            let density = (gaussian::log_standard(&y)? + log_det)?;
            Ok(((density / (-3072.0 * LN_2))? + 8.0)?)
        },
    )?;
    println!("single-level flow of depth 32 at its start: {bits:.4} bits/dim");
    assert!((7.185..=7.193).contains(&bits));
    Ok(())
}
