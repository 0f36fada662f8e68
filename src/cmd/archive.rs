//! `repro export` and `repro import`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use contract::StageDef;

use super::Ended;
use crate::archive;
use crate::diag::Diagnostic;
use crate::graph::{Id, Kind};
use crate::human;
use crate::plan::Planner;
use crate::project::{self, PipelineArgs, Project, Request};
use crate::reads::What;
use crate::store::{Store, tree};

const ACCEPTED: &str = "accepted.toml";

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
    let mut wanted = order;
    wanted.retain(|id| {
        let metrics = planner.graph.stages[*id].metrics_port().is_some();
        (metrics || !args.metrics) && planner.fresh(*id).is_some()
    });
    let results: BTreeSet<_> = wanted.iter().filter_map(|id| planner.fresh(*id)).collect();
    let read = files_read(&mut planner, &wanted);
    if results.is_empty() {
        return Err(Diagnostic::new("nothing of this is fresh")
            .hint("`repro run` first")
            .into());
    }
    let _kept = project.store.reading();
    let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
    for name in read {
        match inside(&name) {
            Some(place) => {
                let path = project.facts.dir.join(crate::files::path(&name));
                drop(files.insert(place, path));
            }
            None => eprintln!("left out {name}, which is not in the project"),
        }
    }
    files.insert("pipeline.toml".into(), project.path.clone());
    files.insert(ACCEPTED.into(), project.facts.dir.join(ACCEPTED));
    files.retain(|_, path| path.is_file());
    files.retain(|name, path| {
        let placed = !acts_by_itself(Path::new(name)) && !path.starts_with(&project.store.root);
        if !placed {
            eprintln!("left out {name}: an archive brings no such file to another folder");
        }
        placed
    });
    archive::write(&args.archive, &project.store, &results, &files)?;
    let size = fs::metadata(&args.archive)?.len();
    let count = human::count(results.len(), "result");
    eprintln!(
        "{count} and {} of the project in {}, {}",
        human::count(files.len(), "file"),
        args.archive.display(),
        human::bytes(size)
    );
    Ok(Ended::Done)
}

/// The files that these stages, all fresh, were told or found to read.
fn files_read(planner: &mut Planner, stages: &[Id]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for &id in stages {
        if let Kind::Command(_) = planner.graph.stages[id].kind {
            names.extend(planner.files_of(id));
            let reads = planner.fresh(id).and_then(|fp| planner.store.reads(&fp));
            let reads = reads.unwrap_or_default();
            let contents = reads.iter().filter(|read| read.what == What::Content);
            names.extend(contents.map(|read| read.path.clone()));
        }
    }
    names
}

/// The name of a file in an archive, where it cannot leave the folder it is put into.
fn inside(name: &str) -> Option<String> {
    let parts = Path::new(name).components();
    let parts = parts.filter(|part| *part != Component::CurDir);
    let plain = |part: Component| match part {
        Component::Normal(part) => part.to_str().map(str::to_owned),
        _ => None,
    };
    Some(parts.map(plain).collect::<Option<Vec<_>>>()?.join("/"))
}

pub fn import(pipeline: &PipelineArgs, args: &ImportArgs) -> Result<Ended> {
    let here = Request::find(pipeline)?;
    let dir = match &here {
        Some(request) => request.dir.clone(),
        None => std::env::current_dir()?,
    };
    let file = File::open(&args.archive)
        .with_context(|| format!("cannot read {}", args.archive.display()))?;
    let (mut store, _lock) = Store::lock(&project::store(pipeline)?, |_| {
        eprintln!("waiting for another run")
    })?;
    let scratch = tempfile::tempdir_in(&store.root)?;
    let entries = archive::read(file, scratch.path())?;
    let packed = scratch.path().join(archive::PROJECT);
    let files = match &here {
        None => arriving(&packed, &dir, &store.root)?,
        Some(request) => {
            let theirs = fs::read_to_string(packed.join("pipeline.toml"));
            if theirs.is_ok_and(|theirs| theirs != request.text) {
                eprintln!(
                    "the archive's pipeline is not the one here, which stays: results count where all \
                     they depend on is the same"
                );
            }
            Vec::new()
        }
    };
    let mut new = Vec::new();
    for entry in entries {
        if store.index.results.contains_key(&entry.fp) {
            continue;
        }
        let from = scratch.path().join("results").join(entry.fp.to_string());
        let place = store.result(&entry.fp);
        fs::rename(&from, &place).with_context(|| format!("cannot place {}", place.display()))?;
        store.index.add_result(entry);
        new.push(place);
    }
    store.settle(&new)?;
    for name in &files {
        let to = dir.join(name);
        let placed = fs::create_dir_all(to.parent().unwrap_or(&dir))
            .and_then(|()| fs::copy(packed.join(name), &to));
        placed.with_context(|| format!("cannot write {}", to.display()))?;
        eprintln!("wrote {}", name.display());
    }
    eprintln!(
        "{} new, all as their records say",
        human::count(new.len(), "result")
    );
    Ok(Ended::Done)
}

/// True if git would carry out what it finds there.
fn acts_by_itself(name: &Path) -> bool {
    name.iter().any(|part| part == ".git")
}

/// What an archive brings to a folder without a pipeline. Nothing that is there is replaced, and
/// nothing goes where it would act by itself.
fn arriving(packed: &Path, dir: &Path, store: &Path) -> Result<Vec<PathBuf>> {
    if !packed.join("pipeline.toml").is_file() {
        return Err(project::nowhere().into());
    }
    let walked = tree::walk(packed)?;
    let names = walked.into_iter().map(|node| node.name.into_os_string());
    let mut names = names.collect::<Vec<_>>();
    // Last, so that an import that was interrupted can be repeated.
    names.sort_by_key(|name| name == "pipeline.toml");
    let mut new = Vec::new();
    for name in names {
        let to = dir.join(&name);
        if to.starts_with(store) || acts_by_itself(Path::new(&name)) {
            let name = Path::new(&name).display();
            let message = format!("the archive holds {name}, which does not belong there");
            return Err(Diagnostic::new(message).into());
        }
        match fs::read(&to) {
            Ok(bytes) if bytes == fs::read(packed.join(&name))? => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => new.push(name.into()),
            _ => {
                let message = format!("{} is here already and is not the archive's", to.display());
                let hint = "import into an empty folder, or into a clone of the project";
                return Err(Diagnostic::new(message).hint(hint).into());
            }
        }
    }
    Ok(new)
}
