//! Lanes along the patch.

use pulp::{Simd, WithSimd};

use super::super::Real;
use super::super::pack::Few;
use super::super::patches::{Patches, Run};
use super::super::simd::dispatch;
use super::{Finish, check_outs};

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
