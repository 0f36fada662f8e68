//! The inner loops: products of patches, read where they lie, with packed matrices. Sums stay in
//! registers from first to last term.
//!
//! Registers hold a tile of M patches by N vectors of outputs; each step loads N vectors, and one
//! number of each patch for all lanes. 12 by 2 of the 32 registers of AVX-512 and NEON keep both
//! multipliers busy, 6 by 2 the 16 of AVX2.

// Tiles are indexed by constants, so that they are unrolled into registers.
#![allow(clippy::needless_range_loop)]

use pulp::{Simd, WithSimd};

use super::Real;
use super::pack::{Few, Packed};
use super::patches::{Patches, Run};
use super::simd::dispatch;

/// What becomes of a sum before it is stored: `leaky((sum + old) scale + shift)`, the old value
/// only where it `add`s. Vectors are as long as the packed matrix is wide.
#[derive(Clone, Copy)]
pub struct Finish<'a, T> {
    pub add: bool,
    pub scale: Option<&'a [T]>,
    pub shift: Option<&'a [T]>,
    /// Negative values times this.
    pub slope: T,
}

impl<T: Real> Finish<'_, T> {
    /// Stores sums as they are.
    pub fn plain() -> Self {
        Self {
            add: false,
            scale: None,
            shift: None,
            slope: T::new(1.0),
        }
    }

    fn scalar(&self, column: usize, sum: T, old: T) -> T {
        let mut v = if self.add { sum + old } else { sum };
        if let Some(scale) = self.scale {
            v = v * scale[column];
        }
        if let Some(shift) = self.shift {
            v += shift[column];
        }
        if v > T::default() { v } else { v * self.slope }
    }

    fn check(&self, width: usize) {
        for vector in [self.scale, self.shift].into_iter().flatten() {
            assert!(vector.len() >= width);
        }
    }
}

/// `y[outs[p]..][..n] = finish(patch p * w)` for every patch.
pub fn multiply<T: Real>(
    patches: &Patches<T>,
    w: &Packed<T>,
    y: &mut [T],
    outs: &[usize],
    finish: &Finish<T>,
) {
    patches.check(w.k);
    finish.check(w.padded());
    check_outs(patches, y, outs, w.n);
    dispatch(Multiply {
        patches,
        w,
        y,
        outs,
        finish,
    });
}

fn check_outs<T>(patches: &Patches<T>, y: &[T], outs: &[usize], n: usize) {
    assert_eq!(outs.len(), patches.offsets.len());
    assert!(outs.iter().all(|o| o + n <= y.len()));
}

struct Multiply<'a, T> {
    patches: &'a Patches<'a, T>,
    w: &'a Packed<T>,
    y: &'a mut [T],
    outs: &'a [usize],
    finish: &'a Finish<'a, T>,
}

impl<T: Real> WithSimd for Multiply<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        // SAFETY: `multiply` checked that patches, outputs and vectors lie inside their slices.
        unsafe {
            if S::REGISTER_COUNT >= 32 {
                self.run::<S, 12>(s);
            } else {
                self.run::<S, 6>(s);
            }
        }
    }
}

impl<T: Real> Multiply<'_, T> {
    #[inline(always)]
    unsafe fn run<S: Simd, const M: usize>(self, s: S) {
        let lanes = T::lanes::<S>();
        for (first, panel) in self.w.panels() {
            for (o, out) in self.patches.offsets.chunks(M).zip(self.outs.chunks(M)) {
                // A short last tile repeats its last patch and stores it once.
                let x: [*const T; M] = std::array::from_fn(|r| {
                    let offset = o[r.min(o.len() - 1)];
                    // SAFETY: `Patches::check`.
                    unsafe { self.patches.x.as_ptr().add(offset) }
                });
                let y = self.y.as_mut_ptr();
                // SAFETY: a panel holds k rows of its width; outputs and finish were checked.
                unsafe {
                    if self.w.n - first > lanes {
                        let sums = rows::<T, S, M, 2>(s, x, self.patches.runs, panel.as_ptr());
                        store(s, &sums, y, out, first, self.w.n, self.finish);
                    } else {
                        let sums = rows::<T, S, M, 1>(s, x, self.patches.runs, panel.as_ptr());
                        store(s, &sums, y, out, first, self.w.n, self.finish);
                    }
                }
            }
        }
    }
}

