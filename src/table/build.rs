//! Declaration and evidence in, content out. No disk, no clock: what stages have measured
//! comes in as [`Evidence`].

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde_json::Value;

use super::content::{
    Cell, Column, Measured, Profile, Published, Reproduced, Row, Run, Spread, SpreadOf, Table,
};
use super::decl::{CellDecl, ColumnDecl, RowDecl, TableDecl};
use crate::graph::matches;
use crate::metrics::Metric;

/// What is known of the stages under one profile.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    pub profile: Profile,
    pub stages: BTreeMap<String, Found>,
}

/// What the store has of one instance.
#[derive(Debug, Clone)]
pub enum Found {
    Fresh(Outcome),
    /// There is a result that no longer counts, and why.
    Stale(String),
    NotRun,
}

/// What a fresh result says.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub fingerprint: String,
    /// As recorded: `cpu`, `NVIDIA H100 80GB HBM3`.
    pub device: String,
    pub metrics: Vec<Metric>,
}

/// The content of one table. Fails if a column would mix protocols, or a stage does not measure
/// what its cell asks for.
pub fn build(decl: &TableDecl, evidence: &Evidence) -> Result<Table> {
    let mut rows: Vec<Row> = Vec::new();
    for row in &decl.rows {
        let cells = decl
            .columns
            .iter()
            .map(|column| cell(decl, column, row, evidence));
        rows.push(Row {
            name: row.name.get_ref().clone(),
            group: row.group.clone(),
            note: row.note.clone(),
            cells: cells.collect::<Result<_>>()?,
        });
    }
    let mut columns = Vec::new();
    for (i, column) in decl.columns.iter().enumerate() {
        one_protocol(decl, column, i, &rows)?;
        columns.push(finish(column, i, &mut rows, &evidence.profile));
    }
    Ok(Table {
        id: decl.id.get_ref().clone(),
        title: decl.title.clone(),
        head: decl.head.clone(),
        group_head: decl.group_head.clone(),
        profile: evidence.profile.clone(),
        columns,
        rows,
    })
}

fn cell(decl: &TableDecl, column: &ColumnDecl, row: &RowDecl, evidence: &Evidence) -> Result<Cell> {
    let Some((_, cell)) = row
        .cells
        .iter()
        .find(|(key, _)| key.get_ref() == column.id.get_ref())
    else {
        return Ok(Cell::default());
    };
    let published = cell.published.map(|value| Published {
        value,
        bound: cell.bound.as_ref().is_some_and(|b| *b.get_ref()),
        source: cell
            .source
            .as_ref()
            .map(|s| s.get_ref().clone())
            .unwrap_or_default(),
        best: false,
    });
    let reproduced = match &cell.stage {
        Some(stage) => Some(
            reproduced(column, cell, stage.get_ref(), evidence)
                .map_err(|e| e.context(place(decl, column, row.name.get_ref())))?,
        ),
        None => None,
    };
    Ok(Cell {
        published,
        reproduced,
        difference: None,
    })
}

fn place(decl: &TableDecl, column: &ColumnDecl, row: &str) -> String {
    format!(
        "table {}, row {row}, {}",
        decl.id.get_ref(),
        column.id.get_ref()
    )
}

/// The state of the instances behind one cell. One that is not fresh hides the numbers of all:
/// a mean over some of the seeds is not the number the table declares.
fn reproduced(
    column: &ColumnDecl,
    cell: &CellDecl,
    pattern: &str,
    evidence: &Evidence,
) -> Result<Reproduced> {
    let name = cell
        .metric
        .as_ref()
        .map_or(column.metric.as_str(), |m| m.get_ref());
    let mut runs: Vec<(Run, &Metric, &str)> = Vec::new();
    let mut stale = None;
    let mut not_run = None;
    for (stage, found) in evidence
        .stages
        .iter()
        .filter(|(stage, _)| matches(pattern, stage))
    {
        match found {
            Found::Fresh(outcome) => {
                let Some(metric) = outcome.metrics.iter().find(|m| m.name == name) else {
                    let has: Vec<_> = outcome.metrics.iter().map(|m| m.name.as_str()).collect();
                    bail!(
                        "stage {stage} measures no {name}; it has {}",
                        has.join(", ")
                    );
                };
                let run = Run {
                    stage: stage.clone(),
                    fingerprint: outcome.fingerprint.clone(),
                    value: metric.value,
                };
                runs.push((run, metric, &outcome.device));
            }
            Found::Stale(reason) => stale = stale.or(Some((stage, reason))),
            Found::NotRun => not_run = not_run.or(Some(stage)),
        }
    }
    if let Some((stage, reason)) = stale {
        return Ok(Reproduced::Stale {
            stage: stage.clone(),
            reason: reason.clone(),
        });
    }
    if let Some(stage) = not_run {
        return Ok(Reproduced::NotRun {
            stage: stage.clone(),
        });
    }
    let Some((_, first, device)) = runs.first() else {
        return Ok(Reproduced::NotRun {
            stage: pattern.into(),
        });
    };
    for (run, metric, _) in &runs[1..] {
        if metric.label != first.label || metric.protocol != first.protocol {
            let stages = (&runs[0].0.stage, &run.stage);
            bail!(
                "{} and {} measured {name} by different protocols",
                stages.0,
                stages.1
            );
        }
    }
    let values: Vec<f64> = runs.iter().map(|(run, ..)| run.value).collect();
    let (value, spread) = match values[..] {
        [value] => (
            value,
            first.std_error.map(|value| Spread {
                of: SpreadOf::Examples,
                value,
            }),
        ),
        _ => {
            let (mean, std) = mean_std(&values);
            (
                mean,
                Some(Spread {
                    of: SpreadOf::Runs,
                    value: std,
                }),
            )
        }
    };
    let mut devices: Vec<&str> = runs.iter().map(|(.., device)| *device).collect();
    devices.dedup();
    Ok(Reproduced::Measured(Measured {
        value,
        spread,
        bound: first.is_bound(),
        best: false,
        label: first.label.clone(),
        unit: first.unit.clone(),
        n: first.n,
        device: if devices.len() > 1 {
            devices.join(" and ")
        } else {
            (*device).into()
        },
        protocol: first.protocol.clone(),
        runs: runs.into_iter().map(|(run, ..)| run).collect(),
    }))
}

