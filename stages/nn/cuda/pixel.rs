//! Launches of `pixel.cu`: what PixelCNN adds to convolutions.

use candle_core::Result;

use super::machine::{At, Grid, Machine, Scalar, count, counts};
use super::source::Source;

pub static PIXEL: Source = Source {
    name: "pixel",
    text: include_str!("../../kernels/pixel.cu"),
};

/// `tanh(t) sigmoid(s)` of rows `[t, s]` of `width` values each, to `rows` of `width`.
pub fn gate<M: Machine, T: Scalar>(
    m: &M,
    [rows, width]: [usize; 2],
    x: At<T>,
    y: At<T>,
) -> Result<()> {
    count(2 * rows * width)?;
    let [p] = counts([width])?;
    m.each::<T>(&PIXEL, "gate", rows * width, &[p, x.arg(), y.arg()])
}

pub fn gate_gradient<M: Machine, T: Scalar>(
    m: &M,
    [rows, width]: [usize; 2],
    [x, dy]: [At<T>; 2],
    dx: At<T>,
) -> Result<()> {
    count(2 * rows * width)?;
    let [p] = counts([width])?;
    let args = [p, x.arg(), dy.arg(), dx.arg()];
    m.each::<T>(&PIXEL, "gate_grad", rows * width, &args)
}

/// A block for each row of logits.
fn row_each(rows: usize) -> Result<Grid> {
    Ok(Grid {
        x: count(rows)?,
        y: 1,
        threads: 256,
        shared: 0,
    })
}

/// Bits of a value in each row of `levels` logits.
pub fn bits<M: Machine, T: Scalar>(
    m: &M,
    [rows, levels]: [usize; 2],
    [x, values]: [At<T>; 2],
    y: At<T>,
) -> Result<()> {
    let [n] = counts([levels])?;
    let args = [n, x.arg(), values.arg(), y.arg()];
    m.launch::<T>(&PIXEL, "bits", row_each(rows)?, &args)
}

pub fn bits_gradient<M: Machine, T: Scalar>(
    m: &M,
    [rows, levels]: [usize; 2],
    [x, values, dy]: [At<T>; 3],
    dx: At<T>,
) -> Result<()> {
    let [n] = counts([levels])?;
    let args = [n, x.arg(), values.arg(), dy.arg(), dx.arg()];
    m.launch::<T>(&PIXEL, "bits_grad", row_each(rows)?, &args)
}
