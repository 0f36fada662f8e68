//! A pipeline file, its graph and its store: what every command starts from.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use contract::StageDef;
use globset::{GlobBuilder, GlobSetBuilder};

use crate::base::device::Device;
use crate::base::diag::{Diagnostic, Source};
use crate::base::plain;
use crate::base::read;
use crate::base::say::say;
use crate::pipeline::claims::Claims;
use crate::pipeline::figures::Figures;
use crate::pipeline::graph::Graph;
use crate::pipeline::spec::{Named, Overrides, Spec};
use crate::pipeline::tables::Tables;
use crate::plan::Planner;
use crate::plan::accepted::Accepted;
use crate::store::Store;
use crate::store::places::{Places, Root};

/// What the command line says of the pipeline.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct PipelineArgs {
    /// The pipeline file; by default pipeline.toml here or in a folder above
    #[arg(short, long, value_name = "FILE", global = true)]
    pub file: Option<PathBuf>,
    /// Which of the pipeline's profiles
    #[arg(short, long, env = "REPRO_PROFILE", global = true)]
    pub profile: Option<String>,
    /// Change a parameter for this command; `*` is every stage that has it, as in '*.seed=1'
    #[arg(long, value_name = "STAGE.PARAM=VALUE", global = true)]
    pub set: Vec<String>,
    /// auto, cpu, cuda or cuda:N
    #[arg(long, env = "REPRO_DEVICE", default_value = "auto", global = true)]
    pub device: String,
    /// Where results are kept; by default artifacts/ beside the pipeline file
    #[arg(long, value_name = "DIR", env = "REPRO_STORE", global = true)]
    pub store: Option<PathBuf>,
}

/// What verdicts depend on besides the graph and the store.
#[derive(Debug)]
pub struct Facts {
    /// The folder of the pipeline file.
    pub dir: PathBuf,
    pub profile: String,
    pub device: Device,
    pub accepted: Accepted,
    /// Which files count when a program is seen to read them.
    pub places: Arc<Places>,
    /// Files that say what is installed; they count for every command.
    pub environment: Vec<String>,
    /// The folder of `--data`, if it is known: what lies there may count.
    pub data: Option<PathBuf>,
}

#[derive(Debug)]
pub struct Project {
    /// The pipeline file.
    pub path: PathBuf,
    pub spec: Spec,
    pub graph: Graph,
    pub tables: Tables,
    pub figures: Figures,
    pub claims: Claims,
    pub facts: Facts,
    pub store: Store,
}

/// What a command is asked to look at, before any of it is understood.
#[derive(Debug)]
pub struct Request {
    /// The pipeline file, its folder, and what it says.
    pub path: PathBuf,
    pub dir: PathBuf,
    pub text: String,
    /// The store's folder.
    pub root: PathBuf,
}

impl Request {
    pub fn read(args: &PipelineArgs) -> Result<Self> {
        let path = match &args.file {
            Some(path) => path.clone(),
            None => find()?.ok_or_else(nowhere)?,
        };
        let text = read::text(&path, read::WRITTEN)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let path = std::path::absolute(&path)?;
        let dir = path.parent().unwrap_or(Path::new("/")).to_path_buf();
        let root = match &args.store {
            Some(store) => std::path::absolute(store)?,
            None => dir.join("artifacts"),
        };
        Ok(Self {
            path,
            dir,
            text,
            root,
        })
    }

    /// The same, or nothing where there is no pipeline yet.
    pub fn find(args: &PipelineArgs) -> Result<Option<Self>> {
        match args.file.is_none() && find()?.is_none() {
            true => Ok(None),
            false => Self::read(args).map(Some),
        }
    }
}

impl Project {
    pub fn open(args: &PipelineArgs, kinds: &'static [StageDef]) -> Result<Self> {
        Self::understand(Request::read(args)?, args, kinds)
    }

    pub fn understand(
        request: Request,
        args: &PipelineArgs,
        kinds: &'static [StageDef],
    ) -> Result<Self> {
        let Request {
            path,
            dir,
            text,
            root,
        } = request;
        let name = path.file_name().unwrap_or(path.as_os_str());
        let source = Source::new(name.to_string_lossy(), text);
        let overrides = Overrides {
            profile: args.profile.clone(),
            set: args.set.clone(),
        };
        // Neither needs the other, and with thousands of stages both take their time.
        let (store, resolved) = rayon::join(
            || Store::open(&root),
            || {
                let spec = Spec::parse(source, &overrides)?;
                let graph = Graph::new(&spec, kinds)?;
                Ok::<_, Diagnostic>((spec, graph))
            },
        );
        let (spec, graph) = resolved?;
        let facts = Facts {
            profile: spec.profile.name.clone(),
            device: Device::choose(&args.device)?,
            accepted: Accepted::load(&dir.join("accepted.toml"))?,
            places: Arc::new(places(&spec, &dir, &root)?),
            environment: spec.environment.iter().map(|e| e.text.clone()).collect(),
            data: data_folder(None)?,
            dir,
        };
        Ok(Self {
            path,
            store: store?,
            tables: Tables::load(&spec, &graph)?,
            figures: Figures::load(&spec, &graph)?,
            claims: Claims::load(&spec, &graph)?,
            spec,
            graph,
            facts,
        })
    }

