//! The coupling network that stays inside of blocks, against the CPU's.

use candle_core::{Result, Tensor, Var};

use super::super::coupling::{Coupling, Sizes};
use super::super::coupling_parameters::Layers;
use super::super::emulate::{Emulator, emulator};
use super::super::machine::{Machine, Scalar};
use super::{Room, at, close, draw, values};
use crate::nn::cpu::coupling::{backward, forward};

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

/// Output and all gradients of one size, to `tolerance` of the largest value in each.
fn agrees<T: Scalar>(
    m: &Emulator,
    s: Sizes,
    blocks: [usize; 2],
    tf32: bool,
    tolerance: f64,
) -> Result<()> {
    let images = [s.n, s.h, s.w, s.channels];
    let x = values::<f64>(&draw(0, &images)?)?;
    let dy = values::<f64>(&draw(1, &images)?)?;
    // Not so large that hidden maps saturate ReLU on one side.
    let parameters = values::<f64>(&(draw(2, &[s.parameters()])? * 0.3)?)?;
    let (y, hidden) = forward(&s, &x, &parameters, true);
    let (dx, gradient) = backward(&s, &x, &parameters, &hidden, &dy);

    let [xs, ds, ps] =
        [&x, &dy, &parameters].map(|v| v.iter().map(|v| T::new(*v)).collect::<Vec<T>>());
    let Some(mut fused) = Coupling::new::<_, T>(m, s, tf32)? else {
        panic!("{s:?} does not fit");
    };
    fused.blocks = blocks;
    let mut ours = Room::<T>::new(y.len());
    fused.forward(m, at(&xs), at(&ps), ours.at())?;
    close(&ours.0, &y, tolerance);
    let (mut ours, mut grads) = (Room::<T>::new(x.len()), Room::<T>::new(ps.len()));
    fused.backward(m, [at(&xs), at(&ps), at(&ds)], ours.at(), grads.at())?;
    close(&ours.0, &dx, tolerance);
    // Kernel, scale and shift of each layer for themselves.
    let mut first = 0;
    for length in s.lengths() {
        let all = first..first + length;
        close(&grads.0[all.clone()], &gradient[all], tolerance);
        first += length;
    }
    Ok(())
}

/// One pixel; tiles that are not full; as many blocks as tiles, and blocks with several; the paper's
/// channels and width; those of Glow's first level; all widths that kernels are made for.
#[test]
fn couplings_are_as_on_the_cpu() -> Result<()> {
    let Some(mut m) = emulator("couplings_are_as_on_the_cpu") else {
        return Ok(());
    };
    for (size, blocks) in [
        ([1, 1, 1, 2, 3], [256, 64]),
        ([3, 5, 6, 3, 40], [256, 64]),
        ([5, 7, 8, 5, 64], [3, 2]),
        ([2, 8, 8, 3, 256], [256, 64]),
        ([1, 7, 9, 12, 130], [256, 64]),
        ([2, 5, 7, 6, 128], [1, 1]),
    ] {
        agrees::<f64>(&m, sizes(size), blocks, false, 1e-12)?;
    }
    agrees::<f32>(&m, sizes([5, 7, 8, 5, 64]), [3, 2], false, 2e-5)?;
    // The threads in the other order.
    m.backwards = true;
    agrees::<f64>(&m, sizes([5, 7, 8, 5, 64]), [3, 2], false, 1e-12)?;
    agrees::<f64>(&m, sizes([2, 8, 8, 3, 256]), [1, 1], false, 1e-12)?;
    // Ten bits of mantissa in every factor.
    agrees::<f32>(&m, sizes([3, 5, 6, 3, 40]), [1, 1], true, 5e-3)
}

/// Against the tensor operations they stand for.
#[test]
fn parameters_come_from_trained_values() -> Result<()> {
    let Some(m) = emulator("parameters_come_from_trained_values") else {
        return Ok(());
    };
    let layers = Layers {
        layers: [[5, 2], [1, 1], [7, 3]],
        factor: 3.0,
        sign: -1.0,
    };
    let trained = Var::from_tensor(&(draw(0, &[layers.len()])? * 0.3)?)?;
    let mut parts = Vec::new();
    let mut first = 0;
    for (i, [kernel, c]) in layers.layers.into_iter().enumerate() {
        let sign = if i == 2 { layers.sign } else { 1.0 };
        let bias = trained.narrow(0, first + kernel, c)?;
        let scale = (trained.narrow(0, first + kernel + c, c)? * layers.factor)?.exp()?;
        let shift = (bias * &scale)?;
        parts.extend([
            trained.narrow(0, first, kernel)?,
            (scale * sign)?,
            (shift * sign)?,
        ]);
        first += kernel + 2 * c;
    }
    let expected = Tensor::cat(&parts, 0)?;
    let dy = draw(1, &[layers.len()])?;
    let grads = (&expected * &dy)?.sum_all()?.backward()?;
    let (xs, ds) = (values::<f64>(&trained)?, values::<f64>(&dy)?);
    let mut ours = Room::<f64>::new(layers.len());
    layers.forward(&m, at(&xs), ours.at())?;
    ours.equals(&expected, 1e-14)?;
    layers.backward(&m, at(&xs), at(&ds), ours.at())?;
    ours.equals(grads.get(&trained).unwrap(), 1e-14)
}

#[test]
fn couplings_that_do_not_fit_are_left_to_the_layers() -> Result<()> {
    let Some(m) = emulator("couplings_that_do_not_fit_are_left_to_the_layers") else {
        return Ok(());
    };
    let fits = |size| {
        Ok::<_, candle_core::Error>(Coupling::new::<_, f32>(&m, sizes(size), true)?.is_some())
    };
    assert!(fits([64, 32, 32, 3, 256])?);
    assert!(!fits([64, 32, 32, 3, 512])?, "too wide");
    assert!(!fits([64, 4, 4, 96, 256])?, "patches too long");
    assert!(!fits([0, 4, 4, 3, 64])?, "nothing to do");
    assert!(m.tile_memory()? > 0);
    Ok(())
}
