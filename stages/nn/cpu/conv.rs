//! Convolution and its gradients, NHWC by HWIO. A task takes some output rows; nothing the size of
//! the batch is ever unfolded.

use std::ops::Range;

use rayon::prelude::*;

use super::micro::{self, Finish};
use super::pack::{Few, Packed, pack_rows, padded};
use super::patches::{self, Plain, Source, Window};
use super::{Real, Scratch, simd};

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

/// How many parts of the work sum a gradient of `len` values for themselves, to be added in order:
/// few when that would move much memory.
pub fn parts(len: usize) -> usize {
    ((1 << 20) / len.max(1)).clamp(4, 16)
}

impl Geometry {
    /// Of the input.
    pub fn window(&self) -> Window {
        Window {
            n: self.n,
            h: self.h,
            w: self.w,
            c: self.cin,
            kh: self.kh,
            kw: self.kw,
            stride: self.stride,
            top: -(self.top as isize),
            left: -(self.left as isize),
            oh: self.oh,
            ow: self.ow,
        }
    }

    /// At stride 1: the convolution that is the input gradient, from `dy` to `dx`, with padding
    /// and kernel turned round.
    pub fn turned(&self) -> Window {
        Window {
            n: self.n,
            h: self.oh,
            w: self.ow,
            c: self.cout,
            kh: self.kh,
            kw: self.kw,
            stride: 1,
            top: self.top as isize - (self.kh as isize - 1),
            left: self.left as isize - (self.kw as isize - 1),
            oh: self.h,
            ow: self.w,
        }
    }
}

/// A kernel made ready for the inner loop that suits its shape.
pub enum Kernel<T> {
    Wide(Packed<T>),
    Few(Few<T>),
}

impl<T: Real> Kernel<T> {
    /// Of `window` to n channels: `at(tap, input, output)` with taps in reading order. `rows`, if
    /// the outputs of a tap and input lie end to end, gives them at once.
    pub fn new<'a>(
        window: &Window,
        n: usize,
        at: impl Fn(usize, usize, usize) -> T + Sync,
        rows: Option<&'a [T]>,
    ) -> Self
    where
        T: 'a,
    {
        let (k, c) = (window.patch(), window.c);
        // Lanes along the outputs would be less than half full, along a row of the patch full.
        if 2 * n <= simd::lanes::<T>() && window.kw * c >= 2 * simd::lanes::<T>() {
            return Self::Few(Few::of(k, n, |i, j| at(i / c, i % c, j)));
        }
        Self::Wide(match rows {
            Some(rows) => Packed::of_rows(k, n, |i| &rows[i * n..(i + 1) * n]),
            None => Packed::of(k, n, |i, j| at(i / c, i % c, j)),
        })
    }

    /// Of a convolution's kernel `w` as it lies.
    pub fn forward(g: &Geometry, w: &[T]) -> Self {
        let at = |tap: usize, i: usize, o: usize| w[(tap * g.cin + i) * g.cout + o];
        Self::new(&g.window(), g.cout, at, Some(w))
    }

    /// Of the input gradient at stride 1: taps in reverse order, channels swapped.
    pub fn turned(g: &Geometry, w: &[T]) -> Self {
        let taps = g.kh * g.kw;
        let at = |tap: usize, o: usize, i: usize| w[((taps - 1 - tap) * g.cin + i) * g.cout + o];
        Self::new(&g.turned(), g.cin, at, None)
    }
}

/// Where results of a position go: `[.., height, width, channels]`, position (y, x) at
/// `(step y + top, step x + left)`, from channel `first` on.
#[derive(Clone, Copy)]
pub struct Placing {
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    pub first: usize,
    pub step: usize,
    pub top: usize,
    pub left: usize,
}

impl Placing {
    /// Positions of a window one after the other.
    pub fn dense(window: &Window, channels: usize) -> Self {
        Self {
            height: window.oh,
            width: window.ow,
            channels,
            first: 0,
            step: 1,
            top: 0,
            left: 0,
        }
    }

    /// Offsets of the positions of some rows, from the first pixel of image `first` on.
    fn offsets(&self, window: &Window, rows: Range<usize>, base: usize, outs: &mut Vec<usize>) {
        outs.clear();
        for row in rows {
            let (image, y) = (row / window.oh, row % window.oh);
            let y = image * self.height + y * self.step + self.top;
            let start = (y * self.width + self.left) * self.channels + self.first - base;
            outs.extend((0..window.ow).map(|x| start + x * self.step * self.channels));
        }
    }
}

