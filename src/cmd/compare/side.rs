//! What a side of a comparison may be, from its text to a project.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use contract::StageDef;

use crate::base::diag::{Diagnostic, nearest};
use crate::base::read;
use crate::pipeline::graph::{Graph, Id, Kind};
use crate::plan::project::{PipelineArgs, Project};
use crate::plan::revision::{self, Revision};
use crate::show::check::Baseline;

/// One side, ready to be looked at.
pub enum Side {
    Project {
        project: Box<Project>,
        /// The instances that it names, where it is a stage.
        stage: Option<Vec<Id>>,
        /// Where its files come from, if not from the project's folder.
        revision: Option<Revision>,
    },
    Baseline(Baseline),
}

/// What the text of a side means.
#[derive(Debug, Clone, PartialEq)]
pub enum Meant {
    Now,
    Baseline,
    /// A profile besides that of the command line, settings besides its own.
    Settings {
        profile: Option<String>,
        set: Vec<String>,
    },
    Stage(String),
    Commit(String),
}

/// The pipeline as the command line has it.
pub struct Here<'a> {
    args: &'a PipelineArgs,
    kinds: &'static [StageDef],
    project: Project,
}

impl<'a> Here<'a> {
    pub fn open(args: &'a PipelineArgs, kinds: &'static [StageDef]) -> Result<Self> {
        Ok(Self {
            args,
            kinds,
            project: Project::open(args, kinds)?,
        })
    }

    pub fn graph(&self) -> &Graph {
        &self.project.graph
    }

    fn is_profile(&self, name: &str) -> bool {
        self.project.spec.profiles.iter().any(|p| p.name == name)
    }

    fn is_stage(&self, name: &str) -> bool {
        self.project.graph.select(&[name.to_owned()]).is_ok()
    }

    pub fn read(&self, text: &str) -> Result<Meant> {
        let text = text.trim();
        let profile = |name: &str| Meant::Settings {
            profile: Some(name.into()),
            set: Vec::new(),
        };
        match text.split_once(':') {
            _ if text == "now" => return Ok(Meant::Now),
            _ if text == "baseline" => return Ok(Meant::Baseline),
            Some(("stage", name)) => return Ok(Meant::Stage(name.into())),
            Some(("git", name)) => {
                let commit = revision::commit(&self.project.facts.dir, name);
                return commit
                    .map(Meant::Commit)
                    .ok_or_else(|| self.no_revision(name));
            }
            _ => {}
        }
        let mut words = settings(text);
        let first = words.first().cloned().unwrap_or_default();
        if !is_setting(&first) && (words.len() > 1 || first.starts_with("profile:")) {
            let name = first.strip_prefix("profile:").unwrap_or(&first);
            words.remove(0);
            return Ok(Meant::Settings {
                profile: Some(name.into()),
                set: words,
            });
        }
        if is_setting(&first) {
            return Ok(Meant::Settings {
                profile: None,
                set: words,
            });
        }
        let commit = revision::commit(&self.project.facts.dir, text);
        let mut ways = Vec::new();
        if self.is_profile(text) {
            ways.push(("profile", profile(text)));
        }
        if self.is_stage(text) {
            ways.push(("stage", Meant::Stage(text.into())));
        }
        if let Some(commit) = commit {
            ways.push(("git", Meant::Commit(commit)));
        }
        match ways.len() {
            0 => Err(self.nothing(text)),
            1 => Ok(ways.remove(0).1),
            _ => {
                let names = ways.iter().map(|(what, _)| format!("`{what}:{text}`"));
                let message = format!("`{text}` could be several things");
                let hint = format!("say which: {}", names.collect::<Vec<_>>().join(" or "));
                Err(Diagnostic::new(message).hint(hint).into())
            }
        }
    }

    fn no_revision(&self, name: &str) -> anyhow::Error {
        let names = revision::names(&self.project.facts.dir);
        let near = nearest(name, names.iter().map(String::as_str));
        let hint = match near {
            Some(near) => format!("did you mean `git:{near}`?"),
            None => {
                "a commit, a branch or a tag of the repository that the pipeline lies in".into()
            }
        };
        Diagnostic::new(format!("git knows no revision `{name}`"))
            .hint(hint)
            .into()
    }

    /// There is nothing that is called so.
    fn nothing(&self, text: &str) -> anyhow::Error {
        let refs = revision::names(&self.project.facts.dir);
        let profiles = self.project.spec.profiles.iter().map(|p| p.name.as_str());
        let stages = &self.project.graph.stages;
        let stages = stages
            .iter()
            .flat_map(|s| [s.name.as_str(), s.family.as_str()]);
        let known = ["now", "baseline"].into_iter();
        let known = known
            .chain(profiles)
            .chain(stages)
            .chain(refs.iter().map(String::as_str));
        let hint = match nearest(text, known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => {
                "now, baseline, a profile, STAGE.PARAM=VALUE, a stage, or a revision of git".into()
            }
        };
        let message =
            format!("`{text}` is no profile, no setting, no stage and no revision of git");
        Diagnostic::new(message).hint(hint).into()
    }

