//! Launches of `resize.cu`: uint8 images to the size a feature network sees.

use candle_core::Result;

use super::machine::{Arg, At, Machine, counts};
use super::source::Source;

pub static RESIZE: Source = Source {
    name: "resize",
    text: include_str!("../../kernels/resize.cu"),
};

/// The inputs that make each output along one axis: `first` and `count`, `[side]`, and `weights`,
/// `[side, most]`.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    pub first: At<u32>,
    pub count: At<u32>,
    pub weights: At<f64>,
    pub most: usize,
}

impl Table {
    fn args(&self, bilinear: bool) -> Result<[Arg; 5]> {
        let [most] = counts([self.most])?;
        let bilinear = Arg::U32(bilinear.into());
        Ok([
            most,
            bilinear,
            self.first.arg(),
            self.count.arg(),
            self.weights.arg(),
        ])
    }
}

/// `[n, h, w, c]`, c being 1 or 3, to `[n, side, side, 3]`, still 0 to 255.
pub fn resize<M: Machine>(
    m: &M,
    [n, h, w, c]: [usize; 4],
    side: usize,
    bilinear: bool,
    [columns, rows]: [Table; 2],
    x: At<u8>,
    out: At<f32>,
) -> Result<()> {
    let wide = m.alloc::<f32>(n * h * side * c)?;
    counts([n * h * w * c])?;
    let sizes = counts([w, c, side])?;
    let more = [x.arg(), m.at(&wide).arg()];
    let args = [&sizes[..], &columns.args(bilinear)?, &more].concat();
    m.each::<f32>(&RESIZE, "resize_columns", n * h * side * c, &args)?;
    let sizes = counts([h, c, side])?;
    let more = [m.at(&wide).arg(), out.arg()];
    let args = [&sizes[..], &rows.args(bilinear)?, &more].concat();
    m.each::<f32>(&RESIZE, "resize_rows", n * side * side * 3, &args)
}
