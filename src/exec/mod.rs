//! The loop: judge, start, listen, commit, judge what waited.
//!
//! Every wanted stage is in one [`State`]. It leaves `Waiting` when the last stage it needs is
//! fresh; a verdict then makes it `Fresh` or `Ready`; a `Ready` one is `Running` as soon as there
//! is room for it, those with the longest way to the end of the graph first.

mod guard;
mod launch;
mod process;
mod python;
mod reads;
mod room;

use std::collections::{BTreeMap, HashMap};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use stages::contract::{Event, StageDef};

use crate::digest::Fingerprint;
use crate::graph::{Id, Kind};
use crate::manifest::Manifest;
use crate::plan::{Planner, Verdict};
use crate::progress::{End, Progress};
use crate::project::Facts;
use crate::provenance::Git;
use crate::store;
pub use guard::main as guard_main;
use launch::{Grant, Launch, Outcome};
pub use reads::parse_depfile;
use room::Room;

/// What the command line says of a run.
#[derive(Debug, Clone)]
pub struct Options {
    pub jobs: usize,
    /// Go on with what does not depend on a stage that failed.
    pub keep_going: bool,
    /// Stages that run even if they are fresh.
    pub force: Vec<Id>,
    pub data: Option<PathBuf>,
    pub checkpoint_seconds: f64,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Summary {
    pub ran: Vec<Id>,
    pub failed: Vec<Id>,
    /// Not run, because something they need failed or the run was stopped.
    pub left: Vec<Id>,
    pub interrupted: bool,
    /// Seconds of all stages that ran.
    pub seconds: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    /// Not part of this run.
    Idle,
    /// This many of the stages it needs are not fresh yet.
    Waiting(usize),
    Ready,
    Running,
    Fresh,
    Failed,
    Stopped,
}

enum Message {
    Event(Id, Event),
    Ended(Id, Outcome),
    Signal,
}

struct Run<'a, 'p> {
    planner: &'a mut Planner<'p>,
    facts: &'a Facts,
    options: &'a Options,
    progress: &'a mut dyn Progress,
    states: Vec<State>,
    ready: Vec<Id>,
    /// Seconds from a stage's start to the end of all that follows.
    path: Vec<f64>,
    room: Room,
    pids: HashMap<Id, u32>,
    /// Started with the first program that may start others.
    guard: Option<guard::Guard>,
    /// Who works on a fingerprint, and who waits for the same work under another name.
    working: HashMap<Fingerprint, (Id, Vec<Id>)>,
    git: Arc<OnceLock<Option<Git>>>,
    sender: Sender<Message>,
    signals: usize,
    unsynced: Option<Instant>,
    summary: Summary,
}

/// Results of short stages reach the disk together, at the latest after this time.
const SYNC_EVERY: Duration = Duration::from_secs(5);

/// Runs what is stale among `wanted`, which stand in topological order with all they need.
pub fn run(
    planner: &mut Planner,
    facts: &Facts,
    wanted: &[Id],
    options: &Options,
    progress: &mut dyn Progress,
) -> Result<Summary> {
    let (sender, receiver) = mpsc::channel();
    watch_signals(sender.clone())?;
    let count = planner.graph.stages.len();
    let mut run = Run {
        path: critical_path(planner, wanted),
        planner,
        facts,
        options,
        progress,
        states: vec![State::Idle; count],
        ready: Vec::new(),
        room: Room::new(options.jobs, &facts.device.gpus),
        pids: HashMap::new(),
        guard: None,
        working: HashMap::new(),
        git: Arc::default(),
        sender,
        signals: 0,
        unsynced: None,
        summary: Summary::default(),
    };
    run.begin(wanted);
    run.go(&receiver);
    run.end(wanted)?;
    Ok(run.summary)
}

/// Ctrl-C and its like become messages.
fn watch_signals(sender: Sender<Message>) -> Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for _ in signals.forever() {
                if sender.send(Message::Signal).is_err() {
                    return;
                }
            }
        })?;
    Ok(())
}

