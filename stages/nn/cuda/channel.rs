//! Launches of `channel.cu`: the operations of nn/channel.rs on a device.

use candle_core::Result;

use super::machine::{Arg, At, Grid, Machine, Scalar, count, counts};
use super::source::Source;

pub static CHANNEL: Source = Source {
    name: "channel",
    text: include_str!("../../kernels/channel.cu"),
};

/// Channels a block of the summing kernels takes, and its threads: TILE and THREADS there.
const TILE: usize = 32;
const THREADS: u32 = 256;
/// At most so many parts are summed for themselves.
const PARTS: usize = 256;

/// Sizes of `[rows, channels]`.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub rows: usize,
    pub channels: usize,
}

impl Size {
    pub fn len(self) -> usize {
        self.rows * self.channels
    }

    /// Rows that are summed together: they depend on the shape alone, so that sums are repeatable.
    fn rows_per_part(self) -> usize {
        self.rows.div_ceil(PARTS).max(64)
    }

    fn parts(self) -> usize {
        self.rows.div_ceil(self.rows_per_part())
    }

    fn grid(self, parts: usize) -> Grid {
        Grid {
            x: parts as u32,
            y: self.channels.div_ceil(TILE) as u32,
            threads: THREADS,
            shared: 0,
        }
    }

    fn args(self) -> Result<[Arg; 3]> {
        count(self.len())?;
        counts([self.rows, self.channels, self.rows_per_part()])
    }
}

/// `y = activation(x scale + shift)`.
pub fn affine<M: Machine, T: Scalar>(
    m: &M,
    size: Size,
    [x, scale, shift]: [At<T>; 3],
    slope: f64,
    y: At<T>,
) -> Result<()> {
    let [c] = counts([size.channels])?;
    let args = [c, x.arg(), scale.arg(), shift.arg(), T::arg(slope), y.arg()];
    m.each::<T>(&CHANNEL, "affine", size.len(), &args)
}

/// `y += bias`.
pub fn add_bias<M: Machine, T: Scalar>(m: &M, size: Size, bias: At<T>, y: At<T>) -> Result<()> {
    let [c] = counts([size.channels])?;
    m.each::<T>(&CHANNEL, "add_bias", size.len(), &[c, bias.arg(), y.arg()])
}

/// `out[k] = sum over rows of x[row, k] / divisor`, in f64.
fn sum_rows<M: Machine, T: Scalar>(
    m: &M,
    size: Size,
    x: At<T>,
    divisor: f64,
    out: At<f64>,
) -> Result<()> {
    let partial = m.alloc::<f64>(size.parts() * size.channels)?;
    let [rows, c, per_part] = size.args()?;
    let args = [rows, c, per_part, x.arg(), m.at(&partial).arg()];
    m.launch::<T>(&CHANNEL, "sum_rows", size.grid(size.parts()), &args)?;
    sum_parts::<M, T>(m, size.parts(), size.channels, m.at(&partial), divisor, out)
}

fn sum_parts<M: Machine, T: Scalar>(
    m: &M,
    parts: usize,
    channels: usize,
    partial: At<f64>,
    divisor: f64,
    out: At<f64>,
) -> Result<()> {
    let [n, c] = counts([parts, channels])?;
    let args = [n, c, partial.arg(), Arg::F64(divisor), out.arg()];
    let size = Size {
        rows: parts,
        channels,
    };
    m.launch::<T>(&CHANNEL, "sum_parts", size.grid(1), &args)
}

/// `out[k] = sum over rows of x[row, k]`.
pub fn sum<M: Machine, T: Scalar>(m: &M, size: Size, x: At<T>, out: At<T>) -> Result<()> {
    let exact = m.alloc::<f64>(size.channels)?;
    sum_rows(m, size, x, 1.0, m.at(&exact))?;
    m.each::<T>(
        &CHANNEL,
        "to_real",
        size.channels,
        &[m.at(&exact).arg(), out.arg()],
    )
}