/// Mean and sample standard deviation of at least two values.
fn mean_std(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, variance.sqrt())
}

/// Refuses a column whose reproduced numbers do not compare. Two protocols differ if they give
/// one key two values; a key that only one of them has (draws of a bound) is a footnote.
fn one_protocol(decl: &TableDecl, column: &ColumnDecl, index: usize, rows: &[Row]) -> Result<()> {
    let mut seen: Vec<(&Row, &Measured)> = Vec::new();
    for row in rows {
        let Some(Reproduced::Measured(new)) = &row.cells[index].reproduced else {
            continue;
        };
        for (other, old) in &seen {
            let Some((key, was, is)) = conflict(column, old, new) else {
                continue;
            };
            bail!(
                "table {}, column {}: {} has {key} {was}, {} has {key} {is}; one column cannot \
                 hold both (hint: give each a column, or list `{key}` in the column's `varies`)",
                decl.id.get_ref(),
                column.id.get_ref(),
                named(other),
                named(row),
            );
        }
        seen.push((row, new));
    }
    Ok(())
}

fn named(row: &Row) -> String {
    if row.group.is_empty() {
        row.name.clone()
    } else {
        format!("{}, {}", row.group, row.name)
    }
}

/// The first thing in which two numbers' protocols contradict each other.
fn conflict(column: &ColumnDecl, a: &Measured, b: &Measured) -> Option<(String, String, String)> {
    let varies = |key: &str| column.varies.iter().any(|v| v == key);
    let (was, is) = (base_label(a), base_label(b));
    if was != is && !varies("label") {
        return Some(("label".into(), was.into(), is.into()));
    }
    a.protocol.iter().find_map(|(key, was)| {
        let is = b.protocol.get(key)?;
        (was != is && !varies(key)).then(|| (key.clone(), plain(was), plain(is)))
    })
}

fn base_label(measured: &Measured) -> &str {
    measured
        .label
        .split_once(" (bound")
        .map_or(&measured.label, |(base, _)| base)
}

/// A protocol's value as a reader writes it.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Differences, the best of each group, and the column's heads.
fn finish(decl: &ColumnDecl, index: usize, rows: &mut [Row], profile: &Profile) -> Column {
    let label = rows
        .iter()
        .find_map(|row| match &row.cells[index].reproduced {
            Some(Reproduced::Measured(m)) => Some(base_label(m).to_owned()),
            _ => None,
        });
    let published = rows.iter().any(|row| row.cells[index].published.is_some());
    let published = decl.published.clone().filter(|_| published);
    let incomparable = match (&published, &label) {
        (Some(published), Some(label)) if published != label => {
            Some(format!("{label} is not {published}"))
        }
        (Some(published), Some(_)) => profile
            .data
            .is_some()
            .then(|| format!("the published {published} was measured on other data")),
        _ => None,
    };
    if incomparable.is_none() {
        for row in rows.iter_mut() {
            let cell = &mut row.cells[index];
            if let (Some(p), Some(Reproduced::Measured(m))) = (&cell.published, &cell.reproduced) {
                cell.difference = (p.bound == m.bound).then_some(m.value - p.value);
            }
        }
    }
    let mut groups: Vec<String> = rows.iter().map(|r| r.group.clone()).collect();
    groups.dedup();
    for group in groups {
        let in_group = |rows: &[Row]| -> Vec<usize> {
            (0..rows.len())
                .filter(|i| rows[*i].group == group)
                .collect()
        };
        let members = in_group(rows);
        let values = |of: fn(&Cell) -> Option<f64>| -> Vec<(usize, f64)> {
            members
                .iter()
                .filter_map(|i| Some((*i, of(&rows[*i].cells[index])?)))
                .collect()
        };
        let published = values(|c| c.published.as_ref().map(|p| p.value));
        let reproduced = values(|c| match &c.reproduced {
            Some(Reproduced::Measured(m)) => Some(m.value),
            _ => None,
        });
        for i in best(&published, decl) {
            if let Some(p) = &mut rows[i].cells[index].published {
                p.best = true;
            }
        }
        for i in best(&reproduced, decl) {
            if let Some(Reproduced::Measured(m)) = &mut rows[i].cells[index].reproduced {
                m.best = true;
            }
        }
    }
    Column {
        id: decl.id.get_ref().clone(),
        metric: decl.metric.clone(),
        better: decl.better,
        digits: decl.digits,
        published,
        reproduced: label,
        incomparable,
    }
}

/// The rows with the best value as it is printed, so that equal numbers are marked alike. One
/// value alone is not the best of anything.
fn best(values: &[(usize, f64)], decl: &ColumnDecl) -> Vec<usize> {
    if values.len() < 2 {
        return Vec::new();
    }
    let scale = 10f64.powi(decl.digits.into());
    let printed = |v: f64| (v * scale).round();
    let top = values
        .iter()
        .map(|(_, v)| *v)
        .reduce(|a, b| if decl.better.than(b, a) { b } else { a });
    let Some(top) = top.map(printed) else {
        return Vec::new();
    };
    values
        .iter()
        .filter(|(_, v)| printed(*v) == top)
        .map(|(i, _)| *i)
        .collect()
}
