//! From the text of pipeline.toml to plain instances: `for`, `at`, profiles and `--set` are
//! resolved here, and nothing after it knows of them.

pub mod braces;
pub mod budget;
mod instance;
pub mod names;
pub mod node;
mod shape;
pub mod shell;

use std::ops::Range;

use budget::Budget;
pub use instance::{Instance, Resources};
use node::{Node, Table, Value};

use crate::base::diag::{Diagnostic, Source, suggest};
use crate::pipeline::claims::Claims;
use crate::pipeline::figures::Figures;
use crate::pipeline::tables::Tables;

/// A pipeline under one profile.
#[derive(Debug)]
pub struct Spec {
    pub source: Source,
    pub name: String,
    pub title: String,
    pub profile: Profile,
    /// Every profile that may be asked for, by name.
    pub profiles: Vec<Profile>,
    /// In the order of the file; instances of one stage stand together.
    pub instances: Vec<Instance>,
    /// What is printed of the results, as it is written.
    pub tables: Tables,
    pub figures: Figures,
    pub claims: Claims,
    /// Folders besides the project's whose files count when a program reads them.
    pub watch: Vec<Named>,
    /// Patterns of files that do not count although a program reads them.
    pub ignore: Vec<Named>,
    /// Files that say what is installed; they count for every command.
    pub environment: Vec<Named>,
}

/// A path or a pattern, and where the pipeline file says it.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    pub text: String,
    pub span: Range<usize>,
}

/// What `[pipeline] profiles.NAME` says.
#[derive(Debug, Clone, Default)]
pub struct Profile {
    pub name: String,
    /// One sentence: what the profile is for.
    pub about: String,
    /// `cuda`, if it is not meant to be run without.
    pub device: Option<String>,
    /// What it takes, in words, such as `15 days on one GPU`.
    pub takes: Option<String>,
    /// What stands in for the declared data, where something does.
    pub data: Option<String>,
    /// Stages that are no part of it, with all that reads from them, unless they are asked for by name.
    pub without: Vec<Named>,
}

/// What the command line changes.
#[derive(Debug, Default, Clone)]
pub struct Overrides {
    pub profile: Option<String>,
    /// `STAGE.PARAM=VALUE`.
    pub set: Vec<String>,
}

/// The sections that a pipeline file may have.
const SECTIONS: [&str; 6] = ["pipeline", "stage", "profile", "table", "figure", "check"];

impl Spec {
    pub fn parse(mut source: Source, overrides: &Overrides) -> Result<Self, Diagnostic> {
        let mut file = node::parse(&source)?;
        let tables = node::section(&mut file, "table", &source)?;
        let figures = node::section(&mut file, "figure", &source)?;
        let claims = node::section(&mut file, "check", &source)?;
        let file = node::read_table(file, &source)?;
        let read = shape::Reader(&source);
        for entry in &file.0 {
            if !SECTIONS.contains(&entry.key.as_str()) {
                return Err(source
                    .error(&entry.key_span, format!("unknown section `{}`", entry.key))
                    .hint(suggest(&entry.key, SECTIONS)));
            }
            read.table(&entry.key, &entry.node)?;
        }
        let head = file.get("pipeline").and_then(Node::table);
        let shape::Head {
            name,
            title,
            default,
            profiles,
            watch,
            ignore,
            environment,
        } = read.head(head)?;
        let profile = pick(&profiles, default, overrides.profile.as_deref())?;

        let stages = file.get("stage").and_then(Node::table);
        let Some(stages) = stages.filter(|s| !s.0.is_empty()) else {
            let hint = "declare one: [stage.NAME] with a `kind`";
            return Err(source.error(&(0..0), "no stages").hint(hint));
        };
        let chosen = match file.get("profile") {
            Some(section) => read.profile(section, &profile, &profiles, stages)?,
            None => None,
        };
        let mut instances = Vec::with_capacity(stages.0.len());
        let mut budget = Budget::default();
        for entry in &stages.0 {
            let over = chosen.and_then(|p| p.get(&entry.key));
            instance::expand(&read, entry, over, &mut instances, &mut budget)?;
        }
        for text in &overrides.set {
            apply_set(&mut source, text, &mut instances)?;
        }
        instance::resolve_params_of(&source, &mut instances, &mut budget)?;
        Ok(Self {
            source,
            name,
            title,
            profile,
            profiles,
            instances,
            watch,
            ignore,
            environment,
            tables,
            figures,
            claims,
        })
    }

    pub fn error(&self, span: &Range<usize>, message: impl Into<String>) -> Diagnostic {
        self.source.error(span, message)
    }
}

