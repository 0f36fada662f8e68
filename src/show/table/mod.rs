//! The paper's tables: declared in pipeline.toml, filled from metrics artifacts, rendered.
//!
//! ```text
//! [table.1] ─decl→ TableDecl ─build(Evidence)→ content::Table ─layout→ Layout ─md, tex, csv, html→ text
//!                                              content::Table ─────────json──────────────────────→ text
//! ```
//! A cell is published, reproduced, stale or not run, and never passes for another: published and
//! reproduced numbers have a place of their own from the declaration to the last renderer, and a
//! stale result's number does not come through at all.

mod build;
pub mod columns;
pub mod content;
pub mod csv;
pub mod html;
pub mod layout;
pub mod md;
mod remarks;
#[cfg(test)]
mod tests;
pub mod tex;
pub mod versus;

pub use build::{Evidence, Found, Outcome, build};
pub use content::{Profile, Table};

use anyhow::Result;

/// What a table can be written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Markdown, aligned so that it reads well in a terminal.
    Md,
    /// LaTeX with booktabs; compiles as it is, and can be \\input.
    Tex,
    /// One line for each cell.
    Csv,
    /// The whole content: labels, protocols, fingerprints.
    Json,
    /// A page of its own.
    Html,
}

impl Format {
    /// What files of this format end in.
    pub fn extension(self) -> &'static str {
        match self {
            Format::Md => "md",
            Format::Tex => "tex",
            Format::Csv => "csv",
            Format::Json => "json",
            Format::Html => "html",
        }
    }
}

/// Several tables as one text. `title` heads formats that have one, such as a page.
pub fn render(title: &str, tables: &[Table], format: Format) -> Result<String> {
    let layouts = || tables.iter().map(layout::layout);
    Ok(match format {
        Format::Md => layouts()
            .map(|l| md::render(&l))
            .collect::<Vec<_>>()
            .join("\n"),
        Format::Tex => tex::render(&layouts().collect::<Vec<_>>()),
        Format::Csv => csv::render(tables)?,
        Format::Json => serde_json::to_string_pretty(tables)? + "\n",
        Format::Html => {
            let ids = tables.iter().map(|t| t.id.clone());
            html::page(title, &ids.zip(layouts()).collect::<Vec<_>>())
        }
    })
}
