//! The runner through its command line, with stages that are small programs.

#[path = "../common/mod.rs"]
mod common;

mod archives;
mod command;
mod compare;
mod each;
mod environment;
mod faults;
mod files;
mod gpu;
mod hostile;
mod init;
mod interfaces;
mod keep;
mod kills;
mod metrics;
mod model;
mod moments;
#[cfg(not(feature = "kinds"))]
mod no_kinds;
mod observed;
mod outputs;
mod placeholders;
mod profiles;
mod python;
mod records;
mod request;
mod resume;
mod runs;
mod signals;
mod staleness;
mod together;
#[cfg(feature = "kinds")]
mod training;
mod trees;
mod trust;
mod watching;
