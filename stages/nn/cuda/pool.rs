//! Launches of `pool.cu`: what Inception does between its convolutions.

use candle_core::Result;

use super::channel::Size;
use super::machine::{Arg, At, Machine, Scalar, counts};
use super::source::Source;

pub static POOL: Source = Source {
    name: "pool",
    text: include_str!("../../kernels/pool.cu"),
};

/// A 3x3 window over `[n, h, w, c]`.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub image: [usize; 4],
    /// Height and width of the result.
    pub output: [usize; 2],
    pub stride: u32,
    /// Rows and columns of padding, which does not count, before the first.
    pub before: u32,
    /// The mean, or else the maximum of values that are not negative.
    pub mean: bool,
}

pub fn pool<M: Machine, T: Scalar>(m: &M, window: Window, x: At<T>, y: At<T>) -> Result<()> {
    let ([n, h, w, c], [oh, ow]) = (window.image, window.output);
    let sizes = counts([h, w, c, oh, ow])?;
    counts([n * h * w * c])?;
    let rest = [
        Arg::U32(window.stride),
        Arg::U32(window.before),
        Arg::U32(window.mean.into()),
        x.arg(),
        y.arg(),
    ];
    m.each::<T>(
        &POOL,
        "pool",
        n * oh * ow * c,
        &[&sizes[..], &rest].concat(),
    )
}

/// `y = relu(y + bias)`.
pub fn bias_relu<M: Machine, T: Scalar>(m: &M, size: Size, bias: At<T>, y: At<T>) -> Result<()> {
    let [c] = counts([size.channels])?;
    m.each::<T>(&POOL, "bias_relu", size.len(), &[c, bias.arg(), y.arg()])
}
