//! Passes that treat every channel (last dimension) alike.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::Real;
use super::simd::{dispatch, vectorised};

/// `act(x scale + shift)`, where x may first be normalised: mean and deviation per channel.
#[derive(Clone)]
pub struct Affine {
    pub normalise: Option<(Vec<f64>, Vec<f64>)>,
    /// Negative values times this.
    pub slope: f64,
}

/// Rows (positions) a task takes at once: by shape only, so that sums do not depend on threads.
fn chunk(channels: usize) -> usize {
    (32 * 1024usize).div_ceil(channels)
}

/// `K` quantities per channel that are summed over rows.
///
/// Not a closure: those of this size are not compiled into what has the processor's instructions. Give
/// `add` `#[inline(always)]`.
pub trait Summed<const K: usize>: Sync {
    /// Adds those of some rows.
    fn add(&self, rows: Range<usize>, sums: [&mut [f64]; K]);
}

struct Add<'a, S, const K: usize> {
    what: &'a S,
    rows: Range<usize>,
    sums: [&'a mut [f64]; K],
}

impl<Q: Summed<K>, const K: usize> WithSimd for Add<'_, Q, K> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        self.what.add(self.rows, self.sums);
    }
}

/// The sums over all rows, in f64 and a fixed order.
pub fn sums<const K: usize>(rows: usize, channels: usize, what: &impl Summed<K>) -> [Vec<f64>; K] {
    let step = chunk(channels);
    let parts: Vec<[Vec<f64>; K]> = (0..rows.div_ceil(step))
        .into_par_iter()
        .map(|i| {
            let mut sums = [(); K].map(|()| vec![0.0; channels]);
            let rows = i * step..rows.min((i + 1) * step);
            let to = sums.each_mut().map(Vec::as_mut_slice);
            dispatch(Add {
                what,
                rows,
                sums: to,
            });
            sums
        })
        .collect();
    let mut total = [(); K].map(|()| vec![0.0; channels]);
    for part in &parts {
        for (total, part) in total.iter_mut().zip(part) {
            total.iter_mut().zip(part).for_each(|(t, p)| *t += p);
        }
    }
    total
}

struct Total<'a, T>(&'a [T]);

impl<T: Real> Summed<1> for Total<'_, T> {
    #[inline(always)]
    fn add(&self, r: Range<usize>, [sum]: [&mut [f64]; 1]) {
        let c = sum.len();
        for row in self.0[r.start * c..r.end * c].chunks_exact(c) {
            for (s, v) in sum.iter_mut().zip(row) {
                *s += v.f64();
            }
        }
    }
}

/// Sum of each channel.
pub fn totals<T: Real>(x: &[T], channels: usize) -> Vec<T> {
    let [sums] = sums(x.len() / channels, channels, &Total(x));
    sums.into_iter().map(T::new).collect()
}

/// Differences from an origin, and their squares.
struct Differences<'a, T> {
    x: &'a [T],
    origin: &'a [f64],
}

impl<T: Real> Summed<2> for Differences<'_, T> {
    #[inline(always)]
    fn add(&self, r: Range<usize>, [sum, squares]: [&mut [f64]; 2]) {
        let c = sum.len();
        for row in self.x[r.start * c..r.end * c].chunks_exact(c) {
            let sums = sum.iter_mut().zip(squares.iter_mut());
            for (((s, q), v), o) in sums.zip(row).zip(self.origin) {
                let d = v.f64() - o;
                *s += d;
                *q += d * d;
            }
        }
    }
}

/// Mean and population variance of each channel, in one pass over differences from the first row,
/// which takes away a common offset before anything is squared.
pub fn moments<T: Real>(x: &[T], channels: usize) -> (Vec<f64>, Vec<f64>) {
    let rows = x.len() / channels;
    let origin: Vec<f64> = x[..channels].iter().map(|v| v.f64()).collect();
    let differences = Differences { x, origin: &origin };
    let [sum, squares] = sums(rows, channels, &differences);
    let n = rows as f64;
    let mean = sum.iter().zip(&origin).map(|(s, o)| o + s / n).collect();
    let variance = |(s, q): (&f64, &f64)| (q / n - (s / n) * (s / n)).max(0.0);
    (mean, sum.iter().zip(&squares).map(variance).collect())
}

