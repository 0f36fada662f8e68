//! `repro verify`: reads every artifact again; `--rerun` computes it again.

use anyhow::Result;
use contract::{CheckpointEvery, StageDef};

use super::{Ended, print};
use crate::base::digest::Digest;
use crate::base::human;
use crate::base::say::say;
use crate::exec::progress;
use crate::exec::{self, Options};
use crate::pipeline::graph::Id;
use crate::plan::Planner;
use crate::plan::project::{PipelineArgs, Project};
use crate::store::{Health, Store};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Stages or instances; by default every result in the store
    #[arg(value_name = "STAGE")]
    stages: Vec<String>,
    /// Run them again in a store of their own, and compare bytes
    #[arg(long, requires = "stages")]
    rerun: bool,
    /// Local copies of public data sets and weights, in their official layouts
    #[arg(long, value_name = "DIR", env = "REPRO_DATA")]
    data: Option<std::path::PathBuf>,
}

pub fn run(pipeline: &PipelineArgs, args: &Args, kinds: &'static [StageDef]) -> Result<Ended> {
    let mut project = Project::open(pipeline, kinds)?;
    let ids = project.graph.select(&args.stages)?;
    let _kept = project.store.reading();
    if args.rerun {
        return rerun(&mut project, &ids, args);
    }
    let mut results: Vec<_> = project.store.index.results.values().cloned().collect();
    if !args.stages.is_empty() {
        let order = project.graph.with_needs(&ids);
        let mut planner = project.planner();
        planner.judge_all(&order);
        let fresh: Vec<_> = ids.iter().filter_map(|id| planner.fresh(*id)).collect();
        results.retain(|entry| fresh.contains(&entry.fp));
    }
    results.sort_by_key(|entry| entry.at);
    let mut bad = 0;
    for (fp, why) in project
        .store
        .refused
        .iter()
        .filter(|_| args.stages.is_empty())
    {
        bad += 1;
        print(&format!(
            "{}  is not used: {why}\n",
            project.store.result(fp).display()
        ))?;
    }
    let mut files = bad;
    for entry in &results {
        for (i, made) in entry.out.iter().enumerate() {
            files += 1;
            let what = match project.store.health(&entry.fp, i, true) {
                Health::Good => continue,
                Health::Missing => "is missing".to_owned(),
                Health::Changed => "is not what was committed".to_owned(),
                Health::Unreadable(why) => format!("cannot be read: {why}"),
            };
            bad += 1;
            let path = project.store.output(&entry.fp, made);
            print(&format!(
                "{}  {} {what}: {}\n",
                entry.stage,
                made.port,
                path.display()
            ))?;
        }
    }
    say!(
        "{} of {} as committed",
        files - bad,
        human::count(files, "artifact")
    );
    let foreign = results
        .iter()
        .filter(|entry| entry.origin.is_some())
        .count();
    if foreign > 0 {
        let count = human::count(foreign, "result");
        say!("{count} imported, not made here: `repro verify --rerun STAGE` makes them again");
    }
    if bad > 0 {
        say!("hint: `repro run` restores or rebuilds what the pipeline needs");
        return Ok(Ended::Failed);
    }
    Ok(Ended::Done)
}

/// Runs stages again on the very inputs of their results, elsewhere, and compares digests.
fn rerun(project: &mut Project, ids: &[Id], args: &Args) -> Result<Ended> {
    let order = project.graph.with_needs(ids);
    let mut planner = project.planner();
    planner.judge_all(&order);
    let before: Vec<(Id, Vec<(String, Digest)>)> = ids
        .iter()
        .filter_map(|id| {
            Some((
                *id,
                (planner.result(*id)?.out.iter())
                    .map(|m| (m.port.clone(), m.digest))
                    .collect(),
            ))
        })
        .collect();
    let names = |ids: &[Id]| {
        let names: Vec<&str> = ids
            .iter()
            .map(|i| planner.graph.stages[*i].name.as_str())
            .collect();
        names.join(", ")
    };
    let missing: Vec<Id> = ids
        .iter()
        .filter(|id| planner.fresh(**id).is_none())
        .copied()
        .collect();
    if !missing.is_empty() {
        let message = format!("no fresh result to compare with: {}", names(&missing));
        return Err(crate::base::diag::Diagnostic::new(message)
            .hint("`repro run` first")
            .into());
    }
    let scratch = tempfile::tempdir_in(&project.store.root)?;
    let (mut store, _lock) = Store::lock(scratch.path(), |_| {})?;
    store.key = project.store.key;
    // Everything upstream is borrowed; only the stages in question run.
    for id in order.iter().filter(|id| !ids.contains(id)) {
        let mut planner = Planner::new(&project.graph, &mut project.store, &project.facts, false);
        planner.judge_all(&order);
        if let Some(entry) = planner.result(*id).cloned() {
            let from = project.store.result(&entry.fp);
            store.borrow(entry, from);
        }
    }
    let options = Options {
        jobs: std::thread::available_parallelism().map_or(1, usize::from),
        keep_going: true,
        force: ids.to_vec(),
        data: args.data.as_ref().map(std::path::absolute).transpose()?,
        checkpoint_every: CheckpointEvery::default(),
        session: None,
    };
    let mut progress = progress::choose(false);
    let mut planner = Planner::new(&project.graph, &mut store, &project.facts, false);
    let summary = exec::run(
        &mut planner,
        &project.facts,
        &order,
        &options,
        &mut *progress,
    )?;
    let mut ended = match (summary.failed.is_empty(), summary.interrupted) {
        (false, _) => Ended::Failed,
        (_, true) => Ended::Interrupted,
        _ => Ended::Done,
    };
    for (id, old) in before {
        let stage = &planner.graph.stages[id];
        let Some(entry) = planner.result(id) else {
            continue;
        };
        for made in &entry.out {
            let same = old.contains(&(made.port.clone(), made.digest));
            let word = match (same, stage.kind.measures_machine()) {
                (true, _) => "same bytes",
                (false, true) => "differs, as what measures the machine may",
                (false, false) => {
                    ended = Ended::Failed;
                    "DIFFERS"
                }
            };
            print(&format!("{}  {}  {word}\n", stage.name, made.port))?;
        }
    }
    Ok(ended)
}
