//! `repro log`: what a stage has said.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use contract::StageDef;

use super::Ended;
use crate::base::diag::Diagnostic;
use crate::base::plain;
use crate::base::read;
use crate::base::say;
use crate::pipeline::manifest::Manifest;
use crate::plan::project::{PipelineArgs, Project};

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

/// Characters of one line that are held back until its end comes.
const LONG: usize = 64 << 10;

/// Colours and other sequences stay in the file: whoever wrote them may not have meant this terminal.
fn follow(path: &Path, on: bool) -> Result<Ended> {
    let mut file = read::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut piece = [0; 16 << 10];
    let mut open: Vec<u8> = Vec::new();
    while !say::is_over() {
        let n = file.read(&mut piece)?;
        open.extend(&piece[..n]);
        let whole = match open.iter().rposition(|b| *b == b'\n') {
            Some(end) => end + 1,
            None if n == 0 || open.len() > LONG => open.len(),
            None => 0,
        };
        let lines: Vec<u8> = open.drain(..whole).collect();
        say::data(&plain::unstyled(&String::from_utf8_lossy(&lines)));
        if n == 0 && open.is_empty() {
            // Committed or removed: the log is no longer where it was.
            if !on || !path.exists() || path.components().any(|c| c.as_os_str() == "results") {
                break;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    Ok(Ended::Done)
}
