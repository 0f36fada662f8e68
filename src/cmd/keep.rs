//! `repro keep`: results that `gc` leaves alone, under a name.

use anyhow::{Context, Result};
use contract::StageDef;
use serde_json::json;

use super::{Ended, print};
use crate::base::diag::Diagnostic;
use crate::base::human;
use crate::base::plain;
use crate::base::say::say;
use crate::plan::project::{self, PipelineArgs, Project};
use crate::store::Lock;
use crate::store::pins::{self, Pin};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The name to keep results under, such as `submission`
    #[arg(required_unless_present = "list")]
    name: Option<String>,
    /// Only these stages or instances, with all they need; by default all that is fresh
    #[arg(long = "stage", value_name = "STAGE", conflicts_with_all = ["list", "remove"])]
    stages: Vec<String>,
    /// Say what is kept, and under which names
    #[arg(long, conflicts_with_all = ["name", "remove"])]
    list: bool,
    /// Keep it no longer; the next `repro gc` may free it
    #[arg(long)]
    remove: bool,
    /// For scripts, with --list
    #[arg(long, requires = "list")]
    json: bool,
}

pub fn run(pipeline: &PipelineArgs, args: &Args, kinds: &'static [StageDef]) -> Result<Ended> {
    let root = project::store(pipeline)?;
    let Some(name) = &args.name else {
        let all = pins::all(&root)
            .with_context(|| format!("cannot read what is kept in {}", root.display()))?;
        match args.json {
            true => print(&format!("{:#}\n", json!(all)))?,
            false => print(&table(&all))?,
        }
        if all.is_empty() && !args.json {
            say!("nothing is kept under a name; hint: repro keep NAME");
        }
        return Ok(Ended::Done);
    };
    if !pins::is_name(name) {
        let message = format!(
            "`{}` is no name to keep results under",
            plain::line(&plain::cut(name, 50))
        );
        let hint = "letters and digits, and - _ . + @ after the first one; at most 100 bytes";
        return Err(Diagnostic::new(message).hint(hint).into());
    }
    let there = pins::exists(&root, name);
    if args.remove {
        if !there {
            let message = format!("nothing is kept under `{name}`");
            let hint = "`repro keep --list` tells the names";
            return Err(Diagnostic::new(message).hint(hint).into());
        }
        pins::remove(&root, name).with_context(|| format!("cannot remove {name}"))?;
        say!("kept no longer: {name}; `repro gc` frees what nothing else needs");
        return Ok(Ended::Done);
    }
    if there {
        let message = format!("results are kept under `{name}` already");
        let hint = format!("another name, or first: repro keep --remove {name}");
        return Err(Diagnostic::new(message).hint(hint).into());
    }
    keep(pipeline, name, &args.stages, kinds)
}

fn keep(
    pipeline: &PipelineArgs,
    name: &str,
    stages: &[String],
    kinds: &'static [StageDef],
) -> Result<Ended> {
    let mut project = Project::open(pipeline, kinds)?;
    let targets = match stages.is_empty() {
        true => (0..project.graph.stages.len()).collect(),
        false => project.graph.select(stages)?,
    };
    let order = project.graph.with_needs(&targets);
    let root = project.store.root.clone();
    // What is found fresh under the lock is not removed before it is kept.
    let _lock = root
        .is_dir()
        .then(|| {
            Lock::take(&root.join("lock"), false, |_| {
                say!("waiting for another command")
            })
        })
        .transpose()?;
    let mut planner = project.planner();
    planner.judge_all(&order);
    let mut results: Vec<_> = order.iter().filter_map(|id| planner.fresh(*id)).collect();
    let stale = order.len() - results.len();
    results.sort_unstable();
    results.dedup();
    if results.is_empty() {
        return Err(Diagnostic::new("nothing of this is fresh")
            .hint("`repro run` first")
            .into());
    }
    let pin = Pin {
        name: name.into(),
        at: human::now(),
        profile: planner.facts().profile.clone(),
        set: pipeline.set.clone(),
        stages: stages.to_vec(),
        results,
    };
    pins::add(&root, &pin).with_context(|| format!("cannot write in {}", root.display()))?;
    let count = human::count(pin.results.len(), "result");
    match stale {
        0 => say!("kept {count} under `{name}`"),
        n => say!(
            "kept {count} under `{name}`; not fresh, and not kept: {}",
            human::count(n, "stage")
        ),
    }
    Ok(Ended::Done)
}

/// A line a name: when, how many results, of which profile, stages and settings.
pub fn table(pins: &[Pin]) -> String {
    let width = pins
        .iter()
        .map(|pin| pin.name.chars().count())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for pin in pins {
        let mut asked = vec![pin.profile.clone()];
        asked.extend(
            pin.stages
                .iter()
                .map(|stage| plain::quoted(stage).to_string()),
        );
        asked.extend(
            pin.set
                .iter()
                .map(|set| format!("--set {}", plain::quoted(set))),
        );
        let count = human::count(pin.results.len(), "result");
        let pad = " ".repeat(width - pin.name.chars().count());
        let line = format!(
            "kept  {}{pad}  {}  {count}  {}",
            pin.name,
            pin.at,
            asked.join(" ")
        );
        text += &plain::line(&line);
        text.push('\n');
    }
    text
}