fn pick(
    profiles: &[Profile],
    default: Option<String>,
    asked: Option<&str>,
) -> Result<Profile, Diagnostic> {
    let Some(name) = asked.map(str::to_owned).or(default) else {
        return Ok(profiles.first().cloned().unwrap_or_default());
    };
    let found = profiles.iter().find(|p| p.name == name);
    found.cloned().ok_or_else(|| {
        let names = profiles.iter().map(|p| p.name.as_str());
        Diagnostic::new(format!("there is no profile `{name}`")).hint(suggest(&name, names))
    })
}

/// `glow.optim.lr=1e-3`, `glow@cifar10.optim.lr=1e-3`, or `*.seed=1` for every stage that has the
/// parameter.
fn apply_set(
    source: &mut Source,
    text: &str,
    instances: &mut [Instance],
) -> Result<(), Diagnostic> {
    let span = source.add_override(text);
    let Some((stage, param, value)) = split_set(text, instances) else {
        let hint = "write --set STAGE.PARAM=VALUE, such as --set glow.optim.lr=1e-3";
        return Err(source
            .error(&span, "this sets no parameter of a stage")
            .hint(hint));
    };
    if param.split('.').count() > budget::DEPTH {
        let message = format!(
            "this lies more than {} levels deep, the limit",
            budget::DEPTH
        );
        return Err(source.error(&span, message));
    }
    let value = node::parse_value(source, value, span.clone())?;
    let named = |i: &Instance| means(stage, i);
    if stage != "*" && !instances.iter().any(named) {
        let names = instances.iter().map(|i| i.stage.as_str());
        return Err(source
            .error(&span, format!("there is no stage `{stage}`"))
            .hint(suggest(stage, names)));
    }
    let has = has_parameter(source, param, instances)?;
    let mut found = false;
    for (instance, has) in instances.iter_mut().zip(has) {
        // A kind of the library knows itself which parameters it may have.
        let takes = has || stage != "*" && instance.kind != "command";
        if takes && (stage == "*" || means(stage, instance)) {
            instance.set(param, &value);
            found = true;
        }
    }
    if found {
        return Ok(());
    }
    let meant = instances.iter().filter(|i| stage == "*" || means(stage, i));
    let mut known: Vec<String> = meant.flat_map(|i| i.params.paths()).collect();
    known.sort();
    known.dedup();
    let (message, hint) = match stage {
        "*" => (
            format!("no stage has a parameter `{param}`"),
            "`*` means every stage that has the parameter",
        ),
        _ => (format!("stage `{stage}` has no parameter `{param}`"), ""),
    };
    let near = suggest(param, known.iter().map(String::as_str));
    let hint = match (hint, &known[..]) {
        ("", _) => near,
        (hint, []) => hint.into(),
        (hint, _) => format!("{hint}; {near}"),
    };
    Err(source.error(&span, message).hint(hint))
}

/// Stage, parameter and value of a `--set`. Names of instances may themselves hold `.` and `=`.
fn split_set<'t>(text: &'t str, instances: &[Instance]) -> Option<(&'t str, &'t str, &'t str)> {
    let dots = text.match_indices('.').map(|(at, _)| at);
    let dots = dots.take(budget::DEPTH);
    let ways = dots.filter_map(|at| {
        let (param, value) = text[at + 1..].split_once('=')?;
        Some((&text[..at], param.trim(), value))
    });
    let ways: Vec<_> = ways.collect();
    let known = |way: &&(&str, &str, &str)| instances.iter().any(|i| means(way.0, i));
    let has = |way: &&(&str, &str, &str)| {
        let mut meant = instances.iter().filter(|i| means(way.0, i));
        meant.any(|i| i.params.find(way.1).is_some())
    };
    let best = ways.iter().find(has).or_else(|| ways.iter().rfind(known));
    best.or(ways.first()).copied()
}

/// True if `glow`, `glow@cifar10` or `glow@*` means this instance.
fn means(stage: &str, instance: &Instance) -> bool {
    instance.stage == stage || names::matches(stage, &instance.name)
}

/// Which instances have a parameter, also by `params-of`.
fn has_parameter(
    source: &Source,
    param: &str,
    instances: &[Instance],
) -> Result<Vec<bool>, Diagnostic> {
    let mut resolved = instances.to_vec();
    instance::resolve_params_of(source, &mut resolved, &mut Budget::default())?;
    let has = |i: &Instance| i.params.find(param).is_some();
    Ok(resolved.iter().map(has).collect())
}

/// Strings of a list, or one string as a list of one.
pub fn texts(node: &Node) -> Option<Vec<(&str, &Range<usize>)>> {
    match &node.value {
        Value::Text(text) => Some(vec![(text, &node.span)]),
        Value::List(items) => items.iter().map(|i| Some((i.text()?, &i.span))).collect(),
        _ => None,
    }
}

/// A table without the entries named.
fn without(table: &Table, keys: &[&str]) -> Table {
    let kept = table.0.iter().filter(|e| !keys.contains(&e.key.as_str()));
    Table(kept.cloned().collect())
}
