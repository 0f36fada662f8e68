//! The loop itself: which stage is in which state, and what each message changes.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Result;
use signal_hook::consts::SIGTERM;

use super::elsewhere::{POLL, Seated};
use super::guard::Guard;
use super::outcome::Outcome;
use super::room::Room;
use super::signals::Stages;
use super::{Message, Options, State, Summary, process};
use crate::base::digest::Fingerprint;
use crate::base::provenance::Git;
use crate::exec::progress::{End, Progress};
use crate::pipeline::graph::Id;
use crate::pipeline::manifest::Manifest;
use crate::plan::Planner;
use crate::plan::project::Facts;
use crate::store::{Session, Syncer, Work};

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
    /// How many stages stand beside each in the pipeline, itself among them.
    pub(super) side_by_side: Vec<usize>,
    pub(super) pids: HashMap<Id, u32>,
    /// Their process groups, and whether they were asked to stop.
    pub(super) stages: Stages,
    /// Started with the first program that may start others.
    pub(super) guard: Option<Guard>,
    /// Somebody asks how full the GPUs are.
    pub(super) gauging: bool,
    /// Who works on a fingerprint, and who waits for the same work under another name.
    pub(super) working: HashMap<Fingerprint, (Id, Vec<Id>)>,
    /// Stages that other runs work on, and when these were last looked at.
    pub(super) elsewhere: Vec<Id>,
    pub(super) looked: Instant,
    /// A ready stage would have a seat if other runs had none.
    pub(super) crowded: bool,
    /// The work of stages that run, as other runs see it.
    pub(super) claimed: HashMap<Id, Fingerprint>,
    /// Which stages were told to wait, and for which process.
    pub(super) told: HashSet<(Id, u32)>,
    pub(super) git: Arc<OnceLock<Option<Git>>>,
    pub(super) sender: Sender<Message>,
    /// Since when the stages are asked to stop.
    pub(super) stopping: Option<Instant>,
    /// They were ended at once.
    pub(super) killed: bool,
    /// Started with the first result that is not on the disk when it is committed.
    pub(super) syncer: Option<Syncer>,
    /// Since when the index cannot vouch for all results.
    pub(super) unsynced: Option<Instant>,
    /// Stages that had to run a second time.
    pub(super) again: Vec<Id>,
    /// Stages whose results were found spoiled in this run.
    pub(super) remade: Vec<Id>,
    pub(super) summary: Summary,
}

/// Signals that follow each other this closely are one: who started `repro` may pass on a Ctrl-C that
/// has already reached it.
const ONE_PRESS: Duration = Duration::from_millis(500);

/// The index notes that what it tells of is on the disk at the latest after this time.
const SYNC_EVERY: Duration = Duration::from_secs(5);

impl Run<'_, '_> {
    pub(super) fn go(&mut self, receiver: &Receiver<Message>) {
        loop {
            self.look_elsewhere();
            self.start_ready();
            self.announce();
            if self.pids.is_empty() && !self.waits_for_others() {
                return;
            }
            let sync = (self.unsynced).map(|since| SYNC_EVERY.saturating_sub(since.elapsed()));
            let poll = self.waits_for_others().then_some(POLL);
            let message = match sync.into_iter().chain(poll).min() {
                None => receiver.recv().ok(),
                Some(patience) => match receiver.recv_timeout(patience) {
                    Ok(message) => Some(message),
                    Err(_) => {
                        if self
                            .unsynced
                            .is_some_and(|since| since.elapsed() >= SYNC_EVERY)
                        {
                            self.sync();
                        }
                        continue;
                    }
                },
            };
            match message {
                Some(Message::Event(id, event)) => {
                    self.progress
                        .event(&self.planner.graph.stages[id].name, &event);
                }
                Some(Message::Ended(id, outcome)) => self.ended(id, outcome),
                Some(Message::Memory(gpus)) => {
                    for (id, used, total) in self.room.on(&gpus) {
                        let name = &self.planner.graph.stages[id].name;
                        self.progress.memory(name, used, total);
                    }
                }
                Some(Message::Signal) => self.stop(),
                None => return,
            }
        }
    }

