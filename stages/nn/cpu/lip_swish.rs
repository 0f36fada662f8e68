//! LipSwish, `f(a) = a σ(b a) / 1.1` (Chen et al. 2019, section 3.1), its slope, and the two with a tangent
//! beside them, over rows of channels: `a = x + bias`.
//!
//! With `s = σ(b a)` and `p = s (1 - s) (2 + b a (1 - 2 s))`:
//! `f' = s (1 + b a (1 - s)) / 1.1`, `f'' = b p / 1.1`, `df/db = a² s (1 - s) / 1.1`, `df'/db = a p / 1.1`.

use rayon::prelude::*;

use super::Real;
use super::simd::vectorised;

/// Values a task takes at once, about: by shape only, so that sums do not depend on threads.
const CHUNK: usize = 1 << 14;

/// Values that are treated as one row, at least: a few channels alone would not fill a vector.
const ROW: usize = 64;

const SCALE: f64 = 1.0 / 1.1;

/// A number with a logistic function that compiles to vectors.
pub trait Logistic: Real {
    /// `1 / (1 + exp(-x))`.
    fn logistic(self) -> Self;
}

impl Logistic for f64 {
    #[inline(always)]
    fn logistic(self) -> Self {
        1.0 / (1.0 + (-self).exp())
    }
}

impl Logistic for f32 {
    /// Of additions, multiplications and one division, each rounded: the same on all processors. The
    /// exponential is `2^n e^r` with `|r| <= ln 2 / 2` and eight terms, within 3 units in the last place.
    #[inline(always)]
    fn logistic(self) -> Self {
        /// What is added to a number so that its last bits are a whole number.
        const WHOLE: f32 = 12_582_912.0;
        let x = (-self).clamp(-87.0, 87.0);
        let shifted = x * std::f32::consts::LOG2_E + WHOLE;
        let n = shifted - WHOLE;
        let r = (x - n * (355.0 / 512.0)) + n * 2.121_944_4e-4;
        let e = 1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0 + r * (1.0 / 5040.0)));
        let e = 1.0 + r * (1.0 + r * (0.5 + r * (1.0 / 6.0 + r * e)));
        let power = shifted.to_bits().wrapping_sub(WHOLE.to_bits());
        let power = f32::from_bits(power.wrapping_add(127) << 23);
        1.0 / (1.0 + e * power)
    }
}

/// A bias and `b`, and rows as they are worked on.
pub struct LipSwish<T> {
    /// The bias, repeated to fill a row.
    bias: Vec<T>,
    channels: usize,
    b: T,
}

/// Gradients of everything that goes in.
pub struct Gradients<T> {
    pub dx: Vec<T>,
    pub dbias: Vec<T>,
    pub db: T,
}

impl<T: Logistic> LipSwish<T> {
    pub fn new(bias: &[T], b: T) -> Self {
        let channels = bias.len().max(1);
        let repeats = ROW.div_ceil(channels);
        Self {
            bias: bias.repeat(repeats),
            channels,
            b,
        }
    }

    /// `f` in place, in this thread.
    pub fn apply(&self, x: &mut [T]) {
        let (scale, b) = (T::new(SCALE), self.b);
        vectorised(|| {
            for x in x.chunks_mut(self.bias.len()) {
                for (x, bias) in x.iter_mut().zip(&self.bias) {
                    let a = *x + *bias;
                    *x = a * (b * a).logistic() * scale;
                }
            }
        });
    }

    /// Values of whole rows in a task.
    fn step(&self) -> usize {
        CHUNK.div_ceil(self.bias.len()) * self.bias.len()
    }

    /// `f`, and `f'` times the tangent; `x` holds values and then, if there are any, as many tangents.
    pub fn forward(&self, x: &[T], tangents: bool) -> Vec<T> {
        let half = if tangents { x.len() / 2 } else { x.len() };
        let (x, t) = x.split_at(half);
        let mut out = vec![T::default(); x.len() + t.len()];
        let (y, dy) = out.split_at_mut(half);
        let (row, step) = (self.bias.len(), self.step());
        let (one, scale, b) = (T::new(1.0), T::new(SCALE), self.b);
        if t.is_empty() {
            let work = y.par_chunks_mut(step).zip(x.par_chunks(step));
            work.for_each(|(y, x)| {
                vectorised(|| {
                    for (y, x) in y.chunks_mut(row).zip(x.chunks(row)) {
                        for ((y, x), bias) in y.iter_mut().zip(x).zip(&self.bias) {
                            let a = *x + *bias;
                            *y = a * (b * a).logistic() * scale;
                        }
                    }
                });
            });
            return out;
        }
        let work = y.par_chunks_mut(step).zip(dy.par_chunks_mut(step));
        let work = work.zip(x.par_chunks(step)).zip(t.par_chunks(step));
        work.for_each(|(((y, dy), x), t)| {
            vectorised(|| {
                let rows = y.chunks_mut(row).zip(dy.chunks_mut(row));
                for (((y, dy), x), t) in rows.zip(x.chunks(row)).zip(t.chunks(row)) {
                    let row = y.iter_mut().zip(dy).zip(x).zip(t).zip(&self.bias);
                    for ((((y, dy), x), t), bias) in row {
                        let a = *x + *bias;
                        let s = (b * a).logistic();
                        *y = a * s * scale;
                        *dy = *t * (s * (one + b * a * (one - s)) * scale);
                    }
                }
            });
        });
        out
    }

