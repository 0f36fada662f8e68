//! Lanes along the outputs.

use pulp::{Simd, WithSimd};

use super::super::Real;
use super::super::pack::Packed;
use super::super::patches::{Patches, Run};
use super::super::simd::dispatch;
use super::{Finish, MAX_LANES, check_outs};

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
