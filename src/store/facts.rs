//! The facts that the index holds, one a line.

use std::collections::{HashMap, HashSet};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use super::stat::Stamp;
use crate::base::digest::{Digest, Fingerprint};
use crate::base::plain;
use crate::pipeline::manifest::Manifest;
use crate::store::observed::{Read, What};

/// A result, as much of its record as planning needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    pub fp: Fingerprint,
    /// The fingerprint of what was known before the run, if the run was found to read more.
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
    /// The digest of the file that lists them, where they are too many for this line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub more: Option<Digest>,
    /// True if nobody watched what it read: only what was declared or reported counts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub blind: bool,
    /// Fingerprint without the parameter that can be raised, and that parameter's value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extends: Option<(Fingerprint, u64)>,
    /// The digest of the directory from which a longer run continues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Digest>,
    /// Where it was computed.
    pub device: String,
    /// Where it comes from, if it was not made in this store: nothing here has seen it being made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
}

/// One output.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Made {
    pub port: String,
    pub file: String,
    pub digest: Digest,
    /// The stamp of a file whose content is known to have this digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stamp: Option<Stamp>,
}

/// Outputs and read files of one result, and characters of a name, up to which they are believed.
const OUTPUTS: usize = 10_000;
const LISTED: usize = 2_000_000;
const NAME: usize = 255;
/// A byte that is no text takes four characters.
const PATH: usize = 4 * 4096;

impl Entry {
    /// What is wrong with it, if anything. Whoever loads one asks: an index, a record or an archive may
    /// come from anybody, and what they name is opened, copied and printed later.
    pub fn problem(&self) -> Option<String> {
        if self.out.is_empty() || self.out.len() > OUTPUTS || self.reads.len() > LISTED {
            return Some(format!("it tells of {} outputs", self.out.len()));
        }
        let mut ports = HashSet::new();
        let mut files = HashSet::new();
        for made in &self.out {
            let name = plain::cut(&made.file, 50);
            if !is_plain_name(&made.file) || !is_text(&made.port, NAME) {
                return Some(format!("`{name}` is no name of an output"));
            }
            if !ports.insert(&made.port) || !files.insert(&made.file) {
                return Some(format!("output `{name}` stands in it twice"));
            }
        }
        if self.more.is_some() && !self.reads.is_empty() {
            return Some("what it read stands in two places".into());
        }
        if let Some(problem) = self.reads.iter().find_map(read_problem) {
            return Some(problem);
        }
        let texts = [&self.stage, &self.device];
        if texts.into_iter().any(|text| !is_text(text, PATH)) {
            return Some("the name of its stage or device does not print".into());
        }
        if !(0.0..1e12).contains(&self.wall) {
            return Some(format!("it took {} seconds", self.wall));
        }
        None
    }

    /// What its record says that its manifest does not, if anything. The manifest is what a result is
    /// found by, so it must name all that the result depends on, and nothing else may be claimed.
    pub fn contradiction(&self, manifest: &str) -> Option<String> {
        if Fingerprint::of(manifest) != self.fp {
            return Some("its manifest is another's".into());
        }
        let whole = Manifest::parse(manifest);
        let declared = whole.declared();
        let mut told = declared.clone();
        for (key, value) in self.reads.iter().map(Read::line) {
            told.add(key, value);
        }
        if let Some(list) = self.more {
            told.add("reads", list);
        }
        let base = match self.reads.is_empty() && self.more.is_none() {
            true => None,
            false => Some(declared.fingerprint()),
        };
        if told != whole || self.base != base {
            return Some("its record and its manifest tell of other files".into());
        }
        match self.extends {
            Some((key, length)) if !extends(&declared, &key, length) => {
                Some("it does not go on from what its record says".into())
            }
            _ => None,
        }
    }
}

/// What is wrong with something that a run is said to have read, if anything.
pub fn read_problem(read: &Read) -> Option<String> {
    // The project's own folder has an empty name.
    let nothing = read.what == What::Content && read.path.is_empty();
    let wrong = |text: &str, most: usize| text.len() > most || text.contains('\0');
    match nothing || wrong(&read.path, PATH) || read.names.iter().any(|n| wrong(n, PATH)) {
        true => Some(format!(
            "`{}` is no name of a file",
            plain::cut(&read.path, 50)
        )),
        false => None,
    }
}

/// Whether one of the parameters has this value, and the rest of the manifest this fingerprint.
fn extends(manifest: &Manifest, rest: &Fingerprint, length: u64) -> bool {
    let length = length.to_string();
    let candidates = manifest.iter().filter(|(_, value)| *value == length);
    let mut keys = candidates
        .map(|(key, _)| key)
        .filter(|key| key.starts_with("params."));
    keys.any(|key| manifest.without(key).fingerprint() == *rest)
}

/// True for the name of one file or folder that stays where it is put and is none of ours.
pub fn is_plain_name(name: &str) -> bool {
    let ours = [
        "manifest.txt",
        "record.json",
        super::READS,
        "log",
        "state",
        "imported",
        ".",
        "..",
    ];
    is_text(name, NAME) && !name.contains('/') && !ours.contains(&name)
}

