//! One `[stage.NAME]` entry becomes one instance for each combination of its axes' values.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use super::budget::{self, Budget};
use super::names;
use super::node::{Entry, Node, Table, Value};
use super::shape::Reader;
use super::without;
use crate::base::diag::{Diagnostic, Source, suggest};
use crate::base::plain;

/// A stage with its axes fixed: `glow@cifar10`.
#[derive(Debug, Clone)]
pub struct Instance {
    /// `glow@cifar10`, or `glow` if it has no axes.
    pub name: String,
    pub stage: String,
    /// The bytes of the file where the stage's name stands.
    pub span: Range<usize>,
    pub axes: Vec<(String, Node)>,
    pub kind: String,
    pub kind_span: Range<usize>,
    pub params: Table,
    /// As `[stage.NAME]` has them, where `params` are not the same any more.
    declared: Option<Table>,
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

impl Instance {
    /// Sets a parameter from the command line, which changes nothing of what the file declares.
    pub fn set(&mut self, param: &str, value: &Node) {
        self.declared.get_or_insert_with(|| self.params.clone());
        self.params.set(param, value.clone());
    }

    fn weight(&self) -> usize {
        let axes = self.axes.iter().map(|(_, value)| value.weight());
        let tables = [&self.params, &self.inputs, &self.command];
        let tables = tables.into_iter().chain(&self.declared);
        axes.sum::<usize>() + tables.map(Table::weight).sum::<usize>()
    }
}

impl Resources {
    /// How many a command asks for.
    pub fn gpus(&self) -> usize {
        self.gpu.unwrap_or(0)
    }
}

const COMMON: [&str; 7] = ["kind", "note", "for", "in", "params", "at", "resources"];
/// Keys of a stage whose kind is `command`.
pub const COMMAND: [&str; 8] = [
    "run", "shell", "files", "code", "env", "out", "python", "watch",
];

type Result<T> = std::result::Result<T, Diagnostic>;

/// Appends the instances of one `[stage.NAME]`; `over` is what the profile has for it.
pub fn expand(
    read: &Reader,
    entry: &Entry,
    over: Option<&Node>,
    instances: &mut Vec<Instance>,
    budget: &mut Budget,
) -> Result<()> {
    let stage = &entry.key;
    let declared = read.table(stage, &entry.node)?;
    if let Some(why) = names::problem(stage, &['@', '.', ',', '=', '*']) {
        let message = format!(
            "a stage cannot be called `{}`: {why}",
            plain::cut(stage, 50)
        );
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
    for axes in combinations(read, declared, instances.len())? {
        let values: Vec<String> = axes.iter().map(|(_, v)| v.label()).collect();
        let mut own = without(declared, &["for", "at"]);
        if let Some(at) = declared.get("at").and_then(Node::table) {
            for value in at.0.iter().filter(|e| values.contains(&e.key)) {
                own.merge(read.table(&value.key, &value.node)?);
            }
        }
        let instance = instance(read, entry, own, over, axes, &values)?;
        if !budget.take(1 + instance.weight()) {
            return Err(too_large(read.0, &entry.key_span));
        }
        instances.push(instance);
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
            _ => {
                let parts: Vec<_> = values.iter().map(|v| names::quoted(v)).collect();
                format!("{stage}@{}", parts.join(","))
            }
        },
        stage: stage.clone(),
        span: entry.key_span.clone(),
        kind: String::new(),
        kind_span: 0..0,
        params: Table::default(),
        declared: None,
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
        instance.declared = Some(instance.params.clone());
        instance.params.merge(&read.overrides(over, values));
    }
    if !axes.is_empty() {
        let tables = [&mut instance.params, &mut instance.inputs];
        for table in tables.into_iter().chain(&mut instance.declared) {
            for entry in &mut table.0 {
                entry.node.substitute(&axes, false);
            }
        }
        for entry in &mut instance.command.0 {
            let later = ["run", "shell", "env"].contains(&entry.key.as_str());
            entry.node.substitute(&axes, later);
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
/// There are `before` instances of other stages.
fn combinations(
    read: &Reader,
    declared: &Table,
    before: usize,
) -> Result<Vec<Vec<(String, Node)>>> {
    let mut all = vec![Vec::new()];
    let Some(axes) = declared.get("for") else {
        return Ok(all);
    };
    for axis in &read.table("for", axes)?.0 {
        let values = match &axis.node.value {
            Value::List(items) if !items.is_empty() => items,
            _ => return Err(read.wants(&axis.key, "a list of values", &axis.node)),
        };
        let mut labels = HashSet::with_capacity(values.len());
        for value in values {
            let label = value.label();
            if matches!(value.value, Value::List(_) | Value::Table(_)) {
                let hint = "an axis takes strings, numbers and booleans";
                let message = format!("axis `{}` cannot have this value", axis.key);
                return Err(read.0.error(&value.span, message).hint(hint));
            }
            if let Some(why) = names::label_problem(&label) {
                let label = plain::cut(&label, 50);
                let message = format!("axis `{}` cannot have the value `{label}`: {why}", axis.key);
                return Err(read.0.error(&value.span, message));
            }
            if !labels.insert(label.clone()) {
                let message = format!("axis `{}` has `{label}` twice", axis.key);
                return Err(read.0.error(&value.span, message));
            }
        }
        if all.len().saturating_mul(values.len()) + before > budget::INSTANCES {
            let message = format!("more than {} instances, the limit", budget::INSTANCES);
            let hint = "an instance is made for each combination of the axes' values";
            return Err(read.0.error(&axis.key_span, message).hint(hint));
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

/// The parameters of another instance, as the profile has them.
const PARAMS_OF: &str = "params-of";
/// The same as `[stage.NAME]` has them, whatever the profile overrides.
const DECLARED: &str = "declared-params-of";

/// Replaces each `{ params-of = "stage@value" }` by that instance's parameters.
pub fn resolve_params_of(
    source: &Source,
    instances: &mut [Instance],
    budget: &mut Budget,
) -> Result<()> {
    let asking: Vec<usize> = (0..instances.len())
        .filter(|i| asks(&instances[*i].params))
        .collect();
    if asking.is_empty() {
        return Ok(());
    }
    let index: BTreeMap<String, usize> = (0..instances.len())
        .map(|i| (instances[i].name.clone(), i))
        .collect();
    for i in asking {
        let mut params = instances[i].params.clone();
        let mut from = Lenders {
            source,
            instances,
            index: &index,
            declared: false,
            path: vec![i],
        };
        from.fill(&mut params, budget)?;
        let own = std::mem::replace(&mut instances[i].params, params);
        // Who asks for what is declared follows it from there.
        instances[i].declared.get_or_insert(own);
    }
    Ok(())
}

fn too_large(source: &Source, span: &Range<usize>) -> Diagnostic {
    let message = format!(
        "with this the pipeline comes to more than {} values",
        budget::VALUES
    );
    let hint = "an instance has parameters of its own, and `params-of` copies those of another";
    source.error(span, message + ", the limit").hint(hint)
}

fn asks(table: &Table) -> bool {
    let within = |e: &Entry| e.node.table().is_some_and(asks);
    let own = [PARAMS_OF, DECLARED]
        .iter()
        .any(|key| table.get(key).is_some());
    own || table.0.iter().any(within)
}

/// Instances whose parameters others take.
struct Lenders<'a> {
    source: &'a Source,
    instances: &'a [Instance],
    index: &'a BTreeMap<String, usize>,
    /// Whether what is asked for now is as it was declared.
    declared: bool,
    /// Who asks, through whom.
    path: Vec<usize>,
}

impl Lenders<'_> {
    fn fill(&mut self, table: &mut Table, budget: &mut Budget) -> Result<()> {
        let declared = table.get(DECLARED);
        if let (Some(_), Some(other)) = (declared, table.get(PARAMS_OF)) {
            let message = format!("`{PARAMS_OF}` and `{DECLARED}` stand for the same table");
            let error = self.source.error(&other.span, message);
            return Err(error.hint("leave out one of them"));
        }
        let key = declared.map_or(PARAMS_OF, |_| DECLARED);
        let Some(of) = declared.or_else(|| table.get(PARAMS_OF)) else {
            for entry in &mut table.0 {
                if let Value::Table(inner) = &mut entry.node.value {
                    self.fill(inner, budget)?;
                }
            }
            return Ok(());
        };
        let name = Reader(self.source).text(key, of)?;
        let Some(&target) = self.index.get(name) else {
            let hint = suggest(name, self.index.keys().map(String::as_str));
            let message = format!("there is no stage `{name}`");
            return Err(self.source.error(&of.span, message).hint(hint));
        };
        if self.path.contains(&target) {
            let message = format!("the parameters of `{name}` contain themselves");
            return Err(self.source.error(&of.span, message));
        }
        self.path.push(target);
        if self.path.len() > budget::DEPTH {
            let message = format!("more than {} stages contain one another's", budget::DEPTH);
            let message = message + " parameters, the limit";
            return Err(self.source.error(&of.span, message));
        }
        let before = self.declared;
        self.declared |= declared.is_some();
        let target = &self.instances[target];
        let params = match self.declared {
            true => target.declared.as_ref().unwrap_or(&target.params),
            false => &target.params,
        };
        if !budget.take(params.weight()) {
            return Err(too_large(self.source, &of.span));
        }
        let mut params = params.clone();
        self.fill(&mut params, budget)?;
        self.declared = before;
        self.path.pop();
        // What stands beside it overrides.
        params.merge(&without(table, &[PARAMS_OF, DECLARED]));
        *table = params;
        Ok(())
    }
}
