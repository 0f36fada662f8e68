//! Between our convolutions and a library's, which wants kernels stored otherwise and pads alike on
//! opposite sides.

use candle_core::Result;

use super::conv::PATCHES;
use super::machine::{At, Geometry, Machine, Pass, Scalar, count, counts};

/// A library's convolution, as cuDNN has it: the same padding on opposite sides, kernels stored as
/// `[cout, kh, kw, cin]`.
pub trait Library<M: Machine> {
    fn run<T: Scalar>(
        &self,
        m: &M,
        pass: Pass,
        g: &Geometry,
        a: At<T>,
        b: At<T>,
        out: At<T>,
    ) -> Result<()>;
}

/// What [`with_library`] asks a library for: `g` itself, or what is left once images are padded.
pub fn inner(g: &Geometry) -> Geometry {
    if is_symmetric(g) { *g } else { padded(g) }
}

/// Brings our layout of kernels, and padding that differs between sides, to what a library takes:
/// then images are padded by ourselves.
pub fn with_library<M: Machine, T: Scalar>(
    m: &M,
    library: &impl Library<M>,
    pass: Pass,
    g: &Geometry,
    a: At<T>,
    b: At<T>,
    out: At<T>,
) -> Result<()> {
    let (ours, theirs) = ([g.patch_values(), g.cout], [g.cout, g.patch_values()]);
    let w = m.alloc::<T>(ours[0] * ours[1])?;
    let w = (m.at(&w), w);
    if pass != Pass::Kernel {
        transpose(m, ours, b, w.0)?;
    }
    let around = match is_symmetric(g) {
        true => None,
        false => Some(m.alloc::<T>(padded(g).input().len())?),
    };
    let inner = inner(g);
    let around = around.as_ref().map(|memory| m.at(memory));
    match pass {
        Pass::Forward => {
            let x = with_padding(m, g, a, around)?;
            library.run(m, pass, &inner, x, w.0, out)
        }
        Pass::Input => {
            library.run(m, pass, &inner, a, w.0, around.unwrap_or(out))?;
            around.map_or(Ok(()), |around| crop(m, g, around, out))
        }
        Pass::Kernel => {
            let x = with_padding(m, g, a, around)?;
            library.run(m, pass, &inner, x, b, w.0)?;
            transpose(m, theirs, w.0, out)
        }
    }
}

fn with_padding<M: Machine, T: Scalar>(
    m: &M,
    g: &Geometry,
    x: At<T>,
    around: Option<At<T>>,
) -> Result<At<T>> {
    let Some(around) = around else { return Ok(x) };
    pad(m, g, x, around)?;
    Ok(around)
}

/// The convolution without padding that is left once images are padded by ourselves.
fn padded(g: &Geometry) -> Geometry {
    Geometry {
        h: (g.oh - 1) * g.stride + g.kh,
        w: (g.ow - 1) * g.stride + g.kw,
        top: 0,
        left: 0,
        ..*g
    }
}

/// Whether the same padding on opposite sides gives this geometry: then images stay as they are.
pub fn is_symmetric(g: &Geometry) -> bool {
    let gives = |size: usize, pad: usize, kernel: usize| (size + 2 * pad - kernel) / g.stride + 1;
    gives(g.h, g.top, g.kh) == g.oh && gives(g.w, g.left, g.kw) == g.ow
}

/// `x` of `g` inside zeros, as `padded(g)` wants it; or cut, where `g` does not reach its end.
fn pad<M: Machine, T: Scalar>(m: &M, g: &Geometry, x: At<T>, out: At<T>) -> Result<()> {
    let p = padded(g);
    count(g.input().len())?;
    let sizes = counts([g.h, g.w, g.cin, p.h, p.w, g.top, g.left])?;
    let args = [&sizes[..], &[x.arg(), out.arg()]].concat();
    m.each::<T>(&PATCHES, "pad", p.input().len(), &args)
}

/// The transpose of [`pad`].
fn crop<M: Machine, T: Scalar>(m: &M, g: &Geometry, around: At<T>, out: At<T>) -> Result<()> {
    let p = padded(g);
    count(p.input().len())?;
    let sizes = counts([g.h, g.w, g.cin, p.h, p.w, g.top, g.left])?;
    let args = [&sizes[..], &[around.arg(), out.arg()]].concat();
    m.each::<T>(&PATCHES, "crop", g.input().len(), &args)
}

/// `[rows, columns]` to `[columns, rows]`.
pub fn transpose<M: Machine, T: Scalar>(
    m: &M,
    [rows, columns]: [usize; 2],
    from: At<T>,
    to: At<T>,
) -> Result<()> {
    let [r, c] = counts([rows, columns])?;
    m.each::<T>(
        &PATCHES,
        "transpose",
        rows * columns,
        &[r, c, from.arg(), to.arg()],
    )
}