    fn open_side(&self, args: &PipelineArgs) -> Result<Box<Project>> {
        Ok(Box::new(Project::open(args, self.kinds)?))
    }

    pub fn open_meant(&self, meant: Meant) -> Result<Side> {
        let mut args = self.args.clone();
        let plain = |project| Side::Project {
            project,
            stage: None,
            revision: None,
        };
        Ok(match meant {
            Meant::Now => plain(self.open_side(&args)?),
            Meant::Baseline => Side::Baseline(self.baseline()?),
            Meant::Settings { profile, set } => {
                args.profile = profile.or(args.profile);
                args.set.extend(set);
                plain(self.open_side(&args)?)
            }
            Meant::Stage(name) => {
                let project = self.open_side(&args)?;
                let ids = project.graph.select(&[name])?;
                Side::Project {
                    project,
                    stage: Some(ids),
                    revision: None,
                }
            }
            Meant::Commit(commit) => {
                let root = &self.project.store.root;
                let revision = Revision::check_out(&self.project.facts.dir, &commit, root)?;
                let name = self.project.path.file_name().unwrap_or_default();
                let file = revision.dir().ok().map(|dir| dir.join(name));
                let Some(file) = file.filter(|file| file.is_file()) else {
                    let name = PathBuf::from(name);
                    let message = format!("this revision has no {}", name.display());
                    let hint = "name a revision in which the pipeline lies in the same folder";
                    return Err(Diagnostic::new(message).hint(hint).into());
                };
                let dir = file.parent().map(Path::to_path_buf).unwrap_or_default();
                args.file = Some(file);
                args.store = Some(root.clone());
                let mut project = self.open_side(&args)?;
                // Data that git does not hold is the same, and need not be read again.
                let index = &mut project.store.index;
                index.believe_below(&self.project.facts.dir, &dir);
                Side::Project {
                    project,
                    stage: None,
                    revision: Some(revision),
                }
            }
        })
    }

    fn baseline(&self) -> Result<Baseline> {
        let name = format!("tests/baselines/{}.toml", self.project.facts.profile);
        let path = self.project.facts.dir.join(&name);
        let text = match read::text(&path, read::WRITTEN) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let message = format!("there is no baseline {name}");
                let hint = "`repro check --update` writes one from the present numbers";
                return Err(Diagnostic::new(message).hint(hint).into());
            }
            Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
        };
        let source = crate::base::diag::Source::new(name, text);
        Baseline::parse(source.text()).map_err(|e| {
            let message = e.message().replace('\n', " ");
            source.error(&e.span().unwrap_or(0..0), message).into()
        })
    }
}

impl Side {
    /// What a reader must know of this side.
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        if let Self::Project {
            project,
            revision: Some(revision),
            ..
        } = self
        {
            if !revision.now.is_empty() {
                let shown: Vec<&str> = revision.now.iter().take(3).map(String::as_str).collect();
                let more = if revision.now.len() > 3 { ", …" } else { "" };
                let files = shown.join(", ");
                remarks.push(format!(
                    "what git does not hold is as it is now ({files}{more})."
                ));
            }
            let library = project
                .graph
                .stages
                .iter()
                .any(|s| matches!(s.kind, Kind::Library(_)));
            if library {
                remarks.push("the code of kinds is that of this build of repro.".into());
            }
        }
        remarks
    }
}

/// True for `STAGE.PARAM=VALUE`.
fn is_setting(text: &str) -> bool {
    text.split_once('=')
        .is_some_and(|(name, _)| name.contains('.'))
}

/// Several settings with spaces between them. What stands in quotes or brackets is one value; elsewhere a
/// space parts two of them only if what follows is a setting.
fn settings(text: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let (mut start, mut quote, mut depth) = (0, None, 0usize);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[' | '{') => depth += 1,
            (None, ']' | '}') => depth = depth.saturating_sub(1),
            (None, c) if c.is_whitespace() && depth == 0 => {
                let next = text[at..].trim_start();
                let word = next.split(char::is_whitespace).next().unwrap_or_default();
                if is_setting(word) {
                    parts.push(text[start..at].trim().to_owned());
                    start = at;
                }
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim().to_owned());
    parts.retain(|part| !part.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_parted_by_spaces_and_values_are_not() {
        assert_eq!(settings("vae.lr=0.1"), ["vae.lr=0.1"]);
        assert_eq!(settings(" a.x=1  *.seed=2 "), ["a.x=1", "*.seed=2"]);
        assert_eq!(
            settings("fit@a,b.x=[1, 2] b.y=2"),
            ["fit@a,b.x=[1, 2]", "b.y=2"]
        );
        assert_eq!(
            settings("a.note=one two b.x=1"),
            ["a.note=one two", "b.x=1"]
        );
        assert_eq!(
            settings("a.note=\"one b.x=1\" c.x=2"),
            ["a.note=\"one b.x=1\"", "c.x=2"]
        );
        assert_eq!(settings("quick a.x=1"), ["quick", "a.x=1"]);
    }
}
