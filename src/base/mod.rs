//! What all rooms build on: errors with a place, digests, files, words for people.

pub mod device;
pub mod diag;
pub mod digest;
pub mod disk;
pub mod files;
pub mod human;
pub mod plain;
pub mod provenance;
pub(crate) mod read;
pub(crate) mod say;
pub mod secret;
pub(crate) mod threads;
