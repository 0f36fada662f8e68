//! A new baseline out of the present numbers, and what it changes.

use super::baseline::{Baseline, Entry};
use super::compare::{Line, Report, Verdict};
use super::spread::Spread;

/// Where nobody measured how far a number moves by itself.
const GUESS: f64 = 0.05;

/// The baseline that the present numbers fulfil. `spread` are reports of runs that differ in
/// their seeds only: how far each number moves is measured over them and this one.
/// Numbers that are stale or missing keep their entry; those no longer measured lose it.
pub fn update(old: &Baseline, report: &Report, spread: &[Report], version: &str) -> Baseline {
    let mut entries: Vec<Entry> = Vec::new();
    for line in &report.lines {
        let before = old.find(&line.stage, &line.metric);
        match (line.now, &line.verdict) {
            (Some(value), _) if !value.is_finite() => entries.extend(before.cloned()),
            (Some(value), verdict) => {
                entries.push(entry(line, value, verdict, before, spread, version))
            }
            (None, Verdict::Stale { .. }) => entries.extend(before.cloned()),
            (None, Verdict::Missing { reason }) if reason == "not run" => {
                entries.extend(before.cloned());
            }
            (None, _) => {}
        }
    }
    entries.sort_by(|a, b| (&a.stage, &a.metric).cmp(&(&b.stage, &b.metric)));
    Baseline(entries)
}

/// The baseline with the numbers that are better than it allows, and else as it was.
pub fn accept_better(old: &Baseline, report: &Report, version: &str) -> Baseline {
    let better = |e: &Entry| {
        let same = |l: &&Line| l.stage == e.stage && l.metric == e.metric;
        let line = report.lines.iter().find(same)?;
        let value = line.now.filter(|_| line.verdict == Verdict::Better)?;
        Some(entry(line, value, &line.verdict, Some(e), &[], version))
    };
    let entries = old.0.iter();
    Baseline(
        entries
            .map(|e| better(e).unwrap_or_else(|| e.clone()))
            .collect(),
    )
}

fn entry(
    line: &Line,
    value: f64,
    verdict: &Verdict,
    before: Option<&Entry>,
    spread: &[Report],
    version: &str,
) -> Entry {
    let measured = Spread::of(&values(line, value, spread));
    let known = before.and_then(|entry| entry.spread.clone());
    let spread = measured.or(known);
    let tolerance = match (&spread, before) {
        (Some(_), _) => None,
        (None, Some(entry)) => entry.tolerance.zip(entry.tolerance_from.clone()),
        (None, None) => None,
    };
    let tolerance = tolerance.or_else(|| {
        let why = "5% of the value; its spread is not measured";
        spread
            .is_none()
            .then(|| (round(GUESS * value.abs()), why.to_owned()))
    });
    let (tolerance, tolerance_from) = tolerance.unzip();
    match before {
        // Equal numbers keep where they were measured: an update that changes nothing is no diff.
        Some(entry) if *verdict == Verdict::Same => Entry {
            tolerance,
            tolerance_from,
            spread,
            ..entry.clone()
        },
        _ => Entry {
            stage: line.stage.clone(),
            metric: line.metric.clone(),
            label: line.label.clone(),
            value,
            tolerance,
            tolerance_from,
            better: line.better,
            n: line.n,
            measured: match &line.device {
                Some(device) => format!("{device}, repro {version}"),
                None => format!("repro {version}"),
            },
            platform: line.platform.clone(),
            spread,
            span: 0..0,
        },
    }
}

/// The number in this and the other runs.
fn values(line: &Line, value: f64, spread: &[Report]) -> Vec<f64> {
    let others = spread.iter().filter_map(|report| {
        let same = |l: &&Line| l.stage == line.stage && l.metric == line.metric;
        report.lines.iter().find(same)?.now
    });
    std::iter::once(value).chain(others).collect()
}

/// Three digits are plenty for a tolerance, and read better.
fn round(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10f64.powi(2 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

/// ` ± 1.5`, or ` (3 runs)`.
fn allowance(entry: &Entry) -> String {
    match (&entry.spread, entry.tolerance) {
        (Some(spread), _) => format!(
            " ({} runs, deviation {})",
            spread.runs,
            round(spread.deviation)
        ),
        (None, Some(tolerance)) => format!(" ± {tolerance}"),
        (None, None) => String::new(),
    }
}

/// What the update changes, a line an entry.
pub fn differences(old: &Baseline, new: &Baseline) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in &old.0 {
        if new.find(&entry.stage, &entry.metric).is_none() {
            lines.push(format!(
                "- {} {} = {}",
                entry.stage, entry.metric, entry.value
            ));
        }
    }
    for entry in &new.0 {
        match old.find(&entry.stage, &entry.metric) {
            None => lines.push(format!(
                "+ {} {} = {}{}",
                entry.stage,
                entry.metric,
                entry.value,
                allowance(entry)
            )),
            Some(before) => {
                let mut changes = Vec::new();
                if before.value != entry.value {
                    changes.push(format!("{} -> {}", before.value, entry.value));
                }
                if before.tolerance != entry.tolerance || before.spread != entry.spread {
                    changes.push(format!(
                        "{} ->{}",
                        allowance(before).trim_start(),
                        allowance(entry)
                    ));
                }
                if before.platform != entry.platform {
                    let platform = |e: &Entry| e.platform.clone().unwrap_or("no platform".into());
                    changes.push(format!("{} -> {}", platform(before), platform(entry)));
                }
                if before.label != entry.label {
                    changes.push(format!("{} -> {}", before.label, entry.label));
                }
                if before.n != entry.n {
                    let n = |n: Option<u64>| n.map_or("none".into(), |n| n.to_string());
                    changes.push(format!("n {} -> {}", n(before.n), n(entry.n)));
                }
                if !changes.is_empty() {
                    let what = changes.join(", ");
                    lines.push(format!("~ {} {}: {what}", entry.stage, entry.metric));
                }
            }
        }
    }
    lines
}
