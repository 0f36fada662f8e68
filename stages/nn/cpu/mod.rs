//! What layers compute on the CPU, over plain slices: no tensors, no autograd.
//!
//! From the inside out: `simd` (vectors of either element type), `micro` (the inner loops),
//! `pack` (weights in the order in which those read them), `patches` (where a window's values
//! lie), `conv` (convolutions and their gradients), `coupling` and
//! `residual` (whole blocks), `channel` (passes per channel), `lip_swish` (an
//! activation), `chain` (powers of a Jacobian), `fixed_point` (the inverse of a contraction).
//!
//! How work is cut into tasks depends on shapes only, never on the number of threads, so neither
//! does any rounding.

pub mod chain;
pub mod channel;
pub mod conv;
pub mod coupling;
mod exp;
pub mod fixed_point;
pub mod lip_swish;
pub mod micro;
pub mod pack;
pub mod patches;
pub mod residual;
pub mod simd;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::ops::{Add, AddAssign, Div, Mul, Sub};

use candle_core::Layout;

/// An element type: f32 or f64.
pub trait Real:
    Copy
    + Default
    + Send
    + Sync
    + PartialEq
    + PartialOrd
    + AddAssign
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + simd::Vectors
    + 'static
{
    fn new(value: f64) -> Self;
    fn f64(self) -> f64;
    /// e to the power of this; within a few units in the last place.
    fn exp(self) -> Self;
    /// Lends this thread's buffers. Nothing inside may wait for other tasks, whose work this
    /// thread might then take up.
    fn scratch<R>(f: impl FnOnce(&mut Scratch<Self>) -> R) -> R;
}

/// The elements of a contiguous tensor.
pub fn slice<'a, T>(name: &str, data: &'a [T], layout: &Layout) -> candle_core::Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((from, to)) => Ok(&data[from..to]),
        None => candle_core::bail!("{name}: wants contiguous tensors"),
    }
}

/// Buffers of a thread that outlive a task, so that a task allocates nothing.
#[derive(Default)]
pub struct Scratch<T> {
    patches: patches::Buffers<T>,
    /// Where positions' results go.
    outs: Vec<usize>,
    /// Gradients in the order in which [`micro::columns`] reads them.
    panels: Vec<T>,
}

macro_rules! real {
    ($type:ident, $scratch:ident, $exp:path) => {
        thread_local! {
            static $scratch: RefCell<Scratch<$type>> = RefCell::default();
        }

        impl Real for $type {
            fn new(value: f64) -> Self {
                value as Self
            }
            fn f64(self) -> f64 {
                self as f64
            }
            #[inline(always)]
            fn exp(self) -> Self {
                $exp(self)
            }
            fn scratch<R>(f: impl FnOnce(&mut Scratch<Self>) -> R) -> R {
                $scratch.with_borrow_mut(f)
            }
        }
    };
}
real!(f32, SCRATCH32, exp::exp);
real!(f64, SCRATCH64, f64::exp);
