//! `repro check`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use contract::StageDef;

use super::{Ended, print, write};
use crate::base::diag::{Diagnostic, Source};
use crate::base::read;
use crate::base::say::{self, say};
use crate::pipeline::tables::Tables;
use crate::plan::project::{PipelineArgs, Project};
use crate::show::check::{self, Baseline, Report};
use crate::show::evidence;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The numbers to compare with; by default tests/baselines/PROFILE.toml beside the pipeline
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// Make the present numbers the baseline
    #[arg(long)]
    update: bool,
    /// Take numbers that are better than their tolerance allows into the baseline
    #[arg(long, conflicts_with = "update")]
    accept_better: bool,
    /// With --update: reports (--json) of runs that differ in their seeds: how far numbers move over them
    /// decides what is a change
    #[arg(long, value_name = "REPORT", num_args = 1.., requires = "update")]
    spread: Vec<PathBuf>,
    /// Write JUnit XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Print annotations that GitHub shows in a pull request
    #[arg(long)]
    github: bool,
    /// For scripts
    #[arg(long)]
    json: bool,
}

pub fn run(pipeline: &PipelineArgs, args: &Args, kinds: &'static [StageDef]) -> Result<Ended> {
    let mut project = Project::open(pipeline, kinds)?;
    let evidence = evidence::collect(&mut project, false);
    let name = PathBuf::from(format!("tests/baselines/{}.toml", project.facts.profile));
    let name = args.baseline.as_ref().unwrap_or(&name);
    let path = match &args.baseline {
        Some(path) => path.clone(),
        None => project.facts.dir.join(name),
    };
    let (baseline, source) = load(name, &path)?;
    let known = baseline.clone().unwrap_or_default();
    let cells = |stage: &str, metric: &str| cells(&project.tables, stage, metric);
    let report = check::compare(&known, &project.claims, &evidence, &cells);
    if args.update {
        return update(&path, &known, &report, &args.spread);
    }
    if args.accept_better {
        let new = check::accept_better(&known, &report, env!("CARGO_PKG_VERSION"));
        return put(&path, &known, &new);
    }
    if args.json {
        print(&(serde_json::to_string_pretty(&report)? + "\n"))?;
    } else {
        print(&check::print::text(&report))?;
    }
    if let Some(file) = &args.junit {
        write(file, check::print::junit(&report).as_bytes())?;
    }
    if args.github {
        let annotations = check::print::github(&report, &source, &project.spec.source);
        // Beside JSON they would spoil it, and GitHub reads both streams.
        match args.json {
            true => say::part(&annotations),
            false => print(&annotations)?,
        }
    }
    if baseline.is_none() && !args.json {
        let message = format!("there is no baseline {}", path.display());
        let hint = "`repro check --update` writes one from the present numbers";
        return Err(Diagnostic::new(message).hint(hint).into());
    }
    Ok(match report.passes() {
        true => Ended::Done,
        false => Ended::OutOfTolerance,
    })
}

/// The baseline, if there is one, and its text.
fn load(name: &Path, path: &Path) -> Result<(Option<Baseline>, Source)> {
    let text = match read::text(path, read::WRITTEN) {
        Ok(text) => Some(text),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
    };
    let there = text.is_some();
    let source = Source::new(name.to_string_lossy(), text.unwrap_or_default());
    match Baseline::parse(source.text()) {
        Ok(baseline) => Ok((there.then_some(baseline), source)),
        Err(e) => {
            let message = e.message().replace('\n', " ");
            Err(source.error(&e.span().unwrap_or(0..0), message).into())
        }
    }
}

/// The cells that show a stage's metric.
fn cells(tables: &Tables, stage: &str, metric: &str) -> Vec<String> {
    let mut found = Vec::new();
    for table in &tables.0 {
        for row in &table.rows {
            for (key, cell) in &row.cells {
                let shown = cell.metric.as_ref().map(|m| m.get_ref().as_str());
                let shown = shown.or(table.column(key.get_ref()).map(|c| c.metric.as_str()));
                let shows = cell.stage.as_ref().is_some_and(|s| {
                    crate::pipeline::graph::matches(s.get_ref(), stage) && shown == Some(metric)
                });
                if shows {
                    let name = match row.group.is_empty() {
                        true => row.name.get_ref().clone(),
                        false => format!("{}, {}", row.group, row.name.get_ref()),
                    };
                    found.push(format!(
                        "table {}, {name}, {}",
                        table.id.get_ref(),
                        key.get_ref()
                    ));
                }
            }
        }
    }
    found
}

fn update(path: &Path, old: &Baseline, report: &Report, spread: &[PathBuf]) -> Result<Ended> {
    if report.lines.iter().all(|l| l.now.is_none()) {
        let message = format!(
            "profile `{}` has no numbers to make a baseline of",
            report.profile
        );
        let hint = format!("repro run --profile {}", report.profile);
        return Err(Diagnostic::new(message).hint(hint).into());
    }
    let mut others = Vec::new();
    for file in spread {
        let text = read::text(file, read::TOLD)
            .with_context(|| format!("cannot read {}", file.display()))?;
        let other: Report = serde_json::from_str(&text)
            .with_context(|| format!("{} is no report of `repro check --json`", file.display()))?;
        others.push(other);
    }
    let new = check::update(old, report, &others, env!("CARGO_PKG_VERSION"));
    put(path, old, &new)
}

/// Writes a baseline where it differs, and says in what.
fn put(path: &Path, old: &Baseline, new: &Baseline) -> Result<Ended> {
    let differences = check::differences(old, new);
    if differences.is_empty() {
        print("the baseline holds what is measured; nothing to update\n")?;
        return Ok(Ended::Done);
    }
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    write(path, new.to_text()?.as_bytes())?;
    print(&(differences.join("\n") + "\n"))?;
    say!("wrote {}", path.display());
    Ok(Ended::Done)
}
