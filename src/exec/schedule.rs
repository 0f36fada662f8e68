//! The loop itself: which stage is in which state, and what each message changes.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Result;
use signal_hook::consts::SIGTERM;

use super::ended::Outcome;
use super::guard::Guard;
use super::room::Room;
use super::{Message, Options, State, Summary, process};
use crate::digest::Fingerprint;
use crate::graph::Id;
use crate::manifest::Manifest;
use crate::plan::{Planner, Verdict};
use crate::progress::{End, Progress};
use crate::project::Facts;
use crate::provenance::Git;
use crate::store;

pub(super) struct Run<'a, 'p> {
    pub(super) planner: &'a mut Planner<'p>,
    pub(super) facts: &'a Facts,
    pub(super) options: &'a Options,
    pub(super) progress: &'a mut dyn Progress,
    pub(super) states: Vec<State>,
    pub(super) ready: Vec<Id>,
    /// Seconds from a stage's start to the end of all that follows.
    pub(super) path: Vec<f64>,
    pub(super) room: Room,
    pub(super) pids: HashMap<Id, u32>,
    /// Started with the first program that may start others.
    pub(super) guard: Option<Guard>,
    /// Somebody asks how full the GPUs are.
    pub(super) gauging: bool,
    /// Who works on a fingerprint, and who waits for the same work under another name.
    pub(super) working: HashMap<Fingerprint, (Id, Vec<Id>)>,
    pub(super) git: Arc<OnceLock<Option<Git>>>,
    pub(super) sender: Sender<Message>,
    pub(super) signals: usize,
    pub(super) unsynced: Option<Instant>,
    /// Stages that had to run a second time.
    pub(super) again: Vec<Id>,
    pub(super) summary: Summary,
}

/// Results of short stages reach the disk together, at the latest after this time.
const SYNC_EVERY: Duration = Duration::from_secs(5);

impl Run<'_, '_> {
    pub(super) fn begin(&mut self, wanted: &[Id]) {
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

    /// A file that the stage reads has changed since it was judged.
    fn judge_again(&mut self, id: Id) {
        let fp = self.planner.manifest(id).map(Manifest::fingerprint);
        let waiting = fp.and_then(|fp| self.working.remove(&fp));
        for id in std::iter::once(id).chain(waiting.map_or(Vec::new(), |w| w.1)) {
            self.judge(id);
            if self.states[id] == State::Fresh {
                self.progress.fresh(&self.planner.graph.stages[id].name);
                self.revive(id);
            }
        }
    }

    /// What a stage was found to read has changed while it ran, so that its result does not
    /// count: it runs once more, and if that happens again it never would.
    fn run_again(&mut self, id: Id) {
        self.summary.ran.pop();
        if !self.again.contains(&id) {
            self.again.push(id);
            return;
        }
        let why = match self.planner.verdict(id) {
            Some(Verdict::Stale(reasons)) => reasons.join("; "),
            _ => String::new(),
        };
        self.ready.retain(|other| *other != id);
        let fp = self.planner.manifest(id).map(Manifest::fingerprint);
        fp.and_then(|fp| self.working.remove(&fp));
        self.states[id] = State::Failed;
        self.summary.failed.push(id);
        let name = &self.planner.graph.stages[id].name;
        let end = End::Failed {
            cause: format!("what it reads changed while it ran, twice: {why}"),
            tail: Vec::new(),
            log: format!("repro log {name}"),
        };
        self.progress.end(name, &end);
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

    pub(super) fn go(&mut self, receiver: &Receiver<Message>) {
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
                Some(Message::Memory(gpus)) => {
                    for (id, memory) in self.room.on(&gpus) {
                        let name = &self.planner.graph.stages[id].name;
                        self.progress.memory(name, memory.used, memory.total);
                    }
                }
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
            if self.planner.outdated(id) {
                self.ready.remove(i);
                self.judge_again(id);
                continue;
            }
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

    pub(super) fn ended(&mut self, id: Id, outcome: Outcome) {
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
                if self.states[id] == State::Ready {
                    self.run_again(id);
                }
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

    pub(super) fn end(&mut self, wanted: &[Id]) -> Result<()> {
        for &id in wanted {
            match self.states[id] {
                State::Waiting(_) | State::Ready | State::Stopped => self.summary.left.push(id),
                _ => {}
            }
        }
        let index = &self.planner.store.index;
        if self.unsynced.is_some() || index.has_notes() || !index.clean {
            self.sync();
        }
        self.planner.store.index.compact()?;
        self.progress.finish();
        Ok(())
    }
}
