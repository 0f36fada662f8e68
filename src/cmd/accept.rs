//! `repro accept`: a person declares that a change of code changes no result.

use anyhow::Result;
use contract::StageDef;

use super::{Ended, print};
use crate::base::diag::Diagnostic;
use crate::base::human;
use crate::base::say::say;
use crate::pipeline::graph::Kind;
use crate::plan::Verdict;
use crate::plan::accepted::{Accepted, Equivalence};
use crate::plan::project::{PipelineArgs, Project};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Stages or instances whose code changed
    #[arg(value_name = "STAGE", required = true)]
    stages: Vec<String>,
    /// Why the results are the same; kept in accepted.toml
    #[arg(long, value_name = "REASON")]
    why: String,
}

pub fn run(pipeline: &PipelineArgs, args: &Args, kinds: &'static [StageDef]) -> Result<Ended> {
    if args.why.trim().is_empty() {
        return Err(Diagnostic::new("an empty reason convinces nobody")
            .hint("--why \"renamed a variable\"")
            .into());
    }
    let mut project = Project::open(pipeline, kinds)?;
    let chosen = project.graph.select(&args.stages)?;
    let order = project.graph.with_needs(&chosen);
    let mut planner = project.planner();
    planner.judge_all(&order);
    let mut new: Vec<Equivalence> = Vec::new();
    let mut told = Vec::new();
    for &id in &chosen {
        let stage = &planner.graph.stages[id];
        let name = stage.name.clone();
        let of = match &stage.kind {
            Kind::Library(def) => def.kind.to_owned(),
            Kind::Command(_) => stage.family.clone(),
        };
        match planner.verdict(id) {
            Some(Verdict::Stale(_)) => {}
            Some(Verdict::Waits(ids)) => {
                let first = &planner.graph.stages[ids[0]].name;
                let message =
                    format!("{name} waits for {first}, so that nobody knows what it reads");
                let hint = format!("accept or run {first} first");
                return Err(Diagnostic::new(message).hint(hint).into());
            }
            _ => continue,
        }
        let changes = planner.acceptable(id).map_err(|others| {
            let message = format!(
                "{name}: {}, which is no change of code alone",
                others.join("; ")
            );
            Diagnostic::new(message)
                .hint("only a change of code can be accepted; `repro run` makes the rest anew")
        })?;
        let also = planner.brought_in(id);
        for change in changes {
            let known =
                |e: &Equivalence| e.of == of && e.what == change.what && e.new == change.new;
            if !new.iter().any(known) {
                let words = change.told.iter();
                told.extend(words.map(|words| format!("accepted  {of}: {words}\n")));
                new.push(Equivalence {
                    of: of.clone(),
                    what: change.what,
                    old: change.old,
                    new: change.new,
                    also: also.clone(),
                    why: args.why.trim().into(),
                    when: human::now(),
                });
            }
        }
    }
    if new.is_empty() {
        let message = format!(
            "no code of {} changed since its last result",
            args.stages.join(", ")
        );
        return Err(Diagnostic::new(message)
            .hint("`repro status` says why a stage is stale")
            .into());
    }
    // What is said to be accepted must be fresh then, or nothing is.
    project.facts.accepted.all.extend(new.iter().cloned());
    let mut planner = project.planner();
    planner.judge_all(&order);
    for id in chosen {
        if let Some(Verdict::Stale(reasons)) = planner.verdict(id) {
            let name = &planner.graph.stages[id].name;
            let message = format!("{name} would still be stale: {}", reasons.join("; "));
            return Err(Diagnostic::new(message)
                .hint("nothing was accepted; `repro run`")
                .into());
        }
    }
    let path = project.facts.dir.join("accepted.toml");
    let mut accepted = Accepted::load(&path)?;
    for line in told {
        print(&line)?;
    }
    accepted.all.extend(new);
    accepted.save(&path)?;
    say!("kept in {}; commit it", path.display());
    Ok(Ended::Done)
}
