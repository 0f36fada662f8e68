//! What is said of a column as a whole: that its numbers compare, what they are called, which of
//! them are best.

use anyhow::{Result, bail};
use serde_json::Value;

use super::content::{Column, Measured, Profile, Reproduced, Row};
use super::versus::{self, Number};
use crate::pipeline::tables::{ColumnDecl, TableDecl};

/// Refuses a column whose reproduced numbers do not compare. Two protocols differ if they give
/// one key two values; a key that only one of them has (draws of a bound) is a footnote.
pub fn one_protocol(
    decl: &TableDecl,
    column: &ColumnDecl,
    index: usize,
    rows: &[Row],
) -> Result<()> {
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
    let (key, was, is) = versus::conflict(&a.protocol, &b.protocol, &column.varies)?;
    Some((key.into(), plain(was), plain(is)))
}

fn base_label(measured: &Measured) -> &str {
    measured
        .label
        .split_once(" (bound")
        .map_or(&measured.label, |(base, _)| base)
}

/// A protocol's value as a reader writes it.
pub fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Differences, the best of each group, and the column's heads.
pub fn finish(decl: &ColumnDecl, index: usize, rows: &mut [Row], profile: &Profile) -> Column {
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
        let members: Vec<usize> = in_group(rows)
            .into_iter()
            .filter(|i| !rows[*i].part)
            .collect();
        let published: Vec<(usize, f64)> = members
            .iter()
            .filter_map(|i| Some((*i, rows[*i].cells[index].published.as_ref()?.value)))
            .collect();
        let reproduced: Vec<(usize, Number)> = members
            .iter()
            .filter_map(|i| match &rows[*i].cells[index].reproduced {
                Some(Reproduced::Measured(m)) => Some((*i, m.number())),
                _ => None,
            })
            .collect();
        for i in best(&published, decl) {
            if let Some(p) = &mut rows[i].cells[index].published {
                p.best = true;
            }
        }
        for i in unbeaten(&reproduced, decl) {
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

/// The rows that no other is better than beyond its error. Where nothing is decided nothing is
/// marked.
fn unbeaten(values: &[(usize, Number)], decl: &ColumnDecl) -> Vec<usize> {
    let as_printed = |number: Number| Number {
        value: rounded(number.value, decl.digits),
        ..number
    };
    let values: Vec<(usize, Number)> = values.iter().map(|(i, n)| (*i, as_printed(*n))).collect();
    let is_unbeaten = |n: &Number| !values.iter().any(|(_, m)| m.beats(*n, decl.better));
    let first: Vec<usize> = (values.iter())
        .filter(|(_, number)| is_unbeaten(number))
        .map(|(i, _)| *i)
        .collect();
    match first.len() == values.len() {
        true => Vec::new(),
        false => first,
    }
}

/// As a cell shows it.
fn rounded(value: f64, digits: u8) -> f64 {
    super::layout::number(value, digits.into())
        .replace('−', "-")
        .parse()
        .unwrap_or(value)
}

/// The rows with the best value as it is printed, so that equal numbers are marked alike. One
/// value alone is not the best of anything.
fn best(values: &[(usize, f64)], decl: &ColumnDecl) -> Vec<usize> {
    if values.len() < 2 {
        return Vec::new();
    }
    let printed = |v: f64| rounded(v, decl.digits);
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
