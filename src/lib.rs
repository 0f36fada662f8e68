//! `repro`: declarative, content-hashed reproduction pipelines.
pub mod check;
pub mod history;
pub mod metrics;
pub mod svg;
pub mod table;
