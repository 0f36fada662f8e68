//! `repro report`.

use std::path::PathBuf;

use anyhow::Result;
use contract::StageDef;

use super::Ended;
use crate::base::say::say;
use crate::plan::project::{PipelineArgs, Project};
use crate::show::evidence;
use crate::show::report;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The page to write
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    out: PathBuf,
}

pub fn run(pipeline: &PipelineArgs, args: &Args, kinds: &'static [StageDef]) -> Result<Ended> {
    let mut project = Project::open(pipeline, kinds)?;
    let evidence = evidence::collect(&mut project, true);
    let page = report::page(&report::gather(&mut project, &evidence));
    super::write(&args.out, page.as_bytes())?;
    say!("wrote {}", args.out.display());
    project.hint_at_other_profiles();
    Ok(Ended::Done)
}
