//! `repro export` and `repro import`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use stages::contract::StageDef;

use super::Ended;
use crate::archive;
use crate::diag::Diagnostic;
use crate::human;
use crate::project::{PipelineArgs, Project};
use crate::store::Store;

#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// The file to write, such as results.tar.gz
    archive: PathBuf,
    /// Only these stages or instances, with all they need; by default all that is fresh
    #[arg(long = "stage", value_name = "STAGE")]
    stages: Vec<String>,
    /// Only what tables read: stages whose output is metrics
    #[arg(long)]
    metrics: bool,
}

#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    /// A file that `repro export` wrote
    archive: PathBuf,
}

pub fn export(
    pipeline: &PipelineArgs,
    args: &ExportArgs,
    kinds: &'static [StageDef],
) -> Result<Ended> {
    let mut project = Project::open(pipeline, kinds)?;
    let targets = match args.stages.is_empty() {
        true => (0..project.graph.stages.len()).collect(),
        false => project.graph.select(&args.stages)?,
    };
    let order = project.graph.with_needs(&targets);
    let mut planner = project.planner();
    planner.judge_all(&order);
    let wanted = order
        .iter()
        .filter(|id| !args.metrics || planner.graph.stages[**id].metrics_port().is_some());
    let results: BTreeSet<_> = wanted.filter_map(|id| planner.fresh(*id)).collect();
    if results.is_empty() {
        return Err(Diagnostic::new("nothing of this is fresh")
            .hint("`repro run` first")
            .into());
    }
    let _kept = project.store.reading();
    let pipeline = project.path.clone();
    let accepted = project.facts.dir.join("accepted.toml");
    let files: Vec<(&str, &Path)> = [
        ("pipeline.toml", pipeline.as_path()),
        ("accepted.toml", &accepted),
    ]
    .into_iter()
    .filter(|(_, path)| path.is_file())
    .collect();
    archive::write(&args.archive, &project.store, &results, &files)?;
    let size = fs::metadata(&args.archive)?.len();
    let count = human::count(results.len(), "result");
    eprintln!(
        "{count} in {}, {}",
        args.archive.display(),
        human::bytes(size)
    );
    Ok(Ended::Done)
}

pub fn import(
    pipeline: &PipelineArgs,
    args: &ImportArgs,
    kinds: &'static [StageDef],
) -> Result<Ended> {
    let mut project = Project::open(pipeline, kinds)?;
    let file = File::open(&args.archive)
        .with_context(|| format!("cannot read {}", args.archive.display()))?;
    let (store, _lock) = Store::lock(&project.store.root.clone(), |_| {
        eprintln!("waiting for another run")
    })?;
    project.store = store;
    let scratch = tempfile::tempdir_in(&project.store.root)?;
    let entries = archive::read(file, scratch.path())?;
    let mut new = Vec::new();
    for entry in entries {
        if project.store.index.results.contains_key(&entry.fp) {
            continue;
        }
        let from = scratch.path().join("results").join(entry.fp.to_string());
        let place = project.store.result(&entry.fp);
        fs::rename(&from, &place).with_context(|| format!("cannot place {}", place.display()))?;
        project.store.index.add_result(entry);
        new.push(place);
    }
    project.store.settle(&new)?;
    eprintln!(
        "{} new, all as their records say",
        human::count(new.len(), "result")
    );
    Ok(Ended::Done)
}
