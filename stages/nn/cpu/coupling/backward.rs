//! The way back: gradients of the input and of the parameters.

use std::ops::Range;

use rayon::prelude::*;

use super::super::conv::{Kernel, Placing, add_gradient, parts, rows};
use super::super::micro::Finish;
use super::super::patches::{Plain, Window};
use super::super::simd::vectorised;
use super::super::{Real, Scratch};
use super::sums::Sums;
use super::{Hidden, Layer, Marked, Sizes, blocks, outside};

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
    (dx, total.gradient(s, &net.layers))
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
    /// Gradient of the second convolution's sums, for a block of rows.
    second: Vec<T>,
    /// Gradient of the first convolution's sums.
    first: Vec<T>,
    dx: Vec<T>,
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
