//! The additive coupling as one operation of candle's autograd.

use std::sync::LazyLock;

use candle_core::{Result, Tensor, bail};

use super::super::cpu::Real;
use super::super::cpu::coupling::{Hidden, Sizes, backward, forward};
use super::super::fused::{Block, apply};

/// Whether one operation does it all for images like `x`. With `REPRO_COUPLING=layers` none does, to
/// compare: the same function, rounded otherwise.
pub fn has_fused_op(x: &Tensor, split: usize, width: usize) -> Result<bool> {
    static LAYERS: LazyLock<bool> =
        LazyLock::new(|| std::env::var("REPRO_COUPLING").is_ok_and(|v| v == "layers"));
    if *LAYERS {
        return Ok(false);
    }
    Ok(x.device().is_cpu() || gpu_has(x, sizes(x, split, width)?)?)
}

#[cfg(feature = "cuda")]
fn gpu_has(x: &Tensor, sizes: Sizes) -> Result<bool> {
    super::super::cuda::coupling_op::fits(x, sizes)
}

#[cfg(not(feature = "cuda"))]
fn gpu_has(_: &Tensor, _: Sizes) -> Result<bool> {
    Ok(false)
}

fn sizes(x: &Tensor, split: usize, width: usize) -> Result<Sizes> {
    let (n, h, w, channels) = x.dims4()?;
    Ok(Sizes {
        n,
        h,
        w,
        channels,
        split,
        width,
    })
}

/// `x + [0, f(x1)]` with x1 the first `split` channels of `[n, h, w, c]` and f the coupling
/// network: kernels 3x3, 1x1 and 3x3 through `width` channels, each followed by a scale and a
/// shift per channel, the first two by ReLU as well. `parameters` holds, end to end, kernel, scale
/// and shift of each; the 3x3 kernels have a last input that is 1 outside the image. Only where
/// [`has_fused_op`].
pub fn additive(x: &Tensor, split: usize, width: usize, parameters: &Tensor) -> Result<Tensor> {
    let sizes = sizes(x, split, width)?;
    if parameters.elem_count() != sizes.parameters() {
        let given = parameters.elem_count();
        bail!("additive-coupling: {given} parameters for {sizes:?}");
    }
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        use super::super::cuda::{coupling_op, driver::tf32};
        return coupling_op::additive(x, parameters, sizes, tf32());
    }
    apply(Additive(sizes), x, parameters)
}

struct Additive(Sizes);

impl Block for Additive {
    const NAME: &'static str = "additive-coupling";
    type Kept<T: Real> = Hidden<T>;

    fn forward<T: Real>(&self, x: &[T], parameters: &[T], keep: bool) -> (Vec<T>, Hidden<T>) {
        forward(&self.0, x, parameters, keep)
    }

    fn backward<T: Real>(
        &self,
        x: &[T],
        parameters: &[T],
        kept: &Hidden<T>,
        dy: &[T],
    ) -> (Vec<T>, Vec<T>) {
        backward(&self.0, x, parameters, kept, dy)
    }
}
