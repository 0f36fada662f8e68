//! One execution of a stage: its process is started here, and waited for in a thread of its own,
//! which also collects, digests and commits what was made.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use stages::contract::{Event, JobSpec};

use super::Message;
use super::process::{self, Exit};
use crate::command::Fill;
use crate::digest::Fingerprint;
use crate::graph::{Id, Kind, Stage};
use crate::human;
use crate::manifest::Manifest;
use crate::project::Facts;
use crate::provenance::{self, Git};
use crate::record::Record;
use crate::store::{Entry, Work};

/// All that one execution needs; owned, because it moves to the waiting thread.
pub struct Launch {
    pub id: Id,
    pub root: PathBuf,
    pub work: Work,
    pub manifest: Manifest,
    pub record: Record,
    /// Port and file of every output.
    pub outputs: Vec<(String, String)>,
    pub git: Arc<OnceLock<Option<Git>>>,
    pub dir: PathBuf,
    /// Where a Python program lists what it imports.
    pub imports: Option<PathBuf>,
    pub depfile: PathBuf,
    clock: Instant,
}

/// What the scheduler gives to one stage.
pub struct Grant {
    pub threads: usize,
    /// `cpu`, or the id of a GPU.
    pub gpu: Option<String>,
    pub data: Option<PathBuf>,
    pub checkpoint_seconds: f64,
    /// The `state` of a finished shorter run.
    pub extends: Option<PathBuf>,
    /// Where the process tells the guard of its group.
    pub guard: Option<RawFd>,
}

/// How an execution ended.
pub enum Outcome {
    Done(Box<Entry>, u64),
    Failed { cause: String, tail: Vec<String> },
    Stopped { kept: bool },
}

/// A training step frees and allocates the same large tensors again and again. glibc hands each
/// back to the kernel, which zeroes it anew: a third of the flow layer's time on two cores.
const KEEP_MEMORY: [(&str, &str); 2] = [
    ("MALLOC_MMAP_MAX_", "0"),
    ("MALLOC_TRIM_THRESHOLD_", "100000000000"),
];

/// This very program, also when a build has replaced its file since the run began.
const PROGRAM: &str = "/proc/self/exe";

/// Writes the job, starts the process. Files of inputs come per port.
pub fn start(
    stage: &Stage,
    inputs: BTreeMap<String, Vec<PathBuf>>,
    facts: &Facts,
    grant: &Grant,
    launch: Launch,
    sender: Sender<Message>,
) -> Result<u32> {
    let mut launch = launch;
    let result = launch.work.result();
    let outputs: BTreeMap<String, PathBuf> = launch
        .outputs
        .iter()
        .map(|(port, file)| (port.clone(), result.join(file)))
        .collect();
    let mut process = match &stage.kind {
        Kind::Library(_) => {
            let checkpoint = launch.work.checkpoint();
            fs::create_dir_all(&checkpoint)?;
            fs::create_dir_all(result.join("state"))?;
            let job = JobSpec {
                stage: stage.name.clone(),
                kind: stage.kind.name().into(),
                params: stage.params.clone(),
                inputs,
                outputs,
                checkpoint,
                state: result.join("state"),
                extends: grant.extends.clone(),
                device: if grant.gpu.is_some() {
                    "cuda:0".into()
                } else {
                    "cpu".into()
                },
                threads: grant.threads,
                data: grant.data.clone(),
                downloads: launch.root.join("downloads"),
                checkpoint_seconds: grant.checkpoint_seconds,
            };
            let path = launch.work.dir.join("job.json");
            fs::write(&path, serde_json::to_vec_pretty(&job)?)
                .with_context(|| format!("cannot write {}", path.display()))?;
            let mut process = Process::new(PROGRAM);
            process.arg("worker").arg(path).stdout(Stdio::piped());
            process.envs(KEEP_MEMORY);
            process
        }
        Kind::Command(command) => {
            let params_file = launch.work.dir.join("params.json");
            fs::write(&params_file, serde_json::to_vec_pretty(&stage.params)?)
                .with_context(|| format!("cannot write {}", params_file.display()))?;
            let fill = Fill {
                inputs: &inputs,
                outputs: &outputs,
                params: &stage.params,
                params_file: &params_file,
                depfile: &launch.depfile,
                threads: grant.threads,
            };
            let arguments = command.arguments(&fill);
            let mut process = Process::new(&arguments[0]);
            process
                .args(&arguments[1..])
                .stdout(launch.work.open_log()?);
            for variable in &command.env {
                if let Some((name, value)) = variable.split_once('=') {
                    process.env(name, value);
                }
            }
            let name = |what: &str, port: &str| {
                format!("REPRO_{what}_{}", port.to_uppercase().replace('-', "_"))
            };
            for (port, path) in &outputs {
                process.env(name("OUT", port), path);
            }
            for (port, paths) in &inputs {
                process.env(name("IN", port), std::env::join_paths(paths)?);
            }
            process
                .env("REPRO_PARAMS", &params_file)
                .env("REPRO_DEPFILE", &launch.depfile);
            process.env("REPRO_CHECKPOINT", launch.work.checkpoint());
            fs::create_dir_all(launch.work.checkpoint())?;
            if command.python {
                launch.imports = Some(super::python::watch(&mut process, &launch.work.dir)?);
            }
            launch.record.command = arguments;
            process
        }
    };
    process
        .current_dir(&facts.dir)
        .stdin(Stdio::null())
        .stderr(launch.work.open_log()?);
    let threads = grant.threads.to_string();
    for name in ["RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"] {
        process.env(name, &threads);
    }
    process.env("CUDA_VISIBLE_DEVICES", grant.gpu.as_deref().unwrap_or(""));
    launch.clock = Instant::now();
    let program = process.get_program().to_string_lossy().into_owned();
    let mut child = process::spawn(&mut process, grant.guard)
        .with_context(|| format!("cannot start {program}"))?;
    let pid = child.id();
    let events = child.stdout.take();
    let spawned = std::thread::Builder::new()
        .name(stage.name.clone())
        .spawn(move || {
            if let Some(events) = events {
                launch.listen(events, &sender);
            }
            let id = launch.id;
            let ended = process::wait(pid);
            let outcome = launch.finish(ended);
            // The receiver is gone only when the run is being torn down.
            let _ = sender.send(Message::Ended(id, outcome));
        });
    spawned.context("cannot start a thread")?;
    Ok(pid)
}

