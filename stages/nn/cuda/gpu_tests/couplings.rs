//! The coupling network that stays inside of blocks, and the layers it stands for.

use candle_core::{DType, Device, Result, Tensor, Var};

use super::super::coupling::Sizes;
use super::super::coupling_op;
use super::{Case, agree, case, evaluate, gap, gpu};
use crate::nn::bijector::{Bijector, check::disturb};
use crate::nn::coupling::{Config, Coupling, CouplingKind, CouplingNetwork, Roles, additive};
use crate::nn::noise::Noise;
use crate::nn::weights::Weights;

/// Images and hidden channels: the paper's; tiles that are not full; Glow's first level; all widths that
/// kernels are made for.
const SIZES: [[usize; 5]; 5] = [
    [2, 8, 8, 3, 256],
    [1, 1, 1, 2, 3],
    [3, 5, 7, 5, 64],
    [1, 7, 9, 12, 130],
    [2, 5, 7, 6, 128],
];

/// More tiles than blocks.
const MANY: [usize; 5] = [17, 32, 32, 3, 16];

fn sizes([n, h, w, channels, width]: [usize; 5]) -> Sizes {
    Sizes {
        n,
        h,
        w,
        channels,
        split: channels / 2,
        width,
    }
}

/// By `run`, of images and parameters that do not saturate ReLU.
fn case_of<'a>(
    size: [usize; 5],
    run: impl Fn(&Tensor, &Tensor) -> Result<Tensor> + 'a,
) -> Case<'a> {
    let s = sizes(size);
    let dims: [&[usize]; 2] = [&size[..4], &[s.parameters()]];
    case(format!("{s:?}"), &dims, move |x| {
        run(&x[0], &(x[1].as_tensor() * 0.3)?)
    })
}

fn on_cpu<'a>(size: [usize; 5]) -> Case<'a> {
    case_of(size, move |x, p| additive(x, size[3] / 2, size[4], p))
}

/// By the kernels. What does not fit this GPU (f64 takes twice the shared memory) is said and left out.
fn by_kernels(x: &Tensor, p: &Tensor, size: [usize; 5], tf32: bool) -> Result<Tensor> {
    let s = sizes(size);
    if coupling_op::fits(x, s)? {
        return coupling_op::additive(x, p, s, tf32);
    }
    eprintln!("not on this GPU: {:?} {s:?}", x.dtype());
    let [on_host, parameters] = [x, p].map(|t| t.to_device(&Device::Cpu));
    additive(&on_host?, size[3] / 2, size[4], &parameters?)?.to_device(x.device())
}

fn on_gpu<'a>(size: [usize; 5], tf32: bool) -> Case<'a> {
    case_of(size, move |x, p| by_kernels(x, p, size, tf32))
}

#[test]
fn couplings_agree() -> Result<()> {
    let Some(device) = gpu("couplings_agree") else {
        return Ok(());
    };
    let either = |size: [usize; 5]| {
        case_of(size, move |x, p| match x.device().is_cuda() {
            true => by_kernels(x, p, size, false),
            false => additive(x, size[3] / 2, size[4], p),
        })
    };
    agree(&SIZES.map(either), &device)?;
    // In f64 only: among so many hidden values some change sides of ReLU by the rounding of f32.
    let exact = evaluate(&on_cpu(MANY), DType::F64, &Device::Cpu)?;
    let ours = evaluate(&on_gpu(MANY, false), DType::F64, &device)?;
    for (a, b) in ours.iter().zip(&exact) {
        let gap = gap(a, b)?;
        assert!(gap < 1e-11, "{MANY:?}: {gap:e}");
    }
    Ok(())
}

/// Ten bits of mantissa in every factor; gradients lack those of the values that change sides.
#[test]
fn couplings_agree_in_tf32() -> Result<()> {
    let Some(device) = gpu("couplings_agree_in_tf32") else {
        return Ok(());
    };
    for size in SIZES {
        let exact = evaluate(&on_cpu(size), DType::F64, &Device::Cpu)?;
        let ours = evaluate(&on_gpu(size, true), DType::F32, &device)?;
        for (i, (a, b)) in ours.iter().zip(&exact).enumerate() {
            let gap = gap(a, b)?;
            assert!(
                gap < if i == 0 { 5e-3 } else { 0.1 },
                "{size:?} result {i}: {gap:e}"
            );
        }
        let again = evaluate(&on_gpu(size, true), DType::F32, &device)?;
        for (a, b) in ours.iter().zip(&again) {
            assert_eq!(gap(a, b)?, 0.0, "{size:?}: not the same bytes twice");
        }
    }
    Ok(())
}

/// A layer as models have it, on the GPU by one operation or not: value, inverse and all gradients.
#[test]
fn coupling_layers_agree() -> anyhow::Result<()> {
    let Some(device) = gpu("coupling_layers_agree") else {
        return Ok(());
    };
    // The second is too wide for one operation.
    let both = [CouplingNetwork::Official, CouplingNetwork::Plain];
    let sizes = [(3, 40), (4, 300)];
    for (network, (channels, width)) in both.into_iter().flat_map(|n| sizes.map(|s| (n, s))) {
        let config = Config {
            kind: CouplingKind::Additive,
            network,
            width,
        };
        let run = |device: &Device| -> anyhow::Result<Vec<Tensor>> {
            let w = Weights::new(0, DType::F64, device);
            let layer = Coupling::new(config, Roles::official(channels)?, &w)?;
            disturb(&w, 0.3)?;
            let dims = (3, 6, 7, channels);
            let x =
                Var::from_tensor(&Noise::new(4, "x").at(0).normal(dims, DType::F64, device)?)?;
            let y = layer.forward(&x)?.0;
            let grads = y.sqr()?.sum_all()?.backward()?;
            let mut all = vec![y.clone(), layer.inverse(&y)?];
            for var in w.all().values().chain([&x]) {
                all.extend(grads.get(var).cloned());
            }
            assert_eq!(all.len(), 3 + w.all().len());
            let host = |t: &Tensor| t.detach().to_device(&Device::Cpu);
            Ok(all.iter().map(host).collect::<Result<_>>()?)
        };
        for (a, b) in run(&device)?.iter().zip(&run(&Device::Cpu)?) {
            let gap = gap(a, b)?;
            assert!(gap < 1e-11, "{config:?} {channels}: {gap:e}");
        }
    }
    Ok(())
}