/// Sums over all runs of `x[r][k] w[k]`.
#[inline(always)]
unsafe fn rows<T: Real, S: Simd, const M: usize, const N: usize>(
    s: S,
    x: [*const T; M],
    runs: &[Run],
    mut w: *const T,
) -> [[T::Vector<S>; N]; M] {
    let mut sums = [[T::splat(s, T::default()); N]; M];
    for run in runs {
        // SAFETY: runs lie inside the slice, the panel has a row for each of their elements.
        unsafe {
            let x: [*const T; M] = std::array::from_fn(|r| x[r].add(run.start));
            for k in 0..run.len {
                let b: [T::Vector<S>; N] =
                    std::array::from_fn(|j| T::load(s, w.add(j * T::lanes::<S>())));
                for r in 0..M {
                    let a = T::splat(s, *x[r].add(k));
                    for j in 0..N {
                        sums[r][j] = T::mul_add(s, a, b[j], sums[r][j]);
                    }
                }
                w = w.add(N * T::lanes::<S>());
            }
        }
    }
    // The caller takes the tile from memory; a copy keeps it in registers until here.
    std::array::from_fn(|r| std::array::from_fn(|j| sums[r][j]))
}

/// Finishes and stores a tile's sums at columns `first..` of `n`, rows `out`.
#[inline(always)]
unsafe fn store<T: Real, S: Simd, const M: usize, const N: usize>(
    s: S,
    sums: &[[T::Vector<S>; N]; M],
    y: *mut T,
    out: &[usize],
    first: usize,
    n: usize,
    finish: &Finish<T>,
) {
    let lanes = T::lanes::<S>();
    let slope = T::splat(s, finish.slope);
    for (sums, out) in sums.iter().zip(out) {
        for (j, sum) in sums.iter().enumerate() {
            let column = first + j * lanes;
            // SAFETY: the row has n elements, finish's vectors a whole number of vectors.
            unsafe {
                let to = y.add(out + column);
                let count = (n - column).min(lanes);
                let mut part = [T::default(); MAX_LANES];
                let mut v = *sum;
                if finish.add {
                    std::ptr::copy_nonoverlapping(to, part.as_mut_ptr(), count);
                    v = T::sum2(s, v, T::load(s, part.as_ptr()));
                }
                let vector = |of: &[T]| T::load(s, of.as_ptr().add(column));
                v = match (finish.scale, finish.shift) {
                    (Some(scale), Some(shift)) => T::mul_add(s, v, vector(scale), vector(shift)),
                    (Some(scale), None) => {
                        T::mul_add(s, v, vector(scale), T::splat(s, T::default()))
                    }
                    (None, Some(shift)) => T::sum2(s, v, vector(shift)),
                    (None, None) => v,
                };
                if finish.slope != T::new(1.0) {
                    v = T::leaky(s, v, slope);
                }
                if count == lanes {
                    T::store(s, to, v);
                } else {
                    T::store(s, part.as_mut_ptr(), v);
                    std::ptr::copy_nonoverlapping(part.as_ptr(), to, count);
                }
            }
        }
    }
}

/// Lanes of the widest vector of the smallest type.
const MAX_LANES: usize = 16;

/// As [`multiply`] for a few outputs, which would leave most lanes empty: here lanes run along the
/// patch.
pub fn multiply_few<T: Real>(
    patches: &Patches<T>,
    w: &Few<T>,
    y: &mut [T],
    outs: &[usize],
    finish: &Finish<T>,
) {
    patches.check(w.k);
    finish.check(w.n);
    check_outs(patches, y, outs, w.n);
    dispatch(MultiplyFew {
        patches,
        w,
        y,
        outs,
        finish,
    });
}

