//! Declaration and evidence in, content out. No disk, no clock: what stages have measured
//! comes in as [`Evidence`].

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use contract::metrics::Metric;

use super::columns::{finish, one_protocol};
use super::content::{
    Cell, Measured, Profile, Published, Reproduced, Row, Run, Spread, SpreadOf, Table,
};
use crate::base::plain;
use crate::pipeline::graph::matches;
use crate::pipeline::tables::{CellDecl, ColumnDecl, RowDecl, TableDecl};

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
    /// No part of the profile.
    LeftOut,
}

/// What a fresh result says.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub fingerprint: String,
    /// As recorded: `cpu`, `NVIDIA H100 80GB HBM3`.
    pub device: String,
    /// What its digits depend on besides the code, if that is the same for all that led to it.
    pub platform: Option<String>,
    /// Where it comes from, if it was not made here.
    pub origin: Option<String>,
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
            name: plain::line(row.name.get_ref()).into_owned(),
            group: plain::line(&row.group).into_owned(),
            part: row.part,
            note: row.note.as_ref().map(|note| plain::line(note).into_owned()),
            cells: cells.collect::<Result<_>>()?,
        });
    }
    let mut columns = Vec::new();
    for (i, column) in decl.columns.iter().enumerate() {
        one_protocol(decl, column, i, &rows)?;
        columns.push(finish(column, i, &mut rows, &evidence.profile));
    }
    // A heading is one line, whatever the pipeline says.
    Ok(Table {
        id: plain::line(decl.id.get_ref()).into_owned(),
        title: plain::line(&decl.title).into_owned(),
        head: plain::line(&decl.head).into_owned(),
        group_head: plain::line(&decl.group_head).into_owned(),
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
            .map(|s| plain::line(s.get_ref()).into_owned())
            .unwrap_or_default(),
        best: false,
    });
    let reproduced = match &cell.stage {
        Some(stage) => reproduced(column, cell, stage.get_ref(), evidence)
            .map_err(|e| e.context(place(decl, column, row.name.get_ref())))?,
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
/// a mean over some of the seeds is not the number the table declares. Nothing where the profile leaves all
/// of them out.
fn reproduced(
    column: &ColumnDecl,
    cell: &CellDecl,
    pattern: &str,
    evidence: &Evidence,
) -> Result<Option<Reproduced>> {
    let name = cell
        .metric
        .as_ref()
        .map_or(column.metric.as_str(), |m| m.get_ref());
    let mut runs: Vec<(Run, &Metric, &str)> = Vec::new();
    let mut stale = None;
    let mut not_run = None;
    let mut left_out = false;
    let stages: Vec<(&String, &Found)> = match pattern.contains('*') {
        false => evidence.stages.get_key_value(pattern).into_iter().collect(),
        true => {
            let all = evidence.stages.iter();
            all.filter(|(stage, _)| matches(pattern, stage)).collect()
        }
    };
    for (stage, found) in stages {
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
                    origin: outcome.origin.clone(),
                };
                runs.push((run, metric, &outcome.device));
            }
            Found::Stale(reason) => stale = stale.or(Some((stage, reason))),
            Found::NotRun => not_run = not_run.or(Some(stage)),
            Found::LeftOut => left_out = true,
        }
    }
    if let Some((stage, reason)) = stale {
        return Ok(Some(Reproduced::Stale {
            stage: stage.clone(),
            reason: reason.clone(),
        }));
    }
    if let Some(stage) = not_run {
        return Ok(Some(Reproduced::NotRun {
            stage: stage.clone(),
        }));
    }
    let Some((_, first, device)) = runs.first() else {
        return Ok((!left_out).then(|| Reproduced::NotRun {
            stage: pattern.into(),
        }));
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
    Ok(Some(Reproduced::Measured(Measured {
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
    })))
}

/// Mean and sample standard deviation of at least two values.
fn mean_std(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, variance.sqrt())
}
