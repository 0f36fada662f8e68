//! `repro`: declarative, content-hashed reproduction pipelines.
pub mod metrics;
pub mod table;
