//! `repro schema`: the JSON Schema of pipeline.toml, for editors that complete and check it.

use anyhow::Result;
use contract::{Arity, StageDef};
use serde_json::{Map, Value, json};

use super::{Ended, print};

pub fn run(kinds: &'static [StageDef]) -> Result<Ended> {
    print(&format!("{:#}\n", schema(kinds)))?;
    Ok(Ended::Done)
}

/// Stages are checked by their kind. What stands under `at`, or in a profile, is a part of
/// something and is only checked for its shape.
pub fn schema(kinds: &[StageDef]) -> Value {
    let mut defs = Map::new();
    let mut cases: Vec<Value> = kinds.iter().map(|kind| library(kind, &mut defs)).collect();
    cases.push(command());
    let names: Vec<&str> = kinds.iter().map(|k| k.kind).chain(["command"]).collect();
    let profile = json!({"anyOf": [
        {"type": "string"},
        {"type": "object", "additionalProperties": false, "properties": {
            "about": {"type": "string"},
            "device": {"enum": ["cpu", "cuda"]},
            "takes": {"type": "string"},
            "without": {"type": ["string", "array"], "items": {"type": "string"}, "description": "stages that are no part of the profile, with all that reads from them, unless they are named"},
            "data": {"type": "string"},
        }},
    ]});
    let texts = texts();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "pipeline.toml of repro",
        "type": "object",
        "required": ["stage"],
        "additionalProperties": false,
        "properties": {
            "pipeline": {"type": "object", "additionalProperties": false, "properties": {
                "name": {"type": "string"},
                "title": {"type": "string"},
                "profile": {"type": "string", "description": "the profile used by default"},
                "profiles": {"type": "object", "additionalProperties": profile},
                "watch": described(&texts, "folders besides the project's whose files count when a program reads them"),
                "ignore": described(&texts, "patterns of files that do not count although a program reads them"),
                "environment": described(&texts, "files that say what is installed, such as uv.lock; they count for every command"),
            }},
            "stage": {
                "type": "object",
                "minProperties": 1,
                "additionalProperties": {
                    "type": "object",
                    "required": ["kind"],
                    "properties": {"kind": {"enum": names}},
                    "allOf": cases,
                },
            },
            "profile": {"type": "object", "additionalProperties": {"type": "object", "additionalProperties": {"type": "object"}}},
            "table": {"type": "object", "additionalProperties": table()},
            "figure": {"type": "object", "additionalProperties": figure()},
            "check": {"type": "object", "additionalProperties": {
                "type": "object",
                "required": ["claim", "metric", "stage", "than"],
                "additionalProperties": false,
                "properties": {
                    "claim": {"type": "string", "description": "in words"},
                    "metric": {"type": "string"},
                    "stage": {"type": "string", "description": "the instance whose number is better ..."},
                    "than": {"type": "string", "description": "... than the number of this one"},
                    "varies": described(&texts, "keys of the metric's protocol that may differ between the two"),
                    "profiles": described(&texts, "the profiles whose numbers are held to it; left out: all"),
                },
            }},
        },
        "$defs": defs,
    })
}

/// What a row or a panel may say besides: it stands for one for each value.
fn each() -> Value {
    described(
        &texts(),
        "axes: one for each of their values; {axis} stands for the value in texts and stages",
    )
}

fn table() -> Value {
    let better = json!({"enum": ["lower", "higher"]});
    let text = json!({"type": "string"});
    let cell = json!({"type": "object", "additionalProperties": false, "properties": {
        "published": {"type": "number", "description": "the value in the literature"},
        "bound": {"type": "boolean", "description": "true if the published value is a bound"},
        "source": {"type": "string", "description": "where the published value stands"},
        "stage": {"type": "string", "description": "what measures it; `*` takes all values of an axis and shows their mean"},
        "metric": {"type": "string", "description": "in place of the column's"},
    }});
    json!({"type": "object", "required": ["title", "columns"], "additionalProperties": false, "properties": {
        "title": text,
        "head": {"type": "string", "description": "head of the column of rows' names"},
        "group_head": {"type": "string", "description": "head of the column of groups"},
        "columns": {"type": "array", "items": {
            "type": "object",
            "required": ["id", "metric", "better", "digits"],
            "additionalProperties": false,
            "properties": {
                "id": {"type": "string", "description": "the key under which rows give their cell"},
                "metric": text,
                "published": {"type": "string", "description": "what the published numbers are, such as FID"},
                "better": better,
                "digits": {"type": "integer", "minimum": 0, "maximum": 255},
                "varies": {"type": "array", "items": text},
            },
        }},
        "row": {"type": "array", "items": {
            "type": "object",
            "anyOf": [{"required": ["name"]}, {"required": ["each"]}],
            "properties": {
                "name": text,
                "each": each(),
                "group": {"type": "string", "description": "rows of a group compete for the best value"},
                "note": {"type": "string", "description": "a footnote"},
                "part": {"type": "boolean", "description": "true if it shows a part of another row"},
            },
            "additionalProperties": cell,
        }},
    }})
}

