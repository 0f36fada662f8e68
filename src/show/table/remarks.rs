//! The sentences under a table: sources, profile, circumstances of the numbers, what marks mean.

use super::columns::plain;
use super::content::{Column, Measured, Reproduced, Row, SpreadOf, Table};
use super::layout::thousands;

/// Everything about the table as a whole; `sources` are those of its published values.
pub fn remarks(table: &Table, sources: &[&str]) -> Vec<String> {
    let mut remarks = Vec::new();
    if let [source] = sources {
        remarks.push(format!("Published: {source}."));
    }
    let profile = &table.profile;
    let cells = || table.rows.iter().flat_map(|r| &r.cells);
    if cells().any(|c| c.reproduced.is_some()) {
        remarks.push(match profile.about.as_str() {
            "" => format!("Profile {}.", profile.name),
            about => sentence(&format!("Profile {}: {about}", profile.name)),
        });
        remarks.extend(
            profile
                .data
                .as_deref()
                .map(|data| sentence(&format!("Data: {data}"))),
        );
    }
    for (i, column) in table.columns.iter().enumerate() {
        remarks.extend(circumstances(column, i, &table.rows));
        let reason = column.incomparable.iter();
        remarks.extend(reason.map(|r| format!("No difference is shown: {r}.")));
    }
    let measured = || {
        cells().filter_map(|c| match &c.reproduced {
            Some(Reproduced::Measured(m)) => Some(m),
            _ => None,
        })
    };
    let shown = |of: SpreadOf| {
        let spreads = || measured().filter_map(|m| m.spread.as_ref());
        spreads().any(|s| s.of == of)
    };
    match (shown(SpreadOf::Runs), shown(SpreadOf::Examples)) {
        (true, true) => remarks.push(
            "± is the standard error over examples, and the standard deviation over runs where \
             their number is said."
                .into(),
        ),
        (true, false) => remarks.push("± is the standard deviation over runs.".into()),
        (false, true) => remarks.push("± is the standard error over examples.".into()),
        (false, false) => {}
    }
    if cells().any(|c| c.published.as_ref().is_some_and(|p| p.bound)) || measured().any(|m| m.bound)
    {
        remarks.push("≤ and ≥ mark bounds: the truth may be better.".into());
    }
    let words: Vec<&str> = cells()
        .filter_map(|c| match &c.reproduced {
            Some(Reproduced::Stale { .. }) => Some("stale"),
            Some(Reproduced::NotRun { .. }) => Some("not run"),
            _ => None,
        })
        .collect();
    if !words.is_empty() {
        let count = |word: &str| words.iter().filter(|w| **w == word).count();
        let say = |word| match count(word) {
            0 => None,
            n => Some(format!("{n} {word}")),
        };
        let what: Vec<String> = ["stale", "not run"].into_iter().filter_map(say).collect();
        remarks.push(format!(
            "{}: `repro run --profile {}`.",
            what.join(", "),
            profile.name
        ));
    }
    remarks
}

/// n, protocol and device of a column's numbers: what all of them share, then what only some have.
fn circumstances(column: &Column, index: usize, rows: &[Row]) -> Option<String> {
    let measured: Vec<(&Row, Vec<String>)> = rows
        .iter()
        .filter_map(|row| match &row.cells[index].reproduced {
            Some(Reproduced::Measured(m)) => Some((row, circumstance(m))),
            _ => None,
        })
        .collect();
    let (_, first) = measured.first()?;
    let everywhere = |fact: &&String| measured.iter().all(|(_, facts)| facts.contains(*fact));
    let shared: Vec<&str> = first
        .iter()
        .filter(everywhere)
        .map(String::as_str)
        .collect();
    let mut own: Vec<(String, Vec<&Row>)> = Vec::new();
    for (row, facts) in &measured {
        let facts = facts.iter().filter(|fact| !everywhere(fact));
        let text = facts.map(String::as_str).collect::<Vec<_>>().join(", ");
        match own.iter_mut().find(|(known, _)| *known == text) {
            Some((_, rows)) => rows.push(row),
            None => own.push((text, vec![row])),
        }
    }
    let own = own.iter().filter(|(text, _)| !text.is_empty());
    let own = own.map(|(text, some)| {
        let all = measured.iter().map(|(row, _)| *row);
        format!("{text} for {}", called(some, all))
    });
    let parts = std::iter::once(shared.join(", ")).chain(own);
    let parts: Vec<String> = parts.filter(|part| !part.is_empty()).collect();
    let label = column.reproduced.as_deref().unwrap_or(&column.metric);
    Some(format!("{label}: {}.", parts.join("; ")))
}

/// Some of the rows by name; a group by its own name if all of its rows are meant.
fn called<'a>(some: &[&'a Row], all: impl Iterator<Item = &'a Row> + Clone) -> String {
    let of = |row: &Row, group: &str| row.group == group;
    let whole = |group: &str| {
        let count = all.clone().filter(|row| of(row, group)).count();
        !group.is_empty() && some.iter().filter(|row| of(row, group)).count() == count
    };
    let mut names: Vec<String> = Vec::new();
    for row in some {
        let name = match row.group.as_str() {
            group if whole(group) => group.to_owned(),
            "" => row.name.clone(),
            group => format!("{group} {}", row.name),
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(", ")
}

fn circumstance(m: &Measured) -> Vec<String> {
    let mut facts = Vec::new();
    if m.runs.len() > 1 {
        facts.push(format!("mean of {} runs", m.runs.len()));
    }
    facts.extend(m.n.map(|n| format!("n = {}", thousands(n))));
    facts.extend(
        m.protocol
            .iter()
            .map(|(key, value)| format!("{key} {}", brief(&plain(value)))),
    );
    facts.push(format!("on {}", m.device));
    facts
}

/// A digest by its first twelve letters.
fn brief(text: &str) -> String {
    let digest = text.len() >= 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
    if digest {
        text[..12].into()
    } else {
        text.into()
    }
}

fn sentence(text: &str) -> String {
    if text.ends_with('.') {
        text.into()
    } else {
        format!("{text}.")
    }
}
