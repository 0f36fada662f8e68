//! One instance and its kind: parameters accepted, ports known.

use std::collections::VecDeque;

use contract::StageDef;
use serde_json::Value;

use super::{Kind, Output, Stage};
use crate::base::diag::{Diagnostic, suggest};
use crate::pipeline::command::Command;
use crate::pipeline::kinds::HINT;
use crate::pipeline::spec::node::Table;
use crate::pipeline::spec::{Instance, Spec};

pub fn new(
    spec: &Spec,
    kinds: &'static [StageDef],
    instance: &Instance,
) -> Result<Stage, Diagnostic> {
    let (kind, params, outputs) = if instance.kind == "command" {
        let (command, outputs) = Command::read(spec, instance)?;
        let params = instance.params.to_json();
        (Kind::Command(Box::new(command)), params, outputs)
    } else {
        let Some(def) = kinds.iter().find(|k| k.kind == instance.kind) else {
            return Err(unknown(spec, kinds, instance));
        };
        let outputs = def.outputs.iter().map(|o| Output {
            port: o.name.into(),
            holds: o.holds.into(),
            file: o.file.into(),
        });
        (
            Kind::Library(def),
            check(spec, def, instance)?,
            outputs.collect(),
        )
    };
    Ok(Stage {
        name: instance.name.clone(),
        family: instance.stage.clone(),
        span: instance.span.clone(),
        axes: (instance.axes.iter())
            .map(|(axis, value)| (axis.clone(), value.to_json()))
            .collect(),
        kind,
        params,
        inputs: Vec::new(),
        outputs,
        resources: instance.resources.clone(),
        users: Vec::new(),
        left_out: false,
    })
}

fn unknown(spec: &Spec, kinds: &[StageDef], instance: &Instance) -> Diagnostic {
    let kind = &instance.kind;
    if kinds.is_empty() {
        let message = format!("there is no kind `{kind}` in this build of repro, only `command`");
        return spec.error(&instance.kind_span, message).hint(HINT);
    }
    let names = kinds.iter().map(|k| k.kind).chain(["command"]);
    spec.error(&instance.kind_span, format!("there is no kind `{kind}`"))
        .hint(suggest(kind, names))
}

/// The kind's own check of its parameters, its complaint put where the parameter is written.
fn check(spec: &Spec, def: &StageDef, instance: &Instance) -> Result<Value, Diagnostic> {
    (def.check)(&instance.params.to_json()).map_err(|e| {
        let quoted: Vec<&str> = e.message.split('`').skip(1).step_by(2).collect();
        let unknown = (e.message.starts_with("unknown "))
            .then(|| quoted.first().copied())
            .flatten();
        let at = culprit(&instance.params, &e.path, &e.message).unwrap_or(e.path);
        let within = instance.params.span_of(&at);
        let field = unknown.map(|name| match at.as_str() {
            "" => name.to_owned(),
            path if path == name || path.ends_with(&format!(".{name}")) => path.to_owned(),
            path => format!("{path}.{name}"),
        });
        let span = field
            .and_then(|path| instance.params.span_of(&path))
            .or(within)
            .unwrap_or(instance.span.clone());
        let path = match at.as_str() {
            "" => "params".to_owned(),
            path => format!("params.{path}"),
        };
        let sentence = e
            .message
            .split(", expected one of")
            .next()
            .unwrap_or(&e.message);
        let error = spec.error(
            &span,
            format!("stage `{}`: {path}: {sentence}", instance.name),
        );
        match unknown {
            Some(wrong) => error.hint(match deeper(&(def.schema)(), wrong) {
                Some(path) => format!("did you mean `{path}`?"),
                None => suggest(wrong, quoted[1..].iter().copied()),
            }),
            None => error.hint(format!("kind `{}`: {}", def.kind, def.about)),
        }
    })
}

/// The one value within the table at `path` that the message quotes: of a table with a `kind` errors name
/// only the table.
fn culprit(params: &Table, path: &str, message: &str) -> Option<String> {
    if !["unknown variant", "invalid"]
        .iter()
        .any(|m| message.starts_with(m))
    {
        return None;
    }
    let table = params.find(path)?.table()?;
    let word = message.split(['`', '"']).nth(1)?;
    let quoted = |inner: &String| table.find(inner).is_some_and(|node| node.label() == word);
    let mut all = table.paths().into_iter().filter(quoted);
    match (all.next(), all.next()) {
        (Some(inner), None) => Some(format!("{path}.{inner}")),
        _ => None,
    }
}

/// Where a table within the parameters has a parameter of this name: `train.epochs` for `epochs`.
fn deeper(schema: &Value, name: &str) -> Option<String> {
    let fields = |schema: &Value| schema["properties"].as_object().cloned();
    let resolve = |field: &Value| {
        let target = field["$ref"].as_str().and_then(|r| r.strip_prefix('#'));
        target.and_then(|pointer| schema.pointer(pointer)).cloned()
    };
    let mut open = VecDeque::from([(String::new(), schema.clone())]);
    while let Some((path, table)) = open.pop_front() {
        for (key, field) in fields(&table)? {
            let within = format!("{path}{key}");
            if key == name && !path.is_empty() {
                return Some(within);
            }
            if let Some(table) = resolve(&field).filter(|table| fields(table).is_some()) {
                open.push_back((within + ".", table));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_parameter_that_lies_deeper_is_found() {
        let schema = json!({
            "properties": { "seed": {}, "train": { "$ref": "#/$defs/Training" } },
            "$defs": {
                "Training": { "properties": { "epochs": {}, "optim": { "$ref": "#/$defs/Optim" } } },
                "Optim": { "properties": { "lr": {} } },
            },
        });
        let found = |name| deeper(&schema, name);
        assert_eq!(found("epochs").as_deref(), Some("train.epochs"));
        assert_eq!(found("lr").as_deref(), Some("train.optim.lr"));
        assert_eq!((found("seed"), found("epohcs")), (None, None));
        assert_eq!(deeper(&json!({}), "lr"), None);
    }
}
