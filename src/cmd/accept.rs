//! `repro accept`: a person declares that a change of code changes no result.

use anyhow::Result;
use contract::StageDef;

use super::{Ended, print};
use crate::accept::{Accepted, Equivalence};
use crate::diag::Diagnostic;
use crate::graph::Kind;
use crate::human;
use crate::plan::Verdict;
use crate::project::{PipelineArgs, Project};

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
    let mut new = Vec::new();
    for id in chosen {
        let stage = &planner.graph.stages[id];
        let of = match &stage.kind {
            Kind::Library(def) => def.kind.to_owned(),
            Kind::Command(_) => stage.family.clone(),
        };
        if !matches!(planner.verdict(id), Some(Verdict::Stale(_))) {
            continue;
        }
        for (module, old, now) in planner.changed_code(id) {
            let known = |e: &Equivalence| e.of == of && e.module == module && e.new == now;
            if !new.iter().any(known) {
                new.push(Equivalence {
                    of: of.clone(),
                    module,
                    old,
                    new: now,
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
    let path = project.facts.dir.join("accepted.toml");
    let mut accepted = Accepted::load(&path)?;
    for step in &new {
        print(&format!("accepted  {}: code {}\n", step.of, step.module))?;
    }
    accepted.all.extend(new);
    accepted.save(&path)?;
    eprintln!("kept in {}; commit it", path.display());
    Ok(Ended::Done)
}
