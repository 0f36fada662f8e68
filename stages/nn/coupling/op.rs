//! The additive coupling as one operation of candle's autograd.

use candle_core::{Result, Tensor, bail};

use super::super::cpu::Real;
use super::super::cpu::coupling::{Hidden, Sizes, backward, forward};
use super::super::fused::{Block, apply};

/// `x + [0, f(x1)]` with x1 the first `split` channels of `[n, h, w, c]` and f the coupling
/// network: kernels 3x3, 1x1 and 3x3 through `width` channels, each followed by a scale and a
/// shift per channel, the first two by ReLU as well. `parameters` holds, end to end, kernel, scale
/// and shift of each; the 3x3 kernels have a last input that is 1 outside the image.
pub fn additive(x: &Tensor, split: usize, width: usize, parameters: &Tensor) -> Result<Tensor> {
    let (n, h, w, channels) = x.dims4()?;
    let sizes = Sizes {
        n,
        h,
        w,
        channels,
        split,
        width,
    };
    if parameters.elem_count() != sizes.parameters() {
        let given = parameters.elem_count();
        bail!("additive-coupling: {given} parameters for {sizes:?}");
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
