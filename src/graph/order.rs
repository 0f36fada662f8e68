//! Every stage after those it reads from, or the names of those that need each other.

use petgraph::algo::{tarjan_scc, toposort};
use petgraph::graph::{DiGraph, NodeIndex};

use super::{Id, Stage};
use crate::diag::Diagnostic;
use crate::spec::Spec;

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
