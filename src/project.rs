//! A pipeline file, its graph and its store: what every command starts from.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use stages::contract::StageDef;

use crate::accept::Accepted;
use crate::check::Claims;
use crate::device::Device;
use crate::diag::{Diagnostic, Source};
use crate::figures::Figures;
use crate::graph::Graph;
use crate::plan::Planner;
use crate::spec::{Overrides, Spec};
use crate::store::Store;
use crate::table::Tables;

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
        let text = std::fs::read_to_string(&path)
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
            eprintln!(
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
    Ok(above.find(|p| p.is_file()))
}

pub fn nowhere() -> Diagnostic {
    let here = std::env::current_dir().unwrap_or_default();
    let message = format!("there is no pipeline.toml in {} or above", here.display());
    Diagnostic::new(message).hint("name one with --file")
}