/// Some output rows of a convolution; `y` starts `base` values into the whole result.
#[expect(clippy::too_many_arguments)]
pub fn rows<T: Real>(
    window: &Window,
    source: &impl Source<T>,
    kernel: &Kernel<T>,
    rows: Range<usize>,
    placing: &Placing,
    (y, base): (&mut [T], usize),
    finish: &Finish<T>,
    scratch: &mut Scratch<T>,
) {
    let patches = patches::load(window, source, rows.clone(), &mut scratch.patches);
    placing.offsets(window, rows, base, &mut scratch.outs);
    match kernel {
        Kernel::Wide(w) => micro::multiply(&patches, w, y, &scratch.outs, finish),
        Kernel::Few(w) => micro::multiply_few(&patches, w, y, &scratch.outs, finish),
    }
}

/// A whole convolution into `channels` of the result from `first` on.
pub fn apply<T: Real>(
    window: &Window,
    source: &(impl Source<T> + Sync),
    kernel: &Kernel<T>,
    (first, channels): (usize, usize),
    finish: &Finish<T>,
    y: &mut [T],
) {
    let (block, row) = (window.block(), window.ow * channels);
    let placing = Placing {
        first,
        ..Placing::dense(window, channels)
    };
    y.par_chunks_mut((block * row).max(1))
        .enumerate()
        .for_each(|(i, y)| {
            let start = i * block;
            let range = start..start + y.len() / row;
            T::scratch(|scratch| {
                let to = (y, start * row);
                rows(window, source, kernel, range, &placing, to, finish, scratch);
            });
        });
}

/// Adds a bias, which must be padded, or nothing.
fn biased<T: Real>(bias: Option<&[T]>) -> Finish<'_, T> {
    Finish {
        shift: bias,
        ..Finish::plain()
    }
}

/// `y = x * w`, plus the bias, if any.
pub fn forward<T: Real>(g: &Geometry, x: &[T], w: &[T], bias: Option<&[T]>, y: &mut [T]) {
    let window = g.window();
    let kernel = Kernel::forward(g, w);
    let bias = bias.map(padded);
    let finish = biased(bias.as_deref());
    apply(
        &window,
        &Plain::new(x, &window),
        &kernel,
        (0, g.cout),
        &finish,
        y,
    );
}

/// Gradient of the input, `dx` from `dy`; as the forward pass of the transposed convolution it
/// takes a bias.
pub fn input_gradient<T: Real>(g: &Geometry, dy: &[T], w: &[T], bias: Option<&[T]>, dx: &mut [T]) {
    if g.stride > 1 {
        return strided_input_gradient(g, dy, w, bias, dx);
    }
    let window = g.turned();
    let kernel = Kernel::turned(g, w);
    let bias = bias.map(padded);
    let finish = biased(bias.as_deref());
    apply(
        &window,
        &Plain::new(dy, &window),
        &kernel,
        (0, g.cin),
        &finish,
        dx,
    );
}

/// The pixels of `dx` that share their remainders by the stride see the same taps: each such phase
/// is a convolution of `dy` by those.
struct Phase<T> {
    window: Window,
    kernel: Kernel<T>,
    placing: Placing,
}

/// Along one axis: first tap, how many, and where the first pixel's window starts in `dy`.
fn taps(phase: usize, pad: usize, stride: usize, kernel: usize) -> (usize, usize, isize) {
    let first = (phase + pad) % stride;
    let count = kernel.saturating_sub(first).div_ceil(stride);
    let base = (phase + pad) / stride;
    (first, count, base as isize - (count as isize - 1))
}

fn phases<T: Real>(g: &Geometry, w: &[T]) -> Vec<Phase<T>> {
    let s = g.stride;
    let phase = |k: usize| {
        let (py, px) = (k / s, k % s);
        let (ty, kh, top) = taps(py, g.top, s, g.kh);
        let (tx, kw, left) = taps(px, g.left, s, g.kw);
        let window = Window {
            n: g.n,
            h: g.oh,
            w: g.ow,
            c: g.cout,
            kh,
            kw,
            stride: 1,
            top,
            left,
            oh: g.h.saturating_sub(py).div_ceil(s),
            ow: g.w.saturating_sub(px).div_ceil(s),
        };
        let at = |tap: usize, o: usize, i: usize| {
            let (y, x) = (ty + s * (kh - 1 - tap / kw), tx + s * (kw - 1 - tap % kw));
            w[((y * g.kw + x) * g.cin + i) * g.cout + o]
        };
        let placing = Placing {
            height: g.h,
            width: g.w,
            channels: g.cin,
            first: 0,
            step: s,
            top: py,
            left: px,
        };
        Phase {
            window,
            kernel: Kernel::new(&window, g.cin, at, None),
            placing,
        }
    };
    (0..s * s).map(phase).collect()
}

