//! The command line: one file a command.

mod accept;
mod archive;
mod check;
mod compare;
mod doctor;
mod explain;
#[cfg(feature = "kinds")]
mod fid;
mod figures;
mod graph;
mod init;
mod keep;
mod kinds;
mod log;
pub mod memo;
mod path;
mod report;
mod run;
mod runs;
mod schema;
mod space;
mod status;
mod tables;
mod tensorboard;
mod verify;

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser, Subcommand};
use contract::StageDef;

use crate::base::diag::Diagnostic;
use crate::base::say::{self, say};
use crate::base::threads;
use crate::plan::project::{PipelineArgs, Project};

/// Declarative, content-hashed reproduction pipelines.
///
/// pipeline.toml declares a paper as stages; `repro run` executes only what is stale.
#[derive(Debug, Parser)]
#[command(name = "repro", version, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a first pipeline.toml: an example, or what a script of yours was seen to do
    Init(init::Args),
    /// Run what is stale
    Run(run::Args),
    /// Say what is fresh, what is stale, and why
    Status(status::Args),
    /// Everything about one stage: what it depends on, what changed, what came of it
    Explain(explain::Args),
    /// Print the paper's tables, published numbers beside reproduced ones
    Tables(tables::Args),
    /// Write the paper's figures and the training curves
    Figures(figures::Args),
    /// Write one self-contained page: tables, figures, curves, the graph, where numbers come from
    Report(report::Args),
    /// Write the training curves as event files for TensorBoard
    Tensorboard(tensorboard::Args),
    /// Hold the numbers to the committed baseline; exit with 4 if one got worse
    Check(check::Args),
    /// Two settings, profiles, stages or revisions side by side: parameters, code, metrics
    Compare(compare::Args),
    /// What a stage has said while it ran
    Log(log::Args),
    /// What was run here: when, how long, with which settings, and how it ended
    Runs(runs::Args),
    /// Where an output of a stage is, for notebooks and scripts
    Path(path::Args),
    /// The stages and what flows between them
    Graph(graph::Args),
    /// Declare that a change of code changes no result
    Accept(accept::Args),
    /// Read every artifact again, or compute it again, and compare
    Verify(verify::Args),
    /// What the store holds
    Du(space::DuArgs),
    /// Keep results under a name, so that `gc` leaves them alone
    Keep(keep::Args),
    /// Free what neither the pipeline nor the last runs need
    Gc(space::GcArgs),
    /// Write one archive that a reviewer can import and check offline
    Export(archive::ExportArgs),
    /// Take the results of an archive into the store
    Import(archive::ImportArgs),
    /// What each kind of stage reads, makes and takes as parameters
    Kinds(kinds::Args),
    /// JSON Schema of pipeline.toml
    Schema,
    /// What this machine offers: devices, libraries, disk, data; exit with 1 if there is a problem
    Doctor(doctor::Args),
    /// Completions for a shell
    Completions { shell: clap_complete::Shell },
    /// The manual page
    Man,
    /// Fréchet distance between two folders of pictures, .npy/.npz files or saved statistics
    #[cfg(feature = "kinds")]
    Fid(fid::Args),
    #[cfg(not(feature = "kinds"))]
    #[command(hide = true)]
    Fid(Absent),
    /// Run one job file: what `run` starts for each stage
    #[cfg(feature = "kinds")]
    #[command(hide = true)]
    Worker { job: std::path::PathBuf },
    #[cfg(not(feature = "kinds"))]
    #[command(hide = true)]
    Worker(Absent),
    /// Kill what programs leave behind when the runner dies: what `run` starts once
    #[command(hide = true)]
    Guard,
}

/// All that is said to a command that this build does not have.
#[cfg(not(feature = "kinds"))]
#[derive(Debug, clap::Args)]
pub struct Absent {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    _words: Vec<String>,
}

/// How a command ended, as scripts see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Done = 0,
    Failed = 1,
    Wrong = 2,
    Stale = 3,
    OutOfTolerance = 4,
    Interrupted = 5,
}

