//! What needs a GPU, against the CPU in f64. Each test says SKIPPED where there is none.
//! `cargo test --release --features cuda --workspace --lib gpu_tests`

mod couplings;
mod others;

use candle_core::{DType, Device, Result, Tensor, Var};

use super::gpu::compile;
use super::source::Source;
use super::{
    channel, conv, coupling, coupling_parameters, matrix, noise, optim, pixel, pool, resize,
};
use crate::nn::channel::{Activation, affine, batch_norm, sum};
use crate::nn::conv::{Padding, conv_transpose2d_bias, conv2d, conv2d_bias};
use crate::nn::device;
use crate::nn::noise::Noise;

/// The first GPU, or a loud word that the test did not happen.
fn gpu(test: &str) -> Option<Device> {
    match device::open("cuda:0") {
        Ok(device) => Some(device),
        Err(e) => {
            eprintln!("SKIPPED {test}: {e:#}");
            None
        }
    }
}

/// Needs no GPU: every kernel compiles for each generation that we build for.
#[test]
fn every_kernel_compiles() -> Result<()> {
    let all = [
        &coupling_parameters::AFFINES,
        &channel::CHANNEL,
        &conv::PATCHES,
        &matrix::MATRIX,
        &noise::NOISE,
        &optim::OPTIM,
        &pixel::PIXEL,
        &pool::POOL,
        &resize::RESIZE,
    ];
    let couplings: [&Source; 3] = [
        &coupling::SOURCES[0][0],
        &coupling::SOURCES[3][0],
        &coupling::SOURCES[3][1],
    ];
    for source in all.into_iter().chain(couplings) {
        for (real, capability) in [("float", 80), ("float", 90), ("double", 90), ("float", 100)] {
            // Tensor cores take no f64 as if it were TF32.
            if real == "double" && source.name.ends_with("tf32") {
                continue;
            }
            let ptx = compile(source, real, capability)?;
            assert!(!source.kernels().is_empty());
            for kernel in source.kernels() {
                assert!(
                    ptx.contains(&format!(".entry {kernel}(")),
                    "{}: {kernel}",
                    source.name
                );
            }
            assert!(
                ptx.contains(&format!(".target sm_{capability}")),
                "{}",
                source.name
            );
            // Contracted products would round otherwise than on the CPU. Inside quotients and roots
            // the compiler may use them: those are rounded correctly as a whole.
            if source.name == "noise" {
                let fused = ptx.matches("fma.rn.f32").count();
                assert_eq!(fused, 0, "{fused} contracted operations");
            }
        }
    }
    Ok(())
}

type Function<'a> = dyn Fn(&[Var]) -> Result<Tensor> + 'a;

/// A function of tensors, and their sizes.
struct Case<'a> {
    name: String,
    inputs: Vec<Vec<usize>>,
    run: Box<Function<'a>>,
}

fn case<'a>(
    name: impl Into<String>,
    inputs: &[&[usize]],
    run: impl Fn(&[Var]) -> Result<Tensor> + 'a,
) -> Case<'a> {
    Case {
        name: name.into(),
        inputs: inputs.iter().map(|d| d.to_vec()).collect(),
        run: Box::new(run),
    }
}

/// The result and the gradients of all inputs, in f64 on the host.
fn evaluate(case: &Case, dtype: DType, device: &Device) -> Result<Vec<Tensor>> {
    let inputs = case.inputs.iter().zip(0..).map(|(dims, i)| {
        let x = Noise::new(9, "gpu")
            .at(i)
            .normal(dims.as_slice(), DType::F64, &Device::Cpu)?;
        Var::from_tensor(&x.to_dtype(dtype)?.to_device(device)?)
    });
    let inputs = inputs.collect::<Result<Vec<_>>>()?;
    let y = (case.run)(&inputs)?;
    let weights = Noise::new(9, "weights")
        .at(0)
        .normal(y.shape(), DType::F64, &Device::Cpu)?;
    let weights = weights.to_dtype(dtype)?.to_device(device)?;
    let grads = (&y * weights)?.sum_all()?.backward()?;
    let mut all = vec![y.detach()];
    for x in &inputs {
        let grad = grads.get(x).cloned();
        all.push(grad.map_or_else(|| x.zeros_like(), Ok)?);
    }
    all.iter()
        .map(|t| t.to_device(&Device::Cpu)?.to_dtype(DType::F64))
        .collect()
}

