//! The end of an execution: what it said is kept, what it made is digested and committed.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};
use contract::{Event, Progress};

use super::Message;
use super::launch::Launch;
use super::process::{self, Exit, Usage};
use super::python::Imports;
use super::{program, reads, tail};
use crate::base::digest::Digest;
use crate::base::files;
use crate::base::human;
use crate::base::provenance;
use crate::exec::depfile;
use crate::exec::observe::findings::{self, Frame};
use crate::exec::observe::notes::Notes;
use crate::exec::observe::{self, Findings, Observer};
use crate::store::observed::{Read, What};
use crate::store::record::Seen;
use crate::store::stat::{self, SeenFile};
use crate::store::{Entry, FEW_READS, Made, READS, Reached, Spent};

/// How an execution ended.
pub enum Outcome {
    Done {
        entry: Box<Entry>,
        bytes: u64,
        /// On the disk already.
        durable: bool,
        /// For people, about what it was seen to do.
        remarks: Vec<String>,
        /// Files that it read, as they were when it had ended.
        looked: Vec<SeenFile>,
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

/// A new result.
struct Committed {
    entry: Entry,
    bytes: u64,
    looked: Vec<SeenFile>,
}

/// Results that took longer, in seconds, are on the disk before they get their name; shorter ones
/// are brought there while others run.
const DURABLE_AFTER: f64 = 0.5;

/// Signals that ask a program to end.
const ASKING: [i32; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// How long a signal of ours may come after the one that has ended a stage.
const PATIENCE: Duration = Duration::from_millis(200);

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
                        write_line(&mut log, &crate::exec::progress::values(progress));
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
        let mut notes = self.observer.take().and_then(Observer::finish);
        // Before anything is looked at: what still runs could change it.
        let left = match &notes {
            Some(notes) if notes.left => observe::end_strays(&notes.threads),
            _ => 0,
        };
        let spent = self.spent(exit.usage);
        self.record.before = self.before;
        self.record.wall_seconds = spent.wall_seconds;
        self.record.cpu_seconds = spent.cpu_seconds;
        self.record.peak_memory_bytes = spent.peak_memory_bytes;
        self.record.exit = exit.code.unwrap_or_default();
        if exit.code == Some(0) {
            return match self.commit(notes.as_mut(), left) {
                Ok(Err(file)) => Outcome::Again { file },
                Ok(Ok(done)) => Outcome::Done {
                    durable: durable(&done.entry),
                    remarks: self.remarks(),
                    entry: Box::new(done.entry),
                    bytes: done.bytes,
                    looked: done.looked,
                },
                Err(e) => self.failed(format!("{e:#}")),
            };
        }
        if self.command && self.work.has_checkpoint() {
            // Without this note the record of the next run is only less complete.
            let _ = self.work.note_spent(&spent);
            // And without this one the checkpoint is held to be of a run that was never heard of.
            let _ = self.note_reads(notes.as_mut());
        }
        if self.stopped(&exit) {
            return Outcome::Stopped {
                kept: self.work.has_checkpoint(),
            };
        }
        let mut cause = exit.describe();
        if self.stages.are_asked_to_stop() {
            cause += ", after it was asked to stop";
        }
        if notes.as_ref().is_some_and(|n| n.ring) {
            cause += "; it asked for io_uring, which a watched program does not get: \
                      watch = false in the stage gives it";
        }
        if let Some(program) = notes.and_then(|n| n.privileged) {
            let program = program.display();
            cause += &format!(
                "; {program} wants to become another user, which a watched program cannot: \
                 watch = false in the stage lets it"
            );
        }
        self.failed(cause)
    }

    /// Whether it ended because it was asked to. The library's kinds say so by their exit code; any
    /// other program may mean anything by it, and is believed only if it really was asked.
    fn stopped(&self, exit: &Exit) -> bool {
        const STOPPED: i32 = 5;
        let by_signal = match (exit.code, exit.signal) {
            // As shells tell of a program that a signal has ended.
            (Some(code), _) if code > 128 => ASKING.contains(&(code - 128)),
            (_, Some(signal)) => ASKING.contains(&signal),
            _ => false,
        };
        if !self.command && exit.code == Some(STOPPED) {
            return true;
        }
        if !by_signal && exit.code != Some(STOPPED) {
            return false;
        }
        // Slurm and systemd send one signal to all processes of a job, and ours may come a little later.
        let patience = Instant::now();
        while by_signal && !self.stages.are_asked_to_stop() && patience.elapsed() < PATIENCE {
            std::thread::sleep(PATIENCE / 20);
        }
        self.stages.are_asked_to_stop()
    }

    /// What its author should know of a run that went well.
    fn remarks(&self) -> Vec<String> {
        let Some(seen) = &self.record.seen else {
            return Vec::new();
        };
        let mut remarks = Vec::new();
        if let Some(why) = &self.unwatched {
            remarks.push(format!(
                "ran unwatched ({why}): only what it declares or reports counts"
            ));
        }
        if !seen.outside.is_empty() {
            let files = human::count(seen.outside.values().sum(), "file");
            let folders = some_of(seen.outside.keys().map(String::as_str));
            let first = seen.outside.keys().next().map_or("", String::as_str);
            remarks.push(format!(
                "read {files} in {folders}, outside the project, which do not count; hint: \
                 [pipeline] watch = [\"{first}\"] counts them"
            ));
        }
        if !seen.wrote.is_empty() {
            let names = some_of(seen.wrote.iter().map(String::as_str));
            let it = if seen.wrote.len() == 1 {
                "is no output"
            } else {
                "are no outputs"
            };
            let port = self.outputs.first().map_or("x", |(port, _)| port);
            remarks.push(format!(
                "wrote {names}, which {it}; hint: write to {{out.{port}}}"
            ));
        }
        if !seen.results.is_empty() {
            let names = some_of(seen.results.iter().map(String::as_str));
            remarks.push(format!(
                "read {names}, which it was not given, so that a change there does not count; \
                 hint: in.NAME = \"STAGE.OUTPUT\" gives it"
            ));
        }
        if seen.left > 0 {
            let text = match seen.left {
                1 => "left a process running, which was ended with it".into(),
                n => format!("left {n} processes running, which were ended with it"),
            };
            remarks.push(text);
        }
        if seen.lost > 0 {
            let calls = human::count(seen.lost, "call");
            remarks.push(format!("what {calls} of it read could not be seen"));
        }
        if seen.apart {
            remarks.push("ran partly in a container, where its reads are not seen".into());
        }
        remarks
    }

    /// A file of numbers that nobody could read fails its stage, not the tables later.
    fn check_metrics(&self) -> Result<()> {
        for file in &self.metrics {
            let path = self.work.result().join(file);
            if let Err(e) = contract::measured::load(&path, &|_| None) {
                let why = e.root_cause().to_string();
                let why = match why.contains("hint: ") {
                    true => why,
                    false => why + "; hint: a JSON object such as {\"accuracy\": 0.84}",
                };
                bail!("its output {file} holds no metrics: {why}");
            }
        }
        Ok(())
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

    /// What the run was found to depend on and to do.
    fn findings(&self, notes: Option<&mut Notes>) -> Result<Findings> {
        let imports = match &self.imports {
            Some(list) => Imports::load(list)?,
            None => Imports::default(),
        };
        let declared = self.watch.files.iter().map(|file| file.name.clone());
        let frame = Frame {
            dir: &self.dir,
            declared: &declared.collect(),
            given: &self.given.paths(),
            patterns: &self.watch.data,
            started: self.started,
        };
        let depfile = reads::read(&self.depfile)?.unwrap_or_default();
        let named = depfile::parse(&depfile);
        let (mut found, mut modules) = match notes {
            Some(notes) => (Findings::of(notes, &imports, &frame)?, BTreeSet::new()),
            None => (Findings::default(), imports.files),
        };
        // What the runs had read that left the checkpoint this one went on from.
        let before = self.read_before.files.keys();
        modules.extend(before.map(|name| files::path(name)));
        let known: HashSet<String> = found.reads.iter().map(|r| r.path.clone()).collect();
        let reported = findings::reported(named, modules, &self.places, &frame)?;
        let new = reported
            .into_iter()
            .filter(|read| !known.contains(&read.path));
        found.reads.extend(new);
        let known: HashSet<(What, String)> = found
            .reads
            .iter()
            .map(|r| (r.what, r.path.clone()))
            .collect();
        let before = self.read_before.others.iter();
        let before = before.filter(|r| !known.contains(&(r.what, r.path.clone())));
        found.reads.extend(before.cloned());
        found.seen.packages.extend(imports.versions);
        Ok(found)
    }

    /// Notes what this run has read, for whoever is to go on from its checkpoint.
    fn note_reads(&self, notes: Option<&mut Notes>) -> Result<()> {
        // Without a watch, a Python that was killed has told of nothing.
        let known = notes.is_some() || self.imports.as_ref().is_none_or(|list| list.exists());
        let found = self.findings(notes)?;
        let reads = known.then_some(&found.reads[..]);
        let all = self.read_before.clone().and(reads, self.started);
        Ok(self.work.note_read_before(&all)?)
    }

    /// Files that it wrote beside its outputs, but for those whose bytes are kept anyway: copies of what it made or
    /// was given.
    fn but_for_copies(&self, mut wrote: Vec<String>, made: &[Made]) -> Vec<String> {
        let made = made
            .iter()
            .map(|made| (self.work.result().join(&made.file), made.digest));
        let given = self.given.0.iter();
        let given = given.map(|given| (given.path.clone(), given.digest));
        let (folders, files): (Vec<_>, Vec<_>) =
            made.chain(given).partition(|(path, _)| path.is_dir());
        let size = |path: &Path| fs::metadata(path).map_or(0, |meta| meta.len());
        let kept: HashSet<(u64, Digest)> = (files.into_iter())
            .map(|(path, digest)| (size(&path), digest))
            .collect();
        let digest = |path: &Path| stat::hash_file(path, size(path)).ok();
        wrote.retain(|name| {
            let path = self.dir.join(files::path(name));
            // The same name in a folder, from whichever folder above it was copied.
            let above = path.ancestors().skip(1);
            let mut names = above.filter_map(|above| path.strip_prefix(above).ok());
            let copied = names.any(|name| {
                let mut all = folders.iter().map(|(folder, _)| folder.join(name));
                all.any(|other| {
                    other.is_file()
                        && size(&other) == size(&path)
                        && digest(&other) == digest(&path)
                })
            });
            // What has another size than all of them need not be read.
            let alike = kept.iter().any(|(kept, _)| *kept == size(&path));
            let copied = copied
                || alike && digest(&path).is_some_and(|now| kept.contains(&(size(&path), now)));
            !copied
        });
        wrote
    }

    /// The result; or a file that was written to while it was made, and is the same again.
    fn commit(
        &mut self,
        notes: Option<&mut Notes>,
        left: usize,
    ) -> Result<Result<Committed, String>> {
        self.all_written()?;
        self.given.unchanged()?;
        if let Some(file) = self.watch.unchanged(&self.dir, &self.root)?
            && !self.again
        {
            return Ok(Err(file));
        }
        let found = match self.command {
            true => self.findings(notes)?,
            false => Findings::default(),
        };
        if let Some(damaged) = found.damaged.first() {
            bail!(
                "it changed {}, which is part of another result",
                damaged.display()
            );
        }
        let (made, told) = self.work.collect(&self.outputs)?;
        let wrote = self.but_for_copies(found.seen.wrote, &made);
        if self.command {
            self.check_metrics()?;
        }
        let record = &mut self.record;
        let mut log = self.work.open_log().ok();
        told.iter().for_each(|text| write_line(&mut log, text));
        record.result.out = made;
        record.result.state = self.work.state()?;
        record.finished = human::now();
        record.git = self.git.get_or_init(|| provenance::git(&self.dir)).clone();
        record.result.wall = record.wall_seconds;
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        record.result.at = since.unwrap_or_default().as_secs();
        if self.command {
            record.versions.extend(found.seen.packages.clone());
            record.result.blind = !found.seen.observed;
            record.seen = Some(Seen {
                left,
                wrote,
                ..found.seen
            });
        }
        if !found.reads.is_empty() {
            let mut whole = self.manifest.clone();
            if found.reads.len() > FEW_READS {
                let list = serde_json::to_vec(&found.reads)?;
                let digest = Digest::of(&list);
                let path = self.work.result().join(READS);
                // Whatever the program has put there gives way, and no link is followed.
                let _ = fs::remove_file(&path);
                let new = File::options().write(true).create_new(true).open(&path);
                new.and_then(|mut file| file.write_all(&list))
                    .with_context(|| format!("cannot write {}", path.display()))?;
                whole.add("reads", digest);
                record.result.more = Some(digest);
            } else {
                for (key, value) in found.reads.iter().map(Read::line) {
                    whole.add(key, value);
                }
                record.result.reads = found.reads;
            }
            record.result.base = Some(record.result.fp);
            record.result.fp = whole.fingerprint();
            self.manifest = whole;
        }
        let sizes = record
            .result
            .out
            .iter()
            .map(|made| crate::store::size_of(&self.work.result().join(&made.file)));
        let bytes = sizes.sum();
        let durable = durable(&record.result);
        let entry = self.work.commit(
            &self.root,
            &self.manifest.to_string(),
            record,
            durable,
            self.replace,
        )?;
        Ok(Ok(Committed {
            entry,
            bytes,
            looked: found.looked,
        }))
    }
}

/// Names told in one line; more are counted.
const TOLD: usize = 3;

/// `a, b, c and 4 more`.
fn some_of<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let more = names.len().saturating_sub(TOLD);
    let first: Vec<&str> = names.take(TOLD).collect();
    match more {
        0 => first.join(", "),
        _ => format!("{} and {more} more", first.join(", ")),
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
