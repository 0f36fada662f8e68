//! `repro init`: a first pipeline.toml, as an example or from what a script of the user was seen to do.

mod steps;
mod text;
mod words;

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use contract::StageDef;

use super::{Ended, print};
use crate::base::diag::Source;
use crate::base::human;
use crate::base::plain;
use crate::base::say::say;
use crate::exec::trace;
use crate::pipeline::graph::Graph;
use crate::pipeline::spec::{Overrides, Spec};
use steps::Steps;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Run this line of shell once, look on, and propose stages from what its commands read and write
    #[arg(long, value_name = "COMMAND")]
    trace: Option<String>,
}

/// What stands in the file without `--trace`.
const EXAMPLE: &str = include_str!("example.toml");

pub fn run(args: &Args, kinds: &'static [StageDef]) -> Result<Ended> {
    let dir = std::env::current_dir().context("cannot tell the folder this is run in")?;
    let path = dir.join(FILE);
    if path.symlink_metadata().is_ok() {
        bail!("{FILE} is here already; hint: move it away to begin anew");
    }
    let (text, names) = match &args.trace {
        None => (EXAMPLE.into(), Vec::new()),
        Some(line) => {
            let Some(steps) = traced(&dir, line)? else {
                return Ok(Ended::Failed);
            };
            text::pipeline(&steps, line, &dir)
        }
    };
    // What is proposed must be what we take.
    let source = Source::new(FILE, text.clone());
    let spec = Spec::parse(source, &Overrides::default());
    let checked = spec.and_then(|spec| Graph::new(&spec, kinds));
    checked.map_err(|e| {
        anyhow::anyhow!("the proposal is no pipeline, which is a fault of ours: {e}\n{text}")
    })?;
    let mut file = File::options().write(true).create_new(true).open(&path)?;
    file.write_all(text.as_bytes())
        .with_context(|| format!("cannot write {FILE}"))?;
    let what = match &names[..] {
        [] => "an example".into(),
        names => format!(
            "{}: {}",
            human::count(names.len(), "stage"),
            names.join(", ")
        ),
    };
    print(&format!("wrote {FILE}: {what}\nnext: repro run\n"))?;
    Ok(Ended::Done)
}

const FILE: &str = "pipeline.toml";

/// The steps of a line of shell that is run here; nothing if it failed, which is said.
fn traced(dir: &Path, line: &str) -> Result<Option<Steps>> {
    // With something behind it the line is carried out by a shell that stays, so that what it starts is seen
    // as it was written.
    let script = format!("{line}\nexit $?");
    let arguments = ["bash", "-c", &script].map(OsString::from);
    let (exit, trace) = trace::trace(dir, &arguments)?;
    if exit.code != Some(0) {
        say!(
            "error: `{line}` failed: {}; nothing was written; hint: it must run through once, as it is",
            exit.describe()
        );
        return Ok(None);
    }
    let steps = steps::steps(&trace);
    if steps.all.is_empty() {
        say!(
            "error: `{line}` started nothing that left a file below {} or printed what it read there; \
             hint: run it in the project's folder",
            dir.display()
        );
        return Ok(None);
    }
    if let Some(step) = steps.all.iter().find(|step| step.made.len() > MOST) {
        let words = step
            .commands
            .first()
            .map(|c| c.arguments.join(" ".as_ref()));
        say!(
            "error: `{}` left {}, too many to name each as an output; hint: let it write them into a folder \
             that it makes itself",
            plain::line(&words.unwrap_or_default().to_string_lossy()),
            human::count(step.made.len(), "file")
        );
        return Ok(None);
    }
    Ok(Some(steps))
}

/// As many outputs of one stage can be read in a file that people edit.
const MOST: usize = 100;
