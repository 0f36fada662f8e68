//! `repro du` and `repro gc`: what the store holds, and holding less.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context, Result};
use contract::StageDef;
use serde_json::json;

use super::{Ended, print};
use crate::base::digest::Fingerprint;
use crate::base::human;
use crate::base::say::say;
use crate::plan::project::{PipelineArgs, Project};
use crate::store::{Lock, Store, Usage, pins};

#[derive(Debug, clap::Args)]
pub struct DuArgs {
    /// For scripts
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct GcArgs {
    /// Say what would go, and remove nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Keep only what the profile in force needs, not the last results of all profiles
    #[arg(long)]
    this_profile: bool,
}

pub fn du(pipeline: &PipelineArgs, args: &DuArgs, kinds: &'static [StageDef]) -> Result<Ended> {
    let project = Project::open(pipeline, kinds)?;
    let mut by_stage: BTreeMap<String, (usize, u64)> = BTreeMap::new();
    let mut total = 0;
    for usage in project.store.usage() {
        let stage = &project.store.index.results[&usage.fp].stage;
        let sum = by_stage.entry(stage.clone()).or_default();
        sum.0 += 1;
        sum.1 += usage.bytes;
        total += usage.bytes;
    }
    let unfinished: u64 = project.store.unfinished().iter().map(|u| u.bytes).sum();
    let downloads = crate::store::size_of(&project.store.root.join("downloads"));
    total += unfinished + downloads;
    if args.json {
        let stages: Vec<_> = (by_stage.iter())
            .map(|(stage, (results, bytes))| json!({"stage": stage, "results": results, "bytes": bytes}))
            .collect();
        let all = json!({"stages": stages, "unfinished": unfinished, "downloads": downloads, "total": total});
        print(&format!("{all:#}\n"))?;
        return Ok(Ended::Done);
    }
    let mut text = String::new();
    let mut line =
        |bytes: u64, what: &str| text += &format!("{:>10}  {what}\n", human::bytes(bytes));
    for (stage, (results, bytes)) in &by_stage {
        line(
            *bytes,
            &format!("{stage}  ({})", human::count(*results, "result")),
        );
    }
    line(unfinished, "unfinished work");
    line(downloads, "downloads");
    line(total, "in all");
    print(&text)?;
    Ok(Ended::Done)
}

/// Keeps what the pipeline needs now, under this profile or the last seen under any, what is kept under
/// a name, and the unfinished work of stages that are stale.
pub fn gc(pipeline: &PipelineArgs, args: &GcArgs, kinds: &'static [StageDef]) -> Result<Ended> {
    let mut project = Project::open(pipeline, kinds)?;
    let (store, _lock) = Store::lock(&project.store.root.clone(), |holder| {
        let who = holder.map_or("another run".into(), |h| {
            format!("`{}` (process {})", h.command, h.pid)
        });
        say!("waiting for {who}");
    })?;
    project.store = store;
    let _readers = Lock::take(&project.store.root.join("readers"), true, |_| {
        say!("waiting for commands that read results");
    })?;
    let order = project.graph.order.clone();
    let mut planner = project.planner();
    planner.judge_all(&order);
    let mut kept: HashSet<Fingerprint> = order.iter().filter_map(|id| planner.fresh(*id)).collect();
    // A stage that waits keeps its unfinished work only if it is known what it works on.
    kept.extend(
        order
            .iter()
            .filter_map(|id| planner.manifest(*id))
            .map(|m| m.fingerprint()),
    );
    if !args.this_profile {
        kept.extend(project.store.index.names.iter().map(|n| n.2));
    }
    let pins = pins::all(&project.store.root);
    let pins = pins.context("cannot read what `repro keep` has kept")?;
    let results = &project.store.index.results;
    let mut text = String::new();
    for pin in pins {
        let only = (pin.results.iter())
            .filter(|fp| results.contains_key(*fp) && !kept.contains(*fp))
            .count();
        if only > 0 {
            let count = human::count(only, "result");
            text += &format!("      kept  {count} for `{}` alone\n", pin.name);
        }
        kept.extend(pin.results);
    }
    let gone = |all: Vec<Usage>| {
        all.into_iter()
            .filter(|u| !kept.contains(&u.fp))
            .collect::<Vec<_>>()
    };
    let (results, work) = (
        gone(project.store.usage()),
        gone(project.store.unfinished()),
    );
    for usage in &results {
        let stage = &project.store.index.results[&usage.fp].stage;
        text += &format!(
            "{:>10}  {}  {stage}\n",
            human::bytes(usage.bytes),
            usage.fp.short()
        );
    }
    for usage in &work {
        text += &format!(
            "{:>10}  {}  unfinished\n",
            human::bytes(usage.bytes),
            usage.fp.short()
        );
    }
    print(&text)?;
    let bytes: u64 = results.iter().chain(&work).map(|u| u.bytes).sum();
    let count = human::count(results.len() + work.len(), "folder");
    if args.dry_run {
        say!("{count} would go, {}", human::bytes(bytes));
        return Ok(Ended::Done);
    }
    let left = project.store.collect(&kept);
    project.store.index.flush()?;
    left.iter().for_each(|line| say!("{line}"));
    if !left.is_empty() {
        say!("hint: whoever owns what is in there can remove it");
        return Ok(Ended::Failed);
    }
    say!("{count} gone, {}", human::bytes(bytes));
    Ok(Ended::Done)
}
