//! Verdicts: fresh, stale and why, or waiting for an upstream stage. `status` and `run` ask here,
//! and `run` asks again whenever an input has become known.

mod damage;
mod resume;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;

use crate::digest::{Digest, Fingerprint};
use crate::files::Finder;
use crate::graph::{Graph, Id, Kind};
use crate::manifest::Manifest;
use crate::project::Facts;
use crate::store::{Entry, Store};
pub use resume::{Start, extends_key};

#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// This result counts.
    Fresh(Fingerprint),
    /// It has to run, for these reasons.
    Stale(Vec<String>),
    /// Whether it has to run is known once these stages have.
    Waits(Vec<Id>),
}

/// What stands in a manifest in the place of the digest of a file that cannot be read.
pub const UNREADABLE: &str = "unreadable: ";

/// The line of a manifest for what a kind reads of the folder of `--data`.
pub const DATA: &str = "data";

/// Judges stages, each after those it reads from.
pub struct Planner<'a> {
    pub graph: &'a Graph,
    pub store: &'a mut Store,
    facts: &'a Facts,
    finder: Finder,
    /// True if a missing output may be copied from another result: needs the lock.
    repair: bool,
    pub verdicts: Vec<Option<Verdict>>,
    manifests: Vec<Option<Manifest>>,
    copies: Option<HashMap<Digest, Vec<(Fingerprint, usize)>>>,
}

impl<'a> Planner<'a> {
    pub fn new(graph: &'a Graph, store: &'a mut Store, facts: &'a Facts, repair: bool) -> Self {
        Self {
            graph,
            facts,
            finder: Finder::new(&facts.dir, &store.root),
            store,
            repair,
            verdicts: vec![None; graph.stages.len()],
            manifests: vec![None; graph.stages.len()],
            copies: None,
        }
    }

    pub fn facts(&self) -> &Facts {
        self.facts
    }

    /// Judges these stages, which must stand in topological order with all they need.
    pub fn judge_all(&mut self, ids: &[Id]) {
        for &id in ids {
            self.judge(id);
        }
    }

    pub fn verdict(&self, id: Id) -> Option<&Verdict> {
        self.verdicts[id].as_ref()
    }

    pub fn fresh(&self, id: Id) -> Option<Fingerprint> {
        match self.verdicts[id] {
            Some(Verdict::Fresh(fp)) => Some(fp),
            _ => None,
        }
    }

    pub fn result(&self, id: Id) -> Option<&Entry> {
        self.store.index.results.get(&self.fresh(id)?)
    }

    /// The manifest without what runs are found to read; known if every input is.
    pub fn manifest(&self, id: Id) -> Option<&Manifest> {
        self.manifests[id].as_ref()
    }

    pub fn judge(&mut self, id: Id) {
        let waits: Vec<Id> = (self.graph.stages[id].needs().into_iter())
            .filter(|n| self.fresh(*n).is_none())
            .collect();
        let verdict = if waits.is_empty() {
            let manifest = self.describe(id);
            let (manifest, verdict) = match self.with_data_of_last(id, &manifest) {
                Some(known) => known,
                None => {
                    let verdict = self.verdict_on(id, &manifest);
                    (manifest, verdict)
                }
            };
            self.manifests[id] = Some(manifest);
            verdict
        } else {
            Verdict::Waits(waits)
        };
        self.verdicts[id] = Some(verdict);
    }

    /// Where no folder of data is named, as most commands need none, what the last result was made of is taken to be
    /// as it was then.
    fn with_data_of_last(&mut self, id: Id, manifest: &Manifest) -> Option<(Manifest, Verdict)> {
        if self.facts.data.is_some() || !matches!(self.graph.stages[id].kind, Kind::Library(_)) {
            return None;
        }
        let (last, _) = self.last(id)?;
        let mut known = manifest.clone();
        known.add(DATA, last.get(DATA)?);
        match self.verdict_on(id, &known) {
            Verdict::Fresh(fp) => Some((known, Verdict::Fresh(fp))),
            _ => None,
        }
    }

