//! Where a number of a table comes from: what a click on it opens.

use maud::{Markup, html};

use crate::show::figures::anchor;
use crate::show::table::content::{Cell, Measured, Reproduced, Row, Table};
use crate::show::table::html::table as render;
use crate::show::table::layout::{Origin, Part, layout, thousands};

/// A table whose every number is a button, and the notes that the buttons open.
pub fn table(table: &Table) -> Markup {
    let lines = layout(table);
    let number = |origin: Origin, body: Markup| {
        let cell = &table.rows[origin.row].cells[origin.column];
        match note(cell, origin.part).is_some() {
            true => html! {
                button type="button" popovertarget=(id(table, origin)) { (body) }
            },
            false => body,
        }
    };
    html! {
        (render(&table.id, &lines, &number))
        @for (row, line) in table.rows.iter().enumerate() {
            @for (column, cell) in line.cells.iter().enumerate() {
                @for part in [Part::Published, Part::Reproduced] {
                    @if let Some(note) = note(cell, part) {
                        @let origin = Origin { row, column, part };
                        div.origin popover id=(id(table, origin)) role="dialog"
                            aria-label=(format!("{}, {}", line.name, table.columns[column].id)) {
                            (heading(table, line, column)) (note)
                        }
                    }
                }
            }
        }
    }
}

fn id(table: &Table, origin: Origin) -> String {
    let part = match origin.part {
        Part::Published => "published",
        Part::Reproduced => "reproduced",
        Part::Difference => "difference",
    };
    format!("from-{}-{}-{}-{part}", table.id, origin.row, origin.column)
}

fn heading(table: &Table, row: &Row, column: usize) -> Markup {
    let name = match row.group.is_empty() {
        true => row.name.clone(),
        false => format!("{}, {}", row.group, row.name),
    };
    html! { p.of { (name) " · " (table.columns[column].metric) } }
}

fn note(cell: &Cell, part: Part) -> Option<Markup> {
    match part {
        Part::Published => cell.published.as_ref().map(|p| {
            html! {
                p { strong { (p.value) } " was published. It was not measured here." }
                p { "Source: " (p.source) }
            }
        }),
        Part::Reproduced => match cell.reproduced.as_ref()? {
            Reproduced::Measured(measured) => Some(origin(measured)),
            Reproduced::Stale { stage, reason } => Some(html! {
                p { "There is a result, but not of the present pipeline: " (reason) }
                p { (link(stage)) }
            }),
            Reproduced::NotRun { stage } => Some(html! {
                p { "There is no result yet." }
                p { (link(stage)) }
            }),
        },
        Part::Difference => None,
    }
}

fn origin(m: &Measured) -> Markup {
    html! {
        p { strong { (m.value) } " " (m.unit) }
        dl {
            dt { "metric" } dd { (m.label) }
            @if let Some(n) = m.n { dt { "n" } dd { (thousands(n)) } }
            @if let Some(spread) = &m.spread { dt { "±" } dd { (spread.value) } }
            dt { "device" } dd { (m.device) }
            // What measures the machine has the device in its protocol, too.
            @for (key, value) in m.protocol.iter().filter(|(key, _)| *key != "device") {
                dt { (key) }
                dd { @if let Some(text) = value.as_str() { (text) } @else { (value.to_string()) } }
            }
            @if let [run] = &m.runs[..] {
                dt { "result of" } dd { (link(&run.stage)) }
                dt { "fingerprint" } dd { code { (run.fingerprint) } }
                @if let Some(origin) = &run.origin {
                    dt { "imported from" } dd { (origin) ": not made here" }
                }
            } @else {
                dt { "mean of" }
                @for run in &m.runs {
                    dd { (run.value) " by " (link(&run.stage)) ", " code { (run.fingerprint) }
                        @if let Some(origin) = &run.origin { ", imported from " (origin) }
                    }
                }
            }
        }
    }
}

/// To the part of the page about a stage.
pub fn link(stage: &str) -> Markup {
    html! { a href=(format!("#{}", anchor(stage))) { (stage) } }
}
