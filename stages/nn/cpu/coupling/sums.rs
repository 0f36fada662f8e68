//! Gradients of the parameters while they are summed.

use super::super::Real;
use super::{Layer, Sizes};

/// Gradients summed over images. For a scale it is the sum of gradient times output; the rest follows.
pub struct Sums<T> {
    pub first: Vec<T>,
    pub second: Vec<T>,
    /// Turned: `[9, moved, width]`.
    pub last: Vec<T>,
    /// The gradient for the channel that marks padding: `[9, moved]`.
    pub edge: Vec<T>,
    /// Scale and shift of each layer, in f64.
    pub affine: [Vec<[f64; 2]>; 3],
}

impl<T: Real> Sums<T> {
    pub fn new(s: &Sizes) -> Self {
        let moved = s.moved();
        Self {
            first: vec![T::default(); 9 * (s.split + 1) * s.width],
            second: vec![T::default(); s.width * s.width],
            last: vec![T::default(); 9 * moved * s.width],
            edge: vec![T::default(); 9 * moved],
            affine: [s.width, s.width, moved].map(|c| vec![[0.0; 2]; c]),
        }
    }

    pub fn add(&mut self, other: &Self) {
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

    /// The sums in the order of the parameters.
    pub fn gradient(&self, s: &Sizes, layers: &[Layer<T>; 3]) -> Vec<T> {
        let (moved, width) = (s.moved(), s.width);
        let mut all = Vec::with_capacity(s.parameters());
        let affine = |all: &mut Vec<T>, i: usize, of_output: bool| {
            let layer = &layers[i];
            let shifts = self.affine[i].iter().map(|a| T::new(a[1]));
            let scales = self.affine[i].iter().enumerate().map(|(c, a)| {
                // output = sum scale + shift, so the sum is (output - shift) / scale.
                T::new(match of_output {
                    true => (a[0] - layer.shift[c].f64() * a[1]) / layer.scale[c].f64(),
                    false => a[0],
                })
            });
            all.extend(scales.chain(shifts));
        };
        all.extend_from_slice(&self.first);
        affine(&mut all, 0, true);
        all.extend_from_slice(&self.second);
        affine(&mut all, 1, true);
        for tap in 0..9 {
            for input in 0..width {
                let of = |o: usize| self.last[((8 - tap) * moved + o) * width + input];
                all.extend((0..moved).map(of));
            }
            all.extend_from_slice(&self.edge[tap * moved..(tap + 1) * moved]);
        }
        affine(&mut all, 2, false);
        all
    }
}