/// Normalisation by a batch's own statistics, and the ReLU that follows.
pub struct Norm<T> {
    pub mean: Vec<f64>,
    pub deviation: Vec<f64>,
    /// `relu(x scale + shift)` is the result.
    pub scale: Vec<T>,
    pub shift: Vec<T>,
}

impl<T: Real> Norm<T> {
    /// `gain` and `offset` are the learned ones.
    pub fn new(
        (mean, variance): &(Vec<f64>, Vec<f64>),
        gain: &[T],
        offset: &[T],
        epsilon: f64,
    ) -> Self {
        let deviation: Vec<f64> = variance.iter().map(|v| (v + epsilon).sqrt()).collect();
        let affine = Affine {
            normalise: Some((mean.clone(), deviation.clone())),
            slope: 0.0,
        };
        let (scale, shift) = affine.coefficients(gain, offset);
        Self {
            mean: mean.clone(),
            deviation,
            scale,
            shift,
        }
    }

    /// `to = relu(x scale + shift)` of whole pixels.
    pub fn apply(&self, x: &[T], to: &mut [T]) {
        let c = self.scale.len();
        vectorised(|| {
            for (to, x) in to.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
                for (((to, x), a), b) in to.iter_mut().zip(x).zip(&self.scale).zip(&self.shift) {
                    let v = *x * *a + *b;
                    *to = if v > T::default() { v } else { T::default() };
                }
            }
        });
    }

    /// Turns `d`, the gradient of the result, into that of x; gives those of gain and offset.
    pub fn backward(&self, x: &[T], d: &mut [T]) -> (Vec<T>, Vec<T>) {
        let c = self.scale.len();
        let rows = x.len() / c;
        let mean: Vec<T> = self.mean.iter().map(|m| T::new(*m)).collect();
        let through = Through {
            norm: self,
            x,
            d: &*d,
            mean: &mean,
        };
        let [dz, dzx] = sums(rows, c, &through);
        // dx = a (dz - mean(dz) - x^ mean(dz x^)), x^ = (x - mean) / deviation
        let n = rows as f64;
        let constant: Vec<T> = (0..c)
            .map(|i| T::new(-self.scale[i].f64() * dz[i] / n))
            .collect();
        let slope = |i: usize| {
            let variance = self.deviation[i] * self.deviation[i];
            T::new(-self.scale[i].f64() * dzx[i] / (n * variance))
        };
        let slope: Vec<T> = (0..c).map(slope).collect();
        let step = chunk(c) * c;
        d.par_chunks_mut(step)
            .zip(x.par_chunks(step))
            .for_each(|(d, x)| {
                let (norm, mean) = (self, &mean[..]);
                let (constant, slope) = (&constant[..], &slope[..]);
                dispatch(OfNorm {
                    norm,
                    x,
                    d,
                    mean,
                    constant,
                    slope,
                });
            });
        let gain = dzx.iter().zip(&self.deviation).map(|(t, s)| T::new(t / s));
        (gain.collect(), dz.iter().map(|s| T::new(*s)).collect())
    }
}

/// `d` where what ReLU saw, as [`Norm::apply`] computes it, is positive.
#[inline(always)]
fn passed<T: Real>(x: T, a: T, b: T, d: T) -> T {
    if x * a + b > T::default() {
        d
    } else {
        T::default()
    }
}

/// Gradients behind ReLU, and their products with `x - mean`.
struct Through<'a, T> {
    norm: &'a Norm<T>,
    x: &'a [T],
    d: &'a [T],
    mean: &'a [T],
}

