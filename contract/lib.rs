//! What the runner and the kinds know of each other.
//!
//! The runner sees a kind only as a [`StageDef`]: a name, ports, a parameter check and two
//! plain functions. A kind sees the runner only as a [`Job`]: paths in, paths out, progress.
//! Neither tensors nor `pipeline.toml` cross this line. The two artifacts that the runner opens
//! are [`metrics`] and [`history`]; what programs write in the place of the first, [`measured`] reads.
//!
//! What shapes the bytes of a result is code of the kinds that reach it, and stands in a module of
//! its own that they name. This file and `job.rs` pass paths and progress and are code of no kind.

pub mod history;
mod job;
pub mod measured;
pub mod metrics;
pub mod testing;

pub use job::{CheckpointEvery, Event, Interrupted, Job, JobSpec, Listener, Progress};

use std::path::{Path, PathBuf};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// How many artifacts an input port takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arity {
    /// Exactly one.
    One,
    /// None or one.
    Optional,
    /// Any number, at least one, in the order in which pipeline.toml names them.
    Many,
}

/// A named input of a kind.
#[derive(Clone, Copy, Debug)]
pub struct Input {
    pub name: &'static str,
    /// Label of the artifact it takes, such as `images`. Compared, never opened, by the runner.
    pub holds: &'static str,
    pub arity: Arity,
}

impl Input {
    /// No input: fills up arrays of a fixed length.
    pub const NONE: Self = Self::one("", "");

    pub const fn one(name: &'static str, holds: &'static str) -> Self {
        Self {
            name,
            holds,
            arity: Arity::One,
        }
    }
    pub const fn optional(name: &'static str, holds: &'static str) -> Self {
        Self {
            name,
            holds,
            arity: Arity::Optional,
        }
    }
    pub const fn many(name: &'static str, holds: &'static str) -> Self {
        Self {
            name,
            holds,
            arity: Arity::Many,
        }
    }
}

/// A named output of a kind: one file.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    pub name: &'static str,
    /// Label of the artifact it makes. `metrics` and `figure` are the two labels the runner
    /// reads itself: for tables and for `repro figures`.
    pub holds: &'static str,
    /// File name in the result's directory, so that a person finds it with `ls`.
    pub file: &'static str,
}

impl Output {
    pub const fn new(name: &'static str, holds: &'static str, file: &'static str) -> Self {
        Self { name, holds, file }
    }
}

/// A parameter that a kind does not accept: where, and why.
#[derive(Debug, Clone)]
pub struct ParamError {
    /// Path below `params`, such as `train.optim.lr`; empty for the whole.
    pub path: String,
    pub message: String,
}

/// One module that a kind's code reaches, with the BLAKE3 of its token stream.
pub type CodeModule = (&'static str, &'static str);

/// A kind, as the runner sees it.
pub struct StageDef {
    pub kind: &'static str,
    /// One sentence for `repro schema` and error messages.
    pub about: &'static str,
    pub inputs: &'static [Input],
    pub outputs: &'static [Output],
    /// True for a kind whose result is a property of the machine (Table 4): the device's name
    /// then belongs to its manifest.
    pub measures_machine: bool,
    /// The integer parameter whose raising continues a finished shorter run, such as `train.epochs`.
    pub extends: Option<&'static str>,
    /// See [`Stage::FORMER`].
    pub former: &'static [(&'static str, &'static str)],
    /// Parses parameters and writes them back, so that a typo fails before anything runs and
    /// the written-back form enters the manifest.
    pub check: fn(&Value) -> Result<Value, ParamError>,
    /// JSON Schema of the parameters.
    pub schema: fn() -> Value,
    pub run: fn(&Value, &mut Job) -> anyhow::Result<()>,
    /// See [`Stage::data`].
    pub data: fn(&Value, &Path) -> Vec<PathBuf>,
    /// Modules the code of this kind reaches, from each of the modules that it is put together from; one may
    /// stand in several.
    pub code: &'static [&'static [CodeModule]],
}

/// A kind, as its author writes it.
pub trait Stage {
    const KIND: &'static str;
    const ABOUT: &'static str;
    const INPUTS: &'static [Input];
    const OUTPUTS: &'static [Output];
    const MEASURES_MACHINE: bool = false;
    const EXTENDS: Option<&'static str> = None;
    /// Parameters that were born after results had been made, such as `train.patience`, with the value, as
    /// JSON, at which a result is what it was without them: while they have it, it makes no result stale.
    const FORMER: &'static [(&'static str, &'static str)] = &[];
    /// `deny_unknown_fields`, and no defaults: every number stands in pipeline.toml.
    type Params: DeserializeOwned + Serialize + schemars::JsonSchema;

    /// Files in the folder of `--data` that it would read and for whose content nothing else vouches, as a pinned digest
    /// does for official archives: they count by content. Their names count too, so that they have to be in one order.
    fn data(_params: &Self::Params, _folder: &Path) -> Vec<PathBuf> {
        vec![]
    }

    /// Reads inputs, computes, writes every output to `job.output(port)`.
    fn run(params: &Self::Params, job: &mut Job) -> anyhow::Result<()>;
}

/// Turns an implementation into the plain table row that the runner uses.
pub const fn define<S: Stage>(code: &'static [&'static [CodeModule]]) -> StageDef {
    StageDef {
        kind: S::KIND,
        about: S::ABOUT,
        inputs: S::INPUTS,
        outputs: S::OUTPUTS,
        measures_machine: S::MEASURES_MACHINE,
        extends: S::EXTENDS,
        former: S::FORMER,
        check: |value| {
            let params: S::Params = parse(value)?;
            serde_json::to_value(&params).map_err(|e| ParamError {
                path: String::new(),
                message: e.to_string(),
            })
        },
        schema: || serde_json::to_value(schemars::schema_for!(S::Params)).unwrap_or(Value::Null),
        run: |value, job| {
            let params: S::Params =
                parse(value).map_err(|e| anyhow::anyhow!("params.{}: {}", e.path, e.message))?;
            S::run(&params, job)
        },
        data: |value, folder| match parse::<S::Params>(value) {
            Ok(params) => S::data(&params, folder),
            Err(_) => vec![],
        },
        code,
    }
}

fn parse<P: DeserializeOwned>(value: &Value) -> Result<P, ParamError> {
    serde_path_to_error::deserialize(value).map_err(|e| {
        let path = e.path().to_string();
        ParamError {
            path: if path == "." { String::new() } else { path },
            message: e.into_inner().to_string(),
        }
    })
}
