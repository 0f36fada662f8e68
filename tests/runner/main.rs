//! The runner through its command line, with stages that are small programs.

mod command;
mod faults;
mod interfaces;
mod kills;
mod model;
mod request;
mod space;
mod staleness;
mod training;
