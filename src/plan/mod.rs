//! Verdicts: fresh, stale and why, or waiting for an upstream stage. `status` and `run` ask here,
//! and `run` asks again whenever an input has become known.

mod accept;
pub mod accepted;
mod damage;
pub mod project;
mod reads;
mod resume;
pub mod revision;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::digest::{Digest, Fingerprint};
use crate::base::files::{self, Finder, Wrong};
use crate::pipeline::command::{Command, Declared};
use crate::pipeline::graph::{Graph, Id, Kind, Stage};
use crate::pipeline::manifest::{Manifest, part};
use crate::plan::project::Facts;
use crate::store::observed::Read;
use crate::store::{Entry, Made, Store};
pub use accept::Change;
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

/// The same for one that is not there.
const MISSING: &str = "missing";

/// Something that is declared to be read and cannot be.
#[derive(Debug)]
pub struct Problem {
    pub message: String,
    pub wrong: Wrong,
    /// Where it is declared.
    pub span: Range<usize>,
}

/// Files that are looked at one by one: the first that has changed ends the search.
const FEW: usize = 20;

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
    /// Modules and files of each stage's code, with digests.
    codes: Vec<Code>,
    copies: Option<HashMap<Digest, Vec<(Fingerprint, usize)>>>,
    looked: Looked,
}

/// Modules or files, with digests or what is wrong with them.
pub type Code = BTreeMap<String, String>;

