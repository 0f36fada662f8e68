//! pipeline.toml: what is declared, checked as far as that is possible without a store.

pub mod claims;
pub mod command;
pub mod each;
pub mod figures;
pub mod graph;
pub mod kinds;
pub mod manifest;
pub mod spec;
pub mod tables;
