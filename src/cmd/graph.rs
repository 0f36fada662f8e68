//! `repro graph`: the stages and what flows between them.

use std::fmt::Write as _;

use anyhow::Result;
use contract::StageDef;

use super::{Ended, print};
use crate::pipeline::graph::Graph;
use crate::plan::project::{PipelineArgs, Project};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Stages or instances, with all they need; by default everything
    #[arg(value_name = "STAGE")]
    stages: Vec<String>,
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Format {
    Text,
    Dot,
    Mermaid,
}

pub fn run(pipeline: &PipelineArgs, args: &Args, kinds: &'static [StageDef]) -> Result<Ended> {
    let project = Project::open(pipeline, kinds)?;
    let graph = &project.graph;
    let targets = match args.stages.is_empty() {
        true => graph.whole(),
        false => graph.select(&args.stages)?,
    };
    let mut shown = graph.with_needs(&targets);
    shown.sort_unstable();
    print(&draw(graph, &shown, args.format)?)?;
    Ok(Ended::Done)
}

fn draw(graph: &Graph, shown: &[usize], format: Format) -> Result<String> {
    let mut text = String::new();
    match format {
        Format::Text => {}
        Format::Dot => text += "digraph {\n  rankdir = LR;\n",
        Format::Mermaid => text += "flowchart LR\n",
    }
    for &id in shown {
        let stage = &graph.stages[id];
        match format {
            Format::Text => writeln!(text, "{}  ({})", stage.name, stage.kind.name())?,
            Format::Dot => writeln!(text, "  \"{}\" [shape = box];", stage.name)?,
            Format::Mermaid => writeln!(text, "  s{id}[\"{}\"]", stage.name)?,
        }
        for input in &stage.inputs {
            for (from, output) in &input.from {
                let source = &graph.stages[*from];
                let port = &source.outputs[*output].port;
                match format {
                    Format::Text => writeln!(text, "  {} <- {}.{port}", input.port, source.name)?,
                    Format::Dot => {
                        writeln!(
                            text,
                            "  \"{}\" -> \"{}\" [label = \"{port}\"];",
                            source.name, stage.name
                        )?;
                    }
                    Format::Mermaid => writeln!(text, "  s{from} -- {port} --> s{id}")?,
                }
            }
        }
    }
    if matches!(format, Format::Dot) {
        text += "}\n";
    }
    Ok(text)
}
