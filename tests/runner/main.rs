//! The runner through its command line, with stages that are small programs.

mod archives;
mod command;
mod faults;
mod gpu;
mod interfaces;
mod kills;
mod model;
#[cfg(not(feature = "kinds"))]
mod no_kinds;
mod python;
mod records;
mod request;
mod space;
mod staleness;
#[cfg(feature = "kinds")]
mod training;
mod trust;
