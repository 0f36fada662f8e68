//! The `command` kind: any program, with what it reads and writes declared in pipeline.toml.

mod fill;
mod outputs;

pub use fill::Fill;
use fill::{placeholders, scalar};

use crate::diag::{Diagnostic, suggest};
use crate::graph::Output;
use crate::manifest::Manifest;
use crate::spec::node::{Node, Value};
use crate::spec::{Instance, Spec, texts};

/// What a `command` stage declares, placeholders not yet filled.
#[derive(Debug, Clone)]
pub struct Command {
    pub run: Run,
    /// Patterns of files it reads, relative to the pipeline's folder.
    pub files: Vec<String>,
    /// Patterns of files that are its code.
    pub code: Vec<String>,
    /// `NAME`: the variable's value counts. `NAME=value`: it is set, and counts.
    pub env: Vec<String>,
    /// True if Python programs are to tell what they import, and from which packages.
    pub python: bool,
    /// True if the kernel is asked what it reads.
    pub watch: bool,
}

#[derive(Debug, Clone)]
pub enum Run {
    /// A program and its arguments; no shell sees them.
    Program(Vec<String>),
    /// A line for `sh -c`.
    Shell(String),
}

/// Programs whose first argument is the code they run.
const INTERPRETERS: [&str; 10] = [
    "python", "bash", "sh", "zsh", "Rscript", "julia", "node", "perl", "ruby", "lua",
];

impl Command {
    /// The command and its output ports.
    pub fn read(spec: &Spec, instance: &Instance) -> Result<(Self, Vec<Output>), Diagnostic> {
        let table = &instance.command;
        let wants = |node: &Node, what: &str| {
            let message = format!("stage `{}`: {what}", instance.name);
            spec.error(&node.span, message)
        };
        let list = |key: &str| match table.get(key) {
            None => Ok(Vec::new()),
            Some(node) => texts(node)
                .map(|list| list.into_iter().map(|(text, _)| text.to_owned()).collect())
                .ok_or_else(|| {
                    wants(
                        node,
                        &format!("`{key}` must be a string or a list of strings"),
                    )
                }),
        };
        let run = match (table.get("run"), table.get("shell")) {
            (Some(node), None) => match &node.value {
                Value::List(items) if !items.is_empty() => {
                    // A number in an argument list is written as it stands.
                    Run::Program(items.iter().map(Node::label).collect())
                }
                _ => {
                    return Err(
                        wants(node, "`run` must be a list: the program and its arguments")
                            .hint("for a line of shell write shell = \"…\""),
                    );
                }
            },
            (None, Some(node)) => match node.text() {
                Some(text) => Run::Shell(text.into()),
                None => return Err(wants(node, "`shell` must be a string")),
            },
            _ => {
                let message = format!("stage `{}` needs either `run` or `shell`", instance.name);
                let hint = "run = [\"python\", \"train.py\", \"{out.model}\"]";
                return Err(spec.error(&instance.span, message).hint(hint));
            }
        };
        let flag = |key: &str| match table.get(key).map(|n| (n, &n.value)) {
            None => Ok(true),
            Some((_, Value::Bool(b))) => Ok(*b),
            Some((node, _)) => Err(wants(node, &format!("`{key}` must be true or false"))),
        };
        let command = Self {
            run,
            files: list("files")?,
            code: list("code")?,
            env: list("env")?,
            python: flag("python")?,
            watch: flag("watch")?,
        };
        let outputs = outputs::read(spec, instance)?;
        command.check_placeholders(spec, instance, &outputs)?;
        Ok((command, outputs))
    }

    fn check_placeholders(
        &self,
        spec: &Spec,
        instance: &Instance,
        outputs: &[Output],
    ) -> Result<(), Diagnostic> {
        let mut known: Vec<String> = vec!["params".into(), "depfile".into(), "threads".into()];
        known.extend(instance.inputs.keys().map(|port| format!("in.{port}")));
        known.extend(outputs.iter().map(|o| format!("out.{}", o.port)));
        let node = self.node(instance);
        for text in self.run.texts() {
            for name in placeholders(text) {
                let param = name.strip_prefix("params.");
                let scalar = param.and_then(|path| scalar(&instance.params.to_json(), path));
                if !known.iter().any(|k| k == name) && scalar.is_none() {
                    let message =
                        format!("stage `{}`: nothing stands for {{{name}}}", instance.name);
                    let hint = suggest(name, known.iter().map(String::as_str));
                    return Err(spec.error(&node, message).hint(hint));
                }
            }
        }
        Ok(())
    }

    fn node(&self, instance: &Instance) -> std::ops::Range<usize> {
        let key = match self.run {
            Run::Program(_) => "run",
            Run::Shell(_) => "shell",
        };
        (instance.command.get(key)).map_or(instance.span.clone(), |n| n.span.clone())
    }

    /// Adds what the declaration itself says; files are added by whoever can read them.
    pub fn describe(&self, manifest: &mut Manifest, outputs: &[Output]) {
        match &self.run {
            Run::Program(arguments) => {
                for (i, argument) in arguments.iter().enumerate() {
                    manifest.add(format!("run.{i}"), argument);
                }
            }
            Run::Shell(line) => manifest.add("shell", line),
        }
        for output in outputs {
            manifest.add(format!("out.{}", output.port), &output.file);
        }
        for variable in &self.env {
            match variable.split_once('=') {
                Some((name, value)) => manifest.add(format!("env.{name}"), value),
                None => {
                    let value = std::env::var(variable).ok();
                    let text = value.map_or("not set".into(), |v| format!("{v:?}"));
                    manifest.add(format!("env.{variable}"), text);
                }
            }
        }
    }

    /// The script it starts, which is code without being declared.
    pub fn script(&self) -> Option<&str> {
        let Run::Program(arguments) = &self.run else {
            return None;
        };
        match interpreter(&arguments[0]) {
            Some(_) => arguments[1..]
                .iter()
                .find(|a| !a.starts_with('-'))
                .map(String::as_str),
            None => arguments[0].contains('/').then_some(arguments[0].as_str()),
        }
        .filter(|script| placeholders(script).is_empty())
    }

    /// The arguments of one execution.
    pub fn arguments(&self, fill: &Fill) -> Vec<String> {
        match &self.run {
            Run::Program(arguments) => arguments.iter().flat_map(|a| fill.argument(a)).collect(),
            Run::Shell(line) => vec!["sh".into(), "-c".into(), fill.line(line)],
        }
    }
}

/// `python` of `/usr/bin/python3.12`.
fn interpreter(program: &str) -> Option<&'static str> {
    let name = program.rsplit('/').next().unwrap_or(program);
    let bare = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    INTERPRETERS.into_iter().find(|i| *i == bare)
}

impl Run {
    fn texts(&self) -> Vec<&str> {
        match self {
            Run::Program(arguments) => arguments.iter().map(String::as_str).collect(),
            Run::Shell(line) => vec![line],
        }
    }
}
