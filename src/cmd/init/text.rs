//! From steps to a pipeline.toml that does what the script did.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::steps::{Step, Steps};
use super::words::{Words, environment, line_of};
use crate::exec::trace::Started;
use crate::store::is_plain_name;

/// A stage of the proposal.
#[derive(Debug)]
pub struct Stage {
    pub name: String,
    /// Port and path of each output; a path that is nothing for what the step prints.
    pub outputs: Vec<(String, Option<PathBuf>)>,
    /// Port, the output that it is connected with, and the path where the step looks for it.
    pub inputs: Vec<(String, String, Option<PathBuf>)>,
}

/// The text, and the names of its stages.
pub fn pipeline(steps: &Steps, script: &str, project: &Path) -> (String, Vec<String>) {
    let names = names(&steps.all, project);
    let mut stages: Vec<Stage> = Vec::new();
    for (step, name) in steps.all.iter().zip(&names) {
        stages.push(stage(step, name.clone(), &stages));
    }
    let mut text = format!(
        "# What `{}` was seen to do, as stages. `repro run` does what is stale; a file that a program reads\n\
         # counts without being named here. Edit as you like: docs/pipeline.md says what a stage can say.\n",
        crate::base::plain::line(script)
    );
    for path in &steps.own {
        let path = path
            .strip_prefix(project)
            .unwrap_or(path)
            .display()
            .to_string();
        let path = crate::base::plain::line(&path);
        let _ = writeln!(
            text,
            "# The script itself wrote {path}, which no stage makes yet."
        );
    }
    for (step, stage) in steps.all.iter().zip(&stages) {
        text.push_str(&declaration(step, stage, steps, project));
    }
    text.push_str(&table(steps, &stages));
    (text, names)
}

fn stage(step: &Step, name: String, before: &[Stage]) -> Stage {
    let mut ports = BTreeSet::new();
    let mut port = |wanted: String| {
        let mut port = wanted.clone();
        for i in 2.. {
            if ports.insert(port.clone()) {
                break;
            }
            port = format!("{wanted}-{i}");
        }
        port
    };
    let mut outputs: Vec<_> = (step.made.iter())
        .map(|path| (port(port_of(path)), Some(path.clone())))
        .collect();
    if outputs.is_empty() {
        outputs.push((port("printed".into()), None));
    }
    let mut inputs = Vec::new();
    for (path, from) in &step.needs {
        let from = &before[*from];
        let output = from
            .outputs
            .iter()
            .find(|(_, made)| made.as_ref() == Some(path));
        if let Some((output, _)) = output {
            let source = format!("{}.{output}", from.name);
            inputs.push((port(output.clone()), source, Some(path.clone())));
        }
    }
    for from in &step.after {
        let from = &before[*from];
        let source = format!("{}.{}", from.name, from.outputs[0].0);
        inputs.push((port(format!("after-{}", from.name)), source, None));
    }
    Stage {
        name,
        outputs,
        inputs,
    }
}

/// Each step by the script that it runs, by what it makes, or by its program.
fn names(steps: &[Step], project: &Path) -> Vec<String> {
    let mut taken: BTreeMap<String, usize> = BTreeMap::new();
    let mut all = Vec::new();
    for step in steps {
        let mut scripts = step.commands.iter().filter_map(|c| script(c, project));
        let program = || step.commands.first()?.arguments.first().map(PathBuf::from);
        let file = scripts.next().or_else(|| step.made.first().cloned());
        let name = file
            .or_else(program)
            .map_or("stage".into(), |file| port_of(&file));
        let count = taken.entry(name.clone()).or_default();
        *count += 1;
        all.push(match count {
            1 => name,
            n => format!("{name}-{n}"),
        });
    }
    all
}

/// The file of the project that a command runs, if it runs one.
fn script(command: &Started, project: &Path) -> Option<PathBuf> {
    let words = match line_of(command) {
        Some(line) => line.split_whitespace().map(OsString::from).collect(),
        None => command.arguments.clone(),
    };
    let files = words.iter().map(|word| command.dir.join(word));
    let mut files = files.filter(|file| file.starts_with(project) && file.is_file());
    files.find(|file| crate::store::observed::is_code(&file.to_string_lossy()))
}

/// What a file is called as a port: letters, digits, `-` and `_`.
fn port_of(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let plain = |c: char| match c.is_ascii_alphanumeric() || c == '_' {
        true => c.to_ascii_lowercase(),
        false => '-',
    };
    let name: String = stem.chars().map(plain).collect();
    match name.trim_matches('-') {
        "" => "file".into(),
        name => name.into(),
    }
}

