//! Matrices in the order in which the inner loops read them.

use rayon::prelude::*;

use super::Real;
use super::simd::lanes;

/// A matrix `[k, n]` cut into panels of two vectors' columns, each with its rows end to end. The
/// last panel is one vector wide where that is enough; missing columns are zero.
pub struct Packed<T> {
    pub k: usize,
    pub n: usize,
    width: usize,
    data: Vec<T>,
}

impl<T: Real> Packed<T> {
    /// Packs the rows `row(0)` to `row(k - 1)`, each n long.
    pub fn of_rows<'a>(k: usize, n: usize, row: impl Fn(usize) -> &'a [T] + Sync) -> Self
    where
        T: 'a,
    {
        Self::new(k, n, |i, columns, to| {
            to[..columns.len()].copy_from_slice(&row(i)[columns]);
        })
    }

    /// Packs the elements `at(row, column)`.
    pub fn of(k: usize, n: usize, at: impl Fn(usize, usize) -> T + Sync) -> Self {
        Self::new(k, n, |i, columns, to| {
            to.iter_mut().zip(columns).for_each(|(t, j)| *t = at(i, j));
        })
    }

    fn new(
        k: usize,
        n: usize,
        fill: impl Fn(usize, std::ops::Range<usize>, &mut [T]) + Sync,
    ) -> Self {
        let lanes = lanes::<T>();
        let width = 2 * lanes;
        let mut data = vec![T::default(); k * n.next_multiple_of(lanes)];
        let panel = |(i, panel): (usize, &mut [T])| {
            let (first, width) = (i * width, panel.len() / k);
            for (i, row) in panel.chunks_exact_mut(width).enumerate() {
                fill(i, first..n.min(first + width), row);
            }
        };
        if k > 0 && data.len() >= PARALLEL {
            data.par_chunks_mut(k * width).enumerate().for_each(panel);
        } else if k > 0 {
            data.chunks_mut(k * width).enumerate().for_each(panel);
        }
        Self { k, n, width, data }
    }

    /// Columns, with those that fill up the last vector.
    pub fn padded(&self) -> usize {
        self.n.next_multiple_of(self.width / 2)
    }

    /// First column and rows of each panel.
    pub fn panels(&self) -> impl Iterator<Item = (usize, &[T])> {
        let panels = (0..self.n).step_by(self.width);
        panels.map(|first| (first, &self.data[first * self.k..]))
    }
}

/// Elements from which packing is worth handing out.
const PARALLEL: usize = 1 << 15;

/// A matrix `[k, n]` of few columns, each end to end.
pub struct Few<T> {
    pub k: usize,
    pub n: usize,
    data: Vec<T>,
}

impl<T: Real> Few<T> {
    pub fn of(k: usize, n: usize, at: impl Fn(usize, usize) -> T) -> Self {
        let data = (0..k * n).map(|i| at(i % k, i / k)).collect();
        Self { k, n, data }
    }

    pub fn row(&self, column: usize) -> &[T] {
        &self.data[column * self.k..(column + 1) * self.k]
    }
}

/// Packs rows `[count, n]` by columns into panels, as [`Packed`] has them.
pub fn pack_rows<T: Real>(rows: &[T], n: usize, panels: &mut Vec<T>) {
    let (lanes, count) = (lanes::<T>(), rows.len() / n);
    let padded = n.next_multiple_of(lanes);
    panels.resize((padded * count).max(panels.len()), T::default());
    for first in (0..n).step_by(2 * lanes) {
        let width = (padded - first).min(2 * lanes);
        let real = (n - first).min(width);
        let panel = &mut panels[first * count..][..width * count];
        for (to, row) in panel.chunks_exact_mut(width).zip(rows.chunks_exact(n)) {
            to[..real].copy_from_slice(&row[first..first + real]);
            to[real..].fill(T::default());
        }
    }
}

/// A vector with zeros up to a whole number of vectors.
pub fn padded<T: Real>(v: &[T]) -> Vec<T> {
    let mut v = v.to_vec();
    v.resize(v.len().next_multiple_of(lanes::<T>()), T::default());
    v
}