fn gap(a: &Tensor, b: &Tensor) -> Result<f64> {
    let norm = |t: &Tensor| t.sqr()?.sum_all()?.sqrt()?.to_scalar::<f64>();
    Ok(norm(&(a - b)?)? / norm(b)?.max(1e-300))
}

/// On the GPU as on the CPU, to rounding; and the same bytes twice.
fn agree(cases: &[Case], device: &Device) -> Result<()> {
    for case in cases {
        let exact = evaluate(case, DType::F64, &Device::Cpu)?;
        for (dtype, tolerance) in [(DType::F64, 1e-11), (DType::F32, 2e-5)] {
            let ours = evaluate(case, dtype, device)?;
            for (i, (a, b)) in ours.iter().zip(&exact).enumerate() {
                let gap = gap(a, b)?;
                assert!(
                    gap <= tolerance,
                    "{} {dtype:?} result {i}: {gap:e}",
                    case.name
                );
            }
            let again = evaluate(case, dtype, device)?;
            for (a, b) in ours.iter().zip(&again) {
                let same =
                    a.flatten_all()?.to_vec1::<f64>()? == b.flatten_all()?.to_vec1::<f64>()?;
                assert!(same, "{} {dtype:?}: not the same bytes twice", case.name);
            }
        }
    }
    Ok(())
}

#[test]
fn channels_agree() -> Result<()> {
    let Some(device) = gpu("channels_agree") else {
        return Ok(());
    };
    let mut cases = vec![case("sum", &[&[4, 9, 9, 40]], |x| sum(&x[0]))];
    for c in [3, 45, 512] {
        for act in [Activation::None, Activation::Relu, Activation::Leaky(0.2)] {
            let dims: [&[usize]; 3] = [&[3, 20, 20, c], &[c], &[c]];
            cases.push(case(format!("affine {c} {act:?}"), &dims, move |x| {
                affine(&x[0], &x[1], &x[2], act)
            }));
            cases.push(case(format!("batch norm {c} {act:?}"), &dims, move |x| {
                Ok(batch_norm(&x[0], &x[1], &x[2], 1e-5, act)?.0)
            }));
        }
    }
    // A sum has no gradient of its own: it is one.
    cases[0].run = Box::new(|x| x[0].sum((0, 1, 2)));
    agree(&cases, &device)?;
    let x = Noise::new(9, "gpu")
        .at(0)
        .normal((4, 9, 9, 40), DType::F64, &Device::Cpu)?;
    let ours = sum(&x.to_device(&device)?)?.to_device(&Device::Cpu)?;
    assert!(gap(&ours, &sum(&x)?)? < 1e-12);
    Ok(())
}

/// Layers as the models have them: 3x3, 1x1, TensorFlow's strides, 4x4, transposed; few channels.
#[test]
fn convolutions_agree() -> Result<()> {
    let Some(device) = gpu("convolutions_agree") else {
        return Ok(());
    };
    let mut cases = Vec::new();
    for (k, stride, cin, cout) in [
        (3, 1, 32, 64),
        (3, 1, 2, 64),
        (3, 1, 64, 6),
        (1, 1, 64, 48),
        (3, 2, 32, 64),
        (4, 2, 3, 32),
        (5, 1, 16, 24),
    ] {
        let padding = Padding::tensorflow((16, 16), k, stride);
        let dims: [&[usize]; 3] = [&[4, 16, 16, cin], &[k, k, cin, cout], &[cout]];
        cases.push(case(
            format!("conv {k} {stride} {cin} {cout}"),
            &dims,
            move |x| conv2d_bias(&x[0], &x[1], &x[2], stride, padding),
        ));
        let crop = Padding::tensorflow((16 * stride, 16 * stride), k, stride);
        cases.push(case(
            format!("transposed {k} {stride} {cin} {cout}"),
            &dims,
            move |x| conv_transpose2d_bias(&x[0], &x[1], &x[2], stride, crop),
        ));
    }
    let valid: [&[usize]; 2] = [&[2, 17, 15, 8], &[3, 3, 8, 16]];
    cases.push(case("conv valid stride 2", &valid, |x| {
        conv2d(&x[0], &x[1], 2, Padding::all(0))
    }));
    agree(&cases, &device)
}
