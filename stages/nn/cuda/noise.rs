//! Launches of `noise.cu`: the numbers of nn/noise.rs, made where they are used.

use candle_core::Result;

use super::machine::{Arg, At, Grid, Machine, Scalar, counts};
use super::source::Source;

pub static NOISE: Source = Source {
    name: "noise",
    text: include_str!("../../kernels/noise.cu"),
};

/// A position in the host's generator.
#[derive(Clone, Copy, Debug)]
pub struct Position {
    pub key: [u32; 2],
    pub step: u64,
    /// First block of four words.
    pub block: u64,
}

#[derive(Clone, Copy, Debug)]
pub enum Law {
    Uniform,
    Normal,
}

/// Fills `out` with `n` draws.
pub fn fill<M: Machine, T: Scalar>(
    m: &M,
    at: Position,
    law: Law,
    n: usize,
    out: At<T>,
) -> Result<()> {
    if n == 0 {
        return Ok(());
    }
    let kernel = match law {
        Law::Uniform => "uniform",
        Law::Normal => "normal",
    };
    let blocks = n.div_ceil(4);
    let [threads, values] = counts([blocks, n])?;
    let args = [
        threads,
        values,
        Arg::U32(at.key[0]),
        Arg::U32(at.key[1]),
        Arg::U64(at.step),
        Arg::U64(at.block),
        out.arg(),
    ];
    m.launch::<T>(&NOISE, kernel, Grid::each(blocks), &args)
}
