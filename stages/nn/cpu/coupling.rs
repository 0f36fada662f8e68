//! An additive coupling of Glow in one pass over the images, forward and backward.
//!
//! `y = x + [0, f(x1)]` with x1 the first channels of x, and f: convolution 3x3, affine, ReLU,
//! convolution 1x1, affine, ReLU, convolution 3x3, affine. Run layer by layer it would move each
//! hidden map through memory eight times a step; here every map is made and used while it is in
//! the cache, and only what follows each ReLU is written, once, and read, once, for the gradient.

use std::ops::Range;

use rayon::prelude::*;

use super::conv::{Kernel, Placing, add_gradient, parts, rows};
use super::micro::Finish;
use super::pack::padded;
use super::patches::{Plain, Source, Window};
use super::simd::vectorised;
use super::{Real, Scratch};

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

/// `y`, and what its gradient needs.
pub fn forward<T: Real>(s: &Sizes, x: &[T], parameters: &[T], keep: bool) -> (Vec<T>, Hidden<T>) {
    let [one, two, three] = s.layers(parameters);
    let (moved, pixels) = (s.moved(), s.h * s.w);
    let (w1, w2, w3) = (
        s.window(1, s.split + 1, 3),
        s.window(1, s.width, 1),
        s.window(1, s.width, 3),
    );
    let first = Kernel::new(
        &w1,
        s.width,
        |t, i, o| one.w[(t * w1.c + i) * s.width + o],
        Some(one.w),
    );
    let second = Kernel::new(&w2, s.width, |_, i, o| two.w[i * s.width + o], Some(two.w));
    // The rows of a tap but for the one of the mark.
    let last = Kernel::new(
        &w3,
        moved,
        |t, i, o| three.w[(t * (s.width + 1) + i) * moved + o],
        None,
    );
    let mut edge = vec![T::default(); pixels * moved];
    outside(s, |p, tap| {
        let w = &three.w[(tap * (s.width + 1) + s.width) * moved..];
        edge[p * moved..(p + 1) * moved]
            .iter_mut()
            .zip(w)
            .for_each(|(e, w)| *e += *w);
    });

    let kept = if keep { s.n * pixels * s.width } else { 0 };
    let mut hidden = Hidden {
        first: vec![T::default(); kept],
        second: vec![T::default(); kept],
        last: edge.repeat(s.n),
    };
    let mut y = vec![T::default(); x.len()];
    let affine = [&one, &two].map(|l| (padded(l.scale), padded(l.shift)));
    let group = s.group() * pixels;
    let work = |i: usize, y: &mut [T], h1: &mut [T], h2: &mut [T], sums: &mut [T]| {
        let n = sums.len() / moved / pixels;
        let x = &x[i * group * s.channels..][..y.len()];
        let relu = affine.each_ref().map(|(scale, shift)| Finish {
            add: false,
            scale: Some(scale),
            shift: Some(shift),
            slope: T::default(),
        });
        let add = Finish {
            add: true,
            ..Finish::plain()
        };
        let (w1, w2, w3) = (Window { n, ..w1 }, Window { n, ..w2 }, Window { n, ..w3 });
        let (wide, narrow) = (Placing::dense(&w1, s.width), Placing::dense(&w1, moved));
        let marked = Marked { x, sizes: *s };
        T::scratch(|scratch| {
            for r in blocks(&w1) {
                rows(
                    &w1,
                    &marked,
                    &first,
                    r.clone(),
                    &wide,
                    (&mut *h1, 0),
                    &relu[0],
                    scratch,
                );
                let source = Plain::new(&*h1, &w2);
                rows(
                    &w2,
                    &source,
                    &second,
                    r,
                    &wide,
                    (&mut *h2, 0),
                    &relu[1],
                    scratch,
                );
            }
            for r in blocks(&w3) {
                let source = Plain::new(&*h2, &w3);
                rows(
                    &w3,
                    &source,
                    &last,
                    r,
                    &narrow,
                    (&mut *sums, 0),
                    &add,
                    scratch,
                );
            }
        });
        let pixels = y
            .chunks_exact_mut(s.channels)
            .zip(x.chunks_exact(s.channels));
        for ((y, x), sums) in pixels.zip(sums.chunks_exact(moved)) {
            y.copy_from_slice(x);
            let terms = sums.iter().zip(three.scale).zip(three.shift);
            for (y, ((u, scale), shift)) in y[s.split..].iter_mut().zip(terms) {
                *y += *u * *scale + *shift;
            }
        }
    };
    let outputs = y
        .par_chunks_mut((group * s.channels).max(1))
        .zip(hidden.last.par_chunks_mut((group * moved).max(1)));
    if keep {
        outputs
            .zip(hidden.first.par_chunks_mut(group * s.width))
            .zip(hidden.second.par_chunks_mut(group * s.width))
            .enumerate()
            .for_each(|(i, (((y, u), h1), h2))| work(i, y, h1, h2, u));
    } else {
        outputs.enumerate().for_each(|(i, (y, u))| {
            let len = u.len() / moved * s.width;
            let mut maps = vec![T::default(); 2 * len];
            let (h1, h2) = maps.split_at_mut(len);
            work(i, y, h1, h2, u);
        });
    }
    (y, hidden)
}

