//! The runner through its command line, with stages that are small programs.

mod archives;
mod command;
mod faults;
mod gpu;
mod interfaces;
mod kills;
mod model;
mod outputs;
mod python;
mod records;
mod request;
mod resume;
mod space;
mod staleness;
mod training;
mod trust;
