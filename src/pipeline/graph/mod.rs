//! Instances and kinds together: names resolved, ports agree, parameters accepted, no cycle.

mod inputs;
mod order;
mod stage;

use std::cell::Cell;
use std::collections::HashMap;
use std::ops::Range;

use contract::{StageDef, history, metrics};
use serde_json::{Map, Value};

use crate::base::diag::{Diagnostic, suggest};
use crate::pipeline::command::{Command, check_inputs};
pub use crate::pipeline::spec::names::matches;
use crate::pipeline::spec::{Resources, Spec};

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
    /// Its values on the axes, for programs that read what it makes.
    pub axes: Map<String, Value>,
    pub kind: Kind,
    /// As the kind wrote them back.
    pub params: Value,
    pub inputs: Vec<Input>,
    pub outputs: Vec<Output>,
    pub resources: Resources,
    /// Stages that read an output of this one.
    pub users: Vec<Id>,
    /// Whether the profile leaves it out; it runs if it is asked for by name.
    pub left_out: bool,
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
        self.outputs.iter().position(|o| o.holds == metrics::HOLDS)
    }

    /// Number of the output port that holds a training's history.
    pub fn history_port(&self) -> Option<usize> {
        self.outputs.iter().position(|o| o.holds == history::HOLDS)
    }
}

impl Graph {
    pub fn new(spec: &Spec, kinds: &'static [StageDef]) -> Result<Self, Diagnostic> {
        let mut stages = Vec::with_capacity(spec.instances.len());
        for instance in &spec.instances {
            stages.push(stage::new(spec, kinds, instance)?);
        }
        let by_name: HashMap<String, Id> = (stages.iter().enumerate())
            .map(|(i, s)| (s.name.clone(), i))
            .collect();
        let mut families: HashMap<&str, Vec<Id>> = HashMap::new();
        for (i, instance) in spec.instances.iter().enumerate() {
            families.entry(&instance.stage).or_default().push(i);
        }
        let resolver = inputs::Resolver {
            spec,
            stages: &stages,
            families: &families,
            by_name: &by_name,
            looks: Cell::new(0),
            found: Cell::new(0),
        };
        let inputs = (0..stages.len())
            .map(|i| resolver.inputs(i))
            .collect::<Result<Vec<_>, _>>()?;
        for (i, inputs) in inputs.into_iter().enumerate() {
            if let Kind::Command(command) = &stages[i].kind {
                check_inputs(spec, &spec.instances[i], command, &inputs)?;
            }
            stages[i].inputs = inputs;
            for id in stages[i].needs() {
                stages[id].users.push(i);
            }
        }
        let order = order::sort(spec, &stages)?;
        let mut graph = Self {
            stages,
            order,
            by_name,
        };
        graph.leave_out(spec)?;
        Ok(graph)
    }

    /// Marks what the profile leaves out, with all that reads from it.
    fn leave_out(&mut self, spec: &Spec) -> Result<(), Diagnostic> {
        for named in &spec.profile.without {
            let found = self.select(std::slice::from_ref(&named.text));
            let found = found.map_err(|e| {
                let error = spec.error(&named.span, e.message);
                error.hint(e.hint.unwrap_or_default())
            })?;
            for id in found {
                self.stages[id].left_out = true;
            }
        }
        let Some(last) = spec.profile.without.last() else {
            return Ok(());
        };
        for id in self.order.clone() {
            let needs = self.stages[id].needs();
            self.stages[id].left_out |= needs.iter().any(|n| self.stages[*n].left_out);
        }
        if self.whole().is_empty() {
            let message = format!("nothing is left of profile `{}`", spec.profile.name);
            let error = spec.error(&last.span, message);
            return Err(error.hint("what reads from a stage that is left out is left out too"));
        }
        Ok(())
    }

    /// What a command is about that is told no names: all but what the profile leaves out.
    pub fn whole(&self) -> Vec<Id> {
        let all = 0..self.stages.len();
        all.filter(|id| !self.stages[*id].left_out).collect()
    }

    pub fn find(&self, name: &str) -> Option<Id> {
        // A number may be written in another way.
        let alike = |s: &Stage| !name.contains('*') && matches(name, &s.name);
        let exact = self.by_name.get(name).copied();
        exact.or_else(|| self.stages.iter().position(alike))
    }

    /// The instances that names on the command line mean: `glow`, `glow@cifar10`, `sample@*,vae`.
    pub fn select(&self, names: &[String]) -> Result<Vec<Id>, Diagnostic> {
        let mut ids = Vec::new();
        for name in names {
            // One instance by its name: by far the most, where a table names thousands.
            if let Some(id) = self
                .find(name)
                .filter(|id| self.stages[*id].family != *name)
            {
                ids.push(id);
                continue;
            }
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

    /// For each stage, how many could run at the same time, itself included: those that stand as far from
    /// the beginning of the pipeline.
    pub fn side_by_side(&self) -> Vec<usize> {
        let mut depth = vec![0; self.stages.len()];
        for &id in &self.order {
            let needs = self.stages[id].needs();
            depth[id] = needs.iter().map(|n| depth[*n] + 1).max().unwrap_or(0);
        }
        let mut count = vec![0; self.stages.len()];
        depth.iter().for_each(|d| count[*d] += 1);
        depth.iter().map(|d| count[*d]).collect()
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
