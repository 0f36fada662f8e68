//! `repro runs`: what was run here, newest first.

use std::collections::HashSet;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Ended, print};
use crate::base::human;
use crate::base::plain;
use crate::base::say::say;
use crate::plan::project::{self, PipelineArgs};
use crate::store::runs::{self, Run};
use crate::store::{self, pins};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// At most so many; by default 20, with --json all
    #[arg(short = 'n', long, value_name = "N")]
    last: Option<usize>,
    /// For scripts
    #[arg(long)]
    json: bool,
}

/// Runs that fit a screen.
const SHOWN: usize = 20;

pub fn run(pipeline: &PipelineArgs, args: &Args) -> Result<Ended> {
    let root = project::store(pipeline)?;
    let all = runs::all(&root);
    let all = all.with_context(|| format!("cannot read the runs of {}", root.display()))?;
    let running: HashSet<String> = store::running(&root).into_iter().map(|r| r.id).collect();
    let last = args
        .last
        .unwrap_or(if args.json { usize::MAX } else { SHOWN });
    let shown = || all.iter().take(last);
    if args.json {
        let objects: Vec<Value> = shown().map(|run| object(run, &running)).collect();
        print(&format!("{:#}\n", json!(objects)))?;
        return Ok(Ended::Done);
    }
    print(&table(&shown().collect::<Vec<_>>(), &running))?;
    // What cannot be read is told by those who need it.
    print(&super::keep::table(&pins::all(&root).unwrap_or_default()))?;
    if all.is_empty() {
        say!("no run is known in {}; hint: repro run", root.display());
    } else if all.len() > last {
        let more = all.len() - last;
        say!("{more} older; hint: repro runs --last {}", all.len());
    }
    Ok(Ended::Done)
}

/// How it ended, in a word.
fn state(run: &Run, running: &HashSet<String>) -> &'static str {
    match &run.came {
        Some(came) => match came.exit {
            0 => "done",
            5 => "stopped",
            _ => "failed",
        },
        None if running.contains(&run.id) => "running",
        None => "killed",
    }
}

fn object(run: &Run, running: &HashSet<String>) -> Value {
    let mut object = json!(run);
    object["state"] = state(run, running).into();
    object
}

fn table(runs: &[&Run], running: &HashSet<String>) -> String {
    let lines: Vec<[String; 6]> = runs
        .iter()
        .map(|run| line(run, state(run, running)))
        .collect();
    let mut widths = [0; 6];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in lines {
        let mut row = String::new();
        for (i, (cell, width)) in line.iter().zip(widths).enumerate() {
            let pad = " ".repeat(width - cell.chars().count());
            // Durations end where those above do.
            row += &match i {
                1 => format!("{pad}{cell}  "),
                _ => format!("{cell}{pad}  "),
            };
        }
        text += row.trim_end();
        text.push('\n');
    }
    text
}

/// When, how long, how it ended, what ran, the profile, what was asked for.
fn line(run: &Run, state: &str) -> [String; 6] {
    let ran = run.came.as_ref().map_or(String::new(), |came| {
        let mut parts = vec![format!("{} ran", came.ran)];
        for (n, word) in [(came.fresh, "fresh"), (came.left, "left")] {
            if n > 0 {
                parts.push(format!("{n} {word}"));
            }
        }
        if !came.failed.is_empty() {
            parts.push(format!("failed: {}", came.failed.join(" ")));
        }
        parts.join(", ")
    });
    let mut asked: Vec<String> = match run.asked.stages.is_empty() {
        true => vec!["everything".into()],
        false => run
            .asked
            .stages
            .iter()
            .map(|stage| plain::quoted(stage).to_string())
            .collect(),
    };
    if run.asked.force {
        asked.push("--force".into());
    }
    for set in &run.asked.set {
        asked.push(format!("--set {}", plain::quoted(set)));
    }
    [
        run.began.clone(),
        run.seconds.map_or("?".into(), human::seconds),
        state.into(),
        ran,
        run.asked.profile.clone(),
        asked.join(" "),
    ]
    .map(|cell| plain::line(&cell).into_owned())
}
