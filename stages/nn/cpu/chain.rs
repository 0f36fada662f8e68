//! Powers of the Jacobian of a chain of three convolutions with slopes between them, an image or a few at a
//! time: all terms of a series while slopes and vectors are in the cache.

use rayon::prelude::*;

use super::conv::{Geometry, Kernel, apply_in_thread};
use super::simd::vectorised;
use super::{Real, Scratch};

/// Three convolutions at stride 1 that keep the size of images.
pub struct Three<'a, T> {
    /// Height and width.
    pub size: (usize, usize),
    /// Kernels with their dimensions.
    pub kernels: [(&'a [T], [usize; 4]); 3],
}

impl<T> Three<'_, T> {
    pub fn geometry(&self, i: usize, n: usize) -> Geometry {
        let ((h, w), (_, [kh, kw, cin, cout])) = (self.size, self.kernels[i]);
        Geometry {
            n,
            h,
            w,
            cin,
            kh,
            kw,
            cout,
            stride: 1,
            top: kh / 2,
            left: kw / 2,
            oh: h,
            ow: w,
        }
    }

    /// Values of an image that goes in.
    pub fn image(&self) -> usize {
        self.size.0 * self.size.1 * self.kernels[0].1[2]
    }

    /// Images that a task takes: by shape only, so that nothing depends on the number of threads.
    pub fn group(&self) -> usize {
        (128 / (self.size.0 * self.size.1).max(1)).clamp(1, 24)
    }
}

/// `J = K2 D2 K1 D1 K0 D0`: convolutions, each after slopes, where there are any.
pub struct Chain<'a, T> {
    pub convs: Three<'a, T>,
    /// Of all images.
    pub slopes: [Option<&'a [T]>; 3],
}

impl<T: Real> Chain<'_, T> {
    /// For vectors e of all images and terms k = 1, 2, ...: `e + sum over k of f_k e' J^k`, and `e' J^k e`, term
    /// after term for one image after the other. `factors` f of each term, for each image or for all; from
    /// where they are zero on, an image's terms are not computed and are 0.
    pub fn powers(&self, e: &[T], factors: &[Vec<f64>]) -> (Vec<T>, Vec<T>) {
        let (image, group) = (self.convs.image(), self.convs.group());
        let turned =
            [0, 1, 2].map(|i| Kernel::turned(&self.convs.geometry(i, 1), self.convs.kernels[i].0));
        let mut sum = e.to_vec();
        let traces: Vec<Vec<T>> = sum
            .par_chunks_mut((group * image).max(1))
            .enumerate()
            .map(|(i, sum)| {
                let first = i * group;
                let e = &e[first * image..first * image + sum.len()];
                T::scratch(|scratch| {
                    let part = Part {
                        chain: self,
                        kernels: &turned,
                        first,
                        n: sum.len() / image,
                    };
                    part.powers(e, factors, sum, scratch)
                })
            })
            .collect();
        (sum, traces.concat())
    }
}

/// Some images of a chain.
struct Part<'a, T> {
    chain: &'a Chain<'a, T>,
    kernels: &'a [Kernel<T>; 3],
    first: usize,
    n: usize,
}

impl<T: Real> Part<'_, T> {
    fn powers(
        &self,
        e: &[T],
        factors: &[Vec<f64>],
        sum: &mut [T],
        scratch: &mut Scratch<T>,
    ) -> Vec<T> {
        let (n, image) = (self.n, e.len() / self.n.max(1));
        let factor = |term: &[f64], i: usize| match term {
            [all] => *all,
            each => each[self.first + i],
        };
        let inner = |i: usize| {
            let (h, w) = self.chain.convs.size;
            vec![T::default(); n * h * w * self.chain.convs.kernels[i].1[2]]
        };
        let (mut after, mut before, mut s) = (inner(2), inner(1), e.to_vec());
        let mut traces = vec![T::default(); n * factors.len()];
        let counts = |term: &Vec<f64>| (0..n).any(|i| factor(term, i) != 0.0);
        let end = factors.iter().rposition(counts).map_or(0, |last| last + 1);
        for (k, term) in factors[..end].iter().enumerate() {
            self.back(2, &s, &mut after, scratch);
            self.back(1, &after, &mut before, scratch);
            self.back(0, &before, &mut s, scratch);
            let images = sum
                .chunks_mut(image)
                .zip(s.chunks(image))
                .zip(e.chunks(image));
            for (i, ((sum, s), e)) in images.enumerate() {
                let f = factor(term, i);
                if f == 0.0 {
                    continue;
                }
                let f = T::new(f);
                vectorised(|| sum.iter_mut().zip(s).for_each(|(sum, s)| *sum += *s * f));
                traces[i * factors.len() + k] = T::new(vectorised(|| dot(s, e)));
            }
        }
        traces
    }

    /// `to = (from' K) D` of convolution `i`.
    fn back(&self, i: usize, from: &[T], to: &mut [T], scratch: &mut Scratch<T>) {
        let convs = &self.chain.convs;
        let window = convs.geometry(i, self.n).turned();
        let channels = convs.kernels[i].1[2];
        apply_in_thread(&window, from, &self.kernels[i], channels, to, scratch);
        if let Some(slopes) = self.chain.slopes[i] {
            let from = self.first * (to.len() / self.n.max(1));
            let slopes = &slopes[from..from + to.len()];
            vectorised(|| to.iter_mut().zip(slopes).for_each(|(to, d)| *to = *to * *d));
        }
    }
}

/// The sum of products, in as many parts as fill vectors.
#[inline(always)]
fn dot<T: Real>(a: &[T], b: &[T]) -> f64 {
    const PARTS: usize = 32;
    let mut parts = [T::default(); PARTS];
    let (a, b) = (a.as_chunks::<PARTS>(), b.as_chunks::<PARTS>());
    for (a, b) in a.0.iter().zip(b.0) {
        for ((part, a), b) in parts.iter_mut().zip(a).zip(b) {
            *part += *a * *b;
        }
    }
    let rest = a.1.iter().zip(b.1).map(|(a, b)| a.f64() * b.f64());
    parts.iter().map(|p| p.f64()).chain(rest).sum()
}
