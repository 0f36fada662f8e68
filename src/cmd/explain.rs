//! `repro explain`.

mod read;

use std::fmt::Write as _;

use anyhow::Result;
use contract::StageDef;
use serde_json::json;

use super::{Ended, print};
use crate::base::human;
use crate::base::plain;
use crate::pipeline::graph::{Id, Kind, Stage};
use crate::pipeline::manifest::Manifest;
use crate::plan::project::{PipelineArgs, Project};
use crate::plan::{Planner, Verdict};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A stage or an instance of it
    stage: String,
    /// Every line of what was read, instead of groups
    #[arg(long)]
    all: bool,
    /// For scripts
    #[arg(long)]
    json: bool,
}

pub fn run(pipeline: &PipelineArgs, args: &Args, kinds: &'static [StageDef]) -> Result<Ended> {
    let mut project = Project::open(pipeline, kinds)?;
    let ids = project.graph.select(std::slice::from_ref(&args.stage))?;
    let all = project.graph.with_needs(&ids);
    let mut planner = project.planner();
    planner.judge_all(&all);
    if args.json {
        let objects: Vec<_> = ids.iter().map(|id| object(&planner, *id)).collect();
        print(&format!("{:#}\n", json!(objects)))?;
    } else {
        let texts: Result<Vec<String>> = ids
            .iter()
            .map(|id| text(&mut planner, *id, args.all))
            .collect();
        print(&texts?.join("\n"))?;
    }
    Ok(Ended::Done)
}

fn object(planner: &Planner, id: Id) -> serde_json::Value {
    let manifest = planner.manifest(id);
    let lines: serde_json::Map<String, serde_json::Value> = manifest
        .iter()
        .flat_map(|m| m.iter())
        .map(|(k, v)| (k.into(), v.into()))
        .collect();
    let record = planner
        .fresh(id)
        .and_then(|fp| planner.store.record(&fp).ok());
    let reasons = match planner.verdict(id) {
        Some(Verdict::Stale(reasons)) => reasons.clone(),
        _ => Vec::new(),
    };
    json!({
        "stage": planner.graph.stages[id].name,
        "fresh": planner.fresh(id).is_some(),
        "reasons": reasons,
        "manifest": lines,
        "record": record,
        "origin": planner.result(id).and_then(|entry| entry.origin.clone()),
    })
}

fn text(planner: &mut Planner, id: Id, all: bool) -> Result<String> {
    let acceptable = planner
        .acceptable(id)
        .is_ok_and(|changes| !changes.is_empty());
    let stage = &planner.graph.stages[id];
    let names = |ids: &[Id]| {
        ids.iter()
            .map(|i| planner.graph.stages[*i].name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut text = String::new();
    match planner.verdict(id) {
        Some(Verdict::Fresh(fp)) => writeln!(
            text,
            "{} is fresh: {}",
            stage.name,
            planner.store.result(fp).display()
        )?,
        Some(Verdict::Waits(ids)) => {
            writeln!(text, "{} waits for {}", stage.name, names(ids))?;
        }
        Some(Verdict::Stale(reasons)) => {
            writeln!(text, "{} is stale", stage.name)?;
            for reason in reasons {
                writeln!(text, "  {reason}")?;
            }
            if acceptable {
                writeln!(
                    text,
                    "  if you know that the result is the same: repro accept {} --why \"...\"",
                    plain::quoted(&stage.name)
                )?;
            }
        }
        None => {}
    }
    if let Some(seconds) = planner.estimate(id) {
        writeln!(text, "took      {} the last time", human::seconds(seconds))?;
    }
    for input in &stage.inputs {
        for (from, output) in &input.from {
            let source: &Stage = &planner.graph.stages[*from];
            writeln!(
                text,
                "input     {} = {}.{}",
                input.port, source.name, source.outputs[*output].port
            )?;
        }
    }
    if !stage.users.is_empty() {
        writeln!(text, "used by   {}", names(&stage.users))?;
    }
    if let Some(manifest) = planner.manifest(id) {
        writeln!(text, "manifest  {}", manifest.fingerprint())?;
        let (lines, hidden) = lines(manifest, all);
        for line in lines {
            writeln!(text, "  {line}")?;
        }
        if hidden > 0 {
            writeln!(
                text,
                "  and digests of {}: --all",
                human::count(hidden, "file")
            )?;
        }
    }
    for (name, digest) in planner.code(id) {
        writeln!(text, "  code {name}: {digest}")?;
    }
    let watched = match &stage.kind {
        Kind::Command(command) => command.watch,
        Kind::Library(_) => true,
    };
    if let Some(fp) = planner.fresh(id) {
        provenance(planner, id, &fp, &mut text)?;
        let reads = planner.store.reads(&fp).unwrap_or_default();
        let record = planner.store.record(&fp)?;
        text += &read::text(&reads, record.seen.as_ref(), all);
    }
    if !watched {
        text += "watch     off: only what is declared or reported counts\n";
    }
    Ok(text)
}

/// Files of a manifest that are shown one by one; more are for `--all`.
const FEW: usize = 10;

/// The lines of a manifest for people, and how many are left out.
fn lines(manifest: &Manifest, all: bool) -> (Vec<String>, usize) {
    let text = manifest.to_string();
    let is_file = |line: &&str| line.starts_with("file.");
    let files = text.lines().filter(is_file).count();
    if all || files <= FEW {
        return (text.lines().map(str::to_owned).collect(), 0);
    }
    let mut shown = 0;
    let kept = text.lines().filter(|line| {
        let file = is_file(line);
        shown += usize::from(file);
        !file || shown <= FEW
    });
    (kept.map(str::to_owned).collect(), files - FEW)
}

fn provenance(
    planner: &Planner,
    id: Id,
    fp: &crate::base::digest::Fingerprint,
    text: &mut String,
) -> Result<()> {
    let record = planner.store.record(fp)?;
    writeln!(
        text,
        "made      {} as {} (profile {}) on {} ({})",
        record.finished, record.result.stage, record.profile, record.host, record.system
    )?;
    let entry = planner.store.index.results.get(fp);
    if let Some(origin) = entry.and_then(|entry| entry.origin.as_ref()) {
        writeln!(
            text,
            "origin    imported from {origin}: not made here; repro verify --rerun {} makes it again",
            plain::quoted(&planner.graph.stages[id].name)
        )?;
    }
    writeln!(
        text,
        "used      {} on {}, {} of CPU time in {} threads, {} of memory",
        human::seconds(record.wall_seconds),
        record.result.device,
        human::seconds(record.cpu_seconds),
        record.threads,
        human::bytes(record.peak_memory_bytes)
    )?;
    if let Some(resumed) = &record.resumed {
        write!(text, "resumed   {resumed}")?;
        if let Some(before) = &record.before {
            let (wall, cpu) = (before.wall_seconds, before.cpu_seconds);
            let (wall, cpu) = (human::seconds(wall), human::seconds(cpu));
            write!(
                text,
                "; {wall} and {cpu} of CPU time of the above before that"
            )?;
        }
        writeln!(text)?;
    }
    writeln!(text, "versions  {}", record.versions())?;
    if let Some(git) = &record.git {
        let state = if git.dirty { ", with changes" } else { "" };
        writeln!(text, "commit    {}{state}", git.commit)?;
    }
    for made in &record.result.out {
        writeln!(
            text,
            "output    {} {} {}",
            made.port, made.digest, made.file
        )?;
    }
    Ok(())
}
