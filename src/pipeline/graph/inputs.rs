//! The `in` tables: which outputs of which stages they name.

use std::cell::Cell;
use std::collections::HashMap;
use std::ops::Range;

use contract::Arity;

use super::{Id, Input, Kind, Stage, matches};
use crate::base::diag::{Diagnostic, suggest};
use crate::pipeline::spec::node::Node;
use crate::pipeline::spec::{Spec, budget, names, texts};

/// Resolves the `in` tables.
pub struct Resolver<'a> {
    pub spec: &'a Spec,
    pub stages: &'a [Stage],
    pub families: &'a HashMap<&'a str, Vec<Id>>,
    pub by_name: &'a HashMap<String, Id>,
    /// Names that have been compared to find inputs, and inputs that were found.
    pub looks: Cell<usize>,
    pub found: Cell<usize>,
}

impl Resolver<'_> {
    pub fn inputs(&self, id: Id) -> Result<Vec<Input>, Diagnostic> {
        let instance = &self.spec.instances[id];
        let Kind::Library(def) = &self.stages[id].kind else {
            let entries = instance.inputs.0.iter();
            let any = |e: &crate::pipeline::spec::node::Entry| {
                self.input(id, &e.key, &e.node, None, true)
            };
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
        if let Some(id) = self.by_name.get(text) {
            let message = format!("`{text}` is a stage, and an input is one of its outputs");
            let ports = self.stages[*id].outputs.iter();
            let names: Vec<_> = ports.map(|o| format!("`{text}.{}`", o.port)).collect();
            let hint = format!("write {}", names.join(" or "));
            return Err(self.spec.error(span, message).hint(hint));
        }
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
        let found: Vec<Id> = match self.by_name.get(&pattern) {
            Some(id) => vec![*id],
            None => {
                self.count(&self.looks, members.len(), budget::LOOKS, span)?;
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
        self.count(&self.found, found.len(), budget::INPUTS, span)?;
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

    fn count(
        &self,
        what: &Cell<usize>,
        more: usize,
        limit: usize,
        span: &Range<usize>,
    ) -> Result<(), Diagnostic> {
        what.set(what.get().saturating_add(more));
        match what.get() > limit {
            true => {
                let message = format!("with this the stages have more inputs than {limit}");
                Err(self.spec.error(span, message + ", the limit"))
            }
            false => Ok(()),
        }
    }

    fn shared_values(
        &self,
        id: Id,
        family: &str,
        axes: &[(String, Node)],
        span: &Range<usize>,
    ) -> Result<Vec<String>, Diagnostic> {
        let own = &self.spec.instances[id].axes;
        let value =
            |(axis, _): &(String, Node)| {
                let shared = own.iter().find(|(name, _)| name == axis);
                shared.map(|(_, v)| names::quoted(&v.label()).into_owned()).ok_or_else(|| {
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
