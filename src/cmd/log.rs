//! `repro log`: what a stage has said.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use contract::StageDef;

use super::Ended;
use crate::diag::Diagnostic;
use crate::manifest::Manifest;
use crate::project::{PipelineArgs, Project};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// An instance, such as `glow@cifar10`
    stage: String,
    /// Go on until the stage ends
    #[arg(short = 'F', long)]
    follow: bool,
}

pub fn run(pipeline: &PipelineArgs, args: &Args, kinds: &'static [StageDef]) -> Result<Ended> {
    let mut project = Project::open(pipeline, kinds)?;
    let ids = project.graph.select(std::slice::from_ref(&args.stage))?;
    let [id] = ids[..] else {
        let names: Vec<&str> = ids
            .iter()
            .map(|i| project.graph.stages[*i].name.as_str())
            .collect();
        let message = format!("`{}` has several instances", args.stage);
        return Err(Diagnostic::new(message)
            .hint(format!("one of {}", names.join(", ")))
            .into());
    };
    let order = project.graph.with_needs(&ids);
    let mut planner = project.planner();
    planner.judge_all(&order);
    let root = planner.store.root.clone();
    let working = planner.manifest(id).map(Manifest::fingerprint);
    let working = working.map(|fp| root.join("work").join(fp.to_string()).join("log"));
    let names = &planner.store.index.names;
    let last = planner
        .fresh(id)
        .or(names.get(&planner.facts().profile, &args.stage));
    let last = last.map(|fp| planner.store.result(&fp).join("log"));
    let Some(path) = working
        .filter(|p| p.exists())
        .or(last)
        .filter(|p| p.exists())
    else {
        let message = format!("`{}` has no log: it has not run", args.stage);
        return Err(Diagnostic::new(message)
            .hint(format!("repro run {}", args.stage))
            .into());
    };
    follow(&path, args.follow)
}

fn follow(path: &PathBuf, on: bool) -> Result<Ended> {
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut out = std::io::stdout();
    let mut piece = [0; 16 << 10];
    loop {
        let n = file.read(&mut piece)?;
        out.write_all(&piece[..n])?;
        out.flush()?;
        if n == 0 {
            // Committed or removed: the log is no longer where it was.
            if !on || !path.exists() || path.components().any(|c| c.as_os_str() == "results") {
                return Ok(Ended::Done);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}
