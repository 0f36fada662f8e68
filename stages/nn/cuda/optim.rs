//! Launches of `optim.cu`: every weight of a model moves in one.

use candle_core::Result;

use super::machine::{Arg, At, Grid, Machine, Scalar, counts};
use super::source::Source;

pub static OPTIM: Source = Source {
    name: "optim",
    text: include_str!("../../kernels/optim.cu"),
};

/// Values of one tensor that a block takes: CHUNK there.
const CHUNK: usize = 4096;
const THREADS: u32 = 256;

/// Tensor and first value of each block's piece, as the kernels read them.
pub fn pieces(lengths: &[usize]) -> Vec<[u32; 2]> {
    let of = |(tensor, len): (usize, &usize)| {
        let starts = (0..*len).step_by(CHUNK);
        starts.map(move |start| [tensor as u32, start as u32])
    };
    lengths.iter().enumerate().flat_map(of).collect()
}

/// Where the tables lie on the device.
#[derive(Clone, Copy, Debug)]
pub struct Tables {
    pub count: usize,
    /// `[count, 2]`, of [`pieces`].
    pub pieces: At<u32>,
    /// The length of each tensor.
    pub lengths: At<u32>,
    /// Addresses of each tensor's weights, moments and gradient (or null).
    pub weights: At<u64>,
    pub moments: At<u64>,
    pub grads: At<u64>,
}

impl Tables {
    fn grid(&self) -> Result<Grid> {
        counts([self.count])?;
        Ok(Grid {
            x: self.count as u32,
            y: 1,
            threads: THREADS,
            shared: 0,
        })
    }
}

/// Numbers of one step, as train/optim.rs has them.
#[derive(Clone, Copy, Debug)]
pub struct Numbers {
    pub adamax: bool,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    pub rate: f64,
}

/// Moves all weights; `scale`, if not null, multiplies the gradients.
pub fn step<M: Machine, T: Scalar>(m: &M, of: &Tables, u: Numbers, scale: At<f64>) -> Result<()> {
    let args = [
        of.pieces.arg(),
        of.lengths.arg(),
        of.weights.arg(),
        of.moments.arg(),
        of.grads.arg(),
        Arg::U32(u.adamax.into()),
        T::arg(u.beta1),
        T::arg(u.beta2),
        T::arg(1.0 - u.beta1),
        T::arg(1.0 - u.beta2),
        T::arg(u.epsilon),
        T::arg(u.rate),
        scale.arg(),
    ];
    m.launch::<T>(&OPTIM, "adam", of.grid()?, &args)
}

/// Writes to `scale` what brings the joint norm of all gradients down to `limit`.
pub fn clip<M: Machine, T: Scalar>(m: &M, of: &Tables, limit: f64, scale: At<f64>) -> Result<()> {
    let squares = m.alloc::<f64>(of.count)?;
    let args = [
        of.pieces.arg(),
        of.lengths.arg(),
        of.grads.arg(),
        m.at(&squares).arg(),
    ];
    m.launch::<T>(&OPTIM, "squares", of.grid()?, &args)?;
    let grid = Grid {
        x: 1,
        y: 1,
        threads: THREADS,
        shared: 0,
    };
    let [count] = counts([of.count])?;
    let args = [count, m.at(&squares).arg(), Arg::F64(limit), scale.arg()];
    m.launch::<T>(&OPTIM, "clip", grid, &args)
}