/// Output rows by blocks.
fn blocks(w: &Window) -> impl Iterator<Item = Range<usize>> + use<> {
    let (rows, block) = (w.rows(), w.block());
    (0..rows)
        .step_by(block)
        .map(move |r| r..rows.min(r + block))
}

/// `dx` and the gradient of the parameters.
pub fn backward<T: Real>(
    s: &Sizes,
    x: &[T],
    parameters: &[T],
    hidden: &Hidden<T>,
    dy: &[T],
) -> (Vec<T>, Vec<T>) {
    let net = Backward::new(s, parameters);
    let pixels = s.h * s.w;
    let groups = s.n.div_ceil(s.group());
    let parts = parts(s.parameters()).min(groups).max(1);
    let per_part = groups.div_ceil(parts) * s.group();
    let mut dx = vec![T::default(); x.len()];
    let mut sums: Vec<Sums<T>> = dx
        .par_chunks_mut((per_part * pixels * s.channels).max(1))
        .enumerate()
        .map(|(part, dx)| {
            let mut sums = Sums::new(s);
            let mut maps = Maps::default();
            for (i, dx) in dx.chunks_mut(s.group() * pixels * s.channels).enumerate() {
                let n = dx.len() / pixels / s.channels;
                let first = (part * per_part + i * s.group()) * pixels;
                let of = |all: &'_ [T], c: usize| -> Range<usize> {
                    debug_assert!(all.len() >= (first + n * pixels) * c);
                    first * c..(first + n * pixels) * c
                };
                let images = Images {
                    n,
                    x: &x[of(x, s.channels)],
                    dy: &dy[of(dy, s.channels)],
                    first: &hidden.first[of(&hidden.first, s.width)],
                    second: &hidden.second[of(&hidden.second, s.width)],
                    last: &hidden.last[of(&hidden.last, s.moved())],
                };
                T::scratch(|scratch| net.images(&images, dx, &mut sums, &mut maps, scratch));
            }
            sums
        })
        .collect();
    let mut total = sums.drain(..1).next().unwrap_or_else(|| Sums::new(s));
    for part in &sums {
        total.add(part);
    }
    (dx, net.gradient(&total))
}

/// Some images and what the forward pass kept of them.
struct Images<'a, T> {
    n: usize,
    x: &'a [T],
    dy: &'a [T],
    first: &'a [T],
    second: &'a [T],
    last: &'a [T],
}

/// Maps of a task, used again from images to images.
#[derive(Default)]
struct Maps<T> {
    /// Gradient of the last convolution's sums, `[.., moved]`.
    last: Vec<T>,
    /// Of the second convolution's, for a block of rows.
    second: Vec<T>,
    /// Of the first one's.
    first: Vec<T>,
    dx: Vec<T>,
}

/// Gradients summed over images. Of a scale: sum of gradient times output; the rest follows.
struct Sums<T> {
    first: Vec<T>,
    second: Vec<T>,
    /// Turned: `[9, moved, width]`.
    last: Vec<T>,
    /// Of the mark: `[9, moved]`.
    edge: Vec<T>,
    /// Scale and shift of each layer, in f64.
    affine: [Vec<[f64; 2]>; 3],
}

