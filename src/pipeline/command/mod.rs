//! The `command` kind: any program, with what it reads and writes declared in pipeline.toml.

mod env;
mod fill;
mod outputs;
mod placeholders;

pub use env::Variable;
pub use fill::Fill;
pub use placeholders::check_inputs;

use std::ffi::OsString;
use std::ops::Range;

use crate::base::diag::Diagnostic;
use crate::base::secret::Key;
use crate::pipeline::graph::{Input, Output};
use crate::pipeline::manifest::{Manifest, part};
use crate::pipeline::spec::braces;
use crate::pipeline::spec::node::{Node, Value};
use crate::pipeline::spec::{Instance, Spec, texts};

/// What a `command` stage declares, placeholders not yet filled.
#[derive(Debug, Clone)]
pub struct Command {
    pub run: Run,
    /// Files it reads.
    pub files: Vec<Declared>,
    /// Files that are its code.
    pub code: Vec<Declared>,
    pub env: Vec<Variable>,
    /// True if Python programs are to tell what they import, and from which packages.
    pub python: bool,
    /// True if the kernel is asked what it reads.
    pub watch: bool,
}

/// A name or pattern of files, as it is written.
#[derive(Debug, Clone)]
pub struct Declared {
    pub text: String,
    pub span: Range<usize>,
}

#[derive(Debug, Clone)]
pub enum Run {
    /// A program and its arguments; no shell sees them.
    Program(Vec<String>),
    /// Lines for a shell.
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
                .map(|list| {
                    let declared = |(text, span): (&str, &Range<usize>)| Declared {
                        text: text.to_owned(),
                        span: span.clone(),
                    };
                    list.into_iter().map(declared).collect()
                })
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
                // A file with Windows line ends says the same.
                Some(text) => Run::Shell(text.replace("\r\n", "\n")),
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
            env: env::read(spec, instance, list("env")?)?,
            python: flag("python")?,
            watch: flag("watch")?,
        };
        let outputs = outputs::read(spec, instance)?;
        placeholders::check(spec, instance, &command, &outputs)?;
        Ok((command, outputs))
    }

    /// What is declared to be read, with the key it stands under.
    pub fn declared(&self) -> impl Iterator<Item = (&'static str, &Declared)> {
        let files = self.files.iter().map(|d| ("files", d));
        files.chain(self.code.iter().map(|d| ("code", d)))
    }

    /// Adds what the declaration itself says; files are added by whoever can read them.
    pub fn describe(&self, manifest: &mut Manifest, outputs: &[Output], key: &Key) {
        match &self.run {
            Run::Program(arguments) => {
                for (i, argument) in arguments.iter().enumerate() {
                    manifest.add(format!("run.{i}"), argument);
                }
            }
            Run::Shell(line) => manifest.add("shell", line),
        }
        for output in outputs {
            manifest.add(format!("out.{}", part(&output.port)), &output.file);
        }
        for variable in &self.env {
            variable.describe(manifest, key);
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
        .filter(|script| braces::holes(script).is_empty())
    }

    /// The arguments of one execution: of a program those that are declared, of a shell its lines.
    pub fn arguments(&self, fill: &Fill) -> Vec<OsString> {
        match &self.run {
            Run::Program(arguments) => arguments.iter().flat_map(|a| fill.argument(a)).collect(),
            Run::Shell(line) => vec![fill.line(line)],
        }
    }

    /// True if the program is told which stages its inputs come from: then their names count.
    pub fn tells_inputs(&self, inputs: &[Input]) -> bool {
        let several = inputs.iter().any(|input| input.from.len() > 1);
        let values = self.env.iter().filter_map(|v| v.value.as_deref());
        let mut texts = self.run.texts().into_iter().chain(values);
        several || texts.any(|t| t.contains("REPRO_INPUTS") || t.contains("{inputs}"))
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
