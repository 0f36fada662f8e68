//! The end of an execution: what it said is kept, what it made is digested and committed.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::sync::mpsc::Sender;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, anyhow, bail};
use stages::contract::{Event, Progress};

use super::Message;
use super::launch::Launch;
use super::process::{self, Exit, Usage};
use super::{program, python, reads, tail};
use crate::digest::Digest;
use crate::human;
use crate::provenance;
use crate::store::{Entry, Reached, Spent};

/// How an execution ended.
pub enum Outcome {
    Done {
        entry: Box<Entry>,
        bytes: u64,
        /// On the disk already.
        durable: bool,
    },
    Failed {
        cause: String,
        tail: Vec<String>,
    },
    Stopped {
        kept: bool,
    },
    /// A file that it was told to read was written to while it ran, and is the same again. It may
    /// have read what was there in between; the program may also write it itself, every time.
    Again {
        file: String,
    },
}

/// Results that took longer, in seconds, are on the disk before they get their name; shorter ones
/// are brought there while others run.
const DURABLE_AFTER: f64 = 0.5;

/// Bytes of free disk below which a failure is told to be the disk's.
const LITTLE: u64 = 1 << 20;

impl Launch {
    /// Passes events on and keeps them, as sentences, in the log.
    pub(super) fn listen(
        &mut self,
        events: impl std::io::Read,
        pid: u32,
        sender: &Sender<Message>,
    ) {
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
                Event::Versions { versions } => self.record.versions.extend(versions.clone()),
                Event::Resumed { at, unit } => {
                    let text = format!("at {unit} {at}");
                    write_line(&mut log, &format!("resumed {text}"));
                    self.record.resumed = Some(text);
                    self.before = self.work.spent();
                }
                Event::Checkpoint { at } => {
                    write_line(&mut log, &format!("checkpoint at {at}"));
                    // Without this note, what is told of the checkpoint is only less precise.
                    let spent = self.spent(process::usage(pid));
                    let reached = Reached::new(*at, last.as_ref(), spent.wall_seconds);
                    let _ = self.work.note_reached(&reached);
                    let _ = self.work.note_spent(&spent);
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

    /// What the work has used, with what was used before the interruption it was taken up from.
    fn spent(&self, usage: Usage) -> Spent {
        self.before.unwrap_or_default().and(Spent {
            wall_seconds: self.clock.elapsed().as_secs_f64(),
            cpu_seconds: usage.cpu_seconds,
            peak_memory_bytes: usage.peak_memory,
        })
    }

    pub(super) fn finish(mut self, ended: std::io::Result<Exit>) -> Outcome {
        let exit = match ended {
            Ok(exit) => exit,
            Err(e) => return self.failed(format!("its end was lost: {e}")),
        };
        let spent = self.spent(exit.usage);
        self.record.before = self.before;
        self.record.wall_seconds = spent.wall_seconds;
        self.record.cpu_seconds = spent.cpu_seconds;
        self.record.peak_memory_bytes = spent.peak_memory_bytes;
        self.record.exit = exit.code.unwrap_or_default();
        if exit.code == Some(0) {
            return match self.commit() {
                Ok(Err(file)) => Outcome::Again { file },
                Ok(Ok((entry, bytes))) => Outcome::Done {
                    durable: durable(&entry),
                    entry: Box::new(entry),
                    bytes,
                },
                Err(e) => self.failed(format!("{e:#}")),
            };
        }
        if self.command && self.work.has_checkpoint() {
            // Without this note the record of the next run is only less complete.
            let _ = self.work.note_spent(&spent);
            // And without this one the checkpoint is held to be of a run that was never heard of.
            let _ = self.note_reads();
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
        Outcome::Failed {
            cause,
            tail: tail::last_lines(&self.work.log()),
        }
    }

    /// Fails if a program has not written an output, and tells where it should be.
    fn all_written(&self) -> Result<()> {
        let there = |file: &str| self.work.result().join(file).symlink_metadata().is_ok();
        let Some((port, file)) = self.outputs.iter().find(|(_, file)| !there(file)) else {
            return Ok(());
        };
        let elsewhere = fs::metadata(self.dir.join(file)).and_then(|meta| meta.modified());
        let instead = match elsewhere.is_ok_and(|at| self.command && at >= self.started) {
            true => format!("; it wrote {file} in the project instead"),
            false => String::new(),
        };
        let hint = match self.command {
            true => format!(
                "; hint: the place to write to is {{out.{port}}} in the command, or {} in its environment",
                program::variable("OUT", port)
            ),
            false => String::new(),
        };
        bail!("it ended without writing its output `{port}` ({file}){instead}{hint}")
    }

    /// What Python programs have listed at their ends; nothing if none came to its end.
    fn imported(&self) -> Result<Option<String>> {
        match &self.imports {
            Some(list) => reads::read(list),
            None => Ok(Some(String::new())),
        }
    }

    fn found(&self, imports: &str) -> Result<Vec<(String, Digest)>> {
        let (dir, before) = (&self.dir, &self.read_before);
        reads::found(
            dir,
            &self.root,
            &self.depfile,
            imports,
            before,
            self.started,
        )
    }

    /// Notes what this run has read, for whoever is to go on from its checkpoint.
    fn note_reads(&self) -> Result<()> {
        let imports = self.imported()?;
        let files = imports.map(|imports| self.found(&imports)).transpose()?;
        let all = self.read_before.clone().and(files.as_deref(), self.started);
        Ok(self.work.note_read_before(&all)?)
    }

    /// The result; or a file that was written to while it was made, and is the same again.
    fn commit(&mut self) -> Result<Result<(Entry, u64), String>> {
        self.all_written()?;
        self.given.unchanged()?;
        if let Some(file) = self.watch.unchanged(&self.dir, &self.root)?
            && !self.again
        {
            return Ok(Err(file));
        }
        let imports = self.imported()?.unwrap_or_default();
        let reads = self.found(&imports)?;
        let record = &mut self.record;
        record.versions.extend(python::versions(&imports));
        let (made, told) = self.work.collect(&self.outputs)?;
        let mut log = self.work.open_log().ok();
        told.iter().for_each(|text| write_line(&mut log, text));
        record.result.out = made;
        record.result.state = self.work.state()?;
        record.finished = human::now();
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
        let durable = durable(&record.result);
        let entry = self
            .work
            .commit(&self.root, &self.manifest.to_string(), record, durable)?;
        Ok(Ok((entry, bytes)))
    }
}

fn durable(entry: &Entry) -> bool {
    entry.wall > DURABLE_AFTER
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
