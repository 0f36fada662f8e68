//! What was learned by running a stage: `record.json` beside its outputs.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base::provenance::Git;
use crate::base::read;
use crate::store::{Entry, Spent};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Digests of what was made, and what else planning needs.
    pub result: Entry,
    pub kind: String,
    pub profile: String,
    pub params: Value,
    /// Per port, `STAGE.OUTPUT` and digest of what was read.
    pub inputs: BTreeMap<String, Vec<String>>,
    /// Modules and files of the code as it really was, with digests; the manifest holds one digest for
    /// all of it, or an accepted equivalent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub code: BTreeMap<String, String>,
    pub started: String,
    pub finished: String,
    /// Time and memory over all parts of a run that was interrupted, up to the checkpoints from
    /// which it went on.
    pub wall_seconds: f64,
    pub cpu_seconds: f64,
    pub peak_memory_bytes: u64,
    /// The share of the parts before the last interruption.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Spent>,
    pub threads: usize,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// The process's exit code.
    pub exit: i32,
    /// Where work was taken up, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed: Option<String>,
    pub host: String,
    pub system: String,
    /// For kinds on a CPU: what their digits depend on besides the code (`provenance::platform`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Versions of `repro` and of what it computed with: `candle`, `rustc`, for a GPU its `driver` and
    /// libraries, for a Python program `python` and the packages it imported.
    pub versions: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<Git>,
    /// What a command was seen to do besides reading what counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Seen>,
    /// The arguments of a command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
}

/// What was seen besides what counts; for the record.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// False where the kernel did not allow to look: then only what was declared or reported counts.
    pub observed: bool,
    /// Folders outside the watched ones, with how many files of them were read.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub outside: BTreeMap<String, usize>,
    /// Files below the project that the stage left there, and that are no outputs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wrote: Vec<String>,
    /// Installed packages that were used, with their versions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub packages: BTreeMap<String, String>,
    /// Other machines and daemons it spoke to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub network: Vec<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gpu: bool,
    /// Results of the store that it read by their path, and was not given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<String>,
    /// Files that `ignore` took out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ignored: usize,
    /// Processes that it left running, and that were ended.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left: usize,
    /// Calls of which the path could not be read.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost: usize,
    /// Part of it ran with a file system of its own, as in a container, where nothing is seen.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub apart: bool,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

impl Record {
    /// `candle 0.11.0, repro 0.1.0`.
    pub fn versions(&self) -> String {
        let each = self.versions.iter();
        let each = each.map(|(name, version)| format!("{name} {version}"));
        each.collect::<Vec<_>>().join(", ")
    }

    pub fn load(path: &Path) -> Result<Self> {
        let text = read::own_bytes(path, read::TOLD)
            .with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))
    }
}
