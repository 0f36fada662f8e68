//! `repro tensorboard`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use contract::StageDef;

use super::Ended;
use crate::base::diag::Diagnostic;
use crate::base::say::say;
use crate::plan::project::{PipelineArgs, Project};
use crate::show::figures::{self, Picture};
use crate::show::history;
use crate::show::tensorboard;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Stages or instances; by default every training
    #[arg(value_name = "STAGE")]
    stages: Vec<String>,
    /// A folder for each stage is made in it: `tensorboard --logdir DIR`
    #[arg(long, value_name = "DIR", default_value = "tensorboard")]
    out: PathBuf,
}

pub fn run(pipeline: &PipelineArgs, args: &Args, kinds: &'static [StageDef]) -> Result<Ended> {
    let mut project = Project::open(pipeline, kinds)?;
    let wanted = match args.stages.is_empty() {
        true => (0..project.graph.stages.len()).collect(),
        false => project.graph.select(&args.stages)?,
    };
    let order = project.graph.with_needs(&wanted);
    let profile = project.facts.profile.clone();
    let mut planner = project.planner();
    planner.judge_all(&order);
    let (mut written, mut damaged) = (0, false);
    for id in wanted {
        let stage = &planner.graph.stages[id];
        let Some(output) = stage.history_port() else {
            continue;
        };
        let at = planner.result(id).map_or(0, |entry| entry.at);
        match figures::picture(&planner, id, output) {
            Picture::File(path) => {
                let dir = args.out.join(folder(&stage.name));
                let file = dir.join(tensorboard::file_name(at));
                let curves = match history::load(&path) {
                    Ok(curves) => curves,
                    Err(e) => {
                        say!("{}: {e:#}", stage.name);
                        damaged = true;
                        continue;
                    }
                };
                let events = tensorboard::events(&curves, at);
                std::fs::create_dir_all(&dir)
                    .with_context(|| format!("cannot make {}", dir.display()))?;
                super::write(&file, &events)?;
                say!("wrote {}", file.display());
                written += 1;
            }
            Picture::Stale(reason) => say!("{}: stale ({reason})", stage.name),
            Picture::NotRun => say!("{}: not run", stage.name),
        }
    }
    if damaged {
        return Ok(Ended::Failed);
    }
    if written == 0 {
        let hint = match project
            .graph
            .stages
            .iter()
            .any(|s| s.history_port().is_some())
        {
            true => format!("repro run --profile {profile}"),
            false => "no stage has an output that holds `history`".into(),
        };
        return Err(Diagnostic::new("there is no history to write")
            .hint(hint)
            .into());
    }
    Ok(Ended::Done)
}

/// A name that stays below the folder, whatever the stage is called.
fn folder(stage: &str) -> String {
    stage.replace(['/', '\\'], "-")
}
