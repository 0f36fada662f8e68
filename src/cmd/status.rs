//! `repro status`.

use anyhow::Result;
use contract::StageDef;
use serde_json::json;

use super::{Ended, print};
use crate::base::human;
use crate::base::plain;
use crate::base::say::say;
use crate::pipeline::graph::Id;
use crate::plan::project::{PipelineArgs, Project};
use crate::plan::{Planner, Verdict};
use crate::store::{self, Holder, Running};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Stages or instances, with all they need; by default everything
    #[arg(value_name = "STAGE")]
    stages: Vec<String>,
    /// For scripts
    #[arg(long)]
    json: bool,
    /// Exit with 3 if anything is stale
    #[arg(long)]
    exit_code: bool,
}

pub fn run(pipeline: &PipelineArgs, args: &Args, kinds: &'static [StageDef]) -> Result<Ended> {
    let mut project = Project::open(pipeline, kinds)?;
    let targets = match args.stages.is_empty() {
        true => project.graph.whole(),
        false => project.graph.select(&args.stages)?,
    };
    let mut shown = project.graph.with_needs(&targets);
    let root = project.store.root.clone();
    let runs = store::running(&root);
    let alone = Holder::of(&root.join("lock"));
    let alone = alone.filter(|holder| runs.iter().all(|run| run.holder.pid != holder.pid));
    let profiles = project.profiles_with_results();
    let profile = project.facts.profile.clone();
    let mut planner = project.planner();
    planner.judge_all(&shown);
    shown.sort_unstable();
    let fresh = shown
        .iter()
        .filter(|id| planner.fresh(**id).is_some())
        .count();
    if args.json {
        let stages: Vec<_> = shown
            .iter()
            .map(|id| object(&planner, *id, &runs))
            .collect();
        let running: Vec<_> = runs
            .iter()
            .map(run_object)
            .chain(alone.map(|h| json!(h)))
            .collect();
        let all = json!({"profile": profile, "running": running, "stages": stages});
        print(&format!("{all:#}\n"))?;
    } else {
        print(&table(&planner, &shown, fresh, &runs))?;
        let holders = runs.iter().map(|run| (&run.holder, stages_of(run)));
        for (h, stages) in holders.chain(alone.iter().map(|h| (h, Vec::new()))) {
            let on = match stages.is_empty() {
                true => String::new(),
                false => format!(": {}", stages.join(", ")),
            };
            let text = format!(
                "running: `{}` (process {} on {}, since {}){on}",
                h.command, h.pid, h.host, h.since
            );
            say!("{}", plain::line(&text));
        }
        if fresh == 0 && !profiles.is_empty() && !profiles.contains(&profile) {
            say!(
                "hint: profile `{profile}` has no results; these have: {}",
                profiles.join(", ")
            );
        }
    }
    let stale = args.exit_code && fresh < shown.len();
    Ok(if stale { Ended::Stale } else { Ended::Done })
}

/// What a run works on now, by the names it has there.
fn stages_of(run: &Running) -> Vec<&str> {
    let mut stages: Vec<&str> = run
        .work
        .iter()
        .map(|(_, claim)| claim.stage.as_str())
        .collect();
    stages.sort_unstable();
    stages
}

fn run_object(run: &Running) -> serde_json::Value {
    let mut object = json!(run.holder);
    object["stages"] = json!(stages_of(run));
    object
}

/// The process of the run that works on just this.
fn worked_on(planner: &Planner, id: Id, runs: &[Running]) -> Option<u32> {
    let fp = planner.manifest(id)?.fingerprint();
    let run = runs
        .iter()
        .find(|run| run.work.iter().any(|(work, _)| *work == fp))?;
    Some(run.holder.pid)
}

fn object(planner: &Planner, id: Id, runs: &[Running]) -> serde_json::Value {
    let stage = &planner.graph.stages[id];
    let names = |ids: &[Id]| {
        ids.iter()
            .map(|i| planner.graph.stages[*i].name.clone())
            .collect::<Vec<_>>()
    };
    let mut object =
        json!({"stage": stage.name, "kind": stage.kind.name(), "seconds": planner.estimate(id)});
    match planner.verdict(id) {
        Some(Verdict::Fresh(fp)) => {
            object["verdict"] = "fresh".into();
            object["fingerprint"] = fp.to_string().into();
            if let Some(origin) = planner.result(id).and_then(|e| e.origin.clone()) {
                object["origin"] = origin.into();
            }
        }
        Some(Verdict::Stale(reasons)) => {
            object["verdict"] = "stale".into();
            object["reasons"] = json!(reasons);
            if let Some(process) = worked_on(planner, id, runs) {
                object["process"] = process.into();
            }
        }
        Some(Verdict::Waits(ids)) => {
            object["verdict"] = "waits".into();
            object["for"] = json!(names(ids));
        }
        None => {}
    }
    object
}

fn table(planner: &Planner, shown: &[Id], fresh: usize, runs: &[Running]) -> String {
    let width = shown
        .iter()
        .map(|id| planner.graph.stages[*id].name.len())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    let (mut stale, mut seconds) = (None, 0.0);
    for &id in shown {
        let name = &planner.graph.stages[id].name;
        let (verdict, why) = match planner.verdict(id) {
            Some(Verdict::Stale(reasons)) => {
                stale = stale.or(Some(name));
                let why = reasons.join("; ");
                match worked_on(planner, id, runs) {
                    Some(process) => ("stale", format!("{why} (process {process} runs it now)")),
                    None => ("stale", why),
                }
            }
            Some(Verdict::Waits(ids)) => {
                let names: Vec<&str> = ids
                    .iter()
                    .map(|i| planner.graph.stages[*i].name.as_str())
                    .collect();
                ("waits", names.join(", "))
            }
            _ => {
                let entry = planner.result(id);
                let origin = entry.and_then(|e| e.origin.as_ref());
                let origin = origin.map(|o| format!("imported from {o}"));
                let blind = entry.is_some_and(|entry| entry.blind);
                let blind = blind.then(|| "(not watched: only what it declares counts)".to_owned());
                let why: Vec<String> = origin.into_iter().chain(blind).collect();
                ("fresh", why.join(" "))
            }
        };
        if verdict != "fresh" {
            seconds += planner.estimate(id).unwrap_or_default();
        }
        let line = format!("{name:width$}  {verdict}  {why}");
        text += line.trim_end();
        text += "\n";
    }
    if let Some(stale) = stale {
        let mut last = format!("{} of {} fresh", fresh, human::count(shown.len(), "stage"));
        if seconds > 0.0 {
            last += &format!(", about {} to run", human::seconds(seconds));
        }
        text += &format!(
            "{last}.   why: repro explain {}   do: repro run\n",
            plain::quoted(stale)
        );
    }
    text
}
