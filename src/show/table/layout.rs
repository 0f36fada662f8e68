//! Content to lines of text: which columns there are, what each cell says, and the remarks below
//! that a reader needs. The same for every format; a renderer only adds its marks.

use super::content::{Cell, Column, Measured, Reproduced, SpreadOf, Table};
use super::remarks::remarks;

/// A table as text.
pub struct Layout {
    /// `Table 1` or nothing for a table that has a name only.
    pub number: Option<String>,
    pub title: String,
    pub heads: Vec<Head>,
    pub lines: Vec<Line>,
    /// Numbered from 1; cells refer to them.
    pub notes: Vec<String>,
    /// Sentences about the whole table.
    pub remarks: Vec<String>,
}

pub struct Head {
    pub text: String,
    pub numeric: bool,
}

pub struct Line {
    /// True if the line opens a group and is not the first.
    pub opens_group: bool,
    pub cells: Vec<Text>,
}

/// What one cell says.
#[derive(Default)]
pub struct Text {
    pub body: String,
    pub strong: bool,
    /// True for words in the place of a number: `not run`, `stale`.
    pub word: bool,
    /// Numbers of notes.
    pub notes: Vec<usize>,
    /// The cell's part in the content, where it is a number's.
    pub origin: Option<Origin>,
}

/// Where in the content a text comes from: row, column.
#[derive(Clone, Copy)]
pub struct Origin {
    pub row: usize,
    pub column: usize,
    pub part: Part,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Published,
    Reproduced,
    Difference,
}

/// Lays out a table.
pub fn layout(table: &Table) -> Layout {
    let mut notes = Notes(Vec::new());
    let sources = sources(table);
    let grouped = table.rows.iter().any(|r| !r.group.is_empty());
    let parts: Vec<(usize, Part)> = (0..table.columns.len())
        .flat_map(|i| parts(table, i))
        .collect();

    let mut heads = Vec::new();
    if grouped {
        heads.push(Head {
            text: table.group_head.clone(),
            numeric: false,
        });
    }
    heads.push(Head {
        text: table.head.clone(),
        numeric: false,
    });
    for (column, part) in &parts {
        heads.push(Head {
            text: head(&table.columns[*column], *part),
            numeric: true,
        });
    }

    let mut lines = Vec::new();
    for (i, row) in table.rows.iter().enumerate() {
        let fresh_group = i == 0 || table.rows[i - 1].group != row.group;
        let mut cells = Vec::new();
        if grouped {
            let body = if fresh_group {
                row.group.clone()
            } else {
                String::new()
            };
            cells.push(Text {
                body,
                ..Text::default()
            });
        }
        let marks = row.note.iter().map(|note| notes.number(note)).collect();
        cells.push(Text {
            body: row.name.clone(),
            notes: marks,
            ..Text::default()
        });
        for (column, part) in &parts {
            let mut text = text(&row.cells[*column], &table.columns[*column], *part);
            text.notes = match (part, &row.cells[*column]) {
                (
                    Part::Published,
                    Cell {
                        published: Some(p), ..
                    },
                ) if sources.len() > 1 => {
                    vec![notes.number(&p.source)]
                }
                (
                    Part::Reproduced,
                    Cell {
                        reproduced: Some(Reproduced::Stale { stage, reason }),
                        ..
                    },
                ) => vec![notes.number(&format!("{stage}: {reason}"))],
                (
                    Part::Reproduced,
                    Cell {
                        reproduced: Some(Reproduced::Measured(m)),
                        ..
                    },
                ) => {
                    let origins = m.origins().into_iter();
                    let note = |origin| format!("Imported from {origin}: not made here.");
                    origins.map(|origin| notes.number(&note(origin))).collect()
                }
                _ => Vec::new(),
            };
            text.origin = Some(Origin {
                row: i,
                column: *column,
                part: *part,
            });
            cells.push(text);
        }
        lines.push(Line {
            opens_group: fresh_group && i > 0,
            cells,
        });
    }
    Layout {
        number: table
            .id
            .parse::<u32>()
            .is_ok()
            .then(|| format!("Table {}", table.id)),
        title: table.title.clone(),
        heads,
        lines,
        notes: notes.0,
        remarks: remarks(table, &sources),
    }
}

struct Notes(Vec<String>);

