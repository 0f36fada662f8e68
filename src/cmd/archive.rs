//! `repro export` and `repro import`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use contract::StageDef;

use super::Ended;
use crate::base::diag::Diagnostic;
use crate::base::human;
use crate::base::plain;
use crate::base::say::say;
use crate::pipeline::graph::{Id, Kind};
use crate::plan::Planner;
use crate::plan::project::{self, PipelineArgs, Project, Request};
use crate::store::archive;
use crate::store::observed::What;
use crate::store::{IMPORTED, Store};

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
    /// Also files that lie outside the project and are reached by a link in it
    #[arg(long)]
    outside: bool,
}

#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    /// A file that `repro export` wrote
    archive: PathBuf,
    /// How much it may unpack to, such as 20GiB; by default a hundred times its own size
    #[arg(long, value_name = "SIZE")]
    max_size: Option<String>,
}

pub fn export(
    pipeline: &PipelineArgs,
    args: &ExportArgs,
    kinds: &'static [StageDef],
) -> Result<Ended> {
    let mut project = Project::open(pipeline, kinds)?;
    let targets = match args.stages.is_empty() {
        true => project.graph.whole(),
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
        match archive::inside(&name) {
            Some(place) => {
                let path = project.facts.dir.join(crate::base::files::path(&name));
                drop(files.insert(place, path));
            }
            None => say!("left out {name}: it lies outside the project"),
        }
    }
    files.insert("pipeline.toml".into(), project.path.clone());
    files.insert(ACCEPTED.into(), project.facts.dir.join(ACCEPTED));
    files.retain(|name, path| {
        path.is_file() && packed(name, path, &project.facts.dir, args.outside)
    });
    files.retain(|name, path| {
        let placed =
            !archive::acts_by_itself(Path::new(name)) && !path.starts_with(&project.store.root);
        if !placed {
            say!("left out {name}: an archive brings no such file to another folder");
        }
        placed
    });
    archive::write(&args.archive, &project.store, &results, &files)?;
    let size = fs::metadata(&args.archive)?.len();
    let count = human::count(results.len(), "result");
    say!(
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

/// Whether a file goes into the archive. One that lies outside the project does not unless it was asked
/// for, and that is said.
fn packed(name: &str, path: &Path, dir: &Path, outside: bool) -> bool {
    let own = ["pipeline.toml", ACCEPTED].contains(&name);
    let (Ok(real), Ok(dir)) = (path.canonicalize(), dir.canonicalize()) else {
        return false;
    };
    if real.starts_with(dir) || outside || own && !path.is_symlink() {
        return true;
    }
    say!(
        "left out {name}: it is {}, outside the project (--outside packs it)",
        real.display()
    );
    false
}

pub fn import(pipeline: &PipelineArgs, args: &ImportArgs) -> Result<Ended> {
    let here = Request::find(pipeline)?;
    let dir = match &here {
        Some(request) => request.dir.clone(),
        None => std::env::current_dir()?,
    };
    let file = File::open(&args.archive)
        .with_context(|| format!("cannot read {}", args.archive.display()))?;
    let limit = match &args.max_size {
        Some(size) => human::parse_bytes(size).ok_or_else(|| {
            Diagnostic::new(format!("`{size}` is no size")).hint("such as --max-size 20GiB")
        })?,
        None => archive::usual_limit(file.metadata()?.len()),
    };
    let (mut store, _lock) = Store::lock(&project::store(pipeline)?, |_| {
        say!("waiting for another run")
    })?;
    let scratch = tempfile::tempdir_in(&store.root)?;
    let unpacked = archive::unpack(file, scratch.path(), limit)?;
    let packed = scratch.path().join(archive::PROJECT);
    let files = match &here {
        None => arriving(&packed, unpacked.files, &dir, &store.root)?,
        Some(request) => {
            let theirs = fs::read_to_string(packed.join("pipeline.toml"));
            if theirs.is_ok_and(|theirs| theirs != request.text) {
                say!(
                    "the archive's pipeline is not the one here, which stays: results count where all \
                     they depend on is the same"
                );
            }
            Vec::new()
        }
    };
    let name = args.archive.file_name().unwrap_or(args.archive.as_os_str());
    let name = name.to_string_lossy();
    let origin = format!("the archive {}, {}", plain::line(&name), human::now());
    let mut new = Vec::new();
    for mut entry in unpacked.entries {
        if store.index.results.contains_key(&entry.fp) {
            continue;
        }
        let from = scratch.path().join("results").join(entry.fp.to_string());
        let place = store.result(&entry.fp);
        if fs::symlink_metadata(&place).is_ok() {
            // What is there is no result that counts, or it would be known.
            store.discard(&entry.fp)?;
        }
        fs::write(from.join(IMPORTED), &origin)?;
        fs::rename(&from, &place).with_context(|| format!("cannot place {}", place.display()))?;
        entry.origin = Some(origin.clone());
        store.index.add_result(entry);
        new.push(place);
    }
    store.settle(&new)?;
    for name in &files {
        let to = dir.join(name);
        let placed = fs::create_dir_all(to.parent().unwrap_or(&dir))
            .and_then(|()| fs::copy(packed.join(name), &to));
        placed.with_context(|| format!("cannot write {}", to.display()))?;
        say!("wrote {name}");
    }
    for name in unpacked.left_out.iter().take(TOLD) {
        say!("left out {name}: no manifest of the archive names it");
    }
    if unpacked.left_out.len() > TOLD {
        say!("left out {} more", unpacked.left_out.len() - TOLD);
    }
    say!(
        "{} new, all as their records say",
        human::count(new.len(), "result")
    );
    if !new.is_empty() {
        say!("whatever shows them says that they were imported, for they were not made here");
    }
    Ok(Ended::Done)
}

/// Files that were left out and are named one by one.
const TOLD: usize = 10;

/// What an archive brings to a folder without a pipeline. Nothing that is there is replaced, and
/// nothing goes where it would act by itself.
fn arriving(
    packed: &Path,
    mut names: Vec<String>,
    dir: &Path,
    store: &Path,
) -> Result<Vec<String>> {
    if !packed.join("pipeline.toml").is_file() {
        return Err(project::nowhere().into());
    }
    // As they really are, whatever `..` or links stand in what was given.
    let (dir, store) = (dir.canonicalize()?, store.canonicalize()?);
    names.sort();
    // Last, so that an import that was interrupted can be repeated.
    names.sort_by_key(|name| name == "pipeline.toml");
    let mut new = Vec::new();
    for name in names {
        let to = dir.join(&name);
        // A folder on the way may be a link that leads elsewhere.
        let there = to.ancestors().skip(1).find_map(|a| a.canonicalize().ok());
        let there = there.unwrap_or_else(|| dir.clone());
        let out = !there.starts_with(&dir) || there.starts_with(&store) || to.starts_with(&store);
        if out {
            let message = format!("the archive holds {name}, which does not belong there");
            return Err(Diagnostic::new(message).into());
        }
        if Path::new(&name)
            .iter()
            .any(|part| acts(&part.to_string_lossy()))
        {
            say!("left out {name}: programs act on files of that name by themselves");
            continue;
        }
        match fs::read(&to) {
            Ok(bytes) if bytes == fs::read(packed.join(&name))? => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(&to).is_err() => {
                new.push(name);
            }
            _ => {
                let message = format!("{} is here already and is not the archive's", to.display());
                let hint = "import into an empty folder, or into a clone of the project";
                return Err(Diagnostic::new(message).hint(hint).into());
            }
        }
    }
    Ok(new)
}

/// Names that a shell, an editor, Python or a desktop looks for and obeys without being asked.
fn acts(name: &str) -> bool {
    let others = [
        "sitecustomize.py",
        "usercustomize.py",
        "mise.toml",
        "autorun.inf",
        "desktop.ini",
    ];
    name.starts_with('.') || others.contains(&name.to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_obeyed_by_itself_is_known_by_its_name() {
        for name in [".envrc", ".bashrc", ".git", ".vscode", "SiteCustomize.py"] {
            assert!(acts(name), "{name}");
        }
        for name in ["train.py", "data.csv", "a.b.c"] {
            assert!(!acts(name), "{name}");
        }
    }
}