fn declaration(step: &Step, stage: &Stage, steps: &Steps, project: &Path) -> String {
    let words = Words {
        step,
        stage,
        project,
    };
    let mut lines = Vec::new();
    let (env, exports) = environment(step, steps);
    lines.extend(exports);
    let kept = step.made.iter().filter(|path| !words.names_output(path));
    let kept: Vec<&PathBuf> = kept.collect();
    for folder in &step.wants {
        if kept.iter().any(|path| path.parent() == Some(folder)) {
            lines.push(format!("mkdir -p {}", words.relative(folder)));
        }
    }
    for (port, _, path) in &stage.inputs {
        if let Some(path) = path
            && !words.names_input(path)
        {
            lines.extend(bring(port, &words.relative(path), path.is_dir()));
        }
    }
    let mut said = BTreeSet::new();
    lines.retain(|line| said.insert(line.clone()));
    if words.is_told(steps) {
        lines.push(
            "# The script gave this command its input (`<<`), which must be in a file here.".into(),
        );
    }
    lines.push(words.line(steps));
    for (port, path) in &stage.outputs {
        if let Some(path) = path
            && !words.names_output(path)
        {
            let options = if path.is_dir() { "-r " } else { "" };
            lines.push(format!(
                "cp {options}{} {{out.{port}}}",
                words.relative(path)
            ));
        }
    }
    let mut text = format!("\n[stage.{}]\nkind = \"command\"\n", stage.name);
    for (port, source, _) in &stage.inputs {
        let _ = writeln!(text, "in.{port} = \"{source}\"");
    }
    if !env.is_empty() {
        let env: Vec<String> = env.iter().map(|variable| literal(variable)).collect();
        let _ = writeln!(text, "env = [{}]", env.join(", "));
    }
    let _ = match &lines[..] {
        [line] => writeln!(text, "shell = {}", literal(line)),
        lines => writeln!(
            text,
            "shell = {}",
            literal(&format!("\n{}\n", lines.join("\n")))
        ),
    };
    let mut taken = BTreeSet::new();
    for (port, path) in &stage.outputs {
        let name = file_name(port, path.as_deref());
        let name = match taken.insert(name.clone()) {
            true => name,
            false => format!("{port}-{name}"),
        };
        taken.insert(name.clone());
        let name = literal(&name);
        let _ = match path.as_ref().is_some_and(|path| !measured(path).is_empty()) {
            true => writeln!(
                text,
                "out.{port} = {{ file = {name}, holds = \"metrics\" }}"
            ),
            false => writeln!(text, "out.{port} = {name}"),
        };
    }
    text
}

/// The name that an output is kept under: its own, unless that is one of ours.
fn file_name(port: &str, path: Option<&Path>) -> String {
    let own = path.map_or(Some(OsStr::new("printed.txt")), Path::file_name);
    match own
        .and_then(OsStr::to_str)
        .filter(|name| is_plain_name(name))
    {
        Some(name) => name.into(),
        None => format!("{port}-output"),
    }
}

/// The numbers of a file whose name says that it holds some.
fn measured(path: &Path) -> Vec<String> {
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase();
    let says = ["metric", "score", "result", "eval", "stats", "test"];
    if !name.ends_with(".json") || !says.iter().any(|word| name.contains(word)) {
        return Vec::new();
    }
    let metrics = contract::measured::load(path, &|_| None).unwrap_or_default();
    metrics.into_iter().map(|metric| metric.name).collect()
}

/// A table of all numbers that the steps have measured.
fn table(steps: &Steps, stages: &[Stage]) -> String {
    let mut columns: Vec<String> = Vec::new();
    let mut rows: Vec<(&str, Vec<String>)> = Vec::new();
    for (step, stage) in steps.all.iter().zip(stages) {
        let numbers: Vec<String> = step.made.iter().flat_map(|path| measured(path)).collect();
        if !numbers.is_empty() {
            for number in &numbers {
                if !columns.contains(number) {
                    columns.push(number.clone());
                }
            }
            rows.push((&stage.name, numbers));
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    let id = |name: &str| port_of(Path::new(&name.replace('.', "-")));
    let mut text = String::from(
        "\n# Whether lower or higher is better is a guess from the names.\n[table.1]\ntitle = \"What was measured\"\n\
         head = \"stage\"\ncolumns = [\n",
    );
    for name in &columns {
        let better = match LOWER.iter().any(|word| name.to_lowercase().contains(word)) {
            true => "lower",
            false => "higher",
        };
        let shown = literal(name);
        let _ = writeln!(
            text,
            "  {{ id = \"{}\", metric = {shown}, published = {shown}, better = \"{better}\", digits = 3 }},",
            id(name)
        );
    }
    text.push_str("]\n");
    for (stage, numbers) in rows {
        let _ = writeln!(text, "[[table.1.row]]\nname = \"{stage}\"");
        for name in numbers {
            let _ = writeln!(text, "{} = {{ stage = \"{stage}\" }}", id(&name));
        }
    }
    text
}

/// Parts of names of numbers that are better when lower.
const LOWER: [&str; 13] = [
    "loss",
    "err",
    "mse",
    "mae",
    "rmse",
    "fid",
    "perplexity",
    "ppl",
    "nll",
    "bits",
    "time",
    "seconds",
    "wer",
];

/// Puts an input where a program looks for it, whole or not at all: another stage may be reading it there. It is
/// the stage's own then, so that what counts is the input.
fn bring(port: &str, path: &str, folder: bool) -> Vec<String> {
    let above = Path::new(path)
        .parent()
        .and_then(Path::to_str)
        .unwrap_or_default();
    let mut lines = Vec::new();
    if !above.is_empty() {
        lines.push(format!("mkdir -p {above}"));
    }
    if folder {
        lines.push(format!("cp -rT {{in.{port}}} {path}"));
    } else {
        lines.push(format!("cp {{in.{port}}} {path}.$$"));
        lines.push(format!("mv {path}.$$ {path}"));
    }
    lines
}

/// A TOML string.
fn literal(text: &str) -> String {
    match text.contains('\n') && !text.contains("'''") {
        true => format!("'''{text}'''"),
        false => toml::Value::String(text.into()).to_string(),
    }
}