impl Launch {
    #[expect(
        clippy::too_many_arguments,
        reason = "one constructor for owned parts, called once"
    )]
    pub fn new(
        id: Id,
        root: &Path,
        fp: &Fingerprint,
        stage: &Stage,
        manifest: Manifest,
        facts: &Facts,
        grant: &Grant,
        git: Arc<OnceLock<Option<Git>>>,
    ) -> Result<Self> {
        let work = Work::prepare(root, fp)
            .with_context(|| format!("cannot write in {}", root.display()))?;
        let extends = match &stage.kind {
            Kind::Library(def) => super::extends_key(def, &stage.params, &manifest),
            Kind::Command(_) => None,
        };
        let record = Record {
            result: Entry {
                fp: *fp,
                base: None,
                stage: stage.name.clone(),
                at: 0,
                wall: 0.0,
                out: Vec::new(),
                reads: Vec::new(),
                extends,
                state: None,
                device: match &grant.gpu {
                    Some(_) => facts.device.name.clone(),
                    None => "cpu".into(),
                },
            },
            kind: stage.kind.name().into(),
            profile: facts.profile.clone(),
            params: stage.params.clone(),
            inputs: BTreeMap::new(),
            code: match &stage.kind {
                Kind::Library(def) => def
                    .code
                    .iter()
                    .map(|(m, d)| ((*m).into(), (*d).into()))
                    .collect(),
                Kind::Command(_) => BTreeMap::new(),
            },
            started: human::now(),
            finished: String::new(),
            wall_seconds: 0.0,
            cpu_seconds: 0.0,
            peak_memory_bytes: 0,
            threads: grant.threads,
            device: grant
                .gpu
                .as_ref()
                .map_or("cpu".into(), |id| format!("cuda:{id}")),
            resumed: None,
            host: provenance::host(),
            system: provenance::system(),
            repro: env!("CARGO_PKG_VERSION").into(),
            git: None,
            command: Vec::new(),
        };
        Ok(Self {
            id,
            root: root.into(),
            depfile: work.dir.join("depfile"),
            work,
            manifest,
            record,
            outputs: stage
                .outputs
                .iter()
                .map(|o| (o.port.clone(), o.file.clone()))
                .collect(),
            git,
            dir: facts.dir.clone(),
            imports: None,
            clock: Instant::now(),
        })
    }

    /// Passes events on and keeps them, as sentences, in the log.
    fn listen(&mut self, events: impl std::io::Read, sender: &Sender<Message>) {
        let mut log = self.work.open_log().ok();
        let mut epoch = None;
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
                }
                Event::Checkpoint { at } => write_line(&mut log, &format!("checkpoint at {at}")),
                Event::Progress(progress) if progress.epoch != epoch => {
                    epoch = progress.epoch;
                    write_line(&mut log, &crate::progress::values(progress));
                }
                Event::Progress(_) => {}
            }
            let _ = sender.send(Message::Event(self.id, event));
        }
    }

    fn finish(mut self, ended: std::io::Result<Exit>) -> Outcome {
        let exit = match ended {
            Ok(exit) => exit,
            Err(e) => return self.failed(format!("its end was lost: {e}")),
        };
        self.record.wall_seconds = self.clock.elapsed().as_secs_f64();
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
        let reads = super::reads::found(
            &self.dir,
            &self.root,
            &self.depfile,
            self.imports.as_deref(),
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

/// Results that took longer, in seconds, are synced one by one; shorter ones together.
const DURABLE_AFTER: f64 = 0.5;

/// Bytes of free disk below which a failure is told to be the disk's.
const LITTLE: u64 = 1 << 20;

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