/// What was found when reads were last looked at.
#[derive(Debug, Default)]
struct Looked {
    contents: HashMap<String, String>,
    others: HashMap<String, Digest>,
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
            codes: vec![Code::new(); graph.stages.len()],
            copies: None,
            looked: Looked::default(),
        }
    }

    pub fn facts(&self) -> &'a Facts {
        self.facts
    }

    /// Judges these stages, which must stand in topological order with all they need.
    pub fn judge_all(&mut self, ids: &[Id]) {
        self.look_again();
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

    /// What a fresh stage's result has for one of its output ports. Their order in the pipeline may
    /// have changed since.
    pub fn made(&self, id: Id, output: usize) -> Option<&Made> {
        let port = &self.graph.stages[id].outputs.get(output)?.port;
        self.result(id)?.out.iter().find(|made| made.port == *port)
    }

    /// The manifest without what runs are found to read; known if every input is.
    pub fn manifest(&self, id: Id) -> Option<&Manifest> {
        self.manifests[id].as_ref()
    }

    /// The same of any stage, without the inputs that are not known.
    pub fn declared(&mut self, id: Id) -> Manifest {
        match &self.manifests[id] {
            Some(manifest) => manifest.clone(),
            None => self.describe(id),
        }
    }

    pub fn judge(&mut self, id: Id) {
        let waits: Vec<Id> = (self.graph.stages[id].needs().into_iter())
            .filter(|n| self.fresh(*n).is_none())
            .collect();
        let mut verdict = Verdict::Waits(waits.clone());
        if waits.is_empty() {
            let manifest = self.describe(id);
            let (known, judged) = match self.with_data_of_last(id, &manifest) {
                Some(known) => known,
                None => {
                    let judged = self.verdict_on(id, &manifest);
                    (manifest, judged)
                }
            };
            verdict = judged;
            let manifest = known;
            self.manifests[id] = Some(manifest);
        }
        // What cannot run does not wait for anything either.
        let problems = self.problems(id);
        if !problems.is_empty() {
            let sentences = problems.into_iter().map(|p| p.wrong.what);
            verdict = Verdict::Stale(sentences.collect());
        }
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
                let digest = self.made(*from, *output).map(|made| made.digest);
                let key = match input.from.len() {
                    1 => format!("input.{}", part(&input.port)),
                    _ => format!("input.{}[{i}]", part(&input.port)),
                };
                if let Some(digest) = digest {
                    manifest.add(key, digest);
                }
            }
        }
        match &stage.kind {
            Kind::Library(def) => {
                for (path, former) in def.former {
                    let key = format!("params.{path}");
                    if manifest.get(&key) == Some(former) {
                        manifest = manifest.without(&key);
                    }
                }
                let modules = def.code.iter().copied().flatten();
                let code = modules.map(|(m, d)| ((*m).into(), (*d).into())).collect();
                manifest.add("code", self.whole(def.kind, &code));
                self.codes[id] = code;
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
                command.describe(&mut manifest, &stage.outputs, &self.store.key);
                if command.tells_inputs(&stage.inputs) {
                    for (port, i, from) in told(self.graph, stage) {
                        manifest.add(format!("from.{}[{i}]", part(port)), from);
                    }
                }
                let files = self.finder.find(texts(&command.files));
                for (path, digest) in self.files(files) {
                    manifest.add(format!("file.{path}"), digest);
                }
                let mut code = self.finder.find(texts(&command.code));
                code.extend(command.script().and_then(|s| self.finder.file(s)));
                let code: Code = self.files(code).into_iter().collect();
                if !code.is_empty() {
                    manifest.add("code", self.whole(&stage.family, &code));
                }
                self.codes[id] = code;
                // A result that was made seeing less would hide what one that saw more has read.
                let told = match command.watch {
                    true => self.facts.places.told(),
                    false => "off",
                };
                if !told.is_empty() {
                    manifest.add("watch", told);
                }
                for (path, digest) in self.files(self.facts.environment.clone()) {
                    manifest.add(format!("environment.{path}"), digest);
                }
            }
        }
        manifest
    }

    /// One digest for all of a stage's code: the oldest that it was declared equal to.
    fn whole(&mut self, of: &str, code: &Code) -> String {
        let digest = code_digest(code);
        let facts = self.facts;
        let accepted = &facts.accepted;
        if accepted.all.is_empty() {
            return digest;
        }
        accepted.canonical(of, "code", &digest, &mut |file| self.content(file))
    }

    /// What a stage's code consists of, known before it runs.
    pub fn code(&self, id: Id) -> &Code {
        &self.codes[id]
    }

    /// Files that are found by what a command declares.
    pub fn found(&mut self, command: &Command) -> Vec<String> {
        let declared = command.declared().map(|(_, d)| d.text.as_str());
        self.finder.find(declared)
    }

    /// What a command declares to read and nothing can be found by, or nobody can read.
    pub fn problems(&mut self, id: Id) -> Vec<Problem> {
        let stage = &self.graph.stages[id];
        let Kind::Command(command) = &stage.kind else {
            return Vec::new();
        };
        let lines = self.manifests[id].iter().flat_map(Manifest::iter);
        let files = lines.filter_map(|(key, v)| Some((key.strip_prefix("file.")?, v)));
        let code = self.codes[id]
            .iter()
            .map(|(name, v)| (name.as_str(), v.as_str()));
        let all = (files.map(|file| ("file", file))).chain(code.map(|file| ("code", file)));
        let unreadable =
            all.filter_map(|(what, (name, v))| Some((what, name, v.strip_prefix(UNREADABLE)?)));
        let unreadable: Vec<(&str, &str, &str)> = unreadable.collect();
        let mut problems = Vec::new();
        for (key, declared) in command.declared() {
            let found = self.finder.look(&declared.text);
            let unreadable = unreadable.iter().find_map(|(what, name, why)| {
                let here = key.starts_with(what) && found.names.iter().any(|n| n == name);
                here.then(|| Wrong {
                    what: format!("{name} cannot be read: {why}"),
                    hint: "`repro` must be able to read what counts".into(),
                })
            });
            problems.extend(found.wrong.clone().or(unreadable).map(|wrong| Problem {
                message: format!("stage `{}`: `{key}`: {}", stage.name, wrong.what),
                wrong,
                span: declared.span.clone(),
            }));
        }
        problems
    }

    /// The files of the project that a command's manifest names.
    pub fn files_of(&self, id: Id) -> Vec<String> {
        let lines = self.manifest(id).into_iter().flat_map(Manifest::iter);
        let name = |(key, _): (&str, &str)| Some(key.strip_prefix("file.")?.to_owned());
        let code = match self.graph.stages[id].kind {
            Kind::Command(_) => self.codes[id].keys().cloned().collect(),
            Kind::Library(_) => Vec::new(),
        };
        lines.filter_map(name).chain(code).collect()
    }

    /// True if a command was judged by this content of one of its files.
    pub fn judged_with(&self, id: Id, name: &str, digest: Digest) -> bool {
        let digest = digest.to_string();
        let line = self
            .manifest(id)
            .and_then(|m| m.get(&format!("file.{name}")));
        line.is_some_and(|was| was == digest)
            || self.codes[id].get(name).is_some_and(|was| *was == digest)
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
        let path = |name: &String| self.facts.dir.join(files::path(name));
        let paths: Vec<PathBuf> = names.iter().map(path).collect();
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
        let path = self.facts.dir.join(files::path(path));
        match self.store.digest_of(&path, false) {
            Ok(digest) => digest.to_string(),
            Err(_) if path.is_symlink() && !path.exists() => "a link that leads nowhere".into(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => MISSING.into(),
            Err(e) => format!("{UNREADABLE}{e}"),
        }
    }

    fn verdict_on(&mut self, id: Id, manifest: &Manifest) -> Verdict {
        let fp = manifest.fingerprint();
        let candidates = self.store.index.candidates(&fp);
        let candidates: Vec<Fingerprint> = candidates.iter().map(|e| e.fp).collect();
        for fp in candidates {
            if !self.has_outputs_of(id, &fp) {
                continue;
            }
            let Some(reads) = self.store.reads(&fp) else {
                continue;
            };
            self.look_side_by_side(&reads);
            if reads.iter().all(|read| self.read_again(id, read).is_none()) {
                return match self.damage(&fp) {
                    reasons if reasons.is_empty() => Verdict::Fresh(fp),
                    reasons => Verdict::Stale(reasons),
                };
            }
        }
        // What was made from just this was made from other files: nothing else differs.
        let candidates = self.store.index.candidates(&fp);
        let last = (self.store.index.names).get(&self.facts.profile, &self.graph.stages[id].name);
        let last = candidates.iter().find(|e| Some(e.fp) == last);
        let newest = last.or(candidates.first()).map(|e| e.fp);
        let reads = newest.and_then(|fp| self.store.reads(&fp));
        let changes = reads.map(|reads| self.changed_reads(id, manifest, &reads));
        match changes.filter(|changes| !changes.is_empty()) {
            Some(changes) => Verdict::Stale(changes),
            None => Verdict::Stale(self.reasons(id, manifest)),
        }
    }

    /// Whether a result has what the stage declares to make.
    fn has_outputs_of(&self, id: Id, fp: &Fingerprint) -> bool {
        let made = self.store.index.results.get(fp).map(|entry| &entry.out[..]);
        let has = |port: &str| {
            made.unwrap_or_default()
                .iter()
                .any(|made| made.port == port)
        };
        self.graph.stages[id]
            .outputs
            .iter()
            .all(|output| has(&output.port))
    }

    fn reasons(&mut self, id: Id, manifest: &Manifest) -> Vec<String> {
        let Some((old, reads)) = self.last(id) else {
            return vec!["never run".into()];
        };
        let mut reasons = manifest.changes_since(&old.declared());
        let comparable = old.get("format") == manifest.get("format");
        if comparable && old.get("code") != manifest.get("code") {
            reasons.extend(self.changed_code(id));
        }
        reasons.extend(self.changed_reads(id, manifest, &reads));
        match reasons.is_empty() {
            true => vec!["its result is gone".into()],
            false => reasons,
        }
    }

    /// Manifest of the result this stage was last seen fresh with, and what was found read then.
    pub fn last(&mut self, id: Id) -> Option<(Manifest, Arc<Vec<Read>>)> {
        let name = &self.graph.stages[id].name;
        let fp = self.store.index.names.get(&self.facts.profile, name)?;
        let reads = self.store.reads(&fp).unwrap_or_default();
        Some((self.store.manifest(&fp)?, reads))
    }

    /// True if the stage has been fresh under this profile, and what it was made from is known.
    pub fn known(&self, id: Id) -> bool {
        let name = &self.graph.stages[id].name;
        let fp = self.store.index.names.get(&self.facts.profile, name);
        fp.is_some_and(|fp| self.store.result(&fp).join("manifest.txt").is_file())
    }

    /// True if the stage is already known under the result it is fresh with.
    pub fn is_named(&self, id: Id) -> bool {
        let name = &self.graph.stages[id].name;
        let fresh = self.fresh(id);
        fresh.is_some() && fresh == self.store.index.names.get(&self.facts.profile, name)
    }
}

/// The names that a stage's inputs have for programs: port, number, `STAGE.OUTPUT`.
fn told<'g>(graph: &'g Graph, stage: &'g Stage) -> impl Iterator<Item = (&'g str, usize, String)> {
    stage.inputs.iter().flat_map(move |input| {
        let each = input.from.iter().enumerate();
        each.map(move |(i, (from, output))| {
            let source = &graph.stages[*from];
            let name = format!("{}.{}", source.name, source.outputs[*output].port);
            (input.port.as_str(), i, name)
        })
    })
}

fn texts(declared: &[Declared]) -> impl Iterator<Item = &str> {
    declared.iter().map(|d| d.text.as_str())
}

/// One digest of all modules and files of a stage's code.
fn code_digest(code: &Code) -> String {
    let mut text = String::new();
    for (name, digest) in code {
        text += &format!("{} {name} {digest}\n", name.len());
    }
    Fingerprint::of(&text).to_string()
}
