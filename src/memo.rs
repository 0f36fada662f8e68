//! What was looked at when everything was last found fresh, in `artifacts/fresh`. While none of
//! it has changed there is nothing to parse and nothing to judge: verdicts are a function of the
//! request, the index, and the files that were consulted, and all of them are compared here.
//!
//! This is a shortcut to an answer, never another answer: whatever differs or cannot be read
//! leads back to the planner.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::Result;
use rayon::prelude::*;
use rustix::fs::AtFlags;
use serde::{Deserialize, Serialize};

use crate::device::Device;
use crate::digest::Digest;
use crate::files::Finder;
use crate::graph::{Id, Kind};
use crate::plan::{DATA, Planner};
use crate::project::{PipelineArgs, Request};
use crate::store::stat::Stamp;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Memo<'a> {
    /// Of the request: the program, the pipeline's text, what the command line says.
    key: Digest,
    /// How many stages were fresh.
    stages: usize,
    /// Everything known of results is in this file.
    index: Stamp,
    /// The device's name, where a stage measures it.
    machine: Option<String>,
    /// Variables that count, with digests of their values.
    env: Vec<(String, Option<Digest>)>,
    /// Patterns, and the digest of the list of files they find.
    #[serde(borrow)]
    patterns: Vec<(&'a str, Digest)>,
    /// Files of the project, relative to it; without a stamp those that are not there.
    #[serde(borrow)]
    files: Vec<(&'a str, Option<Stamp>)>,
    /// Outputs, relative to `results/`.
    #[serde(borrow)]
    outputs: Vec<(&'a str, Stamp)>,
}

const NAME: &str = "fresh";

/// Digest of all that a verdict depends on besides the files and the index.
pub fn key(
    request: &Request,
    args: &PipelineArgs,
    targets: &[String],
    data: Option<&Path>,
) -> Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    let mut add = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    // Another build may judge otherwise. The stamp stands for the program as for any other file.
    let program = Stamp::of(&fs::metadata("/proc/self/exe")?);
    add(serde_json::to_string(&program)?.as_bytes());
    add(request.text.as_bytes());
    add(request.path.as_os_str().as_encoded_bytes());
    add(&fs::read(request.dir.join("accepted.toml")).unwrap_or_default());
    add(args.profile.as_deref().unwrap_or_default().as_bytes());
    add(args.device.as_bytes());
    add(data.unwrap_or(Path::new("")).as_os_str().as_encoded_bytes());
    for list in [&args.set[..], targets] {
        add(&list.len().to_le_bytes());
        list.iter().for_each(|text| add(text.as_bytes()));
    }
    Ok(Digest(*hasher.finalize().as_bytes()))
}

/// How many stages are fresh, if that can be told from the last time.
pub fn recall(request: &Request, args: &PipelineArgs, key: &Digest) -> Option<usize> {
    let text = fs::read(request.root.join(NAME)).ok()?;
    let memo: Memo = serde_json::from_slice(&text).ok()?;
    let index = Stamp::of(&fs::metadata(request.root.join("index")).ok()?);
    let holds = memo.key == *key
        && memo.index == index
        && memo.env.iter().all(|(name, was)| variable(name) == *was)
        && memo.machine_is_here(args)
        && memo.patterns_find_the_same(request)
        && memo.stamps_hold(request)?;
    holds.then_some(memo.stages)
}

fn variable(name: &str) -> Option<Digest> {
    let value = std::env::var_os(name)?;
    Some(Digest::of(value.as_encoded_bytes()))
}

fn listing(files: &[String]) -> Digest {
    Digest::of(files.join("\0").as_bytes())
}

impl Memo<'_> {
    fn machine_is_here(&self, args: &PipelineArgs) -> bool {
        match &self.machine {
            None => true,
            Some(was) => Device::choose(&args.device).is_ok_and(|d| d.name == *was),
        }
    }

    fn patterns_find_the_same(&self, request: &Request) -> bool {
        let mut finder = Finder::new(&request.dir, &request.root);
        let mut same = |(pattern, was): &(&str, Digest)| {
            listing(&finder.find(&[(*pattern).to_owned()])) == *was
        };
        self.patterns.iter().all(&mut same)
    }

    fn stamps_hold(&self, request: &Request) -> Option<bool> {
        let results = File::open(request.root.join("results")).ok()?;
        let files = self.files.par_iter().all(|(path, was)| {
            let meta = fs::metadata(request.dir.join(path));
            meta.ok().map(|m| Stamp::of(&m)) == *was
        });
        // By far the most; relative to an open folder they cost the kernel half the path.
        let outputs = self
            .outputs
            .par_iter()
            .with_min_len(256)
            .all(|(path, was)| {
                let stat = rustix::fs::statat(&results, *path, AtFlags::SYMLINK_NOFOLLOW);
                stat.is_ok_and(|s| Stamp::of_stat(&s) == *was)
            });
        Some(files && outputs)
    }
}