impl<T: Real> Sums<T> {
    fn new(s: &Sizes) -> Self {
        let moved = s.moved();
        Self {
            first: vec![T::default(); 9 * (s.split + 1) * s.width],
            second: vec![T::default(); s.width * s.width],
            last: vec![T::default(); 9 * moved * s.width],
            edge: vec![T::default(); 9 * moved],
            affine: [s.width, s.width, moved].map(|c| vec![[0.0; 2]; c]),
        }
    }

    fn add(&mut self, other: &Self) {
        let each = |to: &mut [T], from: &[T]| {
            to.iter_mut().zip(from).for_each(|(t, f)| *t += *f);
        };
        each(&mut self.first, &other.first);
        each(&mut self.second, &other.second);
        each(&mut self.last, &other.last);
        each(&mut self.edge, &other.edge);
        for (to, from) in self.affine.iter_mut().zip(&other.affine) {
            for (t, f) in to.iter_mut().zip(from) {
                t[0] += f[0];
                t[1] += f[1];
            }
        }
    }
}

/// Kernels of the way back.
struct Backward<'a, T> {
    sizes: Sizes,
    layers: [Layer<'a, T>; 3],
    first: Kernel<T>,
    second: Kernel<T>,
    last: Kernel<T>,
}

impl<'a, T: Real> Backward<'a, T> {
    fn new(s: &Sizes, parameters: &'a [T]) -> Self {
        let layers = s.layers(parameters);
        let [one, two, three] = &layers;
        let (moved, width) = (s.moved(), s.width);
        Self {
            sizes: *s,
            first: Kernel::new(
                &s.window(1, width, 3),
                s.split,
                |t, o, i| one.w[((8 - t) * (s.split + 1) + i) * width + o],
                None,
            ),
            second: Kernel::new(
                &s.window(1, width, 1),
                width,
                |_, o, i| two.w[i * width + o],
                None,
            ),
            last: Kernel::new(
                &s.window(1, moved, 3),
                width,
                |t, o, i| three.w[((8 - t) * (width + 1) + i) * moved + o],
                None,
            ),
            layers,
        }
    }

    fn images(
        &self,
        images: &Images<T>,
        dx: &mut [T],
        sums: &mut Sums<T>,
        maps: &mut Maps<T>,
        scratch: &mut Scratch<T>,
    ) {
        let s = &self.sizes;
        let (moved, width, n) = (s.moved(), s.width, images.n);
        let pixels = n * s.h * s.w;
        let plain = Finish::plain();
        self.last(images, sums, maps);
        maps.first.resize(pixels * width, T::default());
        let (narrow, wide) = (s.window(n, moved, 3), s.window(n, width, 1));
        let marked = Marked {
            x: images.x,
            sizes: *s,
        };
        for r in blocks(&narrow) {
            let of = |c: usize| r.start * s.w * c..r.end * s.w * c;
            let (h1, h2) = (&images.first[of(width)], &images.second[of(width)]);
            let source = Plain::new(&maps.last[..], &narrow);
            maps.second
                .resize(h2.len().max(maps.second.len()), T::default());
            let d2 = &mut maps.second[..h2.len()];
            let placing = Placing::dense(&narrow, width);
            let to = (&mut *d2, r.start * s.w * width);
            rows(
                &narrow,
                &source,
                &self.last,
                r.clone(),
                &placing,
                to,
                &plain,
                scratch,
            );
            add_gradient(
                &narrow,
                &source,
                width,
                h2,
                r.clone(),
                &mut sums.last,
                scratch,
            );
            through_relu(d2, h2, self.layers[1].scale, &mut sums.affine[1]);

            // The block as one image of its own.
            let block = Window {
                n: 1,
                h: r.len(),
                oh: r.len(),
                ..wide
            };
            let all = 0..r.len();
            add_gradient(
                &block,
                &Plain::new(h1, &block),
                width,
                d2,
                all.clone(),
                &mut sums.second,
                scratch,
            );
            let d1 = &mut maps.first[of(width)];
            let placing = Placing::dense(&block, width);
            let source = Plain::new(&*d2, &block);
            rows(
                &block,
                &source,
                &self.second,
                all,
                &placing,
                (&mut *d1, 0),
                &plain,
                scratch,
            );
            through_relu(d1, h1, self.layers[0].scale, &mut sums.affine[0]);
            let window = s.window(n, s.split + 1, 3);
            add_gradient(&window, &marked, width, d1, r, &mut sums.first, scratch);
        }
        let window = s.window(n, width, 3);
        maps.dx.resize(pixels * s.split, T::default());
        let placing = Placing::dense(&window, s.split);
        for r in blocks(&window) {
            let source = Plain::new(&maps.first[..], &window);
            let to = (&mut maps.dx[..], 0);
            rows(
                &window,
                &source,
                &self.first,
                r,
                &placing,
                to,
                &plain,
                scratch,
            );
        }
        dx.copy_from_slice(images.dy);
        let through = maps.dx.chunks_exact(s.split);
        for (dx, d) in dx.chunks_exact_mut(s.channels).zip(through) {
            dx.iter_mut().zip(d).for_each(|(dx, d)| *dx += *d);
        }
    }

