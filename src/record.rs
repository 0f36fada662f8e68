//! What was learned by running a stage: `record.json` beside its outputs.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::observe::findings::Seen;
use crate::provenance::Git;
use crate::read;
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
    /// Of `repro` and of what it computed with: `candle`, `rustc`, for a GPU its `driver` and
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