    /// `f` and `f'`.
    pub fn with_slope(&self, x: &[T]) -> [Vec<T>; 2] {
        let [mut y, mut slope] = [(); 2].map(|()| vec![T::default(); x.len()]);
        let (row, step) = (self.bias.len(), self.step());
        let (one, scale, b) = (T::new(1.0), T::new(SCALE), self.b);
        let work = y.par_chunks_mut(step).zip(slope.par_chunks_mut(step));
        work.zip(x.par_chunks(step)).for_each(|((y, slope), x)| {
            vectorised(|| {
                let rows = y.chunks_mut(row).zip(slope.chunks_mut(row));
                for ((y, slope), x) in rows.zip(x.chunks(row)) {
                    let row = y.iter_mut().zip(slope).zip(x).zip(&self.bias);
                    for (((y, slope), x), bias) in row {
                        let a = *x + *bias;
                        let s = (b * a).logistic();
                        *y = a * s * scale;
                        *slope = s * (one + b * a * (one - s)) * scale;
                    }
                }
            });
        });
        [y, slope]
    }

    /// Gradients of [`LipSwish::forward`] with tangents. Sums are in f64 and in a fixed order.
    pub fn backward(&self, x: &[T], dy: &[T]) -> Gradients<T> {
        let half = x.len() / 2;
        let ((x, t), (dy, dv)) = (x.split_at(half), dy.split_at(half));
        let mut out = vec![T::default(); 2 * half];
        let (dx, dt) = out.split_at_mut(half);
        let (width, step) = (self.bias.len(), self.step());
        let (one, two, scale, b) = (T::new(1.0), T::new(2.0), T::new(SCALE), self.b);
        let work = dx.par_chunks_mut(step).zip(dt.par_chunks_mut(step));
        let work = work.zip(x.par_chunks(step)).zip(t.par_chunks(step));
        let work = work.zip(dy.par_chunks(step)).zip(dv.par_chunks(step));
        let parts: Vec<[Vec<f64>; 2]> = work
            .map(|(((((dx, dt), x), t), dy), dv)| {
                let [mut dbias, mut db] = [(); 2].map(|()| vec![0.0; width]);
                vectorised(|| {
                    let rows = dx.chunks_mut(width).zip(dt.chunks_mut(width));
                    let rows = rows.zip(x.chunks(width)).zip(t.chunks(width));
                    let rows = rows.zip(dy.chunks(width)).zip(dv.chunks(width));
                    for (((((dx, dt), x), t), dy), dv) in rows {
                        let row = dx.iter_mut().zip(dt).zip(x).zip(t).zip(dy).zip(dv);
                        let sums = dbias.iter_mut().zip(&mut db).zip(&self.bias);
                        for ((((((dx, dt), x), t), dy), dv), ((dbias, db), bias)) in row.zip(sums) {
                            let a = *x + *bias;
                            let s = (b * a).logistic();
                            let q = s * (one - s);
                            let p = q * (two + b * a * (one - two * s));
                            let slope = s * (one + b * a * (one - s));
                            let tv = *t * *dv;
                            let da = (*dy * slope + tv * (b * p)) * scale;
                            *dx = da;
                            *dt = *dv * slope * scale;
                            *dbias += da.f64();
                            *db += ((*dy * (a * a * q) + tv * (a * p)) * scale).f64();
                        }
                    }
                });
                [dbias, db]
            })
            .collect();
        let (mut dbias, mut db) = (vec![0.0; self.channels], 0.0);
        for [of_bias, of_b] in &parts {
            for row in of_bias.chunks(self.channels) {
                dbias.iter_mut().zip(row).for_each(|(d, v)| *d += v);
            }
            db += of_b.iter().sum::<f64>();
        }
        Gradients {
            dx: out,
            dbias: dbias.into_iter().map(T::new).collect(),
            db: T::new(db),
        }
    }
}

/// `x y`, value by value.
pub fn product<T: Real>(x: &[T], y: &[T]) -> Vec<T> {
    let mut out = vec![T::default(); x.len()];
    let work = out.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK));
    work.zip(y.par_chunks(CHUNK)).for_each(|((out, x), y)| {
        vectorised(|| {
            for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
                *out = *x * *y;
            }
        });
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logistic_function_is_accurate_in_f32() {
        for i in -4000..=4000 {
            let x = i as f32 * 0.025;
            let exact = f64::from(x).logistic();
            let error = (f64::from(x.logistic()) / exact - 1.0).abs();
            // Below -87 it stays at 2^-125.
            assert!(error < 4e-7 || x < -87.0, "{x}: {error:e}");
        }
        assert_eq!(f32::INFINITY.logistic(), 1.0);
        assert!(f32::NAN.logistic().is_nan());
    }
}
