//! `repro run`.

use std::path::PathBuf;

use anyhow::Result;
use stages::contract::StageDef;

use super::{Ended, leave, print};
use crate::diag::Diagnostic;
use crate::exec::{self, Options, Summary};
use crate::graph::{Graph, Id};
use crate::human;
use crate::plan::{Planner, Verdict};
use crate::progress;
use crate::project::{PipelineArgs, Project};
use crate::store::Store;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Stages (`glow`) or instances (`glow@cifar10`), with all they need; by default everything
    #[arg(value_name = "STAGE")]
    stages: Vec<String>,
    /// The same, as an option
    #[arg(long, value_name = "STAGE")]
    stage: Vec<String>,
    /// Stages that run at once; by default one for each CPU
    #[arg(short, long, value_name = "N")]
    jobs: Option<usize>,
    /// Say what would run, and run nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Run the named stages even if they are fresh
    #[arg(long)]
    force: bool,
    /// After a failure, go on with what does not depend on it
    #[arg(short, long)]
    keep_going: bool,
    /// Local copies of public data sets and weights, in their official layouts
    #[arg(long, value_name = "DIR", env = "REPRO_DATA")]
    data: Option<PathBuf>,
    /// Seconds between checkpoints
    #[arg(
        long,
        value_name = "SECONDS",
        env = "REPRO_CHECKPOINT_SECONDS",
        default_value_t = 300.0
    )]
    checkpoint_every: f64,
    /// Events as lines of JSON on standard output
    #[arg(long)]
    json: bool,
}

pub fn run(pipeline: &PipelineArgs, args: &Args, kinds: &'static [StageDef]) -> Result<Ended> {
    let mut project = Project::open(pipeline, kinds)?;
    let named = [&args.stages[..], &args.stage[..]].concat();
    let targets = match named.is_empty() {
        true => (0..project.graph.stages.len()).collect(),
        false => project.graph.select(&named)?,
    };
    let wanted = project.graph.with_needs(&targets);
    let force = if args.force { targets } else { Vec::new() };
    let mut planner = project.planner();
    planner.judge_all(&wanted);
    if args.dry_run {
        print(&forecast(&planner, &wanted, &force))?;
        return Ok(Ended::Done);
    }
    let all_fresh = wanted.iter().all(|id| planner.fresh(*id).is_some());
    // A stage may be fresh under a result that another profile or an earlier state has made:
    // then the run has nothing to do but to remember that.
    let named_so = wanted.iter().all(|id| planner.is_named(*id));
    if all_fresh && force.is_empty() && named_so {
        eprintln!(
            "nothing to do: {} fresh",
            human::count(wanted.len(), "stage")
        );
        std::mem::forget(planner);
        return Ok(leave(project, Ended::Done));
    }
    if !all_fresh {
        check_device(&project, pipeline)?;
    }
    let root = project.store.root.clone();
    let (store, _lock) = Store::lock(&root, |holder| match holder {
        Some(h) => eprintln!(
            "waiting for `{}` (process {} on {}, since {})",
            h.command, h.pid, h.host, h.since
        ),
        None => eprintln!("waiting for another run"),
    })?;
    project.store = store;
    let options = Options {
        jobs: args
            .jobs
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
            .max(1),
        keep_going: args.keep_going,
        force,
        data: args.data.as_ref().map(std::path::absolute).transpose()?,
        checkpoint_seconds: args.checkpoint_every,
    };
    let mut progress = progress::choose(args.json);
    let mut planner = Planner::new(&project.graph, &mut project.store, &project.facts, true);
    let summary = exec::run(
        &mut planner,
        &project.facts,
        &wanted,
        &options,
        &mut *progress,
    )?;
    let ended = conclude(&project.graph, &summary, wanted.len());
    let whole = named.is_empty() && !summary.ran.is_empty() && ended == Ended::Done;
    if whole && !args.json && !project.tables.0.is_empty() {
        super::tables::after_run(pipeline, kinds)?;
    }
    Ok(ended)
}

/// The last words, and what they mean for the exit code.
fn conclude(graph: &Graph, summary: &Summary, wanted: usize) -> Ended {
    let names = |ids: &[Id]| {
        ids.iter()
            .map(|i| graph.stages[*i].name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let ran = summary.ran.len();
    let left = summary.left.len();
    if !summary.failed.is_empty() {
        eprintln!(
            "failed: {}; {ran} ran, {left} left. The log tells why: repro log {}",
            names(&summary.failed),
            graph.stages[summary.failed[0]].name
        );
        return Ended::Failed;
    }
    if summary.interrupted && left > 0 {
        eprintln!("stopped: {ran} ran, {left} left. `repro run` goes on from here");
        return Ended::Interrupted;
    }
    match ran {
        0 => eprintln!("nothing to do: {} fresh", human::count(wanted, "stage")),
        _ => eprintln!(
            "{} ran, {} fresh, {} of work",
            human::count(ran, "stage"),
            wanted - ran,
            human::seconds(summary.seconds)
        ),
    }
    Ended::Done
}

/// A profile that is meant for a GPU does not start on a CPU by accident.
fn check_device(project: &Project, args: &PipelineArgs) -> Result<(), Diagnostic> {
    let profile = &project.spec.profile;
    let wants_gpu = profile.device.as_deref() == Some("cuda");
    if !wants_gpu || project.facts.device.is_gpu() || args.device != "auto" {
        return Ok(());
    }
    let mut message = format!(
        "profile `{}` is meant for a CUDA device, and there is none here",
        profile.name
    );
    if let Some(takes) = &profile.takes {
        message += &format!("; it takes {takes}");
    }
    let other = (project.spec.profiles.iter()).find(|p| p.device.as_deref() != Some("cuda"));
    let hint = match other {
        Some(p) => format!(
            "`repro run --profile {}` ({}); or `--device cpu` to go on regardless",
            p.name, p.about
        ),
        None => "`--device cpu` goes on regardless".into(),
    };
    Err(Diagnostic::new(message).hint(hint))
}

/// What a run would do, and about how long it would take.
fn forecast(planner: &Planner, wanted: &[Id], force: &[Id]) -> String {
    let mut text = String::new();
    let (mut runs, mut waits, mut seconds, mut unknown) = (0, 0, 0.0, 0);
    let mut shown = wanted.to_vec();
    shown.sort_unstable();
    for id in shown {
        let stage = &planner.graph.stages[id];
        let why = match planner.verdict(id) {
            Some(Verdict::Stale(reasons)) => {
                runs += 1;
                let resume = if planner.has_checkpoint(id) {
                    "resume   "
                } else {
                    "run      "
                };
                format!("{resume}{}", reasons.join("; "))
            }
            Some(Verdict::Waits(_)) => {
                waits += 1;
                "run if its inputs change".into()
            }
            _ if force.contains(&id) => {
                runs += 1;
                "run      forced".into()
            }
            _ => continue,
        };
        let estimate = planner.estimate(id);
        seconds += estimate.unwrap_or_default();
        unknown += usize::from(estimate.is_none());
        let time = estimate.map_or("?".into(), human::seconds);
        text += &format!("{:<32} {time:>8}  {why}\n", stage.name);
    }
    let fresh = wanted.len() - runs - waits;
    text += &format!("{runs} would run, {waits} wait for them, {fresh} fresh");
    if runs + waits > 0 {
        text += &format!("; at most {}", human::seconds(seconds));
        if unknown > 0 {
            text += &format!(" and {} that never ran", human::count(unknown, "stage"));
        }
    }
    text + "\n"
}
