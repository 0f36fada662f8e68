//! Passes that treat every channel (last dimension) alike.

use rayon::prelude::*;

use super::Real;
use super::simd::vectorised;

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

/// Sums of `K` quantities per channel over all rows, in f64 and a fixed order.
pub fn sums<const K: usize>(
    rows: usize,
    channels: usize,
    add: impl Fn(std::ops::Range<usize>, [&mut [f64]; K]) + Sync,
) -> [Vec<f64>; K] {
    let step = chunk(channels);
    let parts: Vec<[Vec<f64>; K]> = (0..rows.div_ceil(step))
        .into_par_iter()
        .map(|i| {
            let mut sums = [(); K].map(|()| vec![0.0; channels]);
            let range = i * step..rows.min((i + 1) * step);
            vectorised(|| add(range, sums.each_mut().map(Vec::as_mut_slice)));
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

/// Sum of each channel.
pub fn totals<T: Real>(x: &[T], channels: usize) -> Vec<T> {
    let [sums] = sums(x.len() / channels, channels, |r, [sum]| {
        for row in x[r.start * channels..r.end * channels].chunks_exact(channels) {
            for (s, v) in sum.iter_mut().zip(row) {
                *s += v.f64();
            }
        }
    });
    sums.into_iter().map(T::new).collect()
}

/// Mean and population variance of each channel, in one pass over differences from the first row,
/// which takes away a common offset before anything is squared.
pub fn moments<T: Real>(x: &[T], channels: usize) -> (Vec<f64>, Vec<f64>) {
    let rows = x.len() / channels;
    let origin: Vec<f64> = x[..channels].iter().map(|v| v.f64()).collect();
    let [sum, squares] = sums(rows, channels, |r, [sum, squares]| {
        for row in x[r.start * channels..r.end * channels].chunks_exact(channels) {
            let sums = sum.iter_mut().zip(squares.iter_mut());
            for (((s, q), v), o) in sums.zip(row).zip(&origin) {
                let d = v.f64() - o;
                *s += d;
                *q += d * d;
            }
        }
    });
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
        // The sign of what ReLU saw, as `apply` computes it.
        let passed = |x: T, a: T, b: T, d: T| {
            if x * a + b > T::default() {
                d
            } else {
                T::default()
            }
        };
        let given = &*d;
        let [dz, dzx] = sums(rows, c, |r, [dz, dzx]| {
            let all = r.start * c..r.end * c;
            for (d, x) in given[all.clone()]
                .chunks_exact(c)
                .zip(x[all].chunks_exact(c))
            {
                let sums = dz.iter_mut().zip(dzx.iter_mut()).zip(&mean);
                let affine = self.scale.iter().zip(&self.shift);
                for (((d, x), (a, b)), ((s, t), m)) in d.iter().zip(x).zip(affine).zip(sums) {
                    let z = passed(*x, *a, *b, *d);
                    *s += z.f64();
                    *t += (z * (*x - *m)).f64();
                }
            }
        });
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
                vectorised(|| {
                    for (d, x) in d.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
                        let affine = self.scale.iter().zip(&self.shift).zip(&mean);
                        let more = constant.iter().zip(&slope);
                        for (((d, x), ((a, b), m)), (q, r)) in
                            d.iter_mut().zip(x).zip(affine).zip(more)
                        {
                            *d = passed(*x, *a, *b, *d) * *a + *q + (*x - *m) * *r;
                        }
                    }
                });
            });
        let gain = dzx.iter().zip(&self.deviation).map(|(t, s)| T::new(t / s));
        (gain.collect(), dz.iter().map(|s| T::new(*s)).collect())
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
        let inner = |y: T, dy: T| if y > zero { dy } else { dy * slope };
        let centre: Vec<T> = match &self.normalise {
            Some((mean, _)) => mean.iter().map(|m| T::new(*m)).collect(),
            None => vec![zero; c],
        };
        // Per channel: sum of dz, and of dz (x - centre).
        let [of_dz, of_dzx] = sums(rows, c, |r, [of_dz, of_dzx]| {
            let all = r.start * c..r.end * c;
            let rows = y[all.clone()]
                .chunks(c)
                .zip(dy[all.clone()].chunks(c))
                .zip(x[all].chunks(c));
            for ((y, dy), x) in rows {
                let sums = of_dz.iter_mut().zip(of_dzx.iter_mut());
                for ((((s, y), dy), x), m) in sums.zip(y).zip(dy).zip(x).zip(&centre) {
                    let dz = inner(*y, *dy);
                    *s.0 += dz.f64();
                    *s.1 += (dz * (*x - *m)).f64();
                }
            }
        });
        let mut dx = vec![zero; x.len()];
        let dshift = of_dz.iter().map(|s| T::new(*s)).collect();
        let step = chunk(c) * c;
        let work = dx.par_chunks_mut(step).zip(x.par_chunks(step));
        let work = work.zip(y.par_chunks(step)).zip(dy.par_chunks(step));
        let dscale = match &self.normalise {
            None => {
                work.for_each(|(((dx, _), y), dy)| {
                    vectorised(|| {
                        for ((dx, y), dy) in dx.chunks_mut(c).zip(y.chunks(c)).zip(dy.chunks(c)) {
                            for (((dx, y), dy), s) in dx.iter_mut().zip(y).zip(dy).zip(scale) {
                                *dx = inner(*y, *dy) * *s;
                            }
                        }
                    })
                });
                of_dzx.iter().map(|s| T::new(*s)).collect()
            }
            Some((_, deviation)) => {
                // dx = scale / deviation (dz - mean(dz) - x^ mean(dz x^))
                let coefficient = |i: usize| {
                    let (n, d, s) = (rows as f64, deviation[i], scale[i].f64());
                    (
                        T::new(s / d),
                        T::new(-s / d * of_dz[i] / n),
                        T::new(-s / d * of_dzx[i] / (n * d * d)),
                    )
                };
                let k: Vec<(T, T, T)> = (0..c).map(coefficient).collect();
                work.for_each(|(((dx, x), y), dy)| {
                    vectorised(|| {
                        let rows = dx
                            .chunks_mut(c)
                            .zip(x.chunks(c))
                            .zip(y.chunks(c))
                            .zip(dy.chunks(c));
                        for (((dx, x), y), dy) in rows {
                            let row = dx.iter_mut().zip(x).zip(y).zip(dy).zip(&k).zip(&centre);
                            for (((((dx, x), y), dy), (p, q, r)), m) in row {
                                *dx = inner(*y, *dy) * *p + *q + (*x - *m) * *r;
                            }
                        }
                    })
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
