//! The end of an execution: what it said is kept, what it made is digested and committed.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::sync::mpsc::Sender;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, anyhow};
use stages::contract::{Event, Progress};

use super::Message;
use super::launch::Launch;
use super::process::Exit;
use crate::human;
use crate::provenance;
use crate::store::{Entry, Reached};

/// How an execution ended.
pub enum Outcome {
    Done(Box<Entry>, u64),
    Failed { cause: String, tail: Vec<String> },
    Stopped { kept: bool },
}

/// Results that took longer, in seconds, are synced one by one; shorter ones together.
const DURABLE_AFTER: f64 = 0.5;

/// Bytes of free disk below which a failure is told to be the disk's.
const LITTLE: u64 = 1 << 20;

impl Launch {
    /// Passes events on and keeps them, as sentences, in the log.
    pub(super) fn listen(&mut self, events: impl std::io::Read, sender: &Sender<Message>) {
        let mut log = self.work.open_log().ok();
        let mut epoch = None;
        let mut last: Option<Progress> = None;
        for line in BufReader::new(events).lines() {
            let Ok(line) = line else { break };
            let Ok(event) = serde_json::from_str::<Event>(&line) else {
                // Something printed past the contract, a library perhaps: it belongs in the log.
                write_line(&mut log, &line);
                continue;
            };
            match &event {
                Event::Note { text } => write_line(&mut log, text),
                Event::Device { name } => self.record.result.device.clone_from(name),
                Event::Resumed { at, unit } => {
                    let text = format!("at {unit} {at}");
                    write_line(&mut log, &format!("resumed {text}"));
                    self.record.resumed = Some(text);
                    self.before = self.work.reached().map_or(0.0, |r| r.seconds);
                }
                Event::Checkpoint { at } => {
                    write_line(&mut log, &format!("checkpoint at {at}"));
                    // Without this note, what is told of the checkpoint is only less precise.
                    let reached = Reached::new(*at, last.as_ref(), self.seconds());
                    let _ = self.work.note_reached(&reached);
                }
                Event::Progress(progress) => {
                    if progress.epoch != epoch {
                        epoch = progress.epoch;
                        write_line(&mut log, &crate::progress::values(progress));
                    }
                    last = Some(progress.clone());
                }
            }
            let _ = sender.send(Message::Event(self.id, event));
        }
    }

    /// Seconds of work so far, with those before the interruption it was taken up from.
    fn seconds(&self) -> f64 {
        self.before + self.clock.elapsed().as_secs_f64()
    }

    pub(super) fn finish(mut self, ended: std::io::Result<Exit>) -> Outcome {
        let exit = match ended {
            Ok(exit) => exit,
            Err(e) => return self.failed(format!("its end was lost: {e}")),
        };
        self.record.wall_seconds = self.seconds();
        if exit.code == Some(0) {
            return match self.commit(exit) {
                Ok((entry, bytes)) => Outcome::Done(Box::new(entry), bytes),
                Err(e) => self.failed(format!("{e:#}")),
            };
        }
        let stopped = exit.code == Some(5) || exit.signal == Some(libc::SIGTERM);
        if stopped {
            return Outcome::Stopped {
                kept: self.work.has_checkpoint(),
            };
        }
        self.failed(exit.describe())
    }

    fn failed(&self, mut cause: String) -> Outcome {
        if let Ok(disk) = rustix::fs::statvfs(&self.root)
            && disk.f_bavail.saturating_mul(disk.f_frsize) < LITTLE
        {
            cause += "; there is no space left on the disk of the store";
        }
        let log = fs::read(self.work.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(5)..]
            .iter()
            .map(|l| (*l).to_owned());
        Outcome::Failed {
            cause,
            tail: tail.collect(),
        }
    }

    fn commit(&mut self, exit: Exit) -> Result<(Entry, u64)> {
        self.watch.unchanged(&self.dir, &self.root)?;
        let reads = super::reads::found(
            &self.dir,
            &self.root,
            &self.depfile,
            self.imports.as_deref(),
            self.started,
        )?;
        let record = &mut self.record;
        record.result.out = self.work.collect(&self.outputs)?;
        record.result.state = self.work.state()?;
        record.finished = human::now();
        record.cpu_seconds = exit.cpu_seconds;
        record.peak_memory_bytes = exit.peak_memory;
        record.git = self.git.get_or_init(|| provenance::git(&self.dir)).clone();
        record.result.wall = record.wall_seconds;
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        record.result.at = since.unwrap_or_default().as_secs();
        if !reads.is_empty() {
            let mut whole = self.manifest.clone();
            for (path, digest) in &reads {
                whole.add(format!("read.{path}"), digest);
            }
            record.result.base = Some(record.result.fp);
            record.result.fp = whole.fingerprint();
            record.result.reads = reads;
            self.manifest = whole;
        }
        let sizes = record
            .result
            .out
            .iter()
            .map(|made| crate::store::size_of(&self.work.result().join(&made.file)));
        let bytes = sizes.sum();
        let durable = record.wall_seconds > DURABLE_AFTER;
        let entry = self
            .work
            .commit(&self.root, &self.manifest.to_string(), record, durable)?;
        Ok((entry, bytes))
    }
}

fn write_line(log: &mut Option<File>, text: &str) {
    if let Some(log) = log {
        // A full disk must not stop the stage for the sake of its log.
        let _ = writeln!(log, "{text}");
    }
}

/// Turns an error before the start into an outcome.
pub fn not_started(error: &anyhow::Error) -> Outcome {
    Outcome::Failed {
        cause: format!("{:#}", anyhow!("{error:#}")),
        tail: Vec::new(),
    }
}
