//! `repro figures`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use contract::StageDef;

use super::Ended;
use crate::base::diag::{Diagnostic, suggest};
use crate::base::read;
use crate::base::say::say;
use crate::pipeline::figures::FigureDecl;
use crate::plan::Planner;
use crate::plan::project::{PipelineArgs, Project};
use crate::show::figures::{self, FileNames, Picture, slug};
use crate::show::history;
use crate::show::svg;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Numbers or names of figures; by default all, and the curves of every training
    #[arg(value_name = "N")]
    figures: Vec<String>,
    /// Where to write them
    #[arg(long, value_name = "DIR", default_value = "figures")]
    out: PathBuf,
}

pub fn run(pipeline: &PipelineArgs, args: &Args, kinds: &'static [StageDef]) -> Result<Ended> {
    let mut project = Project::open(pipeline, kinds)?;
    let declared = project.figures.0.clone();
    for name in &args.figures {
        let ids = || declared.iter().map(|f| f.id.get_ref().as_str());
        if !ids().any(|id| id == name) {
            let message = format!("there is no figure `{name}`");
            return Err(Diagnostic::new(message).hint(suggest(name, ids())).into());
        }
    }
    let title = project.spec.title.clone();
    let all: Vec<usize> = project.graph.order.clone();
    let mut planner = project.planner();
    planner.judge_all(&all);
    let mut out = Out {
        dir: &args.out,
        written: 0,
        missing: Vec::new(),
        damaged: false,
        names: FileNames::default(),
    };
    for figure in &declared {
        if args.figures.is_empty() || args.figures.contains(figure.id.get_ref()) {
            out.figure(&planner, figure, &title)?;
        }
    }
    if args.figures.is_empty() {
        out.curves(&planner)?;
    }
    for line in &out.missing {
        say!("{line}");
    }
    if out.damaged {
        return Ok(Ended::Failed);
    }
    if out.written == 0 {
        let message = "there is nothing to draw";
        let curves = project
            .graph
            .stages
            .iter()
            .any(|s| s.history_port().is_some());
        let hint = match curves || !declared.is_empty() {
            true => format!("repro run --profile {}", project.facts.profile),
            false => "declare [figure.1], or an output that holds `history`".into(),
        };
        return Err(Diagnostic::new(message).hint(hint).into());
    }
    Ok(Ended::Done)
}

struct Out<'a> {
    dir: &'a Path,
    written: usize,
    /// What could not be written, and why, and what is to be known of what was.
    missing: Vec<String>,
    /// Some of it is there and cannot be drawn.
    damaged: bool,
    names: FileNames,
}

impl Out<'_> {
    fn figure(&mut self, planner: &Planner, figure: &FigureDecl, title: &str) -> Result<()> {
        let name = format!("figure-{}", figure.id.get_ref().replace('/', "-"));
        if figure.graph {
            let text = svg::file(&figures::graph(planner, title, false));
            let file = self.names.choose(&name, &name, "svg");
            return self.write(&file, text.as_bytes());
        }
        for (i, panel) in figure.panels.iter().enumerate() {
            let Ok((id, output)) = panel.find(planner.graph) else {
                continue;
            };
            let place = format!("figure {}, {}", figure.id.get_ref(), panel.stage.get_ref());
            let part = match (figure.panels.len(), slug(&panel.caption)) {
                (1, _) => String::new(),
                (_, caption) if caption.is_empty() => format!("-{}", i + 1),
                (_, caption) => format!("-{caption}"),
            };
            let stem = format!("{name}{part}");
            let whole = format!("{stem} {i} {}", panel.caption);
            let extension = Path::new(&planner.graph.stages[id].outputs[output].file)
                .extension()
                .unwrap_or_default()
                .to_string_lossy();
            let file = self.names.choose(&stem, &whole, &extension);
            match figures::picture(planner, id, output) {
                Picture::File(path) => match read::bytes(&path, read::TOLD) {
                    Ok(bytes) => {
                        if extension.eq_ignore_ascii_case("svg")
                            && let Some(what) = figures::acts(&bytes)
                        {
                            let text = format!("{place}: not copied, for it holds {what}");
                            self.missing.push(text);
                            continue;
                        }
                        if let Some(origin) = planner.result(id).and_then(|e| e.origin.as_ref()) {
                            let text = format!("{place}: imported from {origin}, not made here");
                            self.missing.push(text);
                        }
                        self.write(&file, &bytes)?;
                    }
                    Err(e) => self.damaged(format!("{place}: cannot read {}: {e}", path.display())),
                },
                Picture::Stale(reason) => self.missing.push(format!("{place}: stale ({reason})")),
                Picture::NotRun if planner.graph.stages[id].left_out => {}
                Picture::NotRun => self.missing.push(format!("{place}: not run")),
            }
        }
        Ok(())
    }

    /// A sheet of curves for each training that is there.
    fn curves(&mut self, planner: &Planner) -> Result<()> {
        for (id, stage) in planner.graph.stages.iter().enumerate() {
            let histories: Vec<usize> = (0..stage.outputs.len())
                .filter(|o| stage.outputs[*o].holds == contract::history::HOLDS)
                .collect();
            for &output in &histories {
                let whole = match histories.len() {
                    1 => stage.name.clone(),
                    _ => format!("{} {}", stage.name, stage.outputs[output].port),
                };
                // Chosen also for what has not run, so that it does not depend on that.
                let stem = format!("curves-{}", slug(&whole));
                let name = self.names.choose(&stem, &whole, "svg");
                let Picture::File(path) = figures::picture(planner, id, output) else {
                    continue;
                };
                match history::load(&path) {
                    Ok(curves) => {
                        let drawing = svg::sheet(&whole, &curves);
                        self.write(&name, svg::file(&drawing).as_bytes())?;
                    }
                    Err(e) => self.damaged(format!("{whole}: {e:#}")),
                }
            }
        }
        Ok(())
    }

    /// Told in the end; the others are drawn.
    fn damaged(&mut self, why: String) {
        self.missing.push(why);
        self.damaged = true;
    }

    fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let dir = self.dir;
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let file = dir.join(name);
        super::write(&file, bytes)?;
        say!("wrote {}", file.display());
        self.written += 1;
        Ok(())
    }
}
