//! One execution of a stage: its process is started here, and waited for in a thread of its own.

use std::collections::BTreeMap;
use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use contract::CheckpointEvery;

use super::program::Inputs;
use super::signals::{Clock, Stages};
use super::unchanged_files::Watch;
use super::{Message, not_started, process, program, spawn};
use crate::base::device;
use crate::base::digest::Fingerprint;
use crate::base::human;
use crate::base::plain;
use crate::base::provenance::{self, Git};
use crate::exec::observe::Observer;
use crate::pipeline::graph::{Id, Kind, Stage};
use crate::pipeline::manifest::Manifest;
use crate::plan::extends_key;
use crate::plan::project::Facts;
use crate::store::places::Places;
use crate::store::record::Record;
use crate::store::{Entry, ReadBefore, Spent, Work, stat};

/// All that one execution needs; owned, because it moves to the waiting thread.
pub struct Launch {
    pub id: Id,
    pub root: PathBuf,
    pub work: Work,
    pub manifest: Manifest,
    pub record: Record,
    /// Port and file of every output.
    pub outputs: Vec<(String, String)>,
    /// Files of the outputs that hold metrics.
    pub metrics: Vec<String>,
    pub git: Arc<OnceLock<Option<Git>>>,
    pub dir: PathBuf,
    /// Where a Python program lists what it imports.
    pub imports: Option<PathBuf>,
    pub depfile: PathBuf,
    /// Watches a command, unless it is not to be watched.
    pub observer: Option<Observer>,
    /// Why it is not watched although it should be.
    pub unwatched: Option<String>,
    pub places: Arc<Places>,
    /// Where its inputs come from, for programs.
    pub told: serde_json::Value,
    pub watch: Watch,
    /// It runs for the second time, and whatever writes to its files did so the first time as well.
    pub again: bool,
    /// Its result takes the place of one that is whole.
    pub replace: bool,
    pub given: super::given::Inputs,
    pub(super) clock: Clock,
    /// Tells whether the stages were asked to stop.
    pub(super) stages: Stages,
    pub(super) started: SystemTime,
    /// What was used before the interruption that this execution goes on from.
    pub(super) before: Option<Spent>,
    /// What the runs have read whose checkpoint is handed over.
    pub(super) read_before: ReadBefore,
    /// Its checkpoint is its own business: it does not say when it has written one.
    pub(super) command: bool,
}

/// What the scheduler gives to one stage.
pub struct Grant {
    pub threads: usize,
    /// Ids of GPUs; empty for the CPU.
    pub gpus: Vec<String>,
    pub data: Option<PathBuf>,
    pub checkpoint_every: CheckpointEvery,
    /// The `state` of a finished shorter run.
    pub extends: Option<PathBuf>,
    /// Where the process tells the guard of its group.
    pub guard: Option<RawFd>,
    /// What a process holds that has no guard: the run is there until it is gone too.
    pub held: Option<OwnedFd>,
}

