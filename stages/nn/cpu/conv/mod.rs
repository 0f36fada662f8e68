//! Convolution and its gradients, NHWC by HWIO. A task takes some output rows; nothing the size of
//! the batch is ever unfolded.

use std::ops::Range;

use rayon::prelude::*;

use super::micro::{self, Finish};
use super::pack::{Few, Packed, padded};
use super::patches::{self, Plain, Source, Window};
use super::{Real, Scratch, simd};
pub use input_gradient::input_gradient;
pub use kernel_gradient::{add_gradient, kernel_gradient, parts, summed_gradient};

mod input_gradient;
mod kernel_gradient;

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

impl Geometry {
    /// The window over the input.
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
    /// Packs the kernel of a convolution of `window` to n channels: `at(tap, input, output)` with taps in reading order. `rows`, if
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

    /// Packs a convolution's kernel `w` as it lies in memory.
    pub fn forward(g: &Geometry, w: &[T]) -> Self {
        let at = |tap: usize, i: usize, o: usize| w[(tap * g.cin + i) * g.cout + o];
        Self::new(&g.window(), g.cout, at, Some(w))
    }

    /// Packs the kernel of the input gradient at stride 1: taps in reverse order, channels swapped.
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

/// A whole convolution to `channels` in this thread, of images that are in the cache.
pub fn apply_in_thread<T: Real>(
    window: &Window,
    x: &[T],
    kernel: &Kernel<T>,
    channels: usize,
    y: &mut [T],
    scratch: &mut Scratch<T>,
) {
    let (block, row) = (window.block(), window.ow * channels);
    let (source, placing) = (Plain::new(x, window), Placing::dense(window, channels));
    let finish = Finish::plain();
    for (i, y) in y.chunks_mut((block * row).max(1)).enumerate() {
        let start = i * block;
        let range = start..start + y.len() / row;
        let to = (y, start * row);
        rows(
            window, &source, kernel, range, &placing, to, &finish, scratch,
        );
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
