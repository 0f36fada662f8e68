//! Where a run of a stage would begin: at a checkpoint, at the end of a shorter run, or anew.

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use contract::StageDef;
use serde_json::Value;

use super::Planner;
use crate::base::digest::{Digest, Fingerprint};
use crate::base::files;
use crate::pipeline::graph::{Id, Kind};
use crate::pipeline::manifest::Manifest;
use crate::store::stat::{self, Stamp};
use crate::store::{Reached, Work};

/// A run that does not begin anew.
#[derive(Debug, Clone)]
pub enum Start {
    /// An interrupted run of exactly this work has left a checkpoint, and perhaps a note of how
    /// far it had come.
    Checkpoint(Option<Reached>),
    /// A finished run with a smaller value of the parameter that can be raised.
    Longer(Longer),
}

#[derive(Debug, Clone)]
pub struct Longer {
    pub fp: Fingerprint,
    /// The digest of the directory from which to continue.
    pub state: Digest,
    /// Name of the parameter, its value then and now.
    pub param: &'static str,
    pub from: u64,
    pub goal: u64,
    /// Seconds the shorter run took.
    pub wall: f64,
}

impl Planner<'_> {
    /// Known once every input is.
    pub fn start(&self, id: Id) -> Option<Start> {
        let manifest = self.manifest(id)?;
        let work = Work::of(&self.store.root, &manifest.fingerprint());
        if work.has_checkpoint() && self.changed_since_checkpoint(id).is_none() {
            return Some(Start::Checkpoint(work.reached()));
        }
        self.longer(id).map(Start::Longer)
    }

    /// A file of the project that is not what it was when the runs before read it, which have left a
    /// checkpoint. Of a Python program that was killed before it could say what it imported, any
    /// module of the project that has changed since it began.
    pub fn changed_since_checkpoint(&self, id: Id) -> Option<String> {
        let stage = &self.graph.stages[id];
        let Kind::Command(command) = &stage.kind else {
            return None;
        };
        let work = Work::of(&self.store.root, &self.manifest(id)?.fingerprint());
        let before = work.read_before();
        let same = |(name, was): &(&String, &Digest)| {
            let digest_of = |name: &str| {
                let path = self.facts.dir.join(files::path(name));
                fs::metadata(&path).and_then(|m| stat::hash_file(&path, m.len()))
            };
            let now = digest_of(name);
            let mut present = |file: &str| digest_of(file).map_or(String::new(), |d| d.to_string());
            let key = format!("read.{name}");
            let mut first = |digest: Digest| {
                let digest = digest.to_string();
                (self.facts.accepted).canonical(&stage.family, &key, &digest, &mut present)
            };
            now.is_ok_and(|now| now == **was || first(now) == first(**was))
        };
        let mut files = before.iter().flat_map(|before| &before.files);
        if let Some((name, _)) = files.find(|file| !same(file)) {
            return Some(name.clone());
        }
        let mut others = before.iter().flat_map(|before| &before.others);
        let (places, dir) = (&self.facts.places, &self.facts.dir);
        if let Some(other) = others.find(|other| other.look(places, dir) != other.digest) {
            return Some(match other.path.as_str() {
                "" => ".".into(),
                path => path.to_owned(),
            });
        }
        let since = match &before {
            Some(before) => before.unknown_since()?,
            None => work.began()?,
        };
        let changed = |(name, was): &(String, Stamp)| {
            let path = self.facts.dir.join(files::path(name));
            !fs::metadata(path).is_ok_and(|meta| Stamp::of(&meta) == *was)
        };
        if let Some((name, _)) = work.seen().into_iter().find(changed) {
            return Some(name);
        }
        let modules = command.python.then(|| self.modules()).into_iter().flatten();
        modules.into_iter().find_map(|name| {
            let meta = fs::metadata(self.facts.dir.join(&name)).ok()?;
            let changed = Stamp::of(&meta).changed_between(since, SystemTime::now());
            changed.then_some(name)
        })
    }

    /// The Python modules of the project, but for those of an environment in it.
    fn modules(&self) -> Vec<String> {
        let dir = &self.facts.dir;
        let ours = |entry: &walkdir::DirEntry| {
            let name = entry.file_name().to_string_lossy();
            let foreign =
                name.starts_with('.') || name == "site-packages" || name == "node_modules";
            entry.depth() == 0 || entry.path() != self.store.root && !foreign
        };
        let all = walkdir::WalkDir::new(dir).sort_by_file_name().into_iter();
        let all = all.filter_entry(ours).flatten();
        all.filter(|entry| entry.path().extension().is_some_and(|e| e == "py"))
            .filter_map(|entry| Some(entry.path().strip_prefix(dir).ok()?.to_str()?.to_owned()))
            .collect()
    }

    /// The longest finished run that this one continues.
    pub fn longer(&self, id: Id) -> Option<Longer> {
        let stage = &self.graph.stages[id];
        let Kind::Library(def) = &stage.kind else {
            return None;
        };
        let (key, goal) = extends_key(def, &stage.params, self.manifest(id)?)?;
        let shorter = self.store.index.results.values().filter_map(|entry| {
            let (_, from) = entry.extends.filter(|x| x.0 == key && x.1 < goal)?;
            Some(Longer {
                fp: entry.fp,
                state: entry.state?,
                param: def.extends?,
                from,
                goal,
                wall: entry.wall,
            })
        });
        shorter.max_by_key(|longer| (longer.from, longer.fp))
    }

    /// The folder from which a longer run continues, if its content is still what it was.
    pub fn state_of(&mut self, longer: &Longer) -> Option<PathBuf> {
        let state = self.store.result(&longer.fp).join("state");
        let digest = self.store.digest_of(&state, false).ok()?;
        (digest == longer.state).then_some(state)
    }

    /// Seconds a run of the stage took the last time it ran under this profile.
    pub fn estimate(&self, id: Id) -> Option<f64> {
        let name = &self.graph.stages[id].name;
        let fp = &self.store.index.names.get(&self.facts.profile, name)?;
        Some(self.store.index.results.get(fp)?.wall)
    }

    /// Seconds a run would take from where it would begin.
    pub fn left(&self, id: Id, start: Option<&Start>) -> Option<f64> {
        match start {
            Some(Start::Checkpoint(Some(reached))) => reached.left(),
            Some(Start::Longer(l)) if l.from > 0 => {
                Some(l.wall / l.from as f64 * (l.goal - l.from) as f64)
            }
            _ => self.estimate(id),
        }
    }
}

/// The manifest without the parameter whose raising continues a run, and that parameter. Its
/// name may be a path, such as `network.epochs`.
pub fn extends_key(
    def: &StageDef,
    params: &Value,
    manifest: &Manifest,
) -> Option<(Fingerprint, u64)> {
    let name = def.extends?;
    let value = name.split('.').try_fold(params, |at, key| at.get(key))?;
    let length = value.as_u64()?;
    let rest = manifest.without(&format!("params.{name}"));
    Some((rest.fingerprint(), length))
}
