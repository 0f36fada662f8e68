//! The loop: judge, start, listen, commit, judge what waited.
//!
//! Every wanted stage is in one `State`. It leaves `Waiting` when the last stage it needs is
//! fresh; a verdict then makes it `Fresh` or `Ready`; a `Ready` one is `Running` as soon as there
//! is room for it, those with the longest way to the end of the graph first. One that another run of the
//! store works on is `Elsewhere` until that has ended, and is judged again then.

pub mod depfile;
mod elsewhere;
mod given;
mod gpu_memory;
mod guard;
mod launch;
mod not_started;
pub mod observe;
mod outcome;
mod process;
mod program;
pub mod progress;
pub mod python;
mod reads;
mod room;
mod schedule;
mod signals;
mod spawn;
mod start;
mod states;
mod tail;
pub mod trace;
mod unchanged_files;
#[cfg(feature = "kinds")]
pub mod worker;

use std::collections::{HashMap, HashSet};
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Instant;

use anyhow::Result;
use contract::{CheckpointEvery, Event};

use crate::base::provenance::{self, Git};
use crate::exec::observe::Observer;
use crate::exec::progress::Progress;
use crate::pipeline::graph::Id;
use crate::plan::Planner;
use crate::plan::project::Facts;
use crate::store::places::Places;
use crate::store::{self, Session};
pub use guard::main as guard_main;
use outcome::Outcome;
pub use process::end;
pub use program::this_program;
use room::Room;

/// What the command line says of a run.
#[derive(Debug)]
pub struct Options {
    pub jobs: usize,
    /// Go on with what does not depend on a stage that failed.
    pub keep_going: bool,
    /// Stages that run even if they are fresh.
    pub force: Vec<Id>,
    pub data: Option<PathBuf>,
    pub checkpoint_every: CheckpointEvery,
    /// This run among those of the store, if there could be others.
    pub session: Option<Session>,
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
    /// The commit that the pipeline lay in, if git said so in time.
    pub git: Option<Git>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    /// Not part of this run.
    Idle,
    /// This many of the stages it needs are not fresh yet.
    Waiting(usize),
    Ready,
    /// Another run works on it.
    Elsewhere,
    Running,
    Fresh,
    Failed,
    Stopped,
}

enum Message {
    Event(Id, Event),
    Ended(Id, Outcome),
    Memory(Vec<gpu_memory::Memory>),
    Signal,
}

/// Runs what is stale among `wanted`, which stand in topological order with all they need.
pub fn run(
    planner: &mut Planner,
    facts: &Facts,
    wanted: &[Id],
    options: &Options,
    progress: &mut dyn Progress,
) -> Result<Summary> {
    let (sender, receiver) = mpsc::channel();
    process::adopt_orphans();
    let stages = signals::Stages::default();
    signals::watch(sender.clone(), &stages)?;
    let count = planner.graph.stages.len();
    let mut run = schedule::Run {
        path: critical_path(planner, wanted),
        facts,
        options,
        progress,
        states: vec![State::Idle; count],
        ready: Vec::new(),
        room: Room::new(options.jobs, &facts.device),
        side_by_side: planner.graph.side_by_side(),
        planner,
        pids: HashMap::new(),
        stages,
        guard: None,
        gauging: false,
        working: HashMap::new(),
        elsewhere: Vec::new(),
        crowded: false,
        looked: Instant::now(),
        claimed: HashMap::new(),
        told: HashSet::new(),
        git: Arc::default(),
        sender,
        stopping: None,
        killed: false,
        syncer: None,
        unsynced: None,
        again: Vec::new(),
        remade: Vec::new(),
        summary: Summary::default(),
    };
    // Asking git takes longer than a short stage does, and what counts is the state it is in now.
    let (git, dir) = (Arc::clone(&run.git), facts.dir.clone());
    let asked = std::thread::Builder::new()
        .name("git".into())
        .spawn(move || {
            git.get_or_init(|| provenance::git(&dir));
        });
    drop(asked);
    run.begin(wanted);
    run.go(&receiver);
    run.end(wanted)?;
    run.summary.git = run.git.get().cloned().flatten();
    Ok(run.summary)
}

/// Whether the kernel lets us see what programs read; if not, why.
pub fn can_watch() -> Result<(), String> {
    let places = Places::new(Vec::new(), Path::new("/nowhere"), globset::GlobSet::empty());
    let attempt = || {
        let (observer, socket) = Observer::start(Arc::new(places), None)?;
        let null = || OpenOptions::new().write(true).open("/dev/null");
        let program = spawn::Program {
            name: "/proc/self/exe".into(),
            arguments: vec!["--version".into()],
            env: Vec::new(),
            dir: "/".into(),
            held: None,
            umask: store::own_umask(),
            stdout: null()?.into(),
            stderr: null()?.into(),
            observer: Some(socket),
            refused: Default::default(),
        };
        let pid = spawn::spawn(&program, None)?;
        let refused = program.refused.get();
        drop(program);
        process::wait(pid)?;
        match observer.finish() {
            Some(_) => Ok(()),
            None => Err(io::Error::from_raw_os_error(refused)),
        }
    };
    attempt().map_err(|e| match e.raw_os_error() {
        Some(libc::EBUSY) => "somebody watches this process already".into(),
        Some(libc::ENOSYS | libc::EINVAL) => "the kernel is older than Linux 5.5".into(),
        _ => e.to_string(),
    })
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