    fn start_ready(&mut self) {
        self.crowded = false;
        if self.halted() || self.ready.is_empty() || self.room.full() {
            return;
        }
        let mut others = Vec::new();
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
            match self.seat(i, &mut others) {
                Seated::Seat(seat) => match self.given(id) {
                    Ok(given) => self.start(id, seat, given),
                    Err(spoiled) => {
                        self.release(id);
                        self.make_again(id, &spoiled);
                        i = 0;
                    }
                },
                Seated::Moved => {}
                Seated::NoRoom => i += 1,
            }
            if self.halted() {
                return;
            }
        }
    }

    pub(super) fn ended(&mut self, id: Id, outcome: Outcome) {
        if let Some(pid) = self.pids.remove(&id) {
            self.stages.groups().remove(&pid);
            if let Some(guard) = &mut self.guard {
                // A guard that is gone was missed when it was told of the group.
                let _ = guard.forget(pid);
            }
        }
        self.room.leave(id);
        let name = self.planner.graph.stages[id].name.clone();
        let fp = self.planner.manifest(id).map(Manifest::fingerprint);
        let waiting = fp
            .and_then(|fp| self.working.remove(&fp))
            .map_or(Vec::new(), |w| w.1);
        let outcome = match outcome {
            // The second Ctrl-C ended it; the stage is not at fault.
            Outcome::Failed { .. } if self.killed => {
                let work = fp.map(|fp| Work::of(&self.planner.store.root, &fp));
                let kept = work.is_some_and(|work| work.has_checkpoint());
                Outcome::Stopped { kept }
            }
            other => other,
        };
        match outcome {
            Outcome::Done {
                entry,
                bytes,
                durable,
                remarks,
                looked,
            } => {
                self.planner.look_again();
                self.planner.has_looked(looked);
                self.summary.ran.push(id);
                if !durable {
                    self.bring_to_disk(self.planner.store.result(&entry.fp));
                }
                self.summary.seconds += entry.wall;
                let end = End::Done {
                    seconds: entry.wall,
                    bytes,
                };
                self.progress.end(&name, &end);
                for remark in remarks {
                    self.progress.say(&format!("{name} {remark}"));
                }
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
            Outcome::Again { file } => {
                self.again.push(id);
                self.progress.end(&name, &End::Stopped { kept: false });
                let text = format!("{name} runs once more: {file} was written to while it ran");
                self.progress.say(&text);
                // The stages that waited for it go on waiting.
                for id in std::iter::once(id).chain(waiting) {
                    self.judge(id);
                }
            }
            Outcome::Stopped { kept } => {
                self.states[id] = State::Stopped;
                self.summary.interrupted = true;
                self.progress.end(&name, &End::Stopped { kept });
            }
        }
        self.release(id);
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

    /// The first signal asks the stages to write a checkpoint and stop, a later one ends them.
    fn stop(&mut self) {
        self.summary.interrupted = true;
        let signal = match self.stopping {
            None => {
                self.stopping = Some(Instant::now());
                let text = "stopping: waiting for checkpoints (once more to end at once)";
                self.progress.say(text);
                SIGTERM
            }
            Some(since) if since.elapsed() < ONE_PRESS => return,
            Some(_) => {
                self.killed = true;
                libc::SIGKILL
            }
        };
        for pid in self.pids.values() {
            process::signal(*pid, signal);
            // What somebody has stopped would not hear of it.
            process::signal(*pid, libc::SIGCONT);
        }
    }

    fn write_index(&mut self) {
        if let Err(e) = self.planner.store.index.flush() {
            // Nothing is lost: the results are there, and are found again (Store::adopt).
            self.progress.say(&format!("cannot write the index: {e}"));
        }
    }

    fn bring_to_disk(&mut self, result: PathBuf) {
        if self.syncer.is_none() {
            self.syncer = Syncer::start().ok();
        }
        match &self.syncer {
            Some(syncer) => syncer.add(result),
            // Without a thread all of it is synced in the end.
            None => self.planner.store.index.unsynced = true,
        }
    }

    fn sync(&mut self) {
        self.unsynced = None;
        self.write_index();
        let store = &mut self.planner.store;
        let results = self.syncer.as_ref().map_or(Ok(()), Syncer::wait);
        if results.is_err() {
            store.index.unsynced = true;
        }
        if let Err(e) = results.and_then(|()| store.settle(&[])) {
            let root = store.root.display();
            self.progress.say(&format!("cannot sync {root}: {e}"));
        }
    }

    pub(super) fn end(&mut self, wanted: &[Id]) -> Result<()> {
        for &id in wanted {
            match self.states[id] {
                State::Waiting(_) | State::Ready | State::Elsewhere | State::Stopped => {
                    self.summary.left.push(id);
                }
                _ => {}
            }
        }
        let index = &self.planner.store.index;
        if self.unsynced.is_some() || index.has_notes() || !index.clean() {
            self.sync();
        }
        let index = &mut self.planner.store.index;
        // Nothing that needs the lock comes after this.
        let last = || self.options.session.as_ref().is_none_or(Session::is_last);
        if index.is_long() && last() {
            index.compact()?;
        }
        self.progress.finish();
        Ok(())
    }
}
