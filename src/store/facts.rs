//! The facts that the index holds, one a line.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::stat::Stamp;
use crate::digest::{Digest, Fingerprint};
use crate::reads::Read;

/// A result, as much of its record as planning needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    pub fp: Fingerprint,
    /// Of the manifest without what the run was found to read, if it was found to read anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Fingerprint>,
    /// Instance that made it.
    pub stage: String,
    /// Seconds since 1970 at which it was done.
    pub at: u64,
    /// Seconds it took, over all its interruptions.
    pub wall: f64,
    pub out: Vec<Made>,
    /// What the run was found to depend on besides what was declared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reads: Vec<Read>,
    /// Of the list of them beside the result, where they are too many for this line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub more: Option<Digest>,
    /// True if nobody watched what it read: only what was declared or reported counts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub blind: bool,
    /// Fingerprint without the parameter that can be raised, and that parameter's value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extends: Option<(Fingerprint, u64)>,
    /// Of the directory from which a longer run continues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Digest>,
    /// Where it was computed.
    pub device: String,
}

/// One output.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Made {
    pub port: String,
    pub file: String,
    pub digest: Digest,
    /// Of a file whose content is known to have this digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stamp: Option<Stamp>,
}

/// One line of the index.
#[derive(Serialize, Deserialize)]
pub(super) enum Line {
    /// A result was committed.
    #[serde(rename = "result")]
    Result(Entry),
    /// A stage under a profile was last seen fresh with this result.
    #[serde(rename = "name")]
    Name(String, String, Fingerprint),
    /// A file has this digest.
    #[serde(rename = "file")]
    File(String, Stamp, Digest),
    /// A result is no longer there.
    #[serde(rename = "gone")]
    Gone(Fingerprint),
    /// All above is on the disk; the stamp of `results/`, if a later change of it must show.
    #[serde(rename = "synced")]
    Synced(Option<Stamp>),
    /// What follows is written during this boot of the machine.
    #[serde(rename = "boot")]
    Boot(String),
}

/// Profile and instance to the result last seen fresh.
#[derive(Debug, Default)]
pub struct Names(HashMap<String, HashMap<String, Fingerprint>>);

impl Names {
    pub fn get(&self, profile: &str, stage: &str) -> Option<Fingerprint> {
        self.0.get(profile)?.get(stage).copied()
    }

    pub(super) fn insert(&mut self, profile: String, stage: String, fp: Fingerprint) {
        self.0.entry(profile).or_default().insert(stage, fp);
    }

    pub fn profiles(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, Fingerprint)> {
        let profiles = self.0.iter();
        profiles.flat_map(|(profile, stages)| {
            let stages = stages.iter();
            stages.map(|(stage, fp)| (profile.as_str(), stage.as_str(), *fp))
        })
    }
}
