//! Launch of `matrix.cu`.

use candle_core::Result;

use super::machine::{At, Grid, Machine, Scalar, counts};
use super::source::Source;

pub static MATRIX: Source = Source {
    name: "matrix",
    text: include_str!("../../kernels/matrix.cu"),
};

/// `ln |det w|`, then the inverse row by row: `1 + n n` values.
pub fn log_det_and_inverse<M: Machine, T: Scalar>(
    m: &M,
    n: usize,
    w: At<T>,
    out: At<T>,
) -> Result<()> {
    let scratch = m.alloc::<f64>(2 * n * n)?;
    let [size] = counts([n])?;
    let grid = Grid {
        x: 1,
        y: 1,
        threads: 256,
        shared: 0,
    };
    let args = [size, w.arg(), m.at(&scratch).arg(), out.arg()];
    m.launch::<T>(&MATRIX, "log_det_and_inverse", grid, &args)
}
