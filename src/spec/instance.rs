//! One `[stage.NAME]` entry becomes one instance for each combination of its axes' values.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use super::node::{Entry, Node, Table, Value};
use super::shape::Reader;
use super::without;
use crate::diag::{Diagnostic, Source, suggest};

/// A stage with its axes fixed: `glow@cifar10`.
#[derive(Debug, Clone)]
pub struct Instance {
    /// `glow@cifar10`, or `glow` if it has no axes.
    pub name: String,
    pub stage: String,
    /// Of the stage's name.
    pub span: Range<usize>,
    pub axes: Vec<(String, Node)>,
    pub kind: String,
    pub kind_span: Range<usize>,
    pub params: Table,
    pub inputs: Table,
    pub resources: Resources,
    /// What only a `command` has: `run`, `out`, `files` and the like.
    pub command: Table,
}

/// What a running stage occupies.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Resources {
    /// CPU threads it needs at least; 0 leaves it to the runner.
    pub cpu: usize,
    pub memory: u64,
    pub gpu: Option<usize>,
}

impl Resources {
    /// How many a command asks for.
    pub fn gpus(&self) -> usize {
        self.gpu.unwrap_or(0)
    }
}

const COMMON: [&str; 7] = ["kind", "note", "for", "in", "params", "at", "resources"];
/// Keys of a stage whose kind is `command`.
pub const COMMAND: [&str; 7] = ["run", "shell", "files", "code", "env", "out", "python"];

type Result<T> = std::result::Result<T, Diagnostic>;

/// Appends the instances of one `[stage.NAME]`; `over` is what the profile has for it.
pub fn expand(
    read: &Reader,
    entry: &Entry,
    over: Option<&Node>,
    instances: &mut Vec<Instance>,
) -> Result<()> {
    let stage = &entry.key;
    let declared = read.table(stage, &entry.node)?;
    if stage.contains(['@', '.', ',', '=']) || stage.is_empty() {
        let message = format!("a stage cannot be called `{stage}`");
        let hint = "use letters, digits, - and _";
        return Err(read.0.error(&entry.key_span, message).hint(hint));
    }
    let of = format!("stage `{stage}`");
    let command = declared.get("kind").and_then(Node::text) == Some("command");
    let known = |table: &Table| match command {
        true => read.known_keys(&of, table, &[&COMMON[..], &COMMAND[..]].concat()),
        false => read.known_keys(&of, table, &COMMON),
    };
    known(declared)?;
    if let Some(at) = declared.get("at") {
        let at = read.table("at", at)?;
        read.axis_values(stage, declared, at)?;
        for value in &at.0 {
            known(read.table(&value.key, &value.node)?)?;
        }
    }
    let over = over.map(|node| read.table(stage, node)).transpose()?;
    for axes in combinations(read, declared)? {
        let values: Vec<String> = axes.iter().map(|(_, v)| v.label()).collect();
        let mut own = without(declared, &["for", "at"]);
        if let Some(at) = declared.get("at").and_then(Node::table) {
            for value in at.0.iter().filter(|e| values.contains(&e.key)) {
                own.merge(read.table(&value.key, &value.node)?);
            }
        }
        instances.push(instance(read, entry, own, over, axes, &values)?);
    }
    Ok(())
}

fn instance(
    read: &Reader,
    entry: &Entry,
    own: Table,
    over: Option<&Table>,
    axes: Vec<(String, Node)>,
    values: &[String],
) -> Result<Instance> {
    let stage = &entry.key;
    let mut instance = Instance {
        name: match values {
            [] => stage.clone(),
            _ => format!("{stage}@{}", values.join(",")),
        },
        stage: stage.clone(),
        span: entry.key_span.clone(),
        kind: String::new(),
        kind_span: 0..0,
        params: Table::default(),
        inputs: Table::default(),
        resources: Resources::default(),
        command: Table::default(),
        axes: Vec::new(),
    };
    for field in own.0 {
        match field.key.as_str() {
            "kind" => {
                instance.kind = read.text("kind", &field.node)?.into();
                instance.kind_span = field.node.span;
            }
            "note" => {
                read.text("note", &field.node)?;
            }
            "params" => instance.params = read.owned_table(field)?,
            "in" => instance.inputs = read.owned_table(field)?,
            "resources" => instance.resources = resources(read, &read.owned_table(field)?)?,
            _ => instance.command.0.push(field),
        }
    }
    if instance.kind.is_empty() {
        let message = format!("stage `{stage}` has no `kind`");
        let hint = "`repro schema` lists the kinds";
        return Err(read.0.error(&entry.key_span, message).hint(hint));
    }
    if let Some(over) = over {
        instance.params.merge(&read.overrides(over, values));
    }
    if !axes.is_empty() {
        let tables = [
            &mut instance.params,
            &mut instance.inputs,
            &mut instance.command,
        ];
        for entry in tables.into_iter().flat_map(|table| &mut table.0) {
            entry.node.substitute(&axes);
        }
    }
    instance.axes = axes;
    Ok(instance)
}

