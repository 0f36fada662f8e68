//! The inner loops: products of patches, read where they lie, with packed matrices. Sums stay in
//! registers from first to last term.
//!
//! Registers hold a tile of M patches by N vectors of outputs; each step loads N vectors, and one
//! number of each patch for all lanes. 12 by 2 of the 32 registers of AVX-512 and NEON keep both
//! multipliers busy, 6 by 2 the 16 of AVX2.

// Tiles are indexed by constants, so that they are unrolled into registers.
#![allow(clippy::needless_range_loop)]

use super::Real;
use super::patches::Patches;
pub use columns::columns;
pub use few::multiply_few;
pub use multiply::multiply;

mod columns;
mod few;
mod multiply;

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

/// Lanes of the widest vector of the smallest type.
const MAX_LANES: usize = 16;

fn check_outs<T>(patches: &Patches<T>, y: &[T], outs: &[usize], n: usize) {
    assert_eq!(outs.len(), patches.offsets.len());
    assert!(outs.iter().all(|o| o + n <= y.len()));
}