fn critical_path(planner: &Planner, wanted: &[Id]) -> Vec<f64> {
    let mut path = vec![0.0; planner.graph.stages.len()];
    for &id in wanted.iter().rev() {
        let own = planner.estimate(id).unwrap_or(1.0);
        let after = planner.graph.stages[id].users.iter().map(|u| path[*u]);
        path[id] = own + after.fold(0.0, f64::max);
    }
    path
}

impl Run<'_, '_> {
    fn begin(&mut self, wanted: &[Id]) {
        let mut open = Vec::new();
        for &id in wanted {
            let needs = self.planner.graph.stages[id].needs();
            let missing = needs
                .iter()
                .filter(|n| self.states[**n] != State::Fresh)
                .count();
            self.states[id] = State::Waiting(missing);
            if missing == 0 {
                self.judge(id);
            }
            if self.states[id] != State::Fresh {
                open.push(id);
            }
        }
        self.progress.begin(open.len(), wanted.len() - open.len());
    }

    /// Everything the stage needs is fresh: is it?
    fn judge(&mut self, id: Id) {
        let forced = self.options.force.contains(&id) && !self.summary.ran.contains(&id);
        self.planner.judge(id);
        let manifest = self.planner.manifest(id).map(Manifest::fingerprint);
        if !forced && self.planner.fresh(id).is_some() {
            self.states[id] = State::Fresh;
            self.name(id);
            return;
        }
        if let Some(fp) = manifest
            && let Some((_, waiting)) = self.working.get_mut(&fp)
        {
            waiting.push(id);
            return;
        }
        if let Some(fp) = manifest {
            self.working.insert(fp, (id, Vec::new()));
        }
        self.states[id] = State::Ready;
        self.ready.push(id);
    }

    /// Remembers under which result this stage was seen fresh.
    fn name(&mut self, id: Id) {
        if let Some(fp) = self.planner.fresh(id) {
            let name = &self.planner.graph.stages[id].name;
            self.planner
                .store
                .index
                .add_name(&self.facts.profile, name, fp);
        }
    }

    fn go(&mut self, receiver: &Receiver<Message>) {
        loop {
            self.start_ready();
            self.announce();
            if self.pids.is_empty() {
                return;
            }
            let message = match self.unsynced {
                None => receiver.recv().ok(),
                Some(since) => {
                    match receiver.recv_timeout(SYNC_EVERY.saturating_sub(since.elapsed())) {
                        Ok(message) => Some(message),
                        Err(_) => {
                            self.sync();
                            continue;
                        }
                    }
                }
            };
            match message {
                Some(Message::Event(id, event)) => {
                    self.progress
                        .event(&self.planner.graph.stages[id].name, &event);
                }
                Some(Message::Ended(id, outcome)) => self.ended(id, outcome),
                Some(Message::Signal) => self.stop(),
                None => return,
            }
        }
    }

    fn start_ready(&mut self) {
        let halted =
            self.signals > 0 || !self.summary.failed.is_empty() && !self.options.keep_going;
        if halted || self.ready.is_empty() {
            return;
        }
        let path = &self.path;
        self.ready
            .sort_by(|a, b| path[*b].total_cmp(&path[*a]).then(a.cmp(b)));
        let mut i = 0;
        while i < self.ready.len() && !self.room.full() {
            let id = self.ready[i];
            let stage = &self.planner.graph.stages[id];
            let waiting = self.ready.len() - i;
            match self.room.admit(stage, self.facts.device.is_gpu(), waiting) {
                Some(seat) => {
                    self.ready.remove(i);
                    self.start(id, seat);
                    if !self.summary.failed.is_empty() && !self.options.keep_going {
                        return;
                    }
                }
                None => i += 1,
            }
        }
    }

    /// Tells what starts as soon as there is room.
    fn announce(&mut self) {
        let stages = &self.planner.graph.stages;
        let next = self
            .ready
            .iter()
            .take(5)
            .map(|id| stages[*id].name.as_str());
        self.progress.next(&next.collect::<Vec<_>>());
    }

