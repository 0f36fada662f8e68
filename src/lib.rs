//! `repro`: declarative, content-hashed reproduction pipelines.
//!
//! ```text
//! pipeline.toml ─spec→ Spec ─graph→ Graph ─plan→ Verdicts ─exec→ processes ─store→ artifacts/
//!    text              instances    checked      reasons         the only side effects
//! ```
//!
//! - The runner sees kinds only as `StageDef`; artifacts are labels it compares, never opens
//!   (`metrics` excepted).
//! - `status` and `run` ask the same planner; `run` asks again whenever an input became known.
//! - A result appears whole, by rename, or not at all. No artifact is ever edited.
//! - What a file system says of a file only saves reading it again; content alone decides.
//! - Device, threads, date, host and commit belong to the record, not to the manifest.

pub mod accept;
pub mod archive;
pub mod check;
pub mod cmd;
pub mod command;
pub mod depfile;
pub mod device;
pub mod diag;
pub mod digest;
pub mod disk;
pub mod evidence;
pub mod exec;
pub mod figures;
pub mod files;
pub mod graph;
pub mod history;
pub mod human;
pub mod kinds;
pub mod manifest;
pub mod memo;
pub mod observe;
pub mod plain;
pub mod plan;
pub mod progress;
pub mod project;
pub mod provenance;
mod read;
pub mod reads;
pub mod record;
pub mod report;
mod say;
pub mod secret;
pub mod spec;
pub mod store;
pub mod svg;
pub mod table;
pub mod tensorboard;
#[cfg(feature = "kinds")]
mod worker;
