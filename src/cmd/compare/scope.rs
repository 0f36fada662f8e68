//! Which instances of two sides stand beside each other.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::Result;

use super::side::Side;
use crate::base::diag::{Diagnostic, suggest};
use crate::pipeline::graph::{Graph, Id};
use crate::pipeline::spec::names;
use crate::show::compare::Scope;

/// Of two whole pipelines, instances by their names, those that differ on the axes of `mean` alone taken
/// together; of two stages, these and what has the same axes before and after them.
pub fn scopes(sides: &[Side], names: [&String; 2], mean: &[String]) -> Result<[Scope; 2]> {
    let stages: Vec<Option<&Vec<Id>>> = sides.iter().map(Side::stage).collect();
    if let (true, Some(axis)) = (stages.iter().any(Option::is_some), mean.first()) {
        let message = format!("--mean {axis} is for whole pipelines");
        let hint = "in the name of a stage `*` takes all values of an axis and shows their mean";
        return Err(Diagnostic::new(message).hint(hint).into());
    }
    match (&stages[..], sides) {
        (
            [Some(a), Some(b)],
            [
                Side::Project { project: one, .. },
                Side::Project { project: other, .. },
            ],
        ) => {
            let graphs = [&one.graph, &other.graph];
            Ok(of_stages(graphs, [a, b], names)?)
        }
        ([Some(_), _] | [_, Some(_)], _) => {
            let message = format!(
                "a stage is compared with a stage, not `{}` with `{}`",
                names[0], names[1]
            );
            let hint = "two stages, as in `repro compare train@0.1 train@0.2`, or two states of the whole pipeline; \
                        --stage picks what is shown";
            Err(Diagnostic::new(message).hint(hint).into())
        }
        _ => {
            let graphs = || sides.iter().filter_map(Side::graph);
            let known = graphs().flat_map(|graph| graph.stages.iter().flat_map(|s| &s.axes));
            let known: BTreeSet<&str> = known.map(|(axis, _)| axis.as_str()).collect();
            if let Some(wrong) = mean.iter().find(|axis| !known.contains(axis.as_str())) {
                let message = format!("no stage has an axis `{wrong}`");
                let hint = suggest(wrong, known);
                return Err(Diagnostic::new(message).hint(hint).into());
            }
            let whole = |side: &Side| match side.graph() {
                Some(graph) => together(graph, 0..graph.stages.len(), &|axis| is_in(mean, axis)),
                None => Scope::new(),
            };
            Ok([whole(&sides[0]), whole(&sides[1])])
        }
    }
}

fn is_in(axes: &[String], axis: &str) -> bool {
    axes.iter().any(|known| known == axis)
}

/// How the stage of a baseline is called where the axes of `mean` are taken together.
pub fn label(graph: &Graph, stage: &str, mean: &[String]) -> String {
    match graph.find(stage) {
        Some(id) => starred(graph, id, &|axis| is_in(mean, axis)),
        None => stage.to_owned(),
    }
}

impl Side {
    fn graph(&self) -> Option<&Graph> {
        match self {
            Self::Project { project, .. } => Some(&project.graph),
            Self::Baseline(_) => None,
        }
    }

    fn stage(&self) -> Option<&Vec<Id>> {
        match self {
            Self::Project { stage, .. } => stage.as_ref(),
            Self::Baseline(_) => None,
        }
    }
}

/// The values that instances have on each axis.
type Values = BTreeMap<String, BTreeSet<String>>;

fn of_stages(
    graphs: [&Graph; 2],
    ids: [&[Id]; 2],
    names: [&String; 2],
) -> Result<[Scope; 2], Diagnostic> {
    if ids[0] == ids[1] {
        let message = format!("`{}` and `{}` are the same", names[0], names[1]);
        return Err(
            Diagnostic::new(message).hint("name two values of an axis, as in train@0.1 train@0.2")
        );
    }
    let families = [0, 1].map(|i| families(graphs[i], ids[i]));
    if families[0] != families[1] || families[0].len() > 1 {
        // Two stages: themselves, and nothing else has a counterpart.
        let label = format!("{} / {}", names[0], names[1]);
        return Ok(ids.map(|ids| vec![(label.clone(), ids.to_vec())]));
    }
    let values = [0, 1].map(|i| values(graphs[i], ids[i]));
    // Axes on which the two are not one and the same value.
    let apart: BTreeSet<&String> = values[0]
        .keys()
        .filter(|axis| values[0][*axis] != values[1][*axis] || values[0][*axis].len() > 1)
        .collect();
    Ok([0, 1].map(|i| scope(graphs[i], ids[i], &values[i], &apart)))
}

fn families<'g>(graph: &'g Graph, ids: &[Id]) -> BTreeSet<&'g str> {
    ids.iter()
        .map(|id| graph.stages[*id].family.as_str())
        .collect()
}

/// Axes of an instance and its values as its name shows them.
fn axes(graph: &Graph, id: Id) -> Vec<(&String, &str)> {
    let stage = &graph.stages[id];
    let parts = stage
        .name
        .split_once('@')
        .map(|(_, parts)| names::split(parts));
    let parts = parts.unwrap_or_default();
    stage.axes.iter().map(|(axis, _)| axis).zip(parts).collect()
}

fn values(graph: &Graph, ids: &[Id]) -> Values {
    let mut values = Values::new();
    for id in ids {
        for (axis, value) in axes(graph, *id) {
            values.entry(axis.clone()).or_default().insert(value.into());
        }
    }
    values
}

/// The stage itself, and what it needs and is needed by that has one of the axes.
fn scope(graph: &Graph, ids: &[Id], values: &Values, apart: &BTreeSet<&String>) -> Scope {
    let mut near: BTreeSet<Id> = graph.with_needs(ids).into_iter().collect();
    let mut open = ids.to_vec();
    while let Some(id) = open.pop() {
        for user in &graph.stages[id].users {
            if near.insert(*user) {
                open.push(*user);
            }
        }
    }
    near.extend(ids);
    let concerns = |id: &Id| {
        let axes = axes(graph, *id);
        let fits = |(axis, value): &(&String, &str)| {
            values.get(*axis).is_none_or(|known| known.contains(*value))
        };
        let concerned = ids.contains(id) || axes.iter().any(|(axis, _)| apart.contains(axis));
        concerned && axes.iter().all(fits)
    };
    let concerned = near.into_iter().filter(concerns);
    together(graph, concerned, &|axis| apart.iter().any(|a| *a == axis))
}

/// Instances under labels, those that differ on some axes alone under one.
fn together(
    graph: &Graph,
    ids: impl Iterator<Item = Id>,
    is_apart: &dyn Fn(&str) -> bool,
) -> Scope {
    let mut scope = Scope::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for id in ids {
        let label = starred(graph, id, is_apart);
        match places.get(&label) {
            Some(at) => scope[*at].1.push(id),
            None => {
                places.insert(label.clone(), scope.len());
                scope.push((label, vec![id]));
            }
        }
    }
    scope
}

/// The name of an instance with `*` in the place of its values on some axes.
fn starred(graph: &Graph, id: Id, is_apart: &dyn Fn(&str) -> bool) -> String {
    let parts = axes(graph, id);
    let parts: Vec<&str> = parts
        .iter()
        .map(|(axis, value)| if is_apart(axis) { "*" } else { value })
        .collect();
    let family = &graph.stages[id].family;
    match parts.is_empty() {
        true => family.clone(),
        false => format!("{family}@{}", parts.join(",")),
    }
}
