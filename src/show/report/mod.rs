//! One self-contained page about a reproduction: what came out, from what, and what to doubt.

mod cells;
mod facts;
mod gather;
mod page;
mod stages;

pub use gather::{Report, gather};
pub use page::page;
