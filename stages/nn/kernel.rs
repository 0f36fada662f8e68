//! Convolution on the CPU over plain slices, NHWC by HWIO, by matrix products on tiles.
//!
//! A tile is a run of output positions. Its patches are gathered into a buffer of a thread's own
//! that stays in the cache, and multiplied there: nothing the size of the batch is ever unfolded.
//! How the work is cut depends on shapes only, never on the number of threads, so neither does
//! any rounding.

use std::cell::RefCell;
use std::ops::{Add, AddAssign, Mul, Sub};

use candle_core::Layout;
use gemm::Parallelism;
use rayon::prelude::*;

/// An element type: f32 or f64.
pub trait Real:
    Copy
    + Default
    + Send
    + Sync
    + PartialOrd
    + AddAssign
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + 'static
{
    fn new(value: f64) -> Self;
    fn f64(self) -> f64;
}

impl Real for f32 {
    fn new(value: f64) -> Self {
        value as Self
    }
    fn f64(self) -> f64 {
        self.into()
    }
}

impl Real for f64 {
    fn new(value: f64) -> Self {
        value
    }
    fn f64(self) -> f64 {
        self
    }
}

/// The elements of a contiguous tensor.
pub fn slice<'a, T>(name: &str, data: &'a [T], layout: &Layout) -> candle_core::Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((from, to)) => Ok(&data[from..to]),
        None => candle_core::bail!("{name}: wants contiguous tensors"),
    }
}

/// Sizes of one convolution from `[n, h, w, cin]` to `[n, oh, ow, cout]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Geometry {
    pub n: usize,
    pub h: usize,
    pub w: usize,
    pub cin: usize,
    pub kh: usize,
    pub kw: usize,
    pub cout: usize,
    pub stride: usize,
    pub top: usize,
    pub left: usize,
    pub oh: usize,
    pub ow: usize,
}

/// Elements of a tile's patch buffer: with the tile's output it fits a core's second-level cache.
const TILE: usize = 128 * 1024;

/// A partial weight gradient is kept for each of at most this many parts of the positions.
const PARTS: usize = 16;

impl Geometry {
    /// Values of one patch: the inner dimension of the product.
    fn patch(&self) -> usize {
        self.kh * self.kw * self.cin
    }

    /// Output positions of the whole batch.
    fn positions(&self) -> usize {
        self.n * self.oh * self.ow
    }

    /// A 1x1 convolution: the input already is the matrix of patches.
    fn pointwise(&self) -> bool {
        (self.kh, self.kw, self.stride) == (1, 1, 1) && (self.oh, self.ow) == (self.h, self.w)
    }

    fn tile(&self) -> usize {
        (TILE / self.patch())
            .clamp(32, 1024)
            .next_multiple_of(16)
            .min(self.positions())
    }
}

