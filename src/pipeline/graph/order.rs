//! Every stage after those it reads from, or the names of those that need each other.

use petgraph::algo::toposort;
use petgraph::graph::{DiGraph, NodeIndex};

use super::{Id, Stage};
use crate::base::diag::Diagnostic;
use crate::pipeline::spec::Spec;

pub fn sort(spec: &Spec, stages: &[Stage]) -> Result<Vec<Id>, Diagnostic> {
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
    let mut ids = round(stages);
    ids.sort_unstable();
    let mut names: Vec<&str> = ids.iter().map(|i| stages[*i].name.as_str()).collect();
    if names.len() > SHOWN {
        names.truncate(SHOWN);
        names.push("…");
    }
    let span = ids.first().map_or(0..0, |i| stages[*i].span.clone());
    let message = format!("these stages need each other: {}", names.join(", "));
    Err(spec
        .error(&span, message)
        .hint("a stage can only read what is made before it"))
}

/// Stages of a round that an error names.
const SHOWN: usize = 10;

/// Stages that need each other in a round, of a graph that has one. By a loop: a search that calls
/// itself would need a stack as deep as the graph.
fn round(stages: &[Stage]) -> Vec<Id> {
    let mut missing: Vec<usize> = stages.iter().map(|s| s.needs().len()).collect();
    let mut ready: Vec<Id> = (0..stages.len()).filter(|i| missing[*i] == 0).collect();
    while let Some(id) = ready.pop() {
        for &user in &stages[id].users {
            missing[user] = missing[user].saturating_sub(1);
            if missing[user] == 0 {
                ready.push(user);
            }
        }
    }
    // Each that is left needs another that is left: going from need to need leads into a round.
    let mut seen = vec![false; stages.len()];
    let mut path = Vec::new();
    let mut at = (0..stages.len()).find(|i| missing[*i] > 0);
    while let Some(id) = at {
        if std::mem::replace(&mut seen[id], true) {
            let start = path.iter().position(|i| *i == id);
            return path.split_off(start.unwrap_or_default());
        }
        path.push(id);
        at = stages[id].needs().into_iter().find(|n| missing[*n] > 0);
    }
    Vec::new()
}