/// Remembers that all of `wanted` is fresh. Where something cannot be told by a stamp (a folder,
/// a file that has only just changed), or the disk will not take it, nothing is remembered.
pub fn remember(planner: &Planner, wanted: &[Id], key: Digest) {
    // The next run finds out anew.
    let _ = try_remember(planner, wanted, key);
}

fn try_remember(planner: &Planner, wanted: &[Id], key: Digest) -> Option<()> {
    let (index, dir) = (&planner.store.index, &planner.facts().dir);
    if !index.clean || index.has_notes() {
        return None;
    }
    let mut env = BTreeMap::new();
    let mut patterns = BTreeSet::new();
    let mut paths = BTreeSet::new();
    let mut outputs = Vec::with_capacity(wanted.len());
    let mut machine = None;
    for &id in wanted {
        let entry = planner.result(id)?;
        // Many files outside of the project, each of which would have to be looked at.
        if planner.manifest(id)?.get(DATA).is_some() {
            return None;
        }
        for made in &entry.out {
            outputs.push((format!("{}/{}", entry.fp, made.file), made.stamp?));
        }
        paths.extend(entry.reads.iter().map(|(path, _)| path.clone()));
        let stage = &planner.graph.stages[id];
        if stage.kind.measures_machine() {
            machine = Some(planner.facts().device.name.clone());
        }
        if let Kind::Command(command) = &stage.kind {
            paths.extend(planner.files_of(id));
            paths.extend(command.script().map(str::to_owned));
            patterns.extend(command.files.iter().chain(&command.code).cloned());
            for name in command.env.iter().filter(|name| !name.contains('=')) {
                env.insert(name.clone(), variable(name));
            }
        }
    }
    let mut files = Vec::with_capacity(paths.len());
    for path in &paths {
        let whole = dir.join(path);
        let stamp = match whole.exists() {
            true => Some(index.files.get(whole.to_string_lossy().as_ref())?.0),
            false => None,
        };
        files.push((path.as_str(), stamp));
    }
    let mut finder = Finder::new(dir, &planner.store.root);
    let found = |pattern: &String| finder.find(std::slice::from_ref(pattern));
    let listings: Vec<Digest> = (patterns.iter().map(found))
        .map(|found| listing(&found))
        .collect();
    let memo = Memo {
        key,
        stages: wanted.len(),
        index: Stamp::of(&fs::metadata(planner.store.root.join("index")).ok()?),
        machine,
        env: env.into_iter().collect(),
        patterns: patterns.iter().map(String::as_str).zip(listings).collect(),
        files,
        outputs: outputs.iter().map(|(p, s)| (p.as_str(), *s)).collect(),
    };
    write(&planner.store.root, &memo)
}

fn write(root: &Path, memo: &Memo) -> Option<()> {
    let mut file = tempfile::NamedTempFile::new_in(root).ok()?;
    file.write_all(&serde_json::to_vec(memo).ok()?).ok()?;
    file.persist(root.join(NAME)).ok()?;
    Some(())
}
