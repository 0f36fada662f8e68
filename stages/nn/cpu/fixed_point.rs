//! The inverse of `x + g(x)` where g is three convolutions with LipSwish between them, an image or a few at
//! a time: all rounds of a fixed-point iteration while the image is in the cache.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::Scratch;
use super::chain::Three;
use super::conv::{Kernel, apply_in_thread};
use super::lip_swish::{LipSwish, Logistic};
use super::simd::dispatch;

/// `g = [LipSwish] conv LipSwish conv LipSwish conv`, convolutions at stride 1 that keep the size of images.
pub struct Contraction<'a, T> {
    pub convs: Three<'a, T>,
    /// What comes before each.
    pub swishes: [Option<LipSwish<T>>; 3],
    /// What is added in the end, as [`row_of`] makes it.
    pub bias: Vec<T>,
}

/// Values of channels, repeated to fill a row.
pub fn row_of<T: Copy>(channels: &[T]) -> Vec<T> {
    channels.repeat(64usize.div_ceil(channels.len().max(1)))
}

/// When an image has come close enough.
#[derive(Clone, Copy, Debug)]
pub struct Until {
    /// Of the most that a value moved, over `1 + |y|`.
    pub tolerance: f64,
    /// Whether it is the square of what it moved by.
    pub squared: bool,
    /// Rounds, at most.
    pub most: usize,
}

/// How it went for an image.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rounds {
    #[cfg(test)]
    pub done: usize,
    /// Whether the most rounds were not enough.
    pub cut: bool,
}

impl<T: Logistic> Contraction<'_, T> {
    /// The x with `x + g(x) = y`, by `x <- y - g(x)` from y on. What an image becomes does not depend on
    /// those beside it.
    pub fn inverse(&self, y: &[T], until: Until) -> (Vec<T>, Vec<Rounds>) {
        let (image, group) = (self.convs.image(), self.convs.group());
        let kernels =
            [0, 1, 2].map(|i| Kernel::forward(&self.convs.geometry(i, 1), self.convs.kernels[i].0));
        let mut x = y.to_vec();
        let rounds: Vec<Vec<Rounds>> = x
            .par_chunks_mut((group * image).max(1))
            .zip(y.par_chunks((group * image).max(1)))
            .map(|(x, y)| {
                T::scratch(|scratch| {
                    let part = Part {
                        of: self,
                        kernels: &kernels,
                        image,
                    };
                    part.inverse(x, y, until, scratch)
                })
            })
            .collect();
        (x, rounds.concat())
    }
}

/// Some images of a task.
struct Part<'a, T> {
    of: &'a Contraction<'a, T>,
    kernels: &'a [Kernel<T>; 3],
    /// Values of an image.
    image: usize,
}

impl<T: Logistic> Part<'_, T> {
    /// `x` holds y at first. Images that have come close are at its end and left alone.
    fn inverse(&self, x: &mut [T], y: &[T], until: Until, scratch: &mut Scratch<T>) -> Vec<Rounds> {
        let (n, size) = (y.len() / self.image, self.image);
        let mut rounds = vec![Rounds::default(); n];
        let mut open: Vec<usize> = (0..n).collect();
        // Of the open images, one after the other.
        let (mut now, mut goal) = (y.to_vec(), y.to_vec());
        let mut inside = [(); 3].map(|()| Vec::new());
        for done in 1.. {
            self.g(&now[..open.len() * size], &mut inside, scratch);
            let mut left = 0;
            for place in 0..open.len() {
                let here = place * size..(place + 1) * size;
                let moved = dispatch(Step {
                    x: &mut now[here.clone()],
                    y: &goal[here.clone()],
                    g: &inside[2][here.clone()],
                    bias: &self.of.bias,
                    squared: until.squared,
                });
                let image = open[place];
                let close = moved <= until.tolerance;
                if close || done >= until.most {
                    x[image * size..(image + 1) * size].copy_from_slice(&now[here]);
                    rounds[image] = Rounds {
                        #[cfg(test)]
                        done,
                        cut: !close,
                    };
                } else {
                    now.copy_within(here.clone(), left * size);
                    goal.copy_within(here, left * size);
                    open[left] = image;
                    left += 1;
                }
            }
            open.truncate(left);
            if open.is_empty() {
                break;
            }
        }
        rounds
    }

    /// g without its last bias, into `inside[2]`; the others are room.
    fn g(&self, x: &[T], inside: &mut [Vec<T>; 3], scratch: &mut Scratch<T>) {
        let convs = &self.of.convs;
        let (n, (h, w)) = (x.len() / self.image, convs.size);
        let mut before = x.to_vec();
        for (i, to) in inside.iter_mut().enumerate() {
            if let Some(swish) = &self.of.swishes[i] {
                swish.apply(&mut before);
            }
            let (window, channels) = (convs.geometry(i, n).window(), convs.kernels[i].1[3]);
            to.resize(n * h * w * channels, T::default());
            apply_in_thread(&window, &before, &self.kernels[i], channels, to, scratch);
            if i < 2 {
                std::mem::swap(&mut before, to);
            }
        }
    }
}

/// Turns x into `y - (g + bias)`; the most that a value moved, over `1 + |y|`, or no number where a value
/// became none.
struct Step<'a, T> {
    x: &'a mut [T],
    y: &'a [T],
    g: &'a [T],
    /// Repeated to fill a row.
    bias: &'a [T],
    squared: bool,
}

impl<T: Logistic> WithSimd for Step<'_, T> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f64 {
        let (zero, one, row) = (T::default(), T::new(1.0), self.bias.len());
        let [mut most, mut none] = [(); 2].map(|()| vec![zero; row]);
        let rows = self.x.chunks_mut(row).zip(self.y.chunks(row));
        for ((x, y), g) in rows.zip(self.g.chunks(row)) {
            let seen = most.iter_mut().zip(none.iter_mut()).zip(self.bias);
            for (((x, y), g), ((most, none), bias)) in x.iter_mut().zip(y).zip(g).zip(seen) {
                let new = *y - (*g + *bias);
                let gap = new - *x;
                let far = if gap < zero { zero - gap } else { gap };
                let far = if self.squared { far * far } else { far };
                let size = if *y < zero { zero - *y } else { *y };
                let moved = far / (one + size);
                *most = if moved > *most { moved } else { *most };
                // Zero for every number; infinity, too, gives none.
                *none += new * zero;
                *x = new;
            }
        }
        let most = most.iter().map(|m| m.f64()).fold(0.0, f64::max);
        most + none.iter().map(|v| v.f64()).sum::<f64>()
    }
}
