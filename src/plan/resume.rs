//! Where a run of a stage would begin: at a checkpoint, at the end of a shorter run, or anew.

use std::path::PathBuf;

use contract::StageDef;
use serde_json::Value;

use super::Planner;
use crate::digest::{Digest, Fingerprint};
use crate::graph::{Id, Kind};
use crate::manifest::Manifest;
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
    /// Of the directory from which to continue.
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
        if work.has_checkpoint() {
            return Some(Start::Checkpoint(work.reached()));
        }
        self.longer(id).map(Start::Longer)
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