impl<T: Real> Summed<2> for Through<'_, T> {
    #[inline(always)]
    fn add(&self, r: Range<usize>, [dz, dzx]: [&mut [f64]; 2]) {
        let c = dz.len();
        let all = r.start * c..r.end * c;
        let (d, x) = (&self.d[all.clone()], &self.x[all]);
        for (d, x) in d.chunks_exact(c).zip(x.chunks_exact(c)) {
            let sums = dz.iter_mut().zip(dzx.iter_mut()).zip(self.mean);
            let affine = self.norm.scale.iter().zip(&self.norm.shift);
            for (((d, x), (a, b)), ((s, t), m)) in d.iter().zip(x).zip(affine).zip(sums) {
                let z = passed(*x, *a, *b, *d);
                *s += z.f64();
                *t += (z * (*x - *m)).f64();
            }
        }
    }
}

/// The gradient `d` of a [`Norm`]'s result turned into that of x.
struct OfNorm<'a, T> {
    norm: &'a Norm<T>,
    x: &'a [T],
    d: &'a mut [T],
    mean: &'a [T],
    constant: &'a [T],
    slope: &'a [T],
}

impl<T: Real> WithSimd for OfNorm<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let c = self.mean.len();
        for (d, x) in self.d.chunks_exact_mut(c).zip(self.x.chunks_exact(c)) {
            let affine = self.norm.scale.iter().zip(&self.norm.shift).zip(self.mean);
            let more = self.constant.iter().zip(self.slope);
            let row = d.iter_mut().zip(x).zip(affine).zip(more);
            for (((d, x), ((a, b), m)), (q, r)) in row {
                *d = passed(*x, *a, *b, *d) * *a + *q + (*x - *m) * *r;
            }
        }
    }
}

/// Gradients before an activation, and their products with `x - centre`.
struct Before<'a, T> {
    x: &'a [T],
    y: &'a [T],
    dy: &'a [T],
    centre: &'a [T],
    slope: T,
}

/// `dy` times the slope of an activation that gave `y`.
#[inline(always)]
fn before<T: Real>(y: T, dy: T, slope: T) -> T {
    if y > T::default() { dy } else { dy * slope }
}

impl<T: Real> Summed<2> for Before<'_, T> {
    #[inline(always)]
    fn add(&self, r: Range<usize>, [of_dz, of_dzx]: [&mut [f64]; 2]) {
        let c = of_dz.len();
        let all = r.start * c..r.end * c;
        let (y, dy) = (&self.y[all.clone()], &self.dy[all.clone()]);
        let rows = y.chunks_exact(c).zip(dy.chunks_exact(c));
        for ((y, dy), x) in rows.zip(self.x[all].chunks_exact(c)) {
            let sums = of_dz.iter_mut().zip(of_dzx.iter_mut());
            for ((((s, y), dy), x), m) in sums.zip(y).zip(dy).zip(x).zip(self.centre) {
                let dz = before(*y, *dy, self.slope);
                *s.0 += dz.f64();
                *s.1 += (dz * (*x - *m)).f64();
            }
        }
    }
}

/// `dx = dz p + q + (x - centre) r`, with `[p, q, r]` of each channel.
struct OfAffine<'a, T> {
    dx: &'a mut [T],
    x: &'a [T],
    y: &'a [T],
    dy: &'a [T],
    centre: &'a [T],
    factors: [&'a [T]; 3],
    slope: T,
}

impl<T: Real> WithSimd for OfAffine<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let c = self.centre.len();
        let [p, q, r] = self.factors;
        let rows = self.dx.chunks_exact_mut(c).zip(self.x.chunks_exact(c));
        let rows = rows.zip(self.y.chunks_exact(c));
        for (((dx, x), y), dy) in rows.zip(self.dy.chunks_exact(c)) {
            let row = dx.iter_mut().zip(x).zip(y).zip(dy).zip(self.centre);
            for (((((dx, x), y), dy), m), ((p, q), r)) in row.zip(p.iter().zip(q).zip(r)) {
                *dx = before(*y, *dy, self.slope) * *p + *q + (*x - *m) * *r;
            }
        }
    }
}

