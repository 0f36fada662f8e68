//! Instances and kinds together: names resolved, ports agree, parameters accepted, no cycle.

use std::collections::HashMap;
use std::ops::Range;

use petgraph::algo::{tarjan_scc, toposort};
use petgraph::graph::{DiGraph, NodeIndex};
use serde_json::Value;
use stages::contract::{Arity, StageDef};

use crate::command::Command;
use crate::diag::{Diagnostic, suggest};
use crate::spec::node::Node;
use crate::spec::{Instance, Resources, Spec, texts};

/// Position of a stage in [`Graph::stages`].
pub type Id = usize;

#[derive(Debug)]
pub struct Graph {
    /// In the order of the file.
    pub stages: Vec<Stage>,
    /// Every stage after those it reads from.
    pub order: Vec<Id>,
    by_name: HashMap<String, Id>,
}

/// A node: one instance with everything known that does not depend on what has run.
#[derive(Debug)]
pub struct Stage {
    pub name: String,
    /// The name without the axes' values.
    pub family: String,
    pub span: Range<usize>,
    pub kind: Kind,
    /// As the kind wrote them back.
    pub params: Value,
    pub inputs: Vec<Input>,
    pub outputs: Vec<Output>,
    pub resources: Resources,
    /// Stages that read an output of this one.
    pub users: Vec<Id>,
}

pub enum Kind {
    /// One of the library's, run in a worker process.
    Library(&'static StageDef),
    /// Any program.
    Command(Box<Command>),
}

#[derive(Debug, Clone)]
pub struct Input {
    pub port: String,
    pub from: Vec<(Id, usize)>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    pub port: String,
    pub holds: String,
    /// Name in the result's directory.
    pub file: String,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Kind {
    pub fn name(&self) -> &'static str {
        match self {
            Kind::Library(def) => def.kind,
            Kind::Command(_) => "command",
        }
    }

    /// True if its results are a property of the machine.
    pub fn measures_machine(&self) -> bool {
        matches!(self, Kind::Library(def) if def.measures_machine)
    }
}

impl Stage {
    /// The stages it reads from, each once.
    pub fn needs(&self) -> Vec<Id> {
        let mut ids: Vec<Id> = self
            .inputs
            .iter()
            .flat_map(|i| &i.from)
            .map(|f| f.0)
            .collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Number of the output port that holds metrics.
    pub fn metrics_port(&self) -> Option<usize> {
        self.outputs.iter().position(|o| o.holds == "metrics")
    }
}

impl Graph {
    pub fn new(spec: &Spec, kinds: &'static [StageDef]) -> Result<Self, Diagnostic> {
        let mut stages = Vec::with_capacity(spec.instances.len());
        for instance in &spec.instances {
            stages.push(stage(spec, kinds, instance)?);
        }
        let by_name: HashMap<String, Id> = (stages.iter().enumerate())
            .map(|(i, s)| (s.name.clone(), i))
            .collect();
        let mut families: HashMap<&str, Vec<Id>> = HashMap::new();
        for (i, instance) in spec.instances.iter().enumerate() {
            families.entry(&instance.stage).or_default().push(i);
        }
        let resolver = Resolver {
            spec,
            stages: &stages,
            families: &families,
            by_name: &by_name,
        };
        let inputs = (0..stages.len())
            .map(|i| resolver.inputs(i))
            .collect::<Result<Vec<_>, _>>()?;
        for (i, inputs) in inputs.into_iter().enumerate() {
            stages[i].inputs = inputs;
            for id in stages[i].needs() {
                stages[id].users.push(i);
            }
        }
        let order = order(spec, &stages)?;
        Ok(Self {
            stages,
            order,
            by_name,
        })
    }

    pub fn find(&self, name: &str) -> Option<Id> {
        self.by_name.get(name).copied()
    }

