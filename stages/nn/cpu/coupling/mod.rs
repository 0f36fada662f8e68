//! An additive coupling of Glow in one pass over the images, forward and backward.
//!
//! `y = x + [0, f(x1)]` with x1 the first channels of x, and f: convolution 3x3, affine, ReLU,
//! convolution 1x1, affine, ReLU, convolution 3x3, affine. Run layer by layer it would move each
//! hidden map through memory eight times a step; here every map is made and used while it is in
//! the cache, and only what follows each ReLU is written, once, and read, once, for the gradient.

use std::ops::Range;

use super::Real;
use super::patches::{Source, Window};
pub use backward::backward;
pub use forward::forward;

mod backward;
mod forward;
mod sums;

/// Sizes: images `[n, h, w, channels]` of which the first `split` channels condition the others,
/// through `width` hidden channels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sizes {
    pub n: usize,
    pub h: usize,
    pub w: usize,
    pub channels: usize,
    pub split: usize,
    pub width: usize,
}

/// What the gradient needs: the hidden maps after each ReLU, and the last convolution's sums.
pub struct Hidden<T> {
    first: Vec<T>,
    second: Vec<T>,
    last: Vec<T>,
}

/// The parameters of one layer: kernel, and the scale and shift of its outputs.
struct Layer<'a, T> {
    w: &'a [T],
    scale: &'a [T],
    shift: &'a [T],
}

impl Sizes {
    /// Channels that are transformed.
    fn moved(&self) -> usize {
        self.channels - self.split
    }

    /// Inputs and outputs of each layer's kernel. The 3x3 kernels have an input that marks the
    /// padding.
    fn shapes(&self) -> [[usize; 3]; 3] {
        [
            [9, self.split + 1, self.width],
            [1, self.width, self.width],
            [9, self.width + 1, self.moved()],
        ]
    }

    /// Numbers of parameters: for each layer kernel, scale and shift.
    pub fn lengths(&self) -> [usize; 9] {
        let [a, b, c] = self.shapes().map(|[t, i, o]| [t * i * o, o, o]);
        let mut all = [0; 9];
        all.iter_mut()
            .zip([a, b, c].into_iter().flatten())
            .for_each(|(to, n)| *to = n);
        all
    }

    pub fn parameters(&self) -> usize {
        self.lengths().iter().sum()
    }

    fn layers<'a, T>(&self, parameters: &'a [T]) -> [Layer<'a, T>; 3] {
        let mut rest = parameters;
        let lengths = self.lengths();
        let mut take = |i: usize| {
            let (head, tail) = rest.split_at(lengths[i]);
            rest = tail;
            head
        };
        [0, 3, 6].map(|i| Layer {
            w: take(i),
            scale: take(i + 1),
            shift: take(i + 2),
        })
    }

    /// Images that a task takes at once: enough for small ones to fill tiles.
    fn group(&self) -> usize {
        192usize.div_ceil(self.h * self.w).min(self.n.max(1))
    }

    /// A window of side k over `n` images of c channels, that keeps their size.
    fn window(&self, n: usize, c: usize, k: usize) -> Window {
        let origin = -((k / 2) as isize);
        Window {
            n,
            h: self.h,
            w: self.w,
            c,
            kh: k,
            kw: k,
            stride: 1,
            top: origin,
            left: origin,
            oh: self.h,
            ow: self.w,
        }
    }
}

/// The conditioning channels, and one more that is 1 outside the image.
struct Marked<'a, T> {
    x: &'a [T],
    sizes: Sizes,
}

impl<T: Real> Source<T> for Marked<'_, T> {
    fn plain(&self) -> Option<&[T]> {
        None
    }

    fn copy(&self, image: usize, row: usize, columns: Range<usize>, to: &mut [T]) {
        let Sizes {
            h,
            w,
            channels,
            split,
            ..
        } = self.sizes;
        let line = (image * h + row) * w;
        let x = &self.x[(line + columns.start) * channels..(line + columns.end) * channels];
        let pixels = to.chunks_exact_mut(split + 1);
        for (to, x) in pixels.zip(x.chunks_exact(channels)) {
            to[..split].copy_from_slice(&x[..split]);
            to[split] = T::default();
        }
    }

    fn outside(&self, to: &mut [T]) {
        for pixel in to.chunks_exact_mut(self.sizes.split + 1) {
            pixel.fill(T::default());
            pixel[self.sizes.split] = T::new(1.0);
        }
    }
}

/// Calls `f(position in the image, tap)` for every tap of a 3x3 window that falls outside.
fn outside(s: &Sizes, mut f: impl FnMut(usize, usize)) {
    for y in 0..s.h {
        for x in 0..s.w {
            let border = y == 0 || x == 0 || y + 1 == s.h || x + 1 == s.w;
            for tap in (0..9).filter(|_| border) {
                let (ty, tx) = (y + tap / 3, x + tap % 3);
                if ty == 0 || tx == 0 || ty > s.h || tx > s.w {
                    f(y * s.w + x, tap);
                }
            }
        }
    }
}

/// Output rows by blocks.
fn blocks(w: &Window) -> impl Iterator<Item = Range<usize>> + use<> {
    let (rows, block) = (w.rows(), w.block());
    (0..rows)
        .step_by(block)
        .map(move |r| r..rows.min(r + block))
}