fn resources(read: &Reader, table: &Table) -> Result<Resources> {
    read.known_keys("`resources`", table, &["cpu", "memory", "gpu"])?;
    let mut resources = Resources::default();
    for entry in &table.0 {
        match entry.key.as_str() {
            "cpu" => resources.cpu = read.count("cpu", &entry.node)? as usize,
            "memory" => resources.memory = read.bytes("memory", &entry.node)?,
            _ => resources.gpu = Some(read.count("gpu", &entry.node)? as usize),
        }
    }
    Ok(resources)
}

/// Every combination of the axes' values, the last axis turning fastest.
fn combinations(read: &Reader, declared: &Table) -> Result<Vec<Vec<(String, Node)>>> {
    let mut all = vec![Vec::new()];
    let Some(axes) = declared.get("for") else {
        return Ok(all);
    };
    for axis in &read.table("for", axes)?.0 {
        let values = match &axis.node.value {
            Value::List(items) if !items.is_empty() => items,
            _ => return Err(read.wants(&axis.key, "a list of values", &axis.node)),
        };
        let mut seen = HashSet::new();
        for value in values {
            let label = value.label();
            if matches!(value.value, Value::List(_) | Value::Table(_))
                || label.contains([',', '.', '/'])
            {
                let hint = "an axis takes strings, numbers or booleans without `,`, `.` and `/`";
                let message = format!("axis `{}` cannot have this value", axis.key);
                return Err(read.0.error(&value.span, message).hint(hint));
            }
            if !seen.insert(label) {
                let label = value.label();
                let message = format!("axis `{}` has `{label}` twice", axis.key);
                return Err(read.0.error(&value.span, message));
            }
        }
        all = all
            .iter()
            .flat_map(|before: &Vec<(String, Node)>| {
                values.iter().map(|value| {
                    let mut axes = before.clone();
                    axes.push((axis.key.clone(), value.clone()));
                    axes
                })
            })
            .collect();
    }
    Ok(all)
}

/// Replaces each `{ params-of = "stage@value" }` by that instance's parameters.
pub fn resolve_params_of(source: &Source, instances: &mut [Instance]) -> Result<()> {
    let asking: Vec<usize> = (0..instances.len())
        .filter(|i| instances[*i].params.0.iter().any(|e| asks(&e.node)))
        .collect();
    if asking.is_empty() {
        return Ok(());
    }
    let index: BTreeMap<String, usize> = (0..instances.len())
        .map(|i| (instances[i].name.clone(), i))
        .collect();
    for i in asking {
        let mut params = instances[i].params.clone();
        for entry in &mut params.0 {
            fill(source, &mut entry.node, instances, &index, &mut vec![i])?;
        }
        instances[i].params = params;
    }
    Ok(())
}

fn asks(node: &Node) -> bool {
    let table = node.table();
    table.is_some_and(|t| t.get("params-of").is_some() || t.0.iter().any(|e| asks(&e.node)))
}

fn fill(
    source: &Source,
    node: &mut Node,
    instances: &[Instance],
    index: &BTreeMap<String, usize>,
    path: &mut Vec<usize>,
) -> Result<()> {
    let Value::Table(table) = &mut node.value else {
        return Ok(());
    };
    let Some(of) = table.get("params-of") else {
        return (table.0.iter_mut())
            .try_for_each(|e| fill(source, &mut e.node, instances, index, path));
    };
    let name = Reader(source).text("params-of", of)?;
    let Some(&target) = index.get(name) else {
        let hint = suggest(name, index.keys().map(String::as_str));
        return Err(source
            .error(&of.span, format!("there is no stage `{name}`"))
            .hint(hint));
    };
    if path.contains(&target) {
        return Err(source.error(
            &of.span,
            format!("the parameters of `{name}` contain themselves"),
        ));
    }
    path.push(target);
    let mut params = instances[target].params.clone();
    for entry in &mut params.0 {
        fill(source, &mut entry.node, instances, index, path)?;
    }
    path.pop();
    // What stands beside `params-of` overrides.
    params.merge(&without(table, &["params-of"]));
    *table = params;
    Ok(())
}
