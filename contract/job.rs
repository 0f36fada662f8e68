//! One execution of a kind: what it is given and how it talks back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A job as it is written to disk: plain data, the same on this machine and on a cluster node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobSpec {
    /// Name of the stage instance, such as `glow@cifar10`: for messages only.
    pub stage: String,
    pub kind: String,
    pub params: Value,
    /// Files per input port. Every port of the kind is present; an optional one may be empty.
    pub inputs: BTreeMap<String, Vec<PathBuf>>,
    /// Where each output port is to be written.
    pub outputs: BTreeMap<String, PathBuf>,
    /// Directory that survives interruptions of this job; deleted once it is committed.
    pub checkpoint: PathBuf,
    /// Directory kept beside the result, from which a longer run can continue (`EXTENDS`).
    pub state: PathBuf,
    /// The `state` of a finished shorter run of the same work.
    pub extends: Option<PathBuf>,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// Upper bound on CPU threads.
    pub threads: usize,
    /// Local copies of public data sets and weights in their official layouts (`--data`).
    pub data: Option<PathBuf>,
    /// Where downloads are kept; shared by all stages.
    pub downloads: PathBuf,
    pub checkpoint_every: CheckpointEvery,
}

/// How often a job writes checkpoints; whenever it is asked to stop, it writes one anyway.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct CheckpointEvery {
    /// Zero is every opportunity: each step of a training.
    pub seconds: Option<f64>,
    pub epochs: Option<u64>,
}

/// What a running job says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    Progress(Progress),
    /// A sentence for the log and, when the terminal has room, for the person.
    Note {
        text: String,
    },
    /// The device the job really uses, such as `NVIDIA H100 80GB HBM3`.
    Device {
        name: String,
    },
    /// What the job computes with: `candle`, `cudnn` and the like, and their versions.
    Versions {
        versions: BTreeMap<String, String>,
    },
    /// Work was taken up where an earlier, interrupted or shorter run had left it.
    Resumed {
        at: u64,
        unit: String,
    },
    Checkpoint {
        at: u64,
    },
}

/// How far a job is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Progress {
    pub done: u64,
    pub total: u64,
    /// What is counted: `step`, `image`, `byte`.
    pub unit: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u64>,
    /// What a person wants to see, such as `loss` and `bits/dim`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, f64>,
}

/// The error of a job that was asked to stop and has written a checkpoint.
#[derive(Debug)]
pub struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "interrupted; a checkpoint was written")
    }
}

impl std::error::Error for Interrupted {}

/// Who hears what a job says. Only a process of its own makes lines of JSON of it.
pub type Listener = Box<dyn FnMut(&Event) + Send>;

/// A running job.
pub struct Job {
    spec: JobSpec,
    events: Listener,
    stop: Arc<AtomicBool>,
    last_progress: Option<Instant>,
    last_checkpoint: Instant,
}

/// A person reads at most this often.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

impl Job {
    /// A job that says its events to `events` and stops once `stop` is set.
    pub fn new(spec: JobSpec, events: Listener, stop: Arc<AtomicBool>) -> Self {
        Self {
            spec,
            events,
            stop,
            last_progress: None,
            last_checkpoint: Instant::now(),
        }
    }

    pub fn spec(&self) -> &JobSpec {
        &self.spec
    }

    /// The one file of an input port.
    pub fn input(&self, port: &str) -> Result<&Path> {
        match self.inputs(port)? {
            [one] => Ok(one),
            many => bail!("input {port}: expected one file, got {}", many.len()),
        }
    }

    /// The file of an optional input port.
    pub fn optional_input(&self, port: &str) -> Result<Option<&Path>> {
        match self.inputs(port)? {
            [] => Ok(None),
            [one] => Ok(Some(one)),
            many => bail!(
                "input {port}: expected at most one file, got {}",
                many.len()
            ),
        }
    }

    /// All files of an input port.
    pub fn inputs(&self, port: &str) -> Result<&[PathBuf]> {
        let files = self.spec.inputs.get(port);
        Ok(files.with_context(|| format!("BUG: kind {} has no input {port}", self.spec.kind))?)
    }

    /// Where to write an output port.
    pub fn output(&self, port: &str) -> Result<&Path> {
        let file = self.spec.outputs.get(port);
        Ok(file.with_context(|| format!("BUG: kind {} has no output {port}", self.spec.kind))?)
    }

    /// True once the runner asked the job to stop: write a checkpoint and return [`Interrupted`].
    pub fn should_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// True when it is time to write a checkpoint, or the job is to stop.
    pub fn checkpoint_due(&self) -> bool {
        let elapsed = self.last_checkpoint.elapsed().as_secs_f64();
        let every = self.spec.checkpoint_every.seconds;
        self.should_stop() || every.is_some_and(|seconds| elapsed >= seconds)
    }

    /// True when it is time to write a checkpoint after so many epochs.
    pub fn checkpoint_due_after(&self, epochs: u64) -> bool {
        let every = self.spec.checkpoint_every.epochs;
        every.is_some_and(|n| n > 0 && epochs.is_multiple_of(n))
    }

    /// To be called after a checkpoint was written, with the position it holds.
    pub fn checkpointed(&mut self, at: u64) {
        self.last_checkpoint = Instant::now();
        self.say(&Event::Checkpoint { at });
    }

    /// Reports progress; calls that come too fast are dropped, the last one never is.
    pub fn progress(&mut self, progress: Progress) {
        let last = progress.done >= progress.total;
        if last
            || self
                .last_progress
                .is_none_or(|t| t.elapsed() >= PROGRESS_EVERY)
        {
            self.last_progress = Some(Instant::now());
            self.say(&Event::Progress(progress));
        }
    }

    pub fn note(&mut self, text: impl Into<String>) {
        self.say(&Event::Note { text: text.into() });
    }

    pub fn say(&mut self, event: &Event) {
        (self.events)(event);
    }
}
