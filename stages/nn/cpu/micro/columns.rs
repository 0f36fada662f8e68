//! The gradient of a kernel.

use pulp::{Simd, WithSimd};

use super::super::Real;
use super::super::patches::Patches;
use super::super::simd::{dispatch, lanes};
use super::MAX_LANES;

/// `sum[k][column] += sum over p of patch p [k] g[p][column]`: the gradient of a kernel `[k, n]`.
///
/// `panels` holds g packed by columns as [`super::super::pack::pack_rows`] does.
pub fn columns<T: Real>(patches: &Patches<T>, panels: &[T], n: usize, sum: &mut [T]) {
    let k = patches.runs.iter().map(|r| r.len).sum();
    patches.check(k);
    assert!(sum.len() >= k * n);
    let lanes = lanes::<T>();
    assert!(panels.len() >= n.next_multiple_of(lanes) * patches.offsets.len());
    dispatch(Columns {
        patches,
        panels,
        n,
        sum,
    });
}

struct Columns<'a, T> {
    patches: &'a Patches<'a, T>,
    panels: &'a [T],
    n: usize,
    sum: &'a mut [T],
}

impl<T: Real> WithSimd for Columns<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, s: S) {
        let (lanes, count) = (T::lanes::<S>(), self.patches.offsets.len());
        for first in (0..self.n).step_by(2 * lanes) {
            let panel = self.panels[first * count..].as_ptr();
            // SAFETY: `columns` checked that patches, panels and sums lie inside their slices.
            unsafe {
                if self.n - first > lanes {
                    self.panel::<S, 2>(s, first, panel);
                } else {
                    self.panel::<S, 1>(s, first, panel);
                }
            }
        }
    }
}

impl<T: Real> Columns<'_, T> {
    #[inline(always)]
    unsafe fn panel<S: Simd, const N: usize>(&mut self, s: S, first: usize, panel: *const T) {
        let mut row = 0;
        for run in self.patches.runs {
            let mut k = 0;
            while k < run.len {
                // SAFETY: as in the caller; k + the tile's size stays inside the run.
                k += unsafe {
                    match run.len - k {
                        12.. if S::REGISTER_COUNT >= 32 => {
                            self.tile::<S, 12, N>(s, first, panel, run.start + k, row + k)
                        }
                        6.. => self.tile::<S, 6, N>(s, first, panel, run.start + k, row + k),
                        4.. => self.tile::<S, 4, N>(s, first, panel, run.start + k, row + k),
                        3 => self.tile::<S, 3, N>(s, first, panel, run.start + k, row + k),
                        2 => self.tile::<S, 2, N>(s, first, panel, run.start + k, row + k),
                        _ => self.tile::<S, 1, N>(s, first, panel, run.start + k, row + k),
                    }
                };
            }
            row += run.len;
        }
    }

    /// Rows `row..row + M` of the sum, from the patches' elements `start..`; gives M.
    #[inline(always)]
    unsafe fn tile<S: Simd, const M: usize, const N: usize>(
        &mut self,
        s: S,
        first: usize,
        mut g: *const T,
        start: usize,
        row: usize,
    ) -> usize {
        let lanes = T::lanes::<S>();
        let mut sums = [[T::splat(s, T::default()); N]; M];
        // SAFETY: as in the callers.
        unsafe {
            let x = self.patches.x.as_ptr().add(start);
            for offset in self.patches.offsets {
                let x = x.add(*offset);
                let b: [T::Vector<S>; N] = std::array::from_fn(|j| T::load(s, g.add(j * lanes)));
                for r in 0..M {
                    let a = T::splat(s, *x.add(r));
                    for j in 0..N {
                        sums[r][j] = T::mul_add(s, a, b[j], sums[r][j]);
                    }
                }
                g = g.add(N * lanes);
            }
            for (r, sums) in sums.iter().enumerate() {
                for (j, v) in sums.iter().enumerate() {
                    let column = first + j * lanes;
                    let to = self.sum.as_mut_ptr().add((row + r) * self.n + column);
                    if column + lanes <= self.n {
                        T::store(s, to, T::sum2(s, T::load(s, to), *v));
                    } else {
                        let mut part = [T::default(); MAX_LANES];
                        T::store(s, part.as_mut_ptr(), *v);
                        for (i, v) in part[..self.n - column].iter().enumerate() {
                            *to.add(i) += *v;
                        }
                    }
                }
            }
        }
        M
    }
}