    /// From dy to the gradient of the last convolution's sums.
    fn last(&self, images: &Images<T>, sums: &mut Sums<T>, maps: &mut Maps<T>) {
        let s = &self.sizes;
        let (moved, scale) = (s.moved(), self.layers[2].scale);
        maps.last.resize(images.last.len(), T::default());
        let values = maps
            .last
            .chunks_exact_mut(moved)
            .zip(images.last.chunks_exact(moved));
        for ((to, u), dy) in values.zip(images.dy.chunks_exact(s.channels)) {
            for (i, dy) in dy[s.split..].iter().enumerate() {
                sums.affine[2][i][0] += (*dy * u[i]).f64();
                sums.affine[2][i][1] += dy.f64();
                to[i] = *dy * scale[i];
            }
        }
        for image in maps.last.chunks_exact(s.h * s.w * moved) {
            outside(s, |p, tap| {
                let to = &mut sums.edge[tap * moved..(tap + 1) * moved];
                to.iter_mut()
                    .zip(&image[p * moved..])
                    .for_each(|(t, v)| *t += *v);
            });
        }
    }

    /// The sums in the order of the parameters.
    fn gradient(&self, sums: &Sums<T>) -> Vec<T> {
        let s = &self.sizes;
        let (moved, width) = (s.moved(), s.width);
        let mut all = Vec::with_capacity(s.parameters());
        let affine = |all: &mut Vec<T>, i: usize, of_output: bool| {
            let layer = &self.layers[i];
            let shifts = sums.affine[i].iter().map(|a| T::new(a[1]));
            let scales = sums.affine[i].iter().enumerate().map(|(c, a)| {
                // Of output = sum scale + shift: the sum is (output - shift) / scale.
                T::new(match of_output {
                    true => (a[0] - layer.shift[c].f64() * a[1]) / layer.scale[c].f64(),
                    false => a[0],
                })
            });
            all.extend(scales.chain(shifts));
        };
        all.extend_from_slice(&sums.first);
        affine(&mut all, 0, true);
        all.extend_from_slice(&sums.second);
        affine(&mut all, 1, true);
        for tap in 0..9 {
            for input in 0..width {
                let of = |o: usize| sums.last[((8 - tap) * moved + o) * width + input];
                all.extend((0..moved).map(of));
            }
            all.extend_from_slice(&sums.edge[tap * moved..(tap + 1) * moved]);
        }
        affine(&mut all, 2, false);
        all
    }
}

/// Back through ReLU and affine: `d` becomes the gradient of the sums, its shares in the gradient
/// of scale (times the output, as [`Sums`] has it) and shift are added.
fn through_relu<T: Real>(d: &mut [T], output: &[T], scale: &[T], affine: &mut [[f64; 2]]) {
    let c = scale.len();
    let mut part = vec![T::default(); 2 * c];
    let (of_scale, of_shift) = part.split_at_mut(c);
    vectorised(|| {
        for (d, h) in d.chunks_exact_mut(c).zip(output.chunks_exact(c)) {
            let sums = of_scale.iter_mut().zip(of_shift.iter_mut()).zip(scale);
            for ((d, h), ((a, b), scale)) in d.iter_mut().zip(h).zip(sums) {
                let z = if *h > T::default() { *d } else { T::default() };
                *a += z * *h;
                *b += z;
                *d = z * *scale;
            }
        }
    });
    for (to, (a, b)) in affine.iter_mut().zip(of_scale.iter().zip(&*of_shift)) {
        to[0] += a.f64();
        to[1] += b.f64();
    }
}
