//! From a ready stage to a running process.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use super::given::{Given, Inputs, Seen};
use super::guard::Guard;
use super::launch::{self, Grant, Launch};
use super::schedule::Run;
use super::unchanged_files::{Watch, Watched};
use super::{State, gpu_memory, outcome, program, room};
use crate::base::files;
use crate::pipeline::graph::{Id, Kind};
use crate::plan::Verdict;
use crate::store::{Health, Session, Work, stat};

impl Run<'_, '_> {
    pub(super) fn start(&mut self, id: Id, seat: room::Seat, given: Inputs) {
        let stage = &self.planner.graph.stages[id];
        let why = match self.planner.verdict(id) {
            Some(Verdict::Stale(reasons)) => reasons.join("; "),
            _ => "forced".into(),
        };
        self.progress.start(&stage.name, &why);
        self.states[id] = State::Running;
        let grant = Grant {
            threads: seat.threads,
            gpus: seat.gpus.clone(),
            data: self.options.data.clone(),
            checkpoint_every: self.options.checkpoint_every,
            extends: self.extends(id),
            guard: self.guard(id),
            held: self.held(id),
        };
        if !grant.gpus.is_empty() && !std::mem::replace(&mut self.gauging, true) {
            gpu_memory::watch(self.sender.clone());
        }
        self.room.take(id, seat);
        let stages = self.stages.clone();
        let mut groups = stages.groups();
        match self.launch(id, &grant, given) {
            Ok(pid) => {
                groups.insert(pid);
                self.pids.insert(id, pid);
            }
            Err(e) => {
                drop(groups);
                self.ended(id, outcome::not_started(&e));
            }
        }
    }

    /// The library's workers start no other programs; a command may.
    fn guard(&mut self, id: Id) -> Option<RawFd> {
        if let Kind::Library(_) = self.planner.graph.stages[id].kind {
            return None;
        }
        if self.guard.is_none() {
            let held = self.options.session.as_ref().map(Session::held).transpose();
            match held.and_then(Guard::start) {
                Ok(guard) => self.guard = Some(guard),
                Err(e) => {
                    let text = format!("no guard over left-over processes: {e}");
                    self.progress.say(&text);
                }
            }
        }
        self.guard.as_ref().map(Guard::fd)
    }

    /// The run's lock for a worker: else the run would be taken for gone a moment before it is.
    fn held(&self, id: Id) -> Option<OwnedFd> {
        let session = self.options.session.as_ref()?;
        match self.planner.graph.stages[id].kind {
            Kind::Library(_) => session.held_by_worker().ok(),
            Kind::Command(_) => None,
        }
    }

    fn launch(&mut self, id: Id, grant: &Grant, given: Inputs) -> Result<u32> {
        let stage = &self.planner.graph.stages[id];
        let manifest = self.planner.manifest(id).cloned().unwrap_or_default();
        // What was there when the run began may have gone since.
        if let Some(problem) = self.planner.problems(id).into_iter().next() {
            bail!("{}", problem.wrong.what);
        }
        let fp = manifest.fingerprint();
        let root = self.planner.store.root.clone();
        self.put_aside(id, &Work::of(&root, &fp))?;
        let git = Arc::clone(&self.git);
        let mut launch = Launch::new(id, &root, &fp, stage, manifest, self.facts, grant, git)?;
        launch.record.code = self.planner.code(id).clone();
        launch.watch = self.watch(id)?;
        launch.stages = self.stages.clone();
        launch.given = given;
        launch.again = self.again.contains(&id);
        launch.replace = launch.again || self.options.force.contains(&id);
        let stage = &self.planner.graph.stages[id];
        let mut files = BTreeMap::new();
        let mut told = serde_json::Map::new();
        for input in &stage.inputs {
            let mut paths = Vec::new();
            let mut read = Vec::new();
            let mut named = Vec::new();
            for (from, output) in &input.from {
                if let (Some(entry), Some(made)) = (
                    self.planner.result(*from),
                    self.planner.made(*from, *output),
                ) {
                    paths.push(self.planner.store.output(&entry.fp, made));
                    let source = &self.planner.graph.stages[*from];
                    read.push(format!("{}.{} {}", source.name, made.port, made.digest));
                    named.push(serde_json::json!({
                        "stage": source.name,
                        "output": made.port,
                        "axes": source.axes,
                        "path": program::told(paths.last().unwrap_or(&root), &self.facts.dir),
                    }));
                }
            }
            files.insert(input.port.clone(), paths);
            launch.record.inputs.insert(input.port.clone(), read);
            told.insert(input.port.clone(), named.into());
        }
        launch.told = told.into();
        launch::start(stage, files, self.facts, grant, launch, self.sender.clone())
    }