    fn start(&mut self, id: Id, seat: room::Seat) {
        let stage = &self.planner.graph.stages[id];
        let why = match self.planner.verdict(id) {
            Some(Verdict::Stale(reasons)) => reasons.join("; "),
            _ => "forced".into(),
        };
        self.progress.start(&stage.name, &why);
        self.states[id] = State::Running;
        let grant = Grant {
            threads: seat.threads,
            gpu: seat.gpu.clone(),
            data: self.options.data.clone(),
            checkpoint_seconds: self.options.checkpoint_seconds,
            extends: self.extends(id),
            guard: self.guard(id),
        };
        self.room.take(id, seat);
        match self.launch(id, &grant) {
            Ok(pid) => {
                self.pids.insert(id, pid);
            }
            Err(e) => self.ended(id, launch::not_started(&e)),
        }
    }

    /// The library's workers start no other programs; a command may.
    fn guard(&mut self, id: Id) -> Option<RawFd> {
        if let Kind::Library(_) = self.planner.graph.stages[id].kind {
            return None;
        }
        if self.guard.is_none() {
            match guard::Guard::start() {
                Ok(guard) => self.guard = Some(guard),
                Err(e) => {
                    let text = format!("no guard over left-over processes: {e}");
                    self.progress.say(&text);
                }
            }
        }
        self.guard.as_ref().map(guard::Guard::fd)
    }

    fn launch(&mut self, id: Id, grant: &Grant) -> Result<u32> {
        let stage = &self.planner.graph.stages[id];
        let manifest = self.planner.manifest(id).cloned().unwrap_or_default();
        if let Some((line, _)) = manifest
            .iter()
            .find(|(k, v)| k.starts_with("file.") && *v == "missing")
        {
            anyhow::bail!("file {} does not exist", &line["file.".len()..]);
        }
        let fp = manifest.fingerprint();
        let root = self.planner.store.root.clone();
        let git = Arc::clone(&self.git);
        let mut launch = Launch::new(id, &root, &fp, stage, manifest, self.facts, grant, git)?;
        let mut files = BTreeMap::new();
        for input in &stage.inputs {
            let mut paths = Vec::new();
            let mut read = Vec::new();
            for (from, output) in &input.from {
                if let Some(entry) = self.planner.result(*from) {
                    let made = &entry.out[*output];
                    paths.push(self.planner.store.output(&entry.fp, made));
                    let source = &self.planner.graph.stages[*from];
                    read.push(format!("{}.{} {}", source.name, made.port, made.digest));
                }
            }
            files.insert(input.port.clone(), paths);
            launch.record.inputs.insert(input.port.clone(), read);
        }
        launch::start(stage, files, self.facts, grant, launch, self.sender.clone())
    }

    /// The `state` of the longest finished run that this one continues, checked by content.
    fn extends(&mut self, id: Id) -> Option<PathBuf> {
        let stage = &self.planner.graph.stages[id];
        let Kind::Library(def) = &stage.kind else {
            return None;
        };
        let (key, goal) = extends_key(def, &stage.params, self.planner.manifest(id)?)?;
        let shorter = self.planner.store.index.results.values();
        let found = shorter
            .filter_map(|e| {
                Some((
                    e.extends.filter(|x| x.0 == key && x.1 < goal)?.1,
                    e.fp,
                    e.state?,
                ))
            })
            .max_by_key(|(length, ..)| *length);
        let (_, fp, digest) = found?;
        let state = self.planner.store.result(&fp).join("state");
        let same = self
            .planner
            .store
            .digest_of(&state, false)
            .is_ok_and(|d| d == digest);
        same.then_some(state)
    }

