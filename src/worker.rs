//! `repro worker JOB.json`: one stage of the library in a process of its own.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use contract::{Event, Interrupted, Job, JobSpec, StageDef};
use signal_hook::consts::{SIGINT, SIGTERM};
use stages::tools::device::trouble;
use stages::tools::versions::versions;

use crate::say::say;

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

fn work(path: &Path, kinds: &'static [StageDef]) -> Result<()> {
    crate::cmd::start_threads(true)?;
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
    let mut job = Job::new(spec, Box::new(std::io::stdout()), stop);
    job.say(&Event::Versions { versions });
    (kind.run)(&params, &mut job).map_err(|e| match trouble(&stage, &params, &e) {
        Some(advice) => e.context(advice),
        None => e,
    })
}
