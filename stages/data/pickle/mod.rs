//! Python's pickles, read and never carried out.
//!
//! Unpickling runs whatever program the file holds. This machine knows only the instructions and the
//! classes that tensors, arrays and the numbers beside them need, calls nothing, and stops at anything else.
//! What it makes lies in a [`Heap`] and refers to it by number: a pickle may nest or repeat its values as it
//! likes and costs no more than the instructions it is long, of which there is a limit.

mod class;
mod machine;
mod value;

pub use class::Slice;
pub use machine::run;
pub use value::{Cell, Heap, Value};