    fn ended(&mut self, id: Id, outcome: Outcome) {
        if let (Some(pid), Some(guard)) = (self.pids.remove(&id), &mut self.guard) {
            // A guard that is gone was missed when it was told of the group.
            let _ = guard.forget(pid);
        }
        self.room.leave(id);
        let name = self.planner.graph.stages[id].name.clone();
        let fp = self.planner.manifest(id).map(Manifest::fingerprint);
        let waiting = fp
            .and_then(|fp| self.working.remove(&fp))
            .map_or(Vec::new(), |w| w.1);
        match outcome {
            Outcome::Done(entry, bytes) => {
                self.summary.ran.push(id);
                self.summary.seconds += entry.wall;
                let end = End::Done {
                    seconds: entry.wall,
                    bytes,
                };
                self.progress.end(&name, &end);
                self.planner.store.index.add_result(*entry);
                self.unsynced.get_or_insert_with(Instant::now);
                self.judge(id);
                self.write_index();
                self.revive(id);
                for other in waiting {
                    self.judge(other);
                    if self.states[other] == State::Fresh {
                        let other_name = &self.planner.graph.stages[other].name;
                        self.progress.fresh(other_name);
                        self.revive(other);
                    }
                }
            }
            Outcome::Failed { cause, tail } => {
                self.states[id] = State::Failed;
                self.summary.failed.push(id);
                let log = fp.map(|fp| {
                    self.planner
                        .store
                        .root
                        .join("work")
                        .join(fp.to_string())
                        .join("log")
                });
                let log = log.map(|l| l.display().to_string()).unwrap_or_default();
                self.progress.end(&name, &End::Failed { cause, tail, log });
            }
            Outcome::Stopped { kept } => {
                self.states[id] = State::Stopped;
                self.summary.interrupted = true;
                self.progress.end(&name, &End::Stopped { kept });
            }
        }
    }

    /// A stage became fresh: whoever waited for it may go on.
    fn revive(&mut self, id: Id) {
        let mut open = vec![id];
        while let Some(id) = open.pop() {
            if self.states[id] != State::Fresh {
                continue;
            }
            for user in self.planner.graph.stages[id].users.clone() {
                let State::Waiting(missing) = self.states[user] else {
                    continue;
                };
                self.states[user] = State::Waiting(missing.saturating_sub(1));
                if missing <= 1 {
                    self.judge(user);
                    if self.states[user] == State::Fresh {
                        self.progress.fresh(&self.planner.graph.stages[user].name);
                        open.push(user);
                    }
                }
            }
        }
    }

    /// The first signal asks the stages to write a checkpoint and stop, the second ends them.
    fn stop(&mut self) {
        self.signals += 1;
        self.summary.interrupted = true;
        let signal = match self.signals {
            1 => {
                let text = "stopping: waiting for checkpoints (once more to end at once)";
                self.progress.say(text);
                SIGTERM
            }
            _ => libc::SIGKILL,
        };
        for pid in self.pids.values() {
            process::signal(*pid, signal);
        }
    }

    fn write_index(&mut self) {
        if let Err(e) = self.planner.store.index.flush() {
            // Nothing is lost: the results are there, and are found again.
            self.progress.say(&format!("cannot write the index: {e}"));
        }
    }

    fn sync(&mut self) {
        self.unsynced = None;
        self.write_index();
        let root = self.planner.store.root.clone();
        let synced = store::sync_all(&root).and_then(|()| self.planner.store.index.synced());
        if let Err(e) = synced {
            self.progress
                .say(&format!("cannot sync {}: {e}", root.display()));
        }
    }

    fn end(&mut self, wanted: &[Id]) -> Result<()> {
        for &id in wanted {
            match self.states[id] {
                State::Waiting(_) | State::Ready | State::Stopped => self.summary.left.push(id),
                _ => {}
            }
        }
        if self.unsynced.is_some() {
            self.sync();
        }
        self.write_index();
        self.planner.store.index.compact()?;
        self.progress.finish();
        Ok(())
    }
}

/// The manifest without the parameter whose raising continues a run, and that parameter.
fn extends_key(def: &StageDef, params: &Value, manifest: &Manifest) -> Option<(Fingerprint, u64)> {
    let name = def.extends?;
    let length = params.get(name)?.as_u64()?;
    let rest = manifest.without(&format!("params.{name}"));
    Some((rest.fingerprint(), length))
}
