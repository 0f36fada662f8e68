//! Three convolutions one after the other on the CPU: powers of their Jacobian, and the inverse of a step
//! through them, on tensors.

use candle_core::{DType, Device, Result, Tensor, WithDType, bail};

use super::cpu::Real;
use super::cpu::chain::{Chain, Three};
use super::cpu::fixed_point::{Contraction, Rounds, Until, row_of};
use super::cpu::lip_swish::{LipSwish, Logistic};
use super::slices::with_all;

/// On the CPU: `e + sum over k of f_k e' J^k` of e's shape, and `e' J^k e`, `[n, terms]`, where
/// `J = K2 D2 K1 D1 K0 D0`. `factors` of terms 1, 2, ..., for each image or for all; terms whose factors are
/// zero are at an image's end and not computed. No gradient.
pub fn powers(
    kernels: &[Tensor; 3],
    slopes: &[Option<Tensor>; 3],
    e: &Tensor,
    factors: &[Vec<f64>],
) -> Result<(Tensor, Tensor)> {
    match e.dtype() {
        DType::F32 => of_type::<f32>(kernels, slopes, e, factors),
        DType::F64 => of_type::<f64>(kernels, slopes, e, factors),
        other => bail!("powers: wants f32 or f64, got {other:?}"),
    }
}

fn of_type<T: Real + WithDType>(
    kernels: &[Tensor; 3],
    slopes: &[Option<Tensor>; 3],
    e: &Tensor,
    factors: &[Vec<f64>],
) -> Result<(Tensor, Tensor)> {
    let (n, h, w, c) = e.dims4()?;
    let dims = dims(kernels, c)?;
    for (slopes, [_, _, input, _]) in slopes.iter().zip(dims) {
        if let Some(slopes) = slopes
            && slopes.dims() != [n, h, w, input]
        {
            bail!("powers: slopes {:?} for {:?}", slopes.dims(), e.dims());
        }
    }
    if !factors.iter().all(|f| f.len() == 1 || f.len() == n) {
        bail!("powers: factors of {n} images or of one");
    }
    let e = e.contiguous()?;
    let kernels = kernels
        .iter()
        .map(Tensor::contiguous)
        .collect::<Result<Vec<_>>>()?;
    let mut operands: Vec<&Tensor> = vec![&e];
    operands.extend(&kernels);
    operands.extend(slopes.iter().flatten());
    let (sum, traces) = with_all::<T, _>("powers", &operands, |slices| {
        let (own, mut rest) = (&slices[1..4], slices[4..].iter());
        let chain = Chain {
            convs: Three {
                size: (h, w),
                kernels: [0, 1, 2].map(|i| (own[i], dims[i])),
            },
            slopes: slopes
                .each_ref()
                .map(|s| s.as_ref().and_then(|_| rest.next().copied())),
        };
        chain.powers(slices[0], factors)
    })?;
    Ok((
        Tensor::from_vec(sum, e.shape().clone(), &Device::Cpu)?,
        Tensor::from_vec(traces, (n, factors.len()), &Device::Cpu)?,
    ))
}

/// Dimensions of three kernels, from `channels` to as many, each of which takes what the one before gives.
fn dims(kernels: &[Tensor; 3], channels: usize) -> Result<[[usize; 4]; 3]> {
    let (mut dims, mut given) = ([[0; 4]; 3], channels);
    for (dims, kernel) in dims.iter_mut().zip(kernels) {
        let (kh, kw, input, output) = kernel.dims4()?;
        if input != given {
            bail!("a kernel {:?} for {given} channels", kernel.dims());
        }
        (*dims, given) = ([kh, kw, input, output], output);
    }
    if given != channels {
        bail!("kernels from {channels} channels to {given}");
    }
    Ok(dims)
}

/// On the CPU: the x with `x + g(x) = y`, where `g = K2 s2 K1 s1 K0 s0 + bias` with activations s, where there
/// are any, given by their bias and `b`; and how it went for each image. No gradient.
pub fn inverse(
    kernels: &[Tensor; 3],
    swishes: &[Option<(Tensor, Tensor)>; 3],
    bias: &Tensor,
    y: &Tensor,
    until: Until,
) -> Result<(Tensor, Vec<Rounds>)> {
    match y.dtype() {
        DType::F32 => inverse_of_type::<f32>(kernels, swishes, bias, y, until),
        DType::F64 => inverse_of_type::<f64>(kernels, swishes, bias, y, until),
        other => bail!("inverse: wants f32 or f64, got {other:?}"),
    }
}

fn inverse_of_type<T: Logistic + WithDType>(
    kernels: &[Tensor; 3],
    swishes: &[Option<(Tensor, Tensor)>; 3],
    bias: &Tensor,
    y: &Tensor,
    until: Until,
) -> Result<(Tensor, Vec<Rounds>)> {
    let (_, h, w, c) = y.dims4()?;
    let dims = dims(kernels, c)?;
    for (swish, [_, _, input, _]) in swishes.iter().zip(dims) {
        if swish.as_ref().is_some_and(|s| s.0.dims() != [input]) {
            bail!("inverse: a bias that is not of {input} channels");
        }
    }
    if bias.dims() != [c] {
        bail!("inverse: bias {:?} for {:?}", bias.dims(), y.dims());
    }
    let flat = |t: &Tensor| t.flatten_all()?.to_vec1::<T>();
    let weights = [flat(&kernels[0])?, flat(&kernels[1])?, flat(&kernels[2])?];
    let mut own = [None, None, None];
    for (own, swish) in own.iter_mut().zip(swishes) {
        if let Some((bias, b)) = swish {
            *own = Some(LipSwish::new(&flat(bias)?, flat(b)?[0]));
        }
    }
    let contraction = Contraction {
        convs: Three {
            size: (h, w),
            kernels: [0, 1, 2].map(|i| (&weights[i][..], dims[i])),
        },
        swishes: own,
        bias: row_of(&flat(bias)?),
    };
    let (x, rounds) = contraction.inverse(&flat(y)?, until);
    Ok((
        Tensor::from_vec(x, y.shape().clone(), &Device::Cpu)?,
        rounds,
    ))
}