fn strided_input_gradient<T: Real>(
    g: &Geometry,
    dy: &[T],
    w: &[T],
    bias: Option<&[T]>,
    dx: &mut [T],
) {
    let phases = phases(g, w);
    let bias = bias.map(padded);
    let finish = biased(bias.as_deref());
    let image = g.h * g.w * g.cin;
    // Whole images: the phases of a pixel's neighbours interleave.
    let images = g.turned().block().div_ceil(g.h.max(1)).max(1);
    dx.par_chunks_mut((images * image).max(1))
        .enumerate()
        .for_each(|(i, dx)| {
            let count = dx.len() / image;
            for phase in &phases {
                let oh = phase.window.oh;
                let all = i * images * oh..(i * images + count) * oh;
                let source = Plain::new(dy, &phase.window);
                T::scratch(|scratch| {
                    for first in all.clone().step_by(phase.window.block()) {
                        let range = first..all.end.min(first + phase.window.block());
                        let to = (&mut *dx, i * images * image);
                        let (window, placing) = (&phase.window, &phase.placing);
                        rows(
                            window,
                            &source,
                            &phase.kernel,
                            range,
                            placing,
                            to,
                            &finish,
                            scratch,
                        );
                    }
                });
            }
        });
}

/// Gradient of the kernel: `dw` from `x` and `dy`, summed over positions in a fixed order.
pub fn kernel_gradient<T: Real>(g: &Geometry, x: &[T], dy: &[T], dw: &mut [T]) {
    if g.stride == 1 && 2 * g.cout <= simd::lanes::<T>() && g.cin > g.cout {
        return turned_kernel_gradient(g, x, dy, dw);
    }
    let window = g.window();
    summed_gradient(&window, &Plain::new(x, &window), g.cout, dy, dw);
}

/// With few outputs, lanes run along the inputs instead: the gradient of the turned kernel, in
/// which x and dy have changed places.
fn turned_kernel_gradient<T: Real>(g: &Geometry, x: &[T], dy: &[T], dw: &mut [T]) {
    let window = g.turned();
    let mut turned = vec![T::default(); dw.len()];
    summed_gradient(&window, &Plain::new(dy, &window), g.cin, x, &mut turned);
    let taps = g.kh * g.kw;
    for (i, d) in dw.iter_mut().enumerate() {
        let (tap, input, output) = (i / g.cout / g.cin, i / g.cout % g.cin, i % g.cout);
        *d = turned[((taps - 1 - tap) * g.cout + output) * g.cin + input];
    }
}

/// The gradient of a kernel from `source` through `window` to n channels.
pub fn summed_gradient<T: Real>(
    window: &Window,
    source: &(impl Source<T> + Sync),
    n: usize,
    dy: &[T],
    dw: &mut [T],
) {
    let block = window.block();
    let blocks = window.rows().div_ceil(block);
    let parts = parts(dw.len()).min(blocks).max(1);
    let per_part = blocks.div_ceil(parts);
    let mut sums = vec![T::default(); dw.len() * parts];
    sums.par_chunks_mut(dw.len().max(1))
        .enumerate()
        .for_each(|(part, sum)| {
            T::scratch(|scratch| {
                for i in part * per_part..blocks.min((part + 1) * per_part) {
                    let range = i * block..window.rows().min((i + 1) * block);
                    let dy = &dy[range.start * window.ow * n..range.end * window.ow * n];
                    add_gradient(window, source, n, dy, range, sum, scratch);
                }
            });
        });
    add_parts(&sums, dw);
}

/// Adds the kernel gradient of some rows; `dy` is of theirs alone.
pub fn add_gradient<T: Real>(
    window: &Window,
    source: &impl Source<T>,
    n: usize,
    dy: &[T],
    rows: Range<usize>,
    sum: &mut [T],
    scratch: &mut Scratch<T>,
) {
    pack_rows(dy, n, &mut scratch.panels);
    let patches = patches::load(window, source, rows, &mut scratch.patches);
    micro::columns(&patches, &scratch.panels, n, sum);
}

/// `to` becomes the sum of its parts, each as long as it is, added in order.
pub fn add_parts<T: Real>(parts: &[T], to: &mut [T]) {
    let len = to.len();
    let chunk = 1 << 12;
    to.par_chunks_mut(chunk).enumerate().for_each(|(i, to)| {
        let first = i * chunk;
        to.copy_from_slice(&parts[first..first + to.len()]);
        for part in parts[len.min(parts.len())..].chunks_exact(len) {
            for (t, v) in to.iter_mut().zip(&part[first..]) {
                *t += *v;
            }
        }
    });
}