    /// A planner that only looks.
    pub fn planner(&mut self) -> Planner<'_> {
        Planner::new(&self.graph, &mut self.store, &self.facts, false)
    }

    /// Says where results are, to whoever looks under a profile that has none.
    pub fn hint_at_other_profiles(&self) {
        let (profile, profiles) = (&self.facts.profile, self.profiles_with_results());
        if !profiles.is_empty() && !profiles.contains(profile) {
            say!(
                "hint: profile `{profile}` has no results; these have: {}",
                profiles.join(", ")
            );
        }
    }

    /// Other profiles that have results here, for whoever wonders where theirs went.
    pub fn profiles_with_results(&self) -> Vec<String> {
        let names = &self.store.index.names;
        let mut profiles: Vec<String> = names.profiles().map(str::to_owned).collect();
        profiles.sort();
        profiles
    }
}

/// What `[pipeline]` says of files that programs read.
fn places(spec: &Spec, dir: &Path, store: &Path) -> Result<Places, Diagnostic> {
    let mut roots = vec![Root::new(dir, Path::new(""))];
    for folder in &spec.watch {
        let path = dir.join(&folder.text);
        if !path.is_dir() {
            let message = format!("`watch` names {}, which is no folder", folder.text);
            let hint = "write a folder whose files count when a program reads them";
            return Err(spec.error(&folder.span, message).hint(hint));
        }
        let path = path.canonicalize().unwrap_or(path);
        roots.push(Root::new(&path, Path::new(&folder.text)));
    }
    let mut ignore = GlobSetBuilder::new();
    for pattern in &spec.ignore {
        let text = pattern.text.trim_start_matches("./");
        // A folder stands for all that is in it.
        let all = format!("{}/**", text.trim_end_matches('/'));
        for text in [text, &all] {
            let glob = GlobBuilder::new(text).literal_separator(true).build();
            ignore.add(glob.map_err(|e| {
                let message = format!("`ignore` has a pattern that cannot be read: {}", e.kind());
                let hint = "as in files = [\"data/**/*.csv\"]";
                spec.error(&pattern.span, message).hint(hint)
            })?);
        }
    }
    let ignore = ignore
        .build()
        .map_err(|e| Diagnostic::new(format!("`ignore`: {e}")))?;
    for file in &spec.environment {
        if !dir.join(&file.text).is_file() {
            let message = format!("`environment` names {}, which is no file", file.text);
            let hint = "a file that says what is installed, such as uv.lock or environment.yml";
            return Err(spec.error(&file.span, message).hint(hint));
        }
    }
    let texts = |named: &[Named]| named.iter().map(|n| n.text.clone()).collect::<Vec<_>>();
    let (watch, ignore_words) = (texts(&spec.watch), texts(&spec.ignore));
    let told = match watch.is_empty() && ignore_words.is_empty() {
        true => String::new(),
        false => format!("watch {watch:?} ignore {ignore_words:?}"),
    };
    Ok(Places::new(roots, store, ignore).saying(told))
}

/// The folder of local data sets: as the command line names it, or else the environment.
pub fn data_folder(named: Option<&Path>) -> Result<Option<PathBuf>> {
    let variable = std::env::var_os("REPRO_DATA").filter(|folder| !folder.is_empty());
    let folder = named.map(Path::to_path_buf).or(variable.map(PathBuf::from));
    Ok(folder.map(std::path::absolute).transpose()?)
}

/// Where results are or will be, also where there is no pipeline file yet.
pub fn store(args: &PipelineArgs) -> Result<PathBuf> {
    let dir = match (&args.store, &args.file) {
        (Some(store), _) => return Ok(std::path::absolute(store)?),
        (None, Some(file)) => std::path::absolute(file)?.parent().map(Path::to_path_buf),
        (None, None) => match find()? {
            Some(file) => file.parent().map(Path::to_path_buf),
            None => Some(std::env::current_dir()?),
        },
    };
    Ok(dir.unwrap_or_else(|| "/".into()).join("artifacts"))
}

/// pipeline.toml here or in the nearest folder above.
fn find() -> Result<Option<PathBuf>> {
    let here = std::env::current_dir().context("the current folder is gone")?;
    let mut above = here.ancestors().map(|dir| dir.join("pipeline.toml"));
    let found = above.find(|p| p.is_file());
    if let Some(path) = found.as_ref().filter(|p| p.parent() != Some(&*here)) {
        check_owner(path)?;
    }
    Ok(found)
}

/// A user who can write to a folder above could have us run their commands: there a pipeline counts only
/// if it belongs to this user, or to root.
fn check_owner(path: &Path) -> Result<()> {
    let owner = std::fs::metadata(path)?.uid();
    let me = rustix::process::geteuid().as_raw();
    let sudo = std::env::var("SUDO_UID")
        .ok()
        .and_then(|uid| uid.parse().ok());
    if owner == me || owner == 0 || me == 0 && sudo == Some(owner) {
        return Ok(());
    }
    let path = path.display();
    let message = format!("{path}, in a folder above this one, belongs to another user ({owner})");
    let hint = format!(
        "if you trust what it runs: --file {}",
        plain::quoted(&path.to_string())
    );
    Err(Diagnostic::new(message).hint(hint).into())
}

pub fn nowhere() -> Diagnostic {
    let here = std::env::current_dir().unwrap_or_default();
    let message = format!("there is no pipeline.toml in {} or above", here.display());
    Diagnostic::new(message).hint("name one with --file")
}