impl Notes {
    fn number(&mut self, note: &str) -> usize {
        let at = self.0.iter().position(|n| n == note).unwrap_or_else(|| {
            self.0.push(note.into());
            self.0.len() - 1
        });
        at + 1
    }
}

fn parts(table: &Table, column: usize) -> Vec<(usize, Part)> {
    let any = |of: fn(&Cell) -> bool| table.rows.iter().any(|row| of(&row.cells[column]));
    let mut parts = Vec::new();
    if any(|c| c.published.is_some()) {
        parts.push((column, Part::Published));
    }
    if any(|c| c.reproduced.is_some()) {
        parts.push((column, Part::Reproduced));
    }
    if any(|c| c.difference.is_some()) {
        parts.push((column, Part::Difference));
    }
    parts
}

fn head(column: &Column, part: Part) -> String {
    let own = column.reproduced.as_deref().unwrap_or(&column.metric);
    match (part, &column.published) {
        (Part::Published, Some(label)) => format!("{label} (published)"),
        (Part::Published, None) => "published".into(),
        (Part::Reproduced, Some(label)) if label == own => format!("{own} (reproduced)"),
        (Part::Reproduced, _) => own.into(),
        (Part::Difference, _) => "difference".into(),
    }
}

fn text(cell: &Cell, column: &Column, part: Part) -> Text {
    let digits = usize::from(column.digits);
    let sign = |bound: bool| match bound {
        true => format!("{} ", column.better.bound_sign()),
        false => String::new(),
    };
    let (body, strong, word) = match part {
        Part::Published => match &cell.published {
            Some(p) => (
                format!("{}{}", sign(p.bound), number(p.value, digits)),
                p.best,
                false,
            ),
            None => return Text::default(),
        },
        Part::Reproduced => match &cell.reproduced {
            Some(Reproduced::Measured(m)) => {
                let body = format!("{}{}", sign(m.bound), number(m.value, digits));
                (body + &spread(m, digits), m.best, false)
            }
            Some(Reproduced::Stale { .. }) => ("stale".into(), false, true),
            Some(Reproduced::NotRun { .. }) => ("not run".into(), false, true),
            None => return Text::default(),
        },
        Part::Difference => match cell.difference {
            Some(d) => {
                let text = number(d, digits);
                let plus =
                    !text.starts_with('−') && text.bytes().any(|b| (b'1'..=b'9').contains(&b));
                (if plus { format!("+{text}") } else { text }, false, false)
            }
            None => return Text::default(),
        },
    };
    Text {
        body,
        strong,
        word,
        ..Text::default()
    }
}

/// A fixed number of decimals, a true minus sign, and no minus before zero.
pub fn number(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    match text.strip_prefix('-') {
        Some(zero) if !zero.bytes().any(|b| (b'1'..=b'9').contains(&b)) => zero.into(),
        Some(positive) => format!("−{positive}"),
        None => text,
    }
}

/// ` ± 0.03`. A spread that the column's digits cannot show is left to the JSON.
fn spread(measured: &Measured, digits: usize) -> String {
    let Some(spread) = &measured.spread else {
        return String::new();
    };
    let text = number(spread.value, digits);
    let visible = text.bytes().any(|b| (b'1'..=b'9').contains(&b));
    match spread.of {
        SpreadOf::Runs => format!(" ± {text} ({} runs)", measured.runs.len()),
        SpreadOf::Examples if visible => format!(" ± {text}"),
        SpreadOf::Examples => String::new(),
    }
}

/// The distinct sources of published values.
fn sources(table: &Table) -> Vec<&str> {
    let mut sources: Vec<&str> = Vec::new();
    for published in table
        .rows
        .iter()
        .flat_map(|r| &r.cells)
        .filter_map(|c| c.published.as_ref())
    {
        if !sources.contains(&published.source.as_str()) {
            sources.push(&published.source);
        }
    }
    sources
}

/// Text cut at its backquotes: a remark's commands, told from its words.
pub fn code_spans(text: &str) -> impl Iterator<Item = (bool, &str)> {
    let parts = text.split('`').enumerate();
    parts
        .map(|(i, part)| (i % 2 == 1, part))
        .filter(|(_, part)| !part.is_empty())
}

/// `10000` as `10,000`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
