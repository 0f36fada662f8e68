//! `repro run`.

use std::path::PathBuf;

use anyhow::Result;
use contract::{CheckpointEvery, StageDef};

use super::{Ended, leave, print};
use crate::base::device::Seen;
use crate::base::diag::Diagnostic;
use crate::base::human;
use crate::base::plain;
use crate::base::say::say;
use crate::cmd::memo;
use crate::exec::progress;
use crate::exec::{self, Options, Summary};
use crate::pipeline::graph::{Graph, Id, Kind};
use crate::plan::project::{PipelineArgs, Project, Request, data_folder};
use crate::plan::{Planner, Start, Verdict};
use crate::store::runs::{self, Asked, Came};
use crate::store::{Lock, Store};

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
    /// Epochs between checkpoints, besides those by time
    #[arg(long, value_name = "N", env = "REPRO_CHECKPOINT_EPOCHS")]
    checkpoint_epochs: Option<u64>,
    /// Events as lines of JSON on standard output
    #[arg(long)]
    json: bool,
}

pub fn run(pipeline: &PipelineArgs, args: &Args, kinds: &'static [StageDef]) -> Result<Ended> {
    let request = Request::read(pipeline)?;
    let named = [&args.stages[..], &args.stage[..]].concat();
    let data = data_folder(args.data.as_deref())?;
    let key = memo::key(&request, pipeline, &named, data.as_deref());
    if !args.force
        && !args.dry_run
        && let Some(key) = &key
        && let Some((stages, imported)) = memo::recall(&request, pipeline, key)
    {
        nothing_to_do(stages, imported);
        return Ok(Ended::Done);
    }
    let mut project = Project::understand(request, pipeline, kinds)?;
    project.facts.data = data.clone();
    let targets = match named.is_empty() {
        true => project.graph.whole(),
        false => project.graph.select(&named)?,
    };
    let wanted = project.graph.with_needs(&targets);
    let force = if args.force { targets } else { Vec::new() };
    let mut planner = project.planner();
    planner.judge_all(&wanted);
    let problem = wanted
        .iter()
        .find_map(|id| planner.problems(*id).into_iter().next());
    if let Some(problem) = problem {
        let error = project.spec.error(&problem.span, problem.message);
        return Err(error.hint(problem.wrong.hint).into());
    }
    if args.dry_run {
        print(&forecast(&planner, &wanted, &force))?;
        return Ok(Ended::Done);
    }
    let all_fresh = wanted.iter().all(|id| planner.fresh(*id).is_some());
    // A stage may be fresh under a result that another profile or an earlier state has made:
    // then the run has nothing to do but to remember that.
    let named_so = wanted.iter().all(|id| planner.is_named(*id));
    if all_fresh && force.is_empty() && named_so {
        nothing_to_do(wanted.len(), memo::imported(&planner, &wanted));
        keep_notes(planner.store);
        memo::remember(&mut planner, &wanted, key);
        std::mem::forget(planner);
        return Ok(leave(project, Ended::Done));
    }
    if !all_fresh {
        let open = wanted.iter().filter(|id| planner.fresh(**id).is_none());
        let open: Vec<Id> = open.copied().collect();
        check_device(&project, pipeline)?;
        check_gpus(&project, pipeline, &open)?;
    }
    let root = project.store.root.clone();
    // What is made anew takes the place of results that other runs may be reading.
    let (mut store, session) = Store::join(&root, args.force, |holder| {
        match holder {
            Some(h) => say!(
                "waiting for `{}` (process {} on {}, since {})",
                h.command,
                h.pid,
                h.host,
                h.since
            ),
            None => say!("waiting for another command"),
        }
        if args.force {
            say!("--force rewrites results, so it waits until no other run is there");
        }
    })?;
    let id = session.id.clone();
    // What has just been read need not be read again.
    store.index.carry(&project.store.index);
    project.store = store;
    let options = Options {
        jobs: args
            .jobs
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
            .max(1),
        keep_going: args.keep_going,
        force,
        data,
        checkpoint_every: CheckpointEvery {
            seconds: Some(args.checkpoint_every),
            epochs: args.checkpoint_epochs,
        },
        session: Some(session),
    };
    let mut progress = progress::choose(args.json);
    let mut planner = Planner::new(&project.graph, &mut project.store, &project.facts, true);
    let running = runs::begin(
        &root,
        &id,
        Asked {
            profile: project.facts.profile.clone(),
            stages: named.clone(),
            set: pipeline.set.clone(),
            force: args.force,
        },
    );
    let summary = exec::run(
        &mut planner,
        &project.facts,
        &wanted,
        &options,
        &mut *progress,
    );
    let summary = match summary {
        Ok(summary) => summary,
        Err(error) => {
            running.ended(Came {
                exit: Ended::Failed as i32,
                ..Came::default()
            });
            return Err(error);
        }
    };
    if wanted.iter().all(|id| planner.is_named(*id)) {
        memo::remember(&mut planner, &wanted, key);
    }
    let imported = memo::imported(&planner, &wanted);
    let ended = conclude(&project.graph, &summary, wanted.len(), imported);
    let name = |id: &Id| project.graph.stages[*id].name.clone();
    running.ended(Came {
        exit: ended as i32,
        ran: summary.ran.len(),
        fresh: wanted
            .len()
            .saturating_sub(summary.ran.len() + summary.failed.len() + summary.left.len()),
        failed: summary.failed.iter().map(name).collect(),
        left: summary.left.len(),
        git: summary.git.clone(),
    });
    let whole = named.is_empty() && !summary.ran.is_empty() && ended == Ended::Done;
    if whole && !args.json && !project.tables.0.is_empty() {
        super::tables::after_run(pipeline, kinds)?;
    }
    Ok(ended)
}