fn figure() -> Value {
    json!({"type": "object", "required": ["title"], "additionalProperties": false, "properties": {
        "title": {"type": "string"},
        "graph": {"type": "boolean", "description": "true if the figure is the graph of stages"},
        "panel": {"type": "array", "items": {
            "type": "object",
            "required": ["stage"],
            "additionalProperties": false,
            "properties": {
                "stage": {"type": "string", "description": "the instance that draws it"},
                "caption": {"type": "string"},
                "each": each(),
                "output": {"type": "string", "description": "which of its pictures"},
            },
        }},
    }})
}

fn common() -> Map<String, Value> {
    let common = json!({
        "kind": {"type": "string"},
        "note": {"type": "string", "description": "for readers; no result depends on it"},
        "for": {"type": "object", "additionalProperties": {"type": "array", "minItems": 1},
            "description": "one instance for each combination of values"},
        "at": {"type": "object", "additionalProperties": {"type": "object"},
            "description": "what differs for the instances with a value"},
        "resources": {"type": "object", "additionalProperties": false, "properties": {
            "cpu": {"type": "integer", "minimum": 0},
            "memory": {"type": ["string", "integer"]},
            "gpu": {"type": "integer", "minimum": 0},
        }},
    });
    match common {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// A reference to an output, or several.
fn reference(arity: Arity) -> Value {
    let one = json!({"type": "string", "pattern": "\\.", "description": "STAGE.OUTPUT"});
    match arity {
        Arity::Many => json!({"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]}),
        Arity::One | Arity::Optional => one,
    }
}

fn library(kind: &StageDef, defs: &mut Map<String, Value>) -> Value {
    let mut params = (kind.schema)();
    if let Some(inner) = params.as_object_mut() {
        inner.remove("$schema");
        // What the kind defines moves to the top, under names of its own.
        if let Some(Value::Object(own)) = inner.remove("$defs") {
            for (name, def) in own {
                defs.insert(format!("{}.{name}", kind.kind), renamed(def, kind.kind));
            }
        }
    }
    // Part of a parameter may stand under `at`, so here nothing is required.
    let mut params = renamed(params, kind.kind);
    relax(&mut params);
    let mut fields = common();
    let inputs: Map<String, Value> = kind
        .inputs
        .iter()
        .map(|port| (port.name.into(), reference(port.arity)))
        .collect();
    fields.insert(
        "in".into(),
        json!({"type": "object", "additionalProperties": false, "properties": inputs}),
    );
    fields.insert("params".into(), params);
    json!({
        "if": {"properties": {"kind": {"const": kind.kind}}},
        "then": {"description": kind.about, "properties": fields, "additionalProperties": false},
    })
}

/// A string or a list of strings.
fn texts() -> Value {
    json!({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
}

fn described(shape: &Value, text: &str) -> Value {
    let mut shape = shape.clone();
    shape["description"] = json!(text);
    shape
}

fn command() -> Value {
    let texts = texts();
    let mut fields = common();
    fields.insert(
        "in".into(),
        json!({"type": "object", "additionalProperties": reference(Arity::Many)}),
    );
    fields.insert("params".into(), json!({"type": "object"}));
    fields.insert(
        "run".into(),
        json!({"type": "array", "minItems": 1, "description": "program and arguments; no shell"}),
    );
    fields.insert(
        "shell".into(),
        json!({"type": "string", "description": "lines for bash, which stops at the first failure"}),
    );
    fields.insert("files".into(), texts.clone());
    fields.insert("code".into(), texts.clone());
    fields.insert("env".into(), texts);
    fields.insert(
        "python".into(),
        json!({"type": "boolean", "description": "false: Python programs are not asked what they import"}),
    );
    fields.insert(
        "watch".into(),
        json!({"type": "boolean", "description": "false: the kernel is not asked what the program reads"}),
    );
    let file = json!({"anyOf": [
        {"type": "string"},
        {"type": "object", "required": ["file"], "additionalProperties": false,
            "properties": {"file": {"type": "string"}, "holds": {"type": "string"}}},
    ]});
    fields.insert(
        "out".into(),
        json!({"type": "object", "minProperties": 1, "additionalProperties": file}),
    );
    json!({
        "if": {"properties": {"kind": {"const": "command"}}},
        "then": {"description": "any program", "properties": fields, "additionalProperties": false},
    })
}

fn renamed(mut value: Value, kind: &str) -> Value {
    match &mut value {
        Value::Object(fields) => {
            for (key, field) in fields.iter_mut() {
                match field {
                    Value::String(target) if key == "$ref" => {
                        *target = target.replace("#/$defs/", &format!("#/$defs/{kind}."));
                    }
                    other => *other = renamed(other.take(), kind),
                }
            }
        }
        Value::Array(items) => items
            .iter_mut()
            .for_each(|item| *item = renamed(item.take(), kind)),
        _ => {}
    }
    value
}

/// The parameters of a stage may be spread over `params`, `at` and profiles, and
/// `{ params-of = … }` may stand for a table.
fn relax(params: &mut Value) {
    if let Some(fields) = params.as_object_mut() {
        fields.remove("required");
        if let Some(Value::Object(properties)) = fields.get_mut("properties") {
            for property in properties.values_mut() {
                let own = property.take();
                *property = json!({"anyOf": [own, {"type": "object"}]});
            }
            properties.insert(
                "params-of".into(),
                json!({"type": "string", "description": "the instance whose parameters these are, but for what stands beside"}),
            );
            properties.insert(
                "declared-params-of".into(),
                json!({"type": "string", "description": "the same without what the profile overrides"}),
            );
        }
    }
}