    /// What a command is told to read, as it is now.
    fn watch(&mut self, id: Id) -> Result<Watch> {
        let Kind::Command(command) = &self.planner.graph.stages[id].kind else {
            return Ok(Watch::default());
        };
        let declared = command.declared().map(|(_, d)| d.text.clone());
        let mut watch = Watch {
            declared: declared.collect(),
            data: command.files.iter().map(|d| d.text.clone()).collect(),
            found: self.planner.found(command),
            files: Vec::new(),
        };
        for name in self.planner.files_of(id) {
            let path = self.facts.dir.join(files::path(&name));
            let Ok(meta) = std::fs::metadata(&path) else {
                continue;
            };
            let seen = Seen::file(&meta, stat::now());
            let digest = self.planner.store.digest_of(&path, false)?;
            if !self.planner.judged_with(id, &name, digest) {
                bail!("{name} changed as it was being started; run it again");
            }
            watch.files.push(Watched { name, digest, seen });
        }
        Ok(watch)
    }

    /// A checkpoint that other code than now has made is not handed over.
    fn put_aside(&mut self, id: Id, work: &Work) -> Result<()> {
        if !work.has_checkpoint() {
            return Ok(());
        }
        if let Some(file) = self.planner.changed_since_checkpoint(id) {
            work.put_checkpoint_aside()
                .with_context(|| format!("cannot write in {}", work.dir.display()))?;
            let name = &self.planner.graph.stages[id].name;
            let text = format!(
                "{name} begins anew: {file} has changed since its checkpoint was made (kept in {})",
                work.dir.join("checkpoint.aside").display()
            );
            self.progress.say(&text);
        }
        Ok(())
    }

    /// The results that a stage reads, as they are now; or the stages whose results are not what was
    /// committed any more.
    pub(super) fn given(&mut self, id: Id) -> Result<Inputs, Vec<Id>> {
        let mut inputs = Inputs::default();
        let mut spoiled = Vec::new();
        let stages = &self.planner.graph.stages;
        let all: BTreeSet<(Id, usize)> = (stages[id].inputs.iter())
            .flat_map(|input| input.from.iter().copied())
            .collect();
        for (from, output) in all {
            let Some(entry) = self.planner.result(from) else {
                continue;
            };
            let (fp, made) = (entry.fp, entry.out[output].clone());
            let path = self.planner.store.output(&fp, &made);
            let seen = Seen::output(&path, stat::now()).ok();
            let known = seen.is_some_and(|seen| made.stamp == Some(seen.stamp()));
            let good = known || self.planner.store.health(&fp, output, false) == Health::Good;
            match seen {
                Some(seen) if good => inputs.0.push(Given {
                    name: format!("{}.{}", stages[from].name, made.port),
                    path,
                    digest: made.digest,
                    seen,
                }),
                _ => spoiled.push(from),
            }
        }
        match spoiled.is_empty() {
            true => Ok(inputs),
            false => Err(spoiled),
        }
    }

    /// The `state` of the longest finished run that this one continues, checked by content.
    fn extends(&mut self, id: Id) -> Option<PathBuf> {
        let longer = self.planner.longer(id)?;
        self.planner.state_of(&longer)
    }
}