fn nothing_to_do(stages: usize, imported: usize) {
    let stages = human::count(stages, "stage");
    match imported {
        0 => say!("nothing to do: {stages} fresh"),
        n => say!("nothing to do: {stages} fresh, {n} of them imported, not made here"),
    }
}

/// Digests of files that had to be read are worth keeping, unless a run is writing the index now.
fn keep_notes(store: &mut Store) {
    if (store.index.has_notes() || !store.index.clean())
        && let Some(_lock) = Lock::try_take(&store.root.join("lock"))
    {
        // A store that cannot be written costs the next run the same reading again.
        let _ = store.settle(&[]);
        store.sweep();
    }
}

/// The last words, and what they mean for the exit code.
fn conclude(graph: &Graph, summary: &Summary, wanted: usize, imported: usize) -> Ended {
    let names = |ids: &[Id]| {
        ids.iter()
            .map(|i| graph.stages[*i].name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let ran = summary.ran.len();
    let left = summary.left.len();
    if !summary.failed.is_empty() {
        say!(
            "failed: {}; {ran} ran, {left} left. The log tells why: repro log {}",
            names(&summary.failed),
            plain::quoted(&graph.stages[summary.failed[0]].name)
        );
        return Ended::Failed;
    }
    if summary.interrupted && left > 0 {
        say!("stopped: {ran} ran, {left} left. `repro run` goes on from here");
        return Ended::Interrupted;
    }
    match ran {
        0 => nothing_to_do(wanted, imported),
        _ => say!(
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
    if !wants_gpu || project.facts.device.library || args.device != "auto" {
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

/// A command that asks for GPUs is not left to fail for want of one after hours of other stages.
fn check_gpus(project: &Project, args: &PipelineArgs, open: &[Id]) -> Result<(), Diagnostic> {
    let here = project.facts.device.gpus.len();
    let stages = open.iter().map(|id| &project.graph.stages[*id]);
    let commands = stages.filter(|stage| matches!(stage.kind, Kind::Command(_)));
    let Some(stage) = commands.max_by_key(|stage| stage.resources.gpus()) else {
        return Ok(());
    };
    let asks = stage.resources.gpus();
    if asks <= here || args.device == "cpu" {
        return Ok(());
    }
    let wants = format!(
        "stage `{}` asks for {}",
        stage.name,
        human::count(asks, "GPU")
    );
    if here > 0 {
        let gpus = project.facts.device.gpus.join(", ");
        let are = if here == 1 { "is" } else { "are" };
        let message = format!("{wants}, and there {are} {here}: {gpus}");
        return Err(project
            .spec
            .error(&stage.span, message)
            .hint("`resources.gpu` says how many; `repro doctor` lists what was found"));
    }
    let (why, hint) = Seen::here().why_not(&args.device);
    let message = format!("{wants}, and there is none: {why}");
    Err(project.spec.error(&stage.span, message).hint(hint))
}

/// What a run would do, and about how long it would take.
fn forecast(planner: &Planner, wanted: &[Id], force: &[Id]) -> String {
    let mut text = String::new();
    let (mut runs, mut waits, mut seconds, mut unknown) = (0, 0, 0.0, 0);
    let mut shown = wanted.to_vec();
    shown.sort_unstable();
    for id in shown {
        let stage = &planner.graph.stages[id];
        let start = planner.start(id);
        let why = match planner.verdict(id) {
            Some(Verdict::Stale(reasons)) => {
                runs += 1;
                how(start.as_ref(), &reasons.join("; "))
            }
            Some(Verdict::Waits(_)) => {
                waits += 1;
                "run if its inputs change".into()
            }
            _ if force.contains(&id) => {
                runs += 1;
                how(start.as_ref(), "forced")
            }
            _ => continue,
        };
        let estimate = planner.left(id, start.as_ref());
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

/// `run      never run`, `resume   from epoch 412 of 1000 (params.epochs: 800 -> 1000)`.
fn how(start: Option<&Start>, why: &str) -> String {
    match start {
        None => format!("run      {why}"),
        Some(Start::Checkpoint(None)) => format!("resume   from its checkpoint ({why})"),
        Some(Start::Checkpoint(Some(reached))) => {
            format!("resume   from {} ({why})", reached.describe())
        }
        Some(Start::Longer(l)) => {
            format!(
                "continue from {} = {} of {} ({why})",
                l.param, l.from, l.goal
            )
        }
    }
}