pub fn main(kinds: &'static [StageDef]) -> ExitCode {
    let cli = Cli::parse();
    #[cfg(feature = "kinds")]
    if let Command::Worker { job } = &cli.command {
        return crate::exec::worker::main(job, kinds);
    }
    let threads = match &cli.command {
        // It has but one.
        Command::Guard => Ok(()),
        Command::Run(_) => threads::start(false),
        _ => threads::start(true),
    };
    let ended = threads.and_then(|()| dispatch(&cli, kinds));
    let ended = ended.unwrap_or_else(|e| match e.downcast_ref::<Diagnostic>() {
        Some(diagnostic) => {
            say!("{diagnostic}");
            Ended::Wrong
        }
        None => {
            // With RUST_BACKTRACE candle's errors go on with where they arose, which helps nobody here.
            let text = format!("{e:#}");
            say!(
                "error: {}",
                text.split("\n   0: ").next().unwrap_or_default()
            );
            Ended::Failed
        }
    });
    let ended = match say::lost() {
        Some(why) if ended == Ended::Done => {
            say!("error: cannot write to standard output: {why}");
            Ended::Failed
        }
        _ => ended,
    };
    ExitCode::from(ended as u8)
}

/// Ends a reading command without freeing a large graph piece by piece: the process is over.
fn leave(project: Project, ended: Ended) -> Ended {
    std::mem::forget(project);
    ended
}

fn dispatch(cli: &Cli, kinds: &'static [StageDef]) -> Result<Ended> {
    match &cli.command {
        Command::Init(args) => init::run(args, kinds),
        Command::Run(args) => run::run(&cli.pipeline, args, kinds),
        Command::Status(args) => status::run(&cli.pipeline, args, kinds),
        Command::Explain(args) => explain::run(&cli.pipeline, args, kinds),
        Command::Tables(args) => tables::run(&cli.pipeline, args, kinds),
        Command::Figures(args) => figures::run(&cli.pipeline, args, kinds),
        Command::Report(args) => report::run(&cli.pipeline, args, kinds),
        Command::Tensorboard(args) => tensorboard::run(&cli.pipeline, args, kinds),
        Command::Check(args) => check::run(&cli.pipeline, args, kinds),
        Command::Compare(args) => compare::run(&cli.pipeline, args, kinds),
        Command::Log(args) => log::run(&cli.pipeline, args, kinds),
        Command::Runs(args) => runs::run(&cli.pipeline, args),
        Command::Path(args) => path::run(&cli.pipeline, args, kinds),
        Command::Graph(args) => graph::run(&cli.pipeline, args, kinds),
        Command::Accept(args) => accept::run(&cli.pipeline, args, kinds),
        Command::Verify(args) => verify::run(&cli.pipeline, args, kinds),
        Command::Du(args) => space::du(&cli.pipeline, args, kinds),
        Command::Keep(args) => keep::run(&cli.pipeline, args, kinds),
        Command::Gc(args) => space::gc(&cli.pipeline, args, kinds),
        Command::Export(args) => archive::export(&cli.pipeline, args, kinds),
        Command::Import(args) => archive::import(&cli.pipeline, args),
        Command::Kinds(args) => kinds::run(args, kinds),
        Command::Schema => schema::run(kinds),
        Command::Doctor(args) => doctor::run(&cli.pipeline, args),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "repro", &mut text);
            print(&String::from_utf8(text)?)?;
            Ok(Ended::Done)
        }
        Command::Man => {
            let mut text = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut text)?;
            print(&String::from_utf8(text)?)?;
            Ok(Ended::Done)
        }
        Command::Guard => {
            crate::exec::guard_main();
            Ok(Ended::Done)
        }
        #[cfg(feature = "kinds")]
        Command::Fid(args) => fid::run(args),
        #[cfg(feature = "kinds")]
        Command::Worker { .. } => Ok(Ended::Done),
        #[cfg(not(feature = "kinds"))]
        Command::Fid(_) | Command::Worker(_) => Err(crate::pipeline::kinds::absent().into()),
    }
}

/// Writes data to standard output. What comes of it is told at the end of `main`: a reader that has
/// had enough must not keep a command from its verdict.
pub fn print(text: &str) -> Result<()> {
    say::data(text);
    Ok(())
}

/// Writes a file whole or not at all, in the place of what was there. A link is not followed, for a
/// repository may bring one by the name of what we write; to a device or a pipe it leads as meant.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let attempt = || {
        if std::fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir()) {
            return std::fs::write(path, bytes);
        }
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
        let mut part = tempfile::Builder::new()
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder.unwrap_or(Path::new(".")))?;
        part.write_all(bytes)?;
        part.persist(path).map_err(|e| e.error)?;
        Ok(())
    };
    attempt().with_context(|| format!("cannot write {}", path.display()))
}