    /// The instances that names on the command line mean: `glow`, `glow@cifar10`, `sample@*,vae`.
    pub fn select(&self, names: &[String]) -> Result<Vec<Id>, Diagnostic> {
        let mut ids = Vec::new();
        for name in names {
            let before = ids.len();
            let matched = |s: &Stage| s.family == *name || matches(name, &s.name);
            ids.extend((0..self.stages.len()).filter(|i| matched(&self.stages[*i])));
            if ids.len() == before {
                let known = self
                    .stages
                    .iter()
                    .flat_map(|s| [s.name.as_str(), s.family.as_str()]);
                let mut known: Vec<&str> = known.collect();
                known.sort_unstable();
                known.dedup();
                return Err(Diagnostic::new(format!("there is no stage `{name}`"))
                    .hint(suggest(name, known)));
            }
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// These and everything they need, in topological order.
    pub fn with_needs(&self, ids: &[Id]) -> Vec<Id> {
        let mut wanted = vec![false; self.stages.len()];
        let mut open = ids.to_vec();
        while let Some(id) = open.pop() {
            if !std::mem::replace(&mut wanted[id], true) {
                open.extend(self.stages[id].needs());
            }
        }
        self.order.iter().copied().filter(|i| wanted[*i]).collect()
    }
}

/// True if an instance's name fits a pattern in which `*` stands for any value of an axis.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (Some((stage, wanted)), Some((family, values))) =
        (pattern.split_once('@'), name.split_once('@'))
    else {
        return pattern == name;
    };
    let (wanted, values): (Vec<_>, Vec<_>) =
        (wanted.split(',').collect(), values.split(',').collect());
    let fits = |(w, v): (&&str, &&str)| *w == "*" || w == v;
    stage == family && wanted.len() == values.len() && wanted.iter().zip(&values).all(fits)
}

fn stage(
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
            let names = kinds.iter().map(|k| k.kind).chain(["command"]);
            return Err(spec
                .error(
                    &instance.kind_span,
                    format!("there is no kind `{}`", instance.kind),
                )
                .hint(suggest(&instance.kind, names)));
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
        kind,
        params,
        inputs: Vec::new(),
        outputs,
        resources: instance.resources.clone(),
        users: Vec::new(),
    })
}

/// The kind's own check of its parameters, its complaint put where the parameter is written.
fn check(spec: &Spec, def: &StageDef, instance: &Instance) -> Result<Value, Diagnostic> {
    (def.check)(&instance.params.to_json()).map_err(|e| {
        let quoted: Vec<&str> = e.message.split('`').skip(1).step_by(2).collect();
        let unknown = (e.message.starts_with("unknown "))
            .then(|| quoted.first().copied())
            .flatten();
        let within = instance.params.span_of(&e.path);
        let field = unknown.map(|name| match e.path.as_str() {
            "" => name.to_owned(),
            path if path == name || path.ends_with(&format!(".{name}")) => path.to_owned(),
            path => format!("{path}.{name}"),
        });
        let span = field
            .and_then(|path| instance.params.span_of(&path))
            .or(within)
            .unwrap_or(instance.span.clone());
        let path = match e.path.as_str() {
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
            Some(wrong) => error.hint(suggest(wrong, quoted[1..].iter().copied())),
            None => error.hint(format!("kind `{}`: {}", def.kind, def.about)),
        }
    })
}

fn order(spec: &Spec, stages: &[Stage]) -> Result<Vec<Id>, Diagnostic> {
    let mut graph = DiGraph::<(), ()>::with_capacity(stages.len(), stages.len());
    for _ in stages {
        graph.add_node(());
    }
    for (i, stage) in stages.iter().enumerate() {
        for need in stage.needs() {
            graph.add_edge(NodeIndex::new(need), NodeIndex::new(i), ());
        }
    }
    if let Ok(order) = toposort(&graph, None) {
        return Ok(order.into_iter().map(NodeIndex::index).collect());
    }
    let round = tarjan_scc(&graph)
        .into_iter()
        .find(|c| c.len() > 1 || graph.contains_edge(c[0], c[0]))
        .unwrap_or_default();
    let mut ids: Vec<Id> = round.into_iter().map(NodeIndex::index).collect();
    ids.sort_unstable();
    let names: Vec<&str> = ids.iter().map(|i| stages[*i].name.as_str()).collect();
    let span = ids.first().map_or(0..0, |i| stages[*i].span.clone());
    let message = format!("these stages need each other: {}", names.join(", "));
    Err(spec
        .error(&span, message)
        .hint("a stage can only read what is made before it"))
}

/// Resolves the `in` tables.
struct Resolver<'a> {
    spec: &'a Spec,
    stages: &'a [Stage],
    families: &'a HashMap<&'a str, Vec<Id>>,
    by_name: &'a HashMap<String, Id>,
}