/// Writes the job, starts the process. Files of inputs come per port.
pub fn start(
    stage: &Stage,
    inputs: Inputs,
    facts: &Facts,
    grant: &Grant,
    launch: Launch,
    sender: Sender<Message>,
) -> Result<u32> {
    let mut launch = launch;
    let (program, events) = program::prepare(stage, inputs, &facts.dir, grant, &mut launch)?;
    launch.clock = Clock::start();
    launch.started = stat::now();
    let pid = spawn::spawn(&program, grant.guard).map_err(|e| not_started::why(&program, &e))?;
    if program.refused.get() != 0 {
        let error = std::io::Error::from_raw_os_error(program.refused.get());
        launch.unwatched = Some(error.to_string());
    }
    // The child has its own ends now; ours would keep the pipe of events open.
    drop(program);
    let spawned = std::thread::Builder::new()
        .name(plain::clean(&stage.name).into_owned())
        .spawn(move || {
            if let Some(events) = events {
                launch.listen(events, pid, &sender);
            }
            let id = launch.id;
            let ended = process::wait(pid);
            let outcome = launch.finish(ended);
            // The receiver is gone only when the run is being torn down.
            let _ = sender.send(Message::Ended(id, outcome));
        });
    if let Err(e) = spawned {
        // Nobody would wait for it.
        process::signal(pid, libc::SIGKILL);
        let _ = process::wait(pid);
        return Err(e)
            .context("cannot start a thread; hint: `ulimit -u` says how many there may be");
    }
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
            Kind::Library(def) => extends_key(def, &stage.params, &manifest),
            Kind::Command(_) => None,
        };
        let mut versions = BTreeMap::from([("repro".into(), env!("CARGO_PKG_VERSION").into())]);
        if let Some(driver) = grant.gpus.first().and_then(|_| provenance::driver()) {
            versions.insert("driver".into(), driver);
        }
        let mut record = Record {
            result: Entry {
                fp: *fp,
                base: None,
                stage: stage.name.clone(),
                at: 0,
                wall: 0.0,
                out: Vec::new(),
                reads: Vec::new(),
                more: None,
                blind: false,
                extends,
                state: None,
                origin: None,
                device: match (grant.gpus.first(), &stage.kind) {
                    (None, _) => "cpu".into(),
                    (Some(_), Kind::Library(_)) => facts.device.name.clone(),
                    (Some(id), Kind::Command(_)) => device::name(id),
                },
            },
            kind: stage.kind.name().into(),
            profile: facts.profile.clone(),
            params: stage.params.clone(),
            inputs: BTreeMap::new(),
            code: BTreeMap::new(),
            started: human::now(),
            finished: String::new(),
            wall_seconds: 0.0,
            cpu_seconds: 0.0,
            peak_memory_bytes: 0,
            before: None,
            threads: grant.threads,
            device: match grant.gpus.is_empty() {
                true => "cpu".into(),
                false => format!("cuda:{}", grant.gpus.join(",")),
            },
            exit: 0,
            resumed: None,
            host: provenance::host(),
            system: provenance::system(),
            platform: (matches!(stage.kind, Kind::Library(_)) && grant.gpus.is_empty())
                .then(provenance::platform),
            versions,
            git: None,
            seen: None,
            command: Vec::new(),
        };
        let command = matches!(stage.kind, Kind::Command(_));
        let resumed = command && work.has_checkpoint();
        record.resumed = resumed.then(|| "with the checkpoint it had left".into());
        let before = resumed.then(|| work.spent()).flatten();
        let mut read_before = ReadBefore::default();
        if !resumed {
            // It is left from a run whose checkpoint is not taken up.
            let _ = std::fs::remove_file(work.seen_file());
        }
        if resumed {
            let began = work.began().unwrap_or(UNIX_EPOCH);
            let known = work.read_before();
            read_before = known.unwrap_or_else(|| ReadBefore::default().and(None, began));
            // They are as they were: else the checkpoint would not be handed over.
            for (name, _) in work.seen() {
                let path = facts.dir.join(crate::base::files::path(&name));
                if let Ok(digest) =
                    std::fs::metadata(&path).and_then(|m| stat::hash_file(&path, m.len()))
                {
                    read_before.files.entry(name).or_insert(digest);
                }
            }
            // Until this run is heard of again.
            let now = read_before.clone().and(None, stat::now());
            work.note_read_before(&now)
                .with_context(|| format!("cannot write in {}", root.display()))?;
        }
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
            metrics: stage
                .outputs
                .iter()
                .filter(|o| o.holds == contract::metrics::HOLDS)
                .map(|o| o.file.clone())
                .collect(),
            git,
            dir: facts.dir.clone(),
            imports: None,
            observer: None,
            unwatched: None,
            places: Arc::clone(&facts.places),
            told: serde_json::Value::Null,
            watch: Watch::default(),
            again: false,
            replace: false,
            given: super::given::Inputs::default(),
            clock: Clock::start(),
            stages: Stages::default(),
            started: SystemTime::now(),
            before,
            read_before,
            command,
        })
    }
}