struct MultiplyFew<'a, T> {
    patches: &'a Patches<'a, T>,
    w: &'a Few<T>,
    y: &'a mut [T],
    outs: &'a [usize],
    finish: &'a Finish<'a, T>,
}

impl<T: Real> WithSimd for MultiplyFew<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, s: S) {
        let mut first = 0;
        while first < self.w.n {
            // SAFETY: `multiply_few` checked that patches lie inside their slice.
            unsafe {
                match self.w.n - first {
                    1 => self.columns::<S, 8, 1>(s, first),
                    2 => self.columns::<S, 8, 2>(s, first),
                    3 | 6 => self.columns::<S, 4, 3>(s, first),
                    _ => self.columns::<S, 4, 4>(s, first),
                }
            }
            first += match self.w.n - first {
                n @ (1 | 2) => n,
                3 | 6 => 3,
                _ => 4,
            };
        }
    }
}

impl<T: Real> MultiplyFew<'_, T> {
    /// Outputs `first..first + N`, M patches at a time.
    #[inline(always)]
    unsafe fn columns<S: Simd, const M: usize, const N: usize>(&mut self, s: S, first: usize) {
        let w: [*const T; N] = std::array::from_fn(|j| self.w.row(first + j).as_ptr());
        for (o, outs) in self.patches.offsets.chunks(M).zip(self.outs.chunks(M)) {
            // SAFETY: `Patches::check`; rows of w are as long as a patch.
            let sums = unsafe {
                let x: [*const T; M] =
                    std::array::from_fn(|r| self.patches.x.as_ptr().add(o[r.min(o.len() - 1)]));
                dots::<T, S, M, N>(s, x, self.patches.runs, w)
            };
            for (sums, out) in sums.iter().zip(outs) {
                for (j, sum) in sums.iter().enumerate() {
                    let y = &mut self.y[out + first + j];
                    *y = self.finish.scalar(first + j, *sum, *y);
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn dots<T: Real, S: Simd, const M: usize, const N: usize>(
    s: S,
    x: [*const T; M],
    runs: &[Run],
    mut w: [*const T; N],
) -> [[T; N]; M] {
    let lanes = T::lanes::<S>();
    let mut sums = [[T::splat(s, T::default()); N]; M];
    let mut rest = [[T::default(); N]; M];
    for run in runs {
        // SAFETY: runs lie inside the slices.
        unsafe {
            let x: [*const T; M] = std::array::from_fn(|r| x[r].add(run.start));
            let whole = run.len / lanes * lanes;
            for k in (0..whole).step_by(lanes) {
                let b: [T::Vector<S>; N] = std::array::from_fn(|j| T::load(s, w[j].add(k)));
                for r in 0..M {
                    let a = T::load(s, x[r].add(k));
                    for j in 0..N {
                        sums[r][j] = T::mul_add(s, a, b[j], sums[r][j]);
                    }
                }
            }
            for k in whole..run.len {
                for r in 0..M {
                    for j in 0..N {
                        rest[r][j] += *x[r].add(k) * *w[j].add(k);
                    }
                }
            }
            w = std::array::from_fn(|j| w[j].add(run.len));
        }
    }
    for r in 0..M {
        for j in 0..N {
            rest[r][j] += T::sum(s, sums[r][j]);
        }
    }
    rest
}

/// `sum[k][column] += sum over p of patch p [k] g[p][column]`: the gradient of a kernel `[k, n]`.
///
/// `panels` holds g packed by columns as [`super::pack::pack_rows`] does.
pub fn columns<T: Real>(patches: &Patches<T>, panels: &[T], n: usize, sum: &mut [T]) {
    let k = patches.runs.iter().map(|r| r.len).sum();
    patches.check(k);
    assert!(sum.len() >= k * n);
    let lanes = super::simd::lanes::<T>();
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
