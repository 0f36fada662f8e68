//! `repro worker JOB.json`: one stage of the library in a process of its own.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use contract::{Event, Interrupted, Job, JobSpec, StageDef};
use signal_hook::consts::{SIGINT, SIGTERM};
use stages::tools::device::trouble;
use stages::tools::versions::versions;

use crate::base::say::say;

/// Ends with 0 if the outputs are written, 5 if a checkpoint is, 1 otherwise.
pub fn main(job: &Path, kinds: &'static [StageDef]) -> ExitCode {
    match work(job, kinds) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if e.is::<Interrupted>() => ExitCode::from(5),
        Err(e) => {
            say!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Writes one event, a JSON object a line. A runner that went away must not fail the stage: the kernel
/// ends an orphaned worker, and until then its checkpoints are still worth writing.
fn tell(event: &Event) {
    if let Ok(line) = serde_json::to_string(event) {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{line}");
        let _ = out.flush();
    }
}

fn work(path: &Path, kinds: &'static [StageDef]) -> Result<()> {
    crate::base::threads::start(true)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let spec: JobSpec =
        serde_json::from_slice(&text).with_context(|| format!("{} is no job", path.display()))?;
    let kind = kinds.iter().find(|k| k.kind == spec.kind);
    let kind = kind.with_context(|| format!("this build of repro has no kind {}", spec.kind))?;
    let (params, stage) = (spec.params.clone(), spec.stage.clone());
    let versions = versions(&spec.device);
    let mut job = Job::new(spec, Box::new(tell), stop);
    job.say(&Event::Versions { versions });
    (kind.run)(&params, &mut job).map_err(|e| match trouble(&stage, &params, &e) {
        Some(advice) => e.context(advice),
        None => e,
    })
}
