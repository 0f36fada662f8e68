//! `repro path`: where an output is, for notebooks and scripts of one's own.

use anyhow::Result;
use contract::StageDef;

use super::{Ended, print};
use crate::base::diag::{Diagnostic, suggest};
use crate::base::plain;
use crate::base::say::say;
use crate::plan::Verdict;
use crate::plan::project::{PipelineArgs, Project};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// `STAGE.OUTPUT`, such as `glow@cifar10.model`; a line each where `*` or a stage without its values means
    /// several instances
    #[arg(value_name = "STAGE.OUTPUT")]
    output: String,
}

pub fn run(pipeline: &PipelineArgs, args: &Args, kinds: &'static [StageDef]) -> Result<Ended> {
    let mut project = Project::open(pipeline, kinds)?;
    // Values of axes may have points; ports have none.
    let Some((stage, port)) = args.output.rsplit_once('.') else {
        let message = format!("`{}` names no output", args.output);
        let ports = outputs(&project, &args.output);
        return Err(Diagnostic::new(message).hint(ports).into());
    };
    let ids = project.graph.select(&[stage.to_owned()])?;
    let order = project.graph.with_needs(&ids);
    let mut planner = project.planner();
    planner.judge_all(&order);
    let mut ended = Ended::Done;
    for id in ids {
        let stage = &planner.graph.stages[id];
        let ports = stage.outputs.iter().map(|output| output.port.as_str());
        let Some(output) = stage.outputs.iter().position(|o| o.port == port) else {
            let message = format!("stage `{}` has no output `{port}`", stage.name);
            return Err(Diagnostic::new(message).hint(suggest(port, ports)).into());
        };
        let name = plain::quoted(&stage.name);
        match (
            planner.verdict(id),
            planner.made(id, output),
            planner.fresh(id),
        ) {
            (_, Some(made), Some(fp)) => {
                let path = planner.store.result(&fp).join(&made.file);
                print(&format!("{}\n", std::path::absolute(path)?.display()))?;
            }
            (Some(Verdict::Stale(reasons)), ..) => {
                say!(
                    "{name} is stale: {}; hint: repro run {name}",
                    reasons.join("; ")
                );
                ended = Ended::Stale;
            }
            _ => {
                say!("{name} waits for what it needs; hint: repro run {name}");
                ended = Ended::Stale;
            }
        }
    }
    Ok(ended)
}

/// What there is to name of a stage.
fn outputs(project: &Project, stage: &str) -> String {
    let ids = project
        .graph
        .select(&[stage.to_owned()])
        .unwrap_or_default();
    let ports = ids.first().map(|id| &project.graph.stages[*id].outputs);
    let names = ports.into_iter().flatten();
    let names: Vec<String> = names
        .map(|output| format!("{stage}.{}", output.port))
        .collect();
    match names.is_empty() {
        true => "STAGE.OUTPUT, as `repro graph` shows them".into(),
        false => format!("one of {}", names.join(", ")),
    }
}
