//! Records in words: of one result, of all of them, and what a reader should know of both.

use std::collections::{BTreeMap, BTreeSet};

use super::gather::Stage;
use crate::base::human;
use crate::pipeline::spec::Profile;
use crate::show::svg::State;
use crate::store::record::Record;

/// A record in words.
pub fn facts(record: &Record, device: &str) -> Vec<(String, String)> {
    let mut facts = vec![
        ("finished", record.finished.clone()),
        ("took", human::seconds(record.wall_seconds)),
        ("CPU time", human::seconds(record.cpu_seconds)),
        ("peak memory", human::bytes(record.peak_memory_bytes)),
        ("device", device.to_owned()),
        ("threads", record.threads.to_string()),
        ("host", record.host.clone()),
        ("system", record.system.clone()),
        ("versions", record.versions()),
        ("first run under profile", record.profile.clone()),
    ];
    if let Some(git) = &record.git {
        let dirty = if git.dirty {
            ", with uncommitted changes"
        } else {
            ""
        };
        facts.push(("git commit", format!("{}{dirty}", git.commit)));
    }
    if let Some(resumed) = &record.resumed {
        facts.push(("resumed", resumed.clone()));
    }
    if !record.command.is_empty() {
        facts.push(("command", record.command.join(" ")));
    }
    facts.into_iter().map(|(k, v)| (k.into(), v)).collect()
}

/// What results were made with, each value with the number of results.
pub fn environment(records: &[(String, Record)]) -> Vec<(String, String)> {
    type Of = fn(&(String, Record)) -> String;
    let rows: [(&str, Of); 5] = [
        ("device", |(device, _)| device.clone()),
        ("host", |(_, r)| r.host.clone()),
        ("system", |(_, r)| r.system.clone()),
        ("repro", |(_, r)| repro(r).to_owned()),
        ("git commit", |(_, r)| {
            r.git.as_ref().map_or("none".into(), |g| g.commit.clone())
        }),
    ];
    let mut environment = Vec::new();
    for (name, of) in rows {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for record in records {
            *counts.entry(of(record)).or_default() += 1;
        }
        let each = counts.iter().map(|(value, n)| match counts.len() {
            1 => value.clone(),
            _ => format!("{value} ({})", human::count(*n, "stage")),
        });
        environment.push((name.into(), each.collect::<Vec<_>>().join(", ")));
    }
    let wall: f64 = records.iter().map(|(_, r)| r.wall_seconds).sum();
    environment.push(("time to make all of it".into(), human::seconds(wall)));
    environment.retain(|(_, value)| !value.is_empty());
    environment
}

/// The version of repro a result was made by.
fn repro(record: &Record) -> &str {
    record.versions.get("repro").map_or("", String::as_str)
}

pub fn warn(
    profile: &Profile,
    stages: &[Stage],
    records: &[(String, Record)],
    warnings: &mut Vec<String>,
) {
    if let Some(data) = &profile.data {
        let text = "This profile does not use the paper's data, so no number is compared with a \
                    published one. It uses ";
        warnings.push(format!("{text}{data}."));
    }
    for (state, what) in [(State::Stale, "stale"), (State::Absent, "not run")] {
        let count = stages.iter().filter(|s| s.state == state).count();
        if count > 0 {
            let n = human::count(count, "stage");
            let profile = &profile.name;
            warnings.push(format!("{n} {what}: `repro run --profile {profile}`."));
        }
    }
    let imported = stages.iter().filter(|s| s.origin.is_some()).count();
    if imported > 0 {
        let n = human::count(imported, "result");
        warnings.push(format!(
            "{n} imported: not made here, and believed as the records that came with them. \
             `repro verify --rerun STAGE` makes one again."
        ));
    }
    let dirty = |(_, r): &&(String, Record)| r.git.as_ref().is_some_and(|g| g.dirty);
    let dirty = records.iter().filter(dirty).count();
    if dirty > 0 {
        let n = human::count(dirty, "result");
        warnings.push(format!(
            "{n} made with uncommitted changes in the repository."
        ));
    }
    let versions: BTreeSet<&str> = records.iter().map(|(_, r)| repro(r)).collect();
    if versions.len() > 1 {
        let versions: Vec<&str> = versions.into_iter().collect();
        warnings.push(format!(
            "Results of several versions of repro: {}.",
            versions.join(", ")
        ));
    }
}
