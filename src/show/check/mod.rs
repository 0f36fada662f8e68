//! Holding the present numbers to a committed baseline, so that CI notices a worse one.

mod baseline;
mod claims;
mod compare;
pub mod print;
mod spread;
#[cfg(test)]
mod tests;
mod update;

pub use baseline::{Baseline, Entry};
pub use claims::{Held, Holds};
pub use compare::{Line, Report, Verdict, compare};
pub use spread::Scale;
pub use update::{accept_better, differences, update};