impl Affine {
    /// Per channel: what to multiply x with and what to add.
    fn coefficients<T: Real>(&self, scale: &[T], shift: &[T]) -> (Vec<T>, Vec<T>) {
        match &self.normalise {
            None => (scale.to_vec(), shift.to_vec()),
            Some((mean, deviation)) => {
                let a: Vec<f64> = scale
                    .iter()
                    .zip(deviation)
                    .map(|(s, d)| s.f64() / d)
                    .collect();
                let b = shift
                    .iter()
                    .zip(mean)
                    .zip(&a)
                    .map(|((b, m), a)| T::new(b.f64() - m * a));
                let b = b.collect();
                (a.into_iter().map(T::new).collect(), b)
            }
        }
    }

    pub fn forward<T: Real>(&self, x: &[T], scale: &[T], shift: &[T]) -> Vec<T> {
        let c = scale.len();
        let (a, b) = self.coefficients(scale, shift);
        let slope = T::new(self.slope);
        let mut y = vec![T::default(); x.len()];
        let step = chunk(c) * c;
        y.par_chunks_mut(step)
            .zip(x.par_chunks(step))
            .for_each(|(y, x)| {
                vectorised(|| {
                    for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
                        for (((y, x), a), b) in y.iter_mut().zip(x).zip(&a).zip(&b) {
                            let v = *x * *a + *b;
                            *y = if v > T::default() { v } else { v * slope };
                        }
                    }
                });
            });
        y
    }

    /// `dx`, `dscale`, `dshift`.
    pub fn backward<T: Real>(
        &self,
        x: &[T],
        scale: &[T],
        y: &[T],
        dy: &[T],
    ) -> (Vec<T>, Vec<T>, Vec<T>) {
        let (c, slope) = (scale.len(), T::new(self.slope));
        let rows = x.len() / c;
        let zero = T::default();
        let centre: Vec<T> = match &self.normalise {
            Some((mean, _)) => mean.iter().map(|m| T::new(*m)).collect(),
            None => vec![zero; c],
        };
        let before_it = Before {
            x,
            y,
            dy,
            centre: &centre,
            slope,
        };
        // Per channel: sum of dz, and of dz (x - centre).
        let [of_dz, of_dzx] = sums(rows, c, &before_it);
        let mut dx = vec![zero; x.len()];
        let dshift = of_dz.iter().map(|s| T::new(*s)).collect();
        let step = chunk(c) * c;
        let work = dx.par_chunks_mut(step).zip(x.par_chunks(step));
        let work = work.zip(y.par_chunks(step)).zip(dy.par_chunks(step));
        let dscale = match &self.normalise {
            None => {
                work.for_each(|(((dx, _), y), dy)| {
                    vectorised(|| {
                        let rows = dx.chunks_exact_mut(c).zip(y.chunks_exact(c));
                        for ((dx, y), dy) in rows.zip(dy.chunks_exact(c)) {
                            for (((dx, y), dy), s) in dx.iter_mut().zip(y).zip(dy).zip(scale) {
                                *dx = before(*y, *dy, slope) * *s;
                            }
                        }
                    })
                });
                of_dzx.iter().map(|s| T::new(*s)).collect()
            }
            Some((_, deviation)) => {
                // dx = scale / deviation (dz - mean(dz) - x^ mean(dz x^))
                let (n, mut factors) = (rows as f64, [(); 3].map(|()| Vec::with_capacity(c)));
                for i in 0..c {
                    let (d, s) = (deviation[i], scale[i].f64());
                    factors[0].push(T::new(s / d));
                    factors[1].push(T::new(-s / d * of_dz[i] / n));
                    factors[2].push(T::new(-s / d * of_dzx[i] / (n * d * d)));
                }
                work.for_each(|(((dx, x), y), dy)| {
                    dispatch(OfAffine {
                        dx,
                        x,
                        y,
                        dy,
                        centre: &centre,
                        factors: factors.each_ref().map(Vec::as_slice),
                        slope,
                    });
                });
                of_dzx
                    .iter()
                    .zip(deviation)
                    .map(|(s, d)| T::new(s / d))
                    .collect()
            }
        };
        (dx, dscale, dshift)
    }
}
