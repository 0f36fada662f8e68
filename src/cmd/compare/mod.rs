//! `repro compare`: two states of the pipeline side by side.

mod scope;
mod side;

use std::path::PathBuf;

use anyhow::Result;
use contract::StageDef;

use super::{Ended, print};
use crate::base::diag::{Diagnostic, suggest};
use crate::base::say::say;
use crate::plan::project::PipelineArgs;
use crate::show::compare::{self, Sight, View};
use crate::show::table::Format;
use side::Side;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// `now`, `baseline`, a profile, settings such as 'vae.lr=0.1 *.seed=2', a stage such as `train@0.1,*`, or a
    /// revision of git; `profile:`, `stage:` and `git:` say which where a name could be two of them
    #[arg(value_name = "A")]
    a: String,
    /// The same of the other side
    #[arg(value_name = "B", default_value = "now")]
    b: String,
    /// Only these stages
    #[arg(long, value_name = "STAGE")]
    stage: Vec<String>,
    /// Means over all values of this axis, such as `seed`, in the place of each by itself
    #[arg(long, value_name = "AXIS")]
    mean: Vec<String>,
    /// How to write it
    #[arg(long, value_enum, default_value = "md")]
    format: Format,
    /// Write a file instead of printing
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub fn run(pipeline: &PipelineArgs, args: &Args, kinds: &'static [StageDef]) -> Result<Ended> {
    let here = side::Here::open(pipeline, kinds)?;
    let words = [&args.a, &args.b];
    let mut sides = Vec::with_capacity(2);
    for (text, name) in words.into_iter().zip(["A", "B"]) {
        let meant = here.read(text).and_then(|meant| here.open_meant(meant));
        sides.push(meant.map_err(|e| of_side(e, name, text))?);
    }
    let scopes = scope::scopes(&sides, [&args.a, &args.b], &args.mean)?;
    let remarks: Vec<Vec<String>> = sides.iter().map(Side::remarks).collect();
    let [a, b] = &mut sides[..] else {
        return Ok(Ended::Done);
    };
    let label = |stage: &str| scope::label(here.graph(), stage, &args.mean);
    let mut views = views(a, b, scopes, &label);
    if !args.stage.is_empty() {
        only(&args.stage, &mut views)?;
    }
    for (view, remarks) in views.iter_mut().zip(remarks) {
        view.remarks.extend(remarks);
    }
    let names = [args.a.clone(), args.b.clone()];
    let mut comparison = compare::compare(names, [&views[0], &views[1]]);
    if !args.stage.is_empty() {
        let stages = args.stage.join(" and ");
        let sentence = format!("Of other stages than {stages} nothing is said.");
        comparison.remarks.push(sentence);
    }
    let text = compare::render(&comparison, args.format)?;
    match &args.out {
        Some(file) => {
            super::write(file, text.as_bytes())?;
            say!("wrote {}", file.display());
        }
        None => print(&text)?,
    }
    Ok(Ended::Done)
}

/// An error that says which side it is about.
fn of_side(error: anyhow::Error, name: &str, text: &str) -> anyhow::Error {
    match error.downcast::<Diagnostic>() {
        Ok(diagnostic) => Diagnostic {
            message: format!(
                "{} (side {name} of the comparison, `{text}`)",
                diagnostic.message
            ),
            ..diagnostic
        }
        .into(),
        Err(error) => error.context(format!("side {name} of the comparison, `{text}`")),
    }
}

fn views(
    a: &mut Side,
    b: &mut Side,
    scopes: [compare::Scope; 2],
    label: &dyn Fn(&str) -> String,
) -> [View; 2] {
    let [first, second] = scopes;
    let mut a = sight(a, first, label);
    let mut b = sight(b, second, label);
    // A file that one side's run has read counts on the other, too.
    let mut files = Vec::new();
    for sight in [&mut a, &mut b] {
        files.extend(sight.as_mut().ok().map(Sight::files));
    }
    let files: Vec<_> = files.iter().collect();
    [a, b].map(|sight| match sight {
        Ok(sight) => sight.view(&files),
        Err(view) => view,
    })
}

/// What is to be looked at, or what is known already.
fn sight<'s>(
    side: &'s mut Side,
    scope: compare::Scope,
    label: &dyn Fn(&str) -> String,
) -> Result<Sight<'s>, View> {
    match side {
        Side::Project { project, .. } => Ok(Sight::new(project, scope)),
        Side::Baseline(baseline) => Err(View::of_baseline(baseline, label)),
    }
}

fn only(stages: &[String], views: &mut [View; 2]) -> Result<()> {
    use crate::pipeline::graph::matches;
    let labels = |views: &[View; 2]| {
        let all = views.iter().flat_map(|view| &view.stages);
        let mut names: Vec<String> = all
            .flat_map(|s| [s.family.clone(), s.label.clone()])
            .collect();
        names.sort();
        names.dedup();
        names
    };
    let known = labels(views);
    for stage in stages {
        if !known
            .iter()
            .any(|label| label == stage || matches(stage, label))
        {
            let message = format!("no side has a stage `{stage}`");
            let hint = suggest(stage, known.iter().map(String::as_str));
            return Err(Diagnostic::new(message).hint(hint).into());
        }
    }
    for view in views {
        view.keep(&|label, family| {
            let named = |stage: &String| stage == label || stage == family || matches(stage, label);
            stages.iter().any(named)
        });
    }
    Ok(())
}
