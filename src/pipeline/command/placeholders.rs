//! Whether everything stands for something that a command has in braces.

use std::ops::Range;

use super::fill::{SINGLE, find, scalar};
use super::{Command, Run};
use crate::base::diag::{Diagnostic, nearest, suggest};
use crate::pipeline::graph::{Input, Output};
use crate::pipeline::spec::braces::{self, Hole};
use crate::pipeline::spec::node::{Node, Value};
use crate::pipeline::spec::shell::{self, Context};
use crate::pipeline::spec::{Instance, Spec};

/// Words that awk has in braces.
const AWK: [&str; 5] = ["print", "next", "nextfile", "exit", "getline"];

/// Where a text is that placeholders may stand in.
struct Text<'a> {
    text: &'a str,
    span: Range<usize>,
}

/// Fails at a name in braces that stands for nothing.
pub fn check(
    spec: &Spec,
    instance: &Instance,
    command: &Command,
    outputs: &[Output],
) -> Result<(), Diagnostic> {
    let mut known: Vec<String> = SINGLE.map(String::from).to_vec();
    known.extend(instance.inputs.keys().map(|port| format!("in.{port}")));
    known.extend(outputs.iter().map(|o| format!("out.{}", o.port)));
    let params = instance.params.to_json();
    for Text { text, span } in texts(instance, command) {
        for hole in braces::holes(text).iter().filter(|hole| hole.braces == 1) {
            let param = hole.name.strip_prefix("params.");
            let is_scalar = param.is_some_and(|path| scalar(&params, path).is_some());
            if is_scalar || known.iter().any(|k| k == hole.name) || is_foreign(hole) {
                continue;
            }
            let error = |message: String| {
                spec.error(&span, format!("stage `{}`: {message}", instance.name))
            };
            if let Some(value) = param.and_then(|path| find(&params, path)) {
                let what = if value.is_array() {
                    "a list"
                } else {
                    "a table"
                };
                let message = format!("{{{}}} is {what}, which no argument can be", hole.name);
                return Err(error(message).hint("{params} is a JSON file of all parameters"));
            }
            let message = format!("nothing stands for {{{}}}", hole.name);
            return Err(error(message).hint(hint(instance, hole.name, known)));
        }
    }
    for output in outputs {
        if let Some(hole) = braces::holes(&output.file).iter().find(|h| h.braces == 1) {
            let node = instance
                .command
                .get("out")
                .and_then(|out| out.table()?.get(&output.port));
            let span = node.map_or(instance.span.clone(), |n| n.span.clone());
            let message = format!(
                "stage `{}`: no axis stands for {{{}}}",
                instance.name, hole.name
            );
            let axes = instance.axes.iter().map(|(axis, _)| axis.as_str());
            return Err(spec.error(&span, message).hint(suggest(hole.name, axes)));
        }
    }
    Ok(())
}

/// True for braces of other programs, such as `%{http_code}` or `HEAD@{upstream}`.
fn is_foreign(hole: &Hole) -> bool {
    matches!(hole.before, Some('%' | '@' | '#' | '\\')) || AWK.contains(&hole.name)
}

fn hint(instance: &Instance, name: &str, mut known: Vec<String>) -> String {
    known.extend(
        instance
            .params
            .paths()
            .iter()
            .map(|path| format!("params.{path}")),
    );
    known.extend(instance.axes.iter().map(|(axis, _)| axis.clone()));
    let ours = ["in.", "out.", "params."]
        .iter()
        .any(|p| name.starts_with(p));
    let whole = known
        .iter()
        .find(|k| k.split_once('.').is_some_and(|(_, rest)| rest == name));
    let near = match (whole, nearest(name, known.iter().map(String::as_str))) {
        (Some(whole), _) => format!("did you mean `{whole}`?"),
        (_, Some(near)) => format!("did you mean `{near}`?"),
        _ if ours => return suggest(name, known.iter().map(String::as_str)),
        _ => "names are those of inputs, outputs, parameters and axes".into(),
    };
    match ours {
        true => near,
        false => format!("{near} (write {{{{{name}}}}} for braces that the program is to see)"),
    }
}

/// Fails where several files would run together with what stands beside them.
pub fn check_inputs(
    spec: &Spec,
    instance: &Instance,
    command: &Command,
    inputs: &[Input],
) -> Result<(), Diagnostic> {
    let several = |hole: &Hole| {
        let port = hole.name.strip_prefix("in.").filter(|_| hole.braces == 1)?;
        let input = inputs.iter().find(|i| i.port == port)?;
        (input.from.len() > 1).then_some(input.from.len())
    };
    if !inputs.iter().any(|input| input.from.len() > 1) {
        return Ok(());
    }
    for Text { text, span } in texts(instance, command) {
        let holes = braces::holes(text);
        let ranges: Vec<_> = holes.iter().map(|h| h.range.clone()).collect();
        let shell = matches!(&command.run, Run::Shell(line) if line == text);
        let contexts = shell::contexts(text, &ranges);
        for (hole, context) in holes.iter().zip(contexts) {
            let Some(count) = several(hole) else { continue };
            let alone = match shell {
                true => {
                    context == Context::Comment || context == Context::Bare && is_word(text, hole)
                }
                false => hole.range == (0..text.len()) && is_argument(command, text),
            };
            if alone {
                continue;
            }
            let message = format!(
                "stage `{}`: {{{}}} is {count} files here, which cannot stand inside a longer text",
                instance.name, hole.name
            );
            let hint = match shell {
                true => "a word of its own outside of quotes",
                false => "an argument of its own",
            };
            let hint = format!(
                "write {{{}}} as {hint}, or {{inputs}}, a JSON file that names them all",
                hole.name
            );
            return Err(spec.error(&span, message).hint(hint));
        }
    }
    Ok(())
}

fn is_argument(command: &Command, text: &str) -> bool {
    matches!(&command.run, Run::Program(arguments) if arguments.iter().any(|a| a == text))
}

/// True if nothing but spaces and operators stands beside it.
fn is_word(line: &str, hole: &Hole) -> bool {
    let after = line[hole.range.end..].chars().next();
    let before = hole
        .before
        .is_none_or(|c| c.is_whitespace() || ";&|(`".contains(c));
    before && after.is_none_or(|c| c.is_whitespace() || ";&|()`<>".contains(c))
}

/// The texts of a command, and where they are written.
fn texts<'a>(instance: &'a Instance, command: &'a Command) -> Vec<Text<'a>> {
    let at = |key: &str| instance.command.get(key);
    let span = |node: Option<&Node>| node.map_or(instance.span.clone(), |n| n.span.clone());
    let mut texts: Vec<Text> = match &command.run {
        Run::Shell(line) => vec![Text {
            text: line,
            span: span(at("shell")),
        }],
        Run::Program(arguments) => {
            let items = match at("run").map(|node| &node.value) {
                Some(Value::List(items)) => &items[..],
                _ => &[],
            };
            let each = arguments.iter().enumerate();
            let each = each.map(|(i, text)| Text {
                text,
                span: span(items.get(i).or(at("run"))),
            });
            each.collect()
        }
    };
    texts.extend(command.env.iter().filter_map(|variable| {
        Some(Text {
            text: variable.value.as_deref()?,
            span: variable.span.clone(),
        })
    }));
    texts
}
