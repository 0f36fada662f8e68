//! `repro kinds`: what each kind of the library reads, makes and takes as parameters.

use anyhow::Result;
use contract::{Arity, StageDef};
use serde_json::Value;

use super::{Ended, print};
use crate::base::diag::{Diagnostic, suggest};
use crate::pipeline::kinds::absent;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// By default all
    #[arg(value_name = "KIND")]
    kinds: Vec<String>,
}

pub fn run(args: &Args, kinds: &'static [StageDef]) -> Result<Ended> {
    if kinds.is_empty() {
        return Err(absent().into());
    }
    let names = || kinds.iter().map(|k| k.kind);
    for name in &args.kinds {
        if !names().any(|known| known == name) {
            let message = format!("there is no kind `{name}`");
            return Err(Diagnostic::new(message).hint(suggest(name, names())).into());
        }
    }
    let wanted = |k: &&StageDef| args.kinds.is_empty() || args.kinds.iter().any(|n| n == k.kind);
    let parts: Vec<String> = kinds.iter().filter(wanted).map(section).collect();
    print(&parts.join("\n"))?;
    Ok(Ended::Done)
}

/// One kind as Markdown.
fn section(kind: &StageDef) -> String {
    let mut text = format!("## {}\n\n{}\n\n", kind.kind, kind.about);
    for port in kind.inputs {
        let how = match port.arity {
            Arity::One => "",
            Arity::Optional => ", optional",
            Arity::Many => ", one or more",
        };
        text += &format!("- `in.{}`: {}{how}\n", port.name, port.holds);
    }
    for port in kind.outputs {
        let (name, holds, file) = (port.name, port.holds, port.file);
        text += &format!("- output `{name}`: {holds}, as `{file}`\n");
    }
    if let Some(param) = kind.extends {
        text += &format!("- raising `params.{param}` continues a finished shorter run\n");
    }
    if kind.measures_machine {
        text += "- measures the machine: the device's name is part of its manifest\n";
    }
    let schema = (kind.schema)();
    let mut rows = Vec::new();
    describe(&schema, &schema, "", 0, &mut rows);
    // A kind without parameters is an empty table, not a parameter without a name.
    rows.retain(|[name, ..]| !name.is_empty());
    if !rows.is_empty() {
        text += "\n| parameter | is | meaning |\n|---|---|---|\n";
    }
    for [name, is, meaning] in rows {
        let meaning = meaning.replace('\n', " ").replace('|', "\\|");
        text += &format!("| `{name}` | {is} | {meaning} |\n");
    }
    text
}

/// Tables inside tables inside parameters are named, not opened.
const DEPTH: usize = 3;

/// Rows for a parameter and what it consists of.
fn describe(schema: &Value, root: &Value, path: &str, depth: usize, rows: &mut Vec<[String; 3]>) {
    let meaning = schema["description"].as_str().unwrap_or_default();
    let inner = resolve(schema, root);
    let meaning = match meaning {
        "" if !path.is_empty() => inner["description"].as_str().unwrap_or_default(),
        own => own,
    };
    if let Some(fields) = inner["properties"].as_object()
        && depth < DEPTH
    {
        for (name, field) in fields {
            let path = match path {
                "" => name.clone(),
                path => format!("{path}.{name}"),
            };
            describe(field, root, &path, depth + 1, rows);
        }
        return;
    }
    rows.push([
        path.into(),
        is(inner, root),
        meaning.to_owned() + &words(inner),
    ]);
    let variants = inner["oneOf"].as_array().into_iter().flatten();
    for variant in variants.filter(|_| depth < DEPTH) {
        let Some(name) = variant["properties"]["kind"]["const"].as_str() else {
            continue;
        };
        for (field, schema) in variant["properties"].as_object().into_iter().flatten() {
            if field != "kind" {
                let meaning = schema["description"].as_str().unwrap_or_default();
                let inner = resolve(schema, root);
                let is = format!("{}, if `kind = \"{name}\"`", is(inner, root));
                let meaning = meaning.to_owned() + &words(inner);
                rows.push([format!("{path}.{field}"), is, meaning]);
            }
        }
    }
}

/// What the words of a choice mean, where they say so.
fn words(schema: &Value) -> String {
    let variants = schema["oneOf"].as_array().into_iter().flatten();
    let explained = variants.filter_map(|variant| {
        let kind = &variant["properties"]["kind"]["const"];
        let word = variant["const"].as_str().or(kind.as_str())?;
        let meaning = variant["description"].as_str()?;
        Some(format!(" `{word}`: {meaning}"))
    });
    explained.collect()
}

/// What a reference refers to; anything else is itself.
fn resolve<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    let target = schema["$ref"].as_str().and_then(|r| r.strip_prefix('#'));
    let target = target.and_then(|pointer| root.pointer(pointer));
    target.map_or(schema, |inner| resolve(inner, root))
}

/// The type in a word or two.
fn is(schema: &Value, root: &Value) -> String {
    let words = |values: &[Value]| {
        let words: Vec<String> = values
            .iter()
            .filter_map(|v| Some(format!("`{}`", v.as_str()?)))
            .collect();
        words.join(" or ")
    };
    if let Some(values) = schema["enum"].as_array() {
        return words(values);
    }
    if let Some(variants) = schema["oneOf"].as_array() {
        let name = |v: &Value| {
            let v = resolve(v, root);
            let one = v["enum"].get(0).unwrap_or(&v["const"]);
            match one.is_null() {
                true => v["properties"]["kind"]["const"].clone(),
                false => one.clone(),
            }
        };
        let names: Vec<Value> = variants.iter().map(name).collect();
        let tables = variants.iter().any(|v| v["properties"].is_object());
        let kind = if tables { "a table, its `kind` " } else { "" };
        return format!("{kind}{}", words(&names));
    }
    match &schema["type"] {
        Value::String(one) if one == "object" => "a table".into(),
        Value::String(one) => one.clone(),
        Value::Array(several) => words(several).replace('`', ""),
        _ => "any".into(),
    }
}
