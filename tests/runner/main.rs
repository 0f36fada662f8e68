//! The runner through its command line, with stages that are small programs.

mod archives;
mod command;
mod environment;
mod faults;
mod files;
mod gpu;
mod interfaces;
mod kills;
mod model;
mod observed;
mod placeholders;
mod python;
mod records;
mod request;
mod space;
mod staleness;
mod training;
mod trees;
mod trust;