    /// Everything the result depends on, as far as it is declared.
    fn describe(&mut self, id: Id) -> Manifest {
        let stage = &self.graph.stages[id];
        let mut manifest = Manifest::new(stage.kind.name());
        if stage.params.as_object().is_some_and(|p| !p.is_empty()) {
            manifest.flatten("params", &stage.params);
        }
        for input in &stage.inputs {
            for (i, (from, output)) in input.from.iter().enumerate() {
                let digest = self.result(*from).map(|entry| entry.out[*output].digest);
                let key = match input.from.len() {
                    1 => format!("input.{}", input.port),
                    _ => format!("input.{}.{i}", input.port),
                };
                if let Some(digest) = digest {
                    manifest.add(key, digest);
                }
            }
        }
        match &stage.kind {
            Kind::Library(def) => {
                for (module, digest) in def.code {
                    manifest.add(
                        format!("code.{module}"),
                        self.facts.accepted.canonical(def.kind, module, digest),
                    );
                }
                if def.measures_machine {
                    manifest.add("machine", &self.facts.device.name);
                }
                let data = self.facts.data.as_deref();
                let files = data
                    .map(|folder| (def.data)(&stage.params, folder))
                    .unwrap_or_default();
                if !files.is_empty() {
                    match self.store.digest_of_all(&files) {
                        Ok(digest) => manifest.add(DATA, digest),
                        Err(e) => manifest.add(DATA, format!("{UNREADABLE}{e}")),
                    }
                }
            }
            Kind::Command(command) => {
                command.describe(&mut manifest, &stage.outputs);
                let files = self.finder.find(&command.files);
                for (path, digest) in self.files(files) {
                    manifest.add(format!("file.{path}"), digest);
                }
                let script = command.script().filter(|s| self.finder.exists(s));
                let mut code = self.finder.find(&command.code);
                code.extend(script.map(str::to_owned));
                for (path, digest) in self.files(code) {
                    let digest = self.facts.accepted.canonical(&stage.family, &path, &digest);
                    manifest.add(format!("code.{path}"), digest);
                }
            }
        }
        manifest
    }

    /// Files that patterns find.
    pub fn found(&mut self, patterns: &[String]) -> Vec<String> {
        self.finder.find(patterns)
    }

    /// The files of the project that a command's manifest names.
    pub fn files_of(&self, id: Id) -> Vec<String> {
        let lines = self.manifest(id).into_iter().flat_map(Manifest::iter);
        let name = |(key, _): (&str, &str)| {
            let file = key.strip_prefix("file.").or(key.strip_prefix("code."));
            file.map(str::to_owned)
        };
        lines.filter_map(name).collect()
    }

    /// True if the files that a stage reads are not what they were when it was judged.
    pub fn outdated(&mut self, id: Id) -> bool {
        let judged = self.manifests[id].clone();
        let library = matches!(self.graph.stages[id].kind, Kind::Library(_));
        if library
            && judged
                .as_ref()
                .is_none_or(|judged| judged.get(DATA).is_none())
        {
            return false;
        }
        let now = self.describe(id);
        judged.is_some_and(|judged| judged != now)
    }

    /// Each with its digest, or with what is wrong with it.
    fn files(&mut self, names: Vec<String>) -> Vec<(String, String)> {
        let paths: Vec<PathBuf> = names.iter().map(|n| self.facts.dir.join(n)).collect();
        let digests = self.store.digests_of(&paths, false);
        let told = names.into_iter().zip(digests).map(|(name, digest)| {
            let digest = match digest {
                Ok(digest) => digest.to_string(),
                // A folder, or what cannot be read.
                Err(_) => self.file(&name),
            };
            (name, digest)
        });
        told.collect()
    }

