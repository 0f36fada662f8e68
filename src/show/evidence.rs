//! What the store has of the stages that measure something: what tables and checks are made of.

use std::collections::{BTreeMap, HashMap};

use contract::measured;
use contract::metrics::Better;

use crate::pipeline::graph::{Id, Kind};
use crate::pipeline::tables::Tables;
use crate::plan::project::Project;
use crate::plan::{Planner, Verdict};
use crate::show::table::{Evidence, Found, Outcome, Profile};

/// Looks at every stage with metrics. `machine` says whether those that measure the machine
/// itself, whose numbers no other machine can be held to, are among them.
pub fn collect(project: &mut Project, machine: bool) -> Evidence {
    let declared = &project.spec.profile;
    let profile = Profile {
        name: declared.name.clone(),
        about: declared.about.clone(),
        data: declared.data.clone(),
    };
    let wanted: Vec<Id> = (0..project.graph.stages.len())
        .filter(|id| {
            let stage = &project.graph.stages[*id];
            stage.metrics_port().is_some() && (machine || !stage.kind.measures_machine())
        })
        .collect();
    let order = project.graph.with_needs(&wanted);
    let tables = project.tables.clone();
    let better = |metric: &str| tables.better(metric);
    let mut planner = project.planner();
    planner.judge_all(&order);
    // Only who compares digit for digit wants to know, and records are many.
    let platforms = match machine {
        true => Platforms::new(),
        false => platforms(&planner, &order),
    };
    let found = |id: &Id| {
        let name = planner.graph.stages[*id].name.clone();
        (name, find(&planner, &platforms, &better, *id))
    };
    Evidence {
        profile,
        stages: wanted.iter().map(found).collect(),
    }
}

/// What the store has of those of these stages that measure something; they are judged already.
pub fn of_judged(planner: &Planner, tables: &Tables, ids: &[Id]) -> BTreeMap<String, Found> {
    let better = |metric: &str| tables.better(metric);
    let measuring = (ids.iter()).filter(|id| planner.graph.stages[**id].metrics_port().is_some());
    let found = |id: &Id| {
        let name = planner.graph.stages[*id].name.clone();
        (name, find(planner, &Platforms::new(), &better, *id))
    };
    measuring.map(found).collect()
}

/// Which direction of a metric is an improvement, where its file does not say so.
type Direction<'a> = &'a dyn Fn(&str) -> Option<Better>;

/// What the store has of one judged stage.
fn find(planner: &Planner, platforms: &Platforms, better: Direction, id: Id) -> Found {
    let reason = match planner.verdict(id) {
        Some(Verdict::Fresh(_)) => match outcome(planner, platforms, better, id) {
            Ok(outcome) => return Found::Fresh(outcome),
            Err(error) => format!("{error:#}"),
        },
        _ if !planner.known(id) && planner.graph.stages[id].left_out => return Found::LeftOut,
        _ if !planner.known(id) => return Found::NotRun,
        Some(Verdict::Stale(reasons)) => reasons.join("; "),
        Some(Verdict::Waits(ids)) => {
            let names: Vec<&str> = ids
                .iter()
                .map(|i| planner.graph.stages[*i].name.as_str())
                .collect();
            format!("waits for {}", names.join(", "))
        }
        None => return Found::NotRun,
    };
    Found::Stale(reason)
}

/// On which platform each result and all that led to it was made, where that is one and known.
type Platforms = HashMap<Id, String>;

/// `order` has stages after those that they read from.
fn platforms(planner: &Planner, order: &[Id]) -> Platforms {
    let mut known = Platforms::new();
    for &id in order {
        let stage = &planner.graph.stages[id];
        let mut from = stage.inputs.iter().flat_map(|input| &input.from);
        // Of a program nobody knows what its digits depend on.
        let result = planner
            .result(id)
            .filter(|_| matches!(stage.kind, Kind::Library(_)));
        let record = result.and_then(|entry| planner.store.record(&entry.fp).ok());
        let own = record.and_then(|record| record.platform);
        if let Some(own) = own.filter(|own| from.all(|(id, _)| known.get(id) == Some(own))) {
            known.insert(id, own);
        }
    }
    known
}

fn outcome(
    planner: &Planner,
    platforms: &Platforms,
    better: Direction,
    id: Id,
) -> anyhow::Result<Outcome> {
    let stage = &planner.graph.stages[id];
    let made = stage.metrics_port().and_then(|port| planner.made(id, port));
    let Some((entry, made)) = planner.result(id).zip(made) else {
        anyhow::bail!("its result is gone");
    };
    Ok(Outcome {
        fingerprint: entry.fp.to_string(),
        device: entry.device.clone(),
        platform: platforms.get(&id).cloned(),
        origin: entry.origin.clone(),
        metrics: measured::load(&planner.store.output(&entry.fp, made), better)?,
    })
}