/// `dst = lhs rhs` or `dst += lhs rhs` on one thread; strides are (row, column).
fn product<T: Real>(
    (m, n, k): (usize, usize, usize),
    dst: &mut [T],
    add: bool,
    (lhs, lhs_strides): (&[T], (usize, usize)),
    (rhs, rhs_strides): (&[T], (usize, usize)),
) {
    let last = |rows: usize, columns: usize, (r, c): (usize, usize)| {
        (rows.max(1) - 1) * r + (columns.max(1) - 1) * c
    };
    assert!(dst.len() >= m * n);
    assert!(k == 0 || lhs.len() > last(m, k, lhs_strides));
    assert!(k == 0 || rhs.len() > last(k, n, rhs_strides));
    // SAFETY: the assertions keep every access inside the three slices.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst.as_mut_ptr(),
            1,
            n as isize,
            add,
            lhs.as_ptr(),
            lhs_strides.1 as isize,
            lhs_strides.0 as isize,
            rhs.as_ptr(),
            rhs_strides.1 as isize,
            rhs_strides.0 as isize,
            T::new(1.0),
            T::new(1.0),
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// A buffer of this thread, of at least `len` elements with any content.
fn with_buffer<T: Real, R>(len: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
    thread_local! {
        static BYTES: RefCell<Vec<u128>> = const { RefCell::new(Vec::new()) };
    }
    BYTES.with_borrow_mut(|buffer| {
        let words = (len * size_of::<T>()).div_ceil(size_of::<u128>());
        if buffer.len() < words {
            buffer.resize(words, 0);
        }
        // SAFETY: aligned for f32 and f64, long enough, initialised, and any bits are a number.
        f(unsafe { std::slice::from_raw_parts_mut(buffer.as_mut_ptr().cast(), len) })
    })
}

/// Gathers the patches of `count` positions from `first` on: `[count, kh kw cin]`.
fn gather<T: Real>(g: &Geometry, x: &[T], first: usize, count: usize, out: &mut [T]) {
    let run = g.kw * g.cin;
    for (position, patch) in (first..first + count).zip(out.chunks_exact_mut(g.patch())) {
        let (image, y, x0) = g.corner(position);
        for (dy, row) in patch.chunks_exact_mut(run).enumerate() {
            let Some(source) = g.row(image, y + dy as isize) else {
                row.fill(T::default());
                continue;
            };
            let (skip, from, len) = g.overlap(x0);
            row[..skip].fill(T::default());
            row[skip..skip + len].copy_from_slice(&x[source + from..source + from + len]);
            row[skip + len..].fill(T::default());
        }
    }
}

/// Adds patches to where they were gathered from, in an image of its own.
fn scatter<T: Real>(g: &Geometry, patches: &[T], first: usize, count: usize, image: &mut [T]) {
    let run = g.kw * g.cin;
    for (position, patch) in (first..first + count).zip(patches.chunks_exact(g.patch())) {
        let (_, y, x0) = g.corner(position);
        for (dy, row) in patch.chunks_exact(run).enumerate() {
            if let Some(target) = g.row(0, y + dy as isize) {
                let (skip, from, len) = g.overlap(x0);
                let target = &mut image[target + from..target + from + len];
                for (t, v) in target.iter_mut().zip(&row[skip..skip + len]) {
                    *t += *v;
                }
            }
        }
    }
}

impl Geometry {
    /// Image, and input row and column under the patch's first corner, perhaps in the padding.
    fn corner(&self, position: usize) -> (usize, isize, isize) {
        let (image, rest) = (
            position / (self.oh * self.ow),
            position % (self.oh * self.ow),
        );
        let (y, x) = (rest / self.ow, rest % self.ow);
        let at = |o: usize, pad: usize| (o * self.stride) as isize - pad as isize;
        (image, at(y, self.top), at(x, self.left))
    }

    /// Where an input row starts, unless it is padding.
    fn row(&self, image: usize, y: isize) -> Option<usize> {
        let inside = (0..self.h as isize).contains(&y);
        inside.then(|| (image * self.h + y as usize) * self.w * self.cin)
    }

    /// Of a patch row at input column `x0`: values in the left padding, first value in the input
    /// row, and how many values overlap.
    fn overlap(&self, x0: isize) -> (usize, usize, usize) {
        let from = x0.clamp(0, self.w as isize);
        let to = (x0 + self.kw as isize).clamp(from, self.w as isize);
        let skip = ((from - x0) as usize).min(self.kw) * self.cin;
        (
            skip,
            from as usize * self.cin,
            (to - from) as usize * self.cin,
        )
    }
}

/// `y = x * w`, plus the bias, if any.
pub fn forward<T: Real>(g: &Geometry, x: &[T], w: &[T], bias: Option<&[T]>, y: &mut [T]) {
    let (k, tile, add) = (g.patch(), g.tile(), bias.is_some());
    y.par_chunks_mut(tile * g.cout)
        .enumerate()
        .for_each(|(i, y)| {
            let (first, count) = (i * tile, y.len() / g.cout);
            let size = (count, g.cout, k);
            if let Some(bias) = bias {
                y.chunks_exact_mut(g.cout)
                    .for_each(|row| row.copy_from_slice(bias));
            }
            if g.pointwise() {
                product(size, y, add, (&x[first * k..], (k, 1)), (w, (g.cout, 1)));
            } else {
                with_buffer(count * k, |patches| {
                    gather(g, x, first, count, patches);
                    product(size, y, add, (patches, (k, 1)), (w, (g.cout, 1)));
                });
            }
        });
}

/// Gradient of the input, `dx` from `dy`; as the forward pass of the transposed convolution it
/// takes a bias.
pub fn input_gradient<T: Real>(g: &Geometry, dy: &[T], w: &[T], bias: Option<&[T]>, dx: &mut [T]) {
    let (k, add) = (g.patch(), bias.is_some());
    let begin = |dx: &mut [T]| match bias {
        Some(bias) => dx
            .chunks_exact_mut(g.cin)
            .for_each(|row| row.copy_from_slice(bias)),
        None => dx.fill(T::default()),
    };
    let transposed = (1, g.cout);
    if g.pointwise() {
        let tile = (TILE / g.cout).clamp(32, 1024);
        dx.par_chunks_mut(tile * k).enumerate().for_each(|(i, dx)| {
            let (first, count) = (i * tile, dx.len() / k);
            if add {
                begin(dx);
            }
            let dy = &dy[first * g.cout..];
            product(
                (count, k, g.cout),
                dx,
                add,
                (dy, (g.cout, 1)),
                (w, transposed),
            );
        });
    } else if g.stride == 1 && g.top < g.kh && g.left < g.kw {
        // The same convolution with padding and kernel turned round needs no scattering.
        let turned = Geometry {
            h: g.oh,
            w: g.ow,
            cin: g.cout,
            cout: g.cin,
            oh: g.h,
            ow: g.w,
            top: g.kh - 1 - g.top,
            left: g.kw - 1 - g.left,
            ..*g
        };
        forward(&turned, dy, &turn(g, w), bias, dx);
    } else {
        let (per_image, tile) = (g.oh * g.ow, g.tile().min(g.oh * g.ow));
        dx.par_chunks_mut(g.h * g.w * g.cin)
            .enumerate()
            .for_each(|(image, dx)| {
                begin(dx);
                with_buffer(tile * k, |patches| {
                    for start in (0..per_image).step_by(tile) {
                        let count = tile.min(per_image - start);
                        let dy = &dy[(image * per_image + start) * g.cout..];
                        let size = (count, k, g.cout);
                        product(size, patches, false, (dy, (g.cout, 1)), (w, transposed));
                        scatter(g, patches, start, count, dx);
                    }
                });
            });
    }
}

/// The kernel of the input gradient at stride 1: taps in reverse order, channels swapped.
fn turn<T: Real>(g: &Geometry, w: &[T]) -> Vec<T> {
    let mut out = vec![T::default(); w.len()];
    let taps = g.kh * g.kw;
    for (t, tap) in w.chunks_exact(g.cin * g.cout).enumerate() {
        let to = &mut out[(taps - 1 - t) * g.cin * g.cout..][..g.cin * g.cout];
        for (i, row) in tap.chunks_exact(g.cout).enumerate() {
            for (o, v) in row.iter().enumerate() {
                to[o * g.cin + i] = *v;
            }
        }
    }
    out
}

/// Gradient of the kernel: `dw` from `x` and `dy`, summed over positions in a fixed order.
pub fn kernel_gradient<T: Real>(g: &Geometry, x: &[T], dy: &[T], dw: &mut [T]) {
    let (k, tile) = (g.patch(), g.tile());
    let tiles = g.positions().div_ceil(tile);
    // Parts that sum for themselves; few when the gradient itself is large.
    let parts = PARTS.min(tiles).min((1 << 22) / dw.len()).max(1);
    let per_part = tiles.div_ceil(parts);
    let mut sums = vec![T::default(); dw.len() * parts];
    sums.par_chunks_mut(dw.len())
        .enumerate()
        .for_each(|(part, sum)| {
            for i in part * per_part..tiles.min((part + 1) * per_part) {
                let (first, count) = (i * tile, tile.min(g.positions() - i * tile));
                let dy = (&dy[first * g.cout..], (g.cout, 1));
                let size = (k, g.cout, count);
                if g.pointwise() {
                    product(size, sum, true, (&x[first * k..], (1, k)), dy);
                } else {
                    with_buffer(count * k, |patches| {
                        gather(g, x, first, count, patches);
                        product(size, sum, true, (patches, (1, k)), dy);
                    });
                }
            }
        });
    dw.copy_from_slice(&sums[..dw.len()]);
    for part in sums.chunks_exact(dw.len()).skip(1) {
        for (d, v) in dw.iter_mut().zip(part) {
            *d += *v;
        }
    }
}