/// Mean and population variance of each channel, in two passes.
pub fn moments<M: Machine, T: Scalar>(
    m: &M,
    size: Size,
    x: At<T>,
    mean: At<f64>,
    variance: At<f64>,
) -> Result<()> {
    sum_rows(m, size, x, size.rows as f64, mean)?;
    let partial = m.alloc::<f64>(size.parts() * size.channels)?;
    let [rows, c, per_part] = size.args()?;
    let args = [rows, c, per_part, x.arg(), mean.arg(), m.at(&partial).arg()];
    m.launch::<T>(&CHANNEL, "square_rows", size.grid(size.parts()), &args)?;
    let n = size.rows as f64;
    sum_parts::<M, T>(m, size.parts(), size.channels, m.at(&partial), n, variance)
}

/// The batch's statistics, by which it is normalised.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    pub mean: At<f64>,
    pub variance: At<f64>,
    pub epsilon: f64,
}

/// `y = activation((x - mean) / sqrt(variance + epsilon) scale + shift)`.
pub fn normalise<M: Machine, T: Scalar>(
    m: &M,
    size: Size,
    norm: Norm,
    [x, scale, shift]: [At<T>; 3],
    slope: f64,
    y: At<T>,
) -> Result<()> {
    let (a, b) = (m.alloc::<T>(size.channels)?, m.alloc::<T>(size.channels)?);
    let args = [
        scale.arg(),
        shift.arg(),
        norm.mean.arg(),
        norm.variance.arg(),
        Arg::F64(norm.epsilon),
        m.at(&a).arg(),
        m.at(&b).arg(),
    ];
    m.each::<T>(&CHANNEL, "norm_forward", size.channels, &args)?;
    affine(m, size, [x, m.at(&a), m.at(&b)], slope, y)
}

/// Gradients of [`affine`] or [`normalise`].
#[derive(Clone, Copy, Debug)]
pub struct Gradients<T> {
    pub x: At<T>,
    pub scale: At<T>,
    pub shift: At<T>,
}

pub fn backward<M: Machine, T: Scalar>(
    m: &M,
    size: Size,
    norm: Option<Norm>,
    [x, scale, y, dy]: [At<T>; 4],
    slope: f64,
    to: Gradients<T>,
) -> Result<()> {
    let c = size.channels;
    let partial = m.alloc::<f64>(size.parts() * 2 * c)?;
    let sums = m.alloc::<f64>(2 * c)?;
    let mean = norm.map_or(At::NULL, |n| n.mean);
    let [rows, channels, per_part] = size.args()?;
    let slope = T::arg(slope);
    let args = [
        rows,
        channels,
        per_part,
        x.arg(),
        y.arg(),
        dy.arg(),
        mean.arg(),
        slope,
        m.at(&partial).arg(),
    ];
    m.launch::<T>(&CHANNEL, "grad_rows", size.grid(size.parts()), &args)?;
    sum_parts::<M, T>(m, size.parts(), 2 * c, m.at(&partial), 1.0, m.at(&sums))?;
    let Some(norm) = norm else {
        let of =
            |at: At<f64>, to: At<T>| m.each::<T>(&CHANNEL, "to_real", c, &[at.arg(), to.arg()]);
        of(m.at(&sums), to.shift)?;
        of(m.at(&sums).add(c), to.scale)?;
        let args = [channels, y.arg(), dy.arg(), scale.arg(), slope, to.x.arg()];
        return m.each::<T>(&CHANNEL, "affine_grad", size.len(), &args);
    };
    let coefficients = m.alloc::<T>(3 * c)?;
    let [p, q, r] = [0, 1, 2].map(|i| m.at(&coefficients).add(i * c).arg());
    let args = [
        Arg::F64(size.rows as f64),
        scale.arg(),
        norm.variance.arg(),
        Arg::F64(norm.epsilon),
        m.at(&sums).arg(),
        p,
        q,
        r,
        to.scale.arg(),
        to.shift.arg(),
    ];
    m.each::<T>(&CHANNEL, "norm_backward", c, &args)?;
    let args = [
        channels,
        x.arg(),
        y.arg(),
        dy.arg(),
        p,
        q,
        r,
        norm.mean.arg(),
        slope,
        to.x.arg(),
    ];
    m.each::<T>(&CHANNEL, "norm_grad", size.len(), &args)
}