    /// Digest of a file of the project, or what is wrong with it.
    fn file(&mut self, path: &str) -> String {
        match self.store.digest_of(&self.facts.dir.join(path), false) {
            Ok(digest) => digest.to_string(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => "missing".into(),
            Err(e) => format!("{UNREADABLE}{e}"),
        }
    }

    fn verdict_on(&mut self, id: Id, manifest: &Manifest) -> Verdict {
        let fp = manifest.fingerprint();
        let candidates: Vec<(Fingerprint, Vec<(String, Digest)>)> =
            (self.store.index.candidates(&fp).iter())
                .map(|e| (e.fp, e.reads.clone()))
                .collect();
        for (fp, reads) in candidates {
            let same = |(path, was): &(String, Digest)| self.read_again(id, path, *was).is_none();
            if reads.iter().all(same) {
                return match self.damage(&fp) {
                    reasons if reasons.is_empty() => Verdict::Fresh(fp),
                    reasons => Verdict::Stale(reasons),
                };
            }
        }
        Verdict::Stale(self.reasons(id, manifest))
    }

    /// The digest of a file that a run was found to read, if it is another now, accepted changes apart.
    fn read_again(&mut self, id: Id, path: &str, was: Digest) -> Option<String> {
        let now = self.file(path);
        let family = &self.graph.stages[id].family;
        let first = |digest: &str| self.facts.accepted.canonical(family, path, digest);
        (first(&now) != first(&was.to_string())).then_some(now)
    }

    /// What `repro accept` would declare equal: modules and files whose digests were others when
    /// the stage was last fresh, with the earlier digest and the present one.
    pub fn changed_code(&mut self, id: Id) -> Vec<(String, String, String)> {
        let (Some(now), Some((old, reads))) = (self.manifests[id].clone(), self.last(id)) else {
            return Vec::new();
        };
        let mut changed = Vec::new();
        for (key, is) in now.iter() {
            let was = old.get(key).filter(|was| *was != is);
            if let (Some(module), Some(was)) = (key.strip_prefix("code."), was) {
                changed.push((module.to_owned(), was.to_owned(), is.to_owned()));
            }
        }
        for (path, was) in reads {
            if now.get(&format!("file.{path}")).is_some() {
                continue;
            }
            if let Some(is) = self.read_again(id, &path, was) {
                changed.push((path, was.to_string(), is));
            }
        }
        // What is missing or cannot be read is equal to nothing.
        changed.retain(|(_, _, is)| is.parse::<Digest>().is_ok());
        changed
    }

    fn reasons(&mut self, id: Id, manifest: &Manifest) -> Vec<String> {
        let Some((old, reads)) = self.last(id) else {
            return vec!["never run".into()];
        };
        let mut now = manifest.clone();
        for (path, was) in &reads {
            // A declared file tells of its change itself.
            let changed = match declared(manifest, path) {
                true => None,
                false => self.read_again(id, path, *was),
            };
            now.add(format!("read.{path}"), changed.unwrap_or(was.to_string()));
        }
        match now.changes_since(&old) {
            changes if changes.is_empty() => vec!["its result is gone".into()],
            changes => changes,
        }
    }

    /// Manifest of the result this stage was last seen fresh with, and the files found read then.
    pub fn last(&self, id: Id) -> Option<(Manifest, Vec<(String, Digest)>)> {
        let name = &self.graph.stages[id].name;
        let fp = &self.store.index.names.get(&self.facts.profile, name)?;
        let reads = self.store.index.results.get(fp).map(|e| e.reads.clone());
        Some((self.store.manifest(fp)?, reads.unwrap_or_default()))
    }

    /// True if the stage is already known under the result it is fresh with.
    pub fn is_named(&self, id: Id) -> bool {
        let name = &self.graph.stages[id].name;
        let fresh = self.fresh(id);
        fresh.is_some() && fresh == self.store.index.names.get(&self.facts.profile, name)
    }
}

/// True if the pipeline names this file, as input or as code.
fn declared(manifest: &Manifest, path: &str) -> bool {
    (["file", "code"].iter()).any(|what| manifest.get(&format!("{what}.{path}")).is_some())
}