fn is_text(text: &str, most: usize) -> bool {
    let odd = |c: char| c.is_control() || plain::is_odd(c);
    !text.is_empty() && text.len() <= most && !text.contains(odd)
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
    /// The same while the machine stays up.
    #[serde(rename = "recent")]
    Recent(String, Stamp, Digest),
    /// A result is no longer there.
    #[serde(rename = "gone")]
    Gone(Fingerprint),
    /// What follows is written by this process, until another one's name comes.
    #[serde(rename = "by")]
    By(String),
    /// All above by this writer is on the disk; the stamp of `results/`, if a later change of it must show.
    #[serde(rename = "synced")]
    Synced(Option<Stamp>),
    /// The same of what these have written, which are gone.
    #[serde(rename = "synced-of")]
    SyncedOf(Vec<String>),
    /// What follows is written during this boot of the machine.
    #[serde(rename = "boot")]
    Boot(String),
    /// The index was written where `results/` is this folder.
    #[serde(rename = "home")]
    Home(Home),
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

/// What tells a folder from its copies: its number, and the moment it was made. A store that was
/// cloned or copied brings an index that names another; which device it lies on may change with every
/// start of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Home(u64, i64);

impl Home {
    pub fn of(meta: &Metadata) -> Self {
        let made = meta.created().ok();
        let made = made.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let nanos = made.map_or(0, |at| i64::try_from(at.as_nanos()).unwrap_or(0));
        Self(meta.ino(), nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(manifest: &Manifest, reads: &[&str]) -> Entry {
        let digest = Digest::of(b"x");
        let reads: Vec<_> = (reads.iter())
            .map(|path| Read::content((*path).to_owned(), digest))
            .collect();
        let mut whole = manifest.clone();
        for (key, value) in reads.iter().map(Read::line) {
            whole.add(key, value);
        }
        Entry {
            fp: whole.fingerprint(),
            base: (!reads.is_empty()).then(|| manifest.fingerprint()),
            stage: "a".into(),
            at: 0,
            wall: 1.0,
            out: vec![Made {
                port: "x".into(),
                file: "x.txt".into(),
                digest,
                stamp: None,
            }],
            reads,
            more: None,
            blind: false,
            extends: None,
            state: None,
            device: "cpu".into(),
            origin: None,
        }
    }

    #[test]
    fn an_entry_names_what_lies_in_its_folder_and_prints() {
        let good = entry(&Manifest::new("command"), &["a.txt"]);
        assert_eq!(good.problem(), None);
        for file in [
            "../x",
            "/etc/x",
            "a/b",
            "",
            ".",
            "..",
            "log",
            "imported",
            "reads.json",
            "a\nb",
            "\u{1b}[2J",
        ] {
            let mut bad = good.clone();
            bad.out[0].file = file.into();
            assert!(bad.problem().is_some(), "{file:?}");
        }
        let wrong: [fn(&mut Entry); 5] = [
            |e| e.out.clear(),
            |e| e.out.push(e.out[0].clone()),
            |e| e.stage = "a\nb".into(),
            |e| e.wall = f64::NAN,
            |e| e.reads[0].path = "a\0b".into(),
        ];
        for spoil in wrong {
            let mut bad = good.clone();
            spoil(&mut bad);
            assert!(bad.problem().is_some(), "{bad:?}");
        }
    }

    #[test]
    fn a_record_claims_nothing_that_its_manifest_does_not_say() {
        let mut manifest = Manifest::new("vae");
        manifest.add("params.epochs", 3);
        let plain = entry(&manifest, &[]);
        assert_eq!(plain.contradiction(&manifest.to_string()), None);
        let mut whole = manifest.clone();
        whole.add("read.a.txt", Digest::of(b"x"));
        let reading = entry(&manifest, &["a.txt"]);
        assert_eq!(reading.contradiction(&whole.to_string()), None);
        let lies: [fn(&mut Entry); 5] = [
            |e| e.base = Some(Fingerprint::of("another stage")),
            |e| e.reads.clear(),
            |e| e.reads[0].digest = Digest::of(b"y"),
            |e| e.extends = Some((Fingerprint::of("x"), 3)),
            |e| e.more = Some(Digest::of(b"a list")),
        ];
        for lie in lies {
            let mut bad = reading.clone();
            lie(&mut bad);
            assert!(bad.contradiction(&whole.to_string()).is_some(), "{bad:?}");
        }
        assert!(plain.contradiction("format: 1\n").is_some());
        let list = Digest::of(b"a list");
        let mut long = manifest.clone();
        long.add("reads", list);
        let mut listed = plain.clone();
        listed.fp = long.fingerprint();
        listed.base = Some(manifest.fingerprint());
        listed.more = Some(list);
        assert_eq!(listed.contradiction(&long.to_string()), None);
        listed.more = None;
        assert!(listed.contradiction(&long.to_string()).is_some());
        let mut longer = plain;
        longer.extends = Some((manifest.without("params.epochs").fingerprint(), 3));
        assert_eq!(longer.contradiction(&manifest.to_string()), None);
    }
}