impl Resolver<'_> {
    fn inputs(&self, id: Id) -> Result<Vec<Input>, Diagnostic> {
        let instance = &self.spec.instances[id];
        let Kind::Library(def) = &self.stages[id].kind else {
            let entries = instance.inputs.0.iter();
            let any = |e: &crate::spec::node::Entry| self.input(id, &e.key, &e.node, None, true);
            return entries.map(any).collect();
        };
        for entry in &instance.inputs.0 {
            if !def.inputs.iter().any(|p| p.name == entry.key) {
                let message = format!("kind `{}` has no input `{}`", def.kind, entry.key);
                let hint = suggest(&entry.key, def.inputs.iter().map(|p| p.name));
                return Err(self.spec.error(&entry.key_span, message).hint(hint));
            }
        }
        let mut inputs = Vec::with_capacity(def.inputs.len());
        for port in def.inputs {
            match instance.inputs.get(port.name) {
                Some(node) => inputs.push(self.input(
                    id,
                    port.name,
                    node,
                    Some(port.holds),
                    port.arity == Arity::Many,
                )?),
                None if port.arity == Arity::Optional => {
                    inputs.push(Input {
                        port: port.name.into(),
                        from: Vec::new(),
                    });
                }
                None => {
                    let message = format!("stage `{}` lacks input `{}`", instance.name, port.name);
                    let hint =
                        format!("write in.{} = \"STAGE.OUTPUT\" ({})", port.name, port.holds);
                    return Err(self.spec.error(&instance.span, message).hint(hint));
                }
            }
        }
        Ok(inputs)
    }

    fn input(
        &self,
        id: Id,
        port: &str,
        node: &Node,
        holds: Option<&str>,
        many: bool,
    ) -> Result<Input, Diagnostic> {
        let Some(references) = texts(node).filter(|t| !t.is_empty()) else {
            let message = format!("input `{port}` must be \"STAGE.OUTPUT\" or a list of such");
            return Err(self.spec.error(&node.span, message));
        };
        let mut from = Vec::new();
        for (text, span) in references {
            for (source, output) in self.reference(id, text, span)? {
                let has = &self.stages[source].outputs[output];
                if holds.is_some_and(|h| h != has.holds) {
                    let wants = holds.unwrap_or_default();
                    let message = format!(
                        "stage `{}`: input `{port}` wants {wants}, {text} holds {}",
                        self.spec.instances[id].name, has.holds
                    );
                    let fitting = self.stages[source]
                        .outputs
                        .iter()
                        .find(|o| o.holds == wants);
                    let error = self.spec.error(span, message);
                    return Err(match fitting {
                        Some(o) => error.hint(format!(
                            "`{}.{}` holds {wants}",
                            self.stages[source].family, o.port
                        )),
                        None => error.hint(format!("name an output that holds {wants}")),
                    });
                }
                from.push((source, output));
            }
        }
        if from.len() > 1 && !many {
            let message = format!("input `{port}` takes one artifact, not {}", from.len());
            return Err(self.spec.error(&node.span, message));
        }
        Ok(Input {
            port: port.into(),
            from,
        })
    }

    /// `stage.port`: the instance with the same values on shared axes; `stage@a,b.port`: that one;
    /// `*` for a value takes all.
    fn reference(
        &self,
        id: Id,
        text: &str,
        span: &Range<usize>,
    ) -> Result<Vec<(Id, usize)>, Diagnostic> {
        let Some((producer, port)) = text.rsplit_once('.') else {
            let hint = "an input is written \"STAGE.OUTPUT\", such as \"vae.model\"";
            let message = format!("`{text}` names no output of a stage");
            return Err(self.spec.error(span, message).hint(hint));
        };
        let (family, given) = match producer.split_once('@') {
            Some((family, values)) => (family, Some(values)),
            None => (producer, None),
        };
        let Some(members) = self.families.get(family) else {
            let message = format!("there is no stage `{family}`");
            let hint = suggest(family, self.families.keys().copied());
            return Err(self.spec.error(span, message).hint(hint));
        };
        let axes = &self.spec.instances[members[0]].axes;
        let pattern = match given {
            Some(_) => producer.to_owned(),
            None if axes.is_empty() => family.to_owned(),
            None => format!(
                "{family}@{}",
                self.shared_values(id, family, axes, span)?.join(",")
            ),
        };
        let found: Vec<Id> = match pattern.contains('*') {
            false => self.by_name.get(&pattern).copied().into_iter().collect(),
            true => {
                let fits = |i: &Id| matches(&pattern, &self.stages[*i].name);
                members.iter().copied().filter(fits).collect()
            }
        };
        if found.is_empty() {
            let message = format!("there is no stage `{pattern}`");
            let hint = suggest(
                &pattern,
                members.iter().map(|i| self.stages[*i].name.as_str()),
            );
            return Err(self.spec.error(span, message).hint(hint));
        }
        let output = |i: Id| {
            let outputs = &self.stages[i].outputs;
            let position = outputs.iter().position(|o| o.port == port);
            position.map(|output| (i, output)).ok_or_else(|| {
                let message = format!("stage `{family}` has no output `{port}`");
                let hint = suggest(port, outputs.iter().map(|o| o.port.as_str()));
                self.spec.error(span, message).hint(hint)
            })
        };
        found.into_iter().map(output).collect()
    }

    fn shared_values(
        &self,
        id: Id,
        family: &str,
        axes: &[(String, Node)],
        span: &Range<usize>,
    ) -> Result<Vec<String>, Diagnostic> {
        let own = &self.spec.instances[id].axes;
        let value = |(axis, _): &(String, Node)| {
            let shared = own.iter().find(|(name, _)| name == axis);
            shared.map(|(_, v)| v.label()).ok_or_else(|| {
                let message = format!(
                    "stage `{}` has no axis `{axis}`, so it must say which `{family}` it means",
                    self.spec.instances[id].name
                );
                let names: Vec<&str> = axes.iter().map(|(name, _)| name.as_str()).collect();
                let hint = format!("write `{family}@{}.OUTPUT`", names.join(",").to_uppercase());
                self.spec.error(span, message).hint(hint)
            })
        };
        axes.iter().map(value).collect()
    }
}
