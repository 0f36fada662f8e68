//! `[table.*]` of pipeline.toml as it is written: parsing, and what can be wrong with it before
//! anything has run. Spans are byte ranges in the file.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, de};
use toml::Spanned;

use crate::diag::{Diagnostic, suggest};
use crate::graph::{Graph, matches};
use crate::metrics::Better;
use crate::spec::Spec;

/// All declared tables, in the order of the file.
#[derive(Debug, Clone, Default)]
pub struct Tables(pub Vec<TableDecl>);

#[derive(Debug, Clone)]
pub struct TableDecl {
    /// What stands behind `table.`: `1`, `parts`.
    pub id: Spanned<String>,
    pub title: String,
    /// Head of the column of row names, and of the column of groups.
    pub head: String,
    pub group_head: String,
    pub columns: Vec<ColumnDecl>,
    pub rows: Vec<RowDecl>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnDecl {
    /// The key under which rows give their cell.
    pub id: Spanned<String>,
    /// Name of the metric that reproduced cells show.
    pub metric: String,
    /// What the published numbers are, such as `FID`; needed where a cell has one.
    pub published: Option<String>,
    pub better: Better,
    /// Digits behind the decimal point.
    pub digits: u8,
    /// Keys of the metric's protocol that may differ between rows, such as the data set.
    #[serde(default)]
    pub varies: Vec<String>,
}

/// One row: its name, and a cell for some of the columns.
#[derive(Debug, Clone)]
pub struct RowDecl {
    pub name: Spanned<String>,
    /// Rows with the same group compete for the best value; rows without one form a group.
    pub group: String,
    pub note: Option<String>,
    pub cells: Vec<(Spanned<String>, CellDecl)>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellDecl {
    /// The value in the literature, never one of ours.
    pub published: Option<f64>,
    /// True if the published value is a bound.
    pub bound: Option<Spanned<bool>>,
    /// Where the published value stands.
    pub source: Option<Spanned<String>>,
    /// The instance that measures it. `*` for an axis takes all its values (seeds) and shows
    /// their mean and standard deviation.
    pub stage: Option<Spanned<String>>,
    /// In place of the column's metric.
    pub metric: Option<Spanned<String>>,
}

/// One thing wrong with a declaration.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// Bytes of pipeline.toml.
    pub span: Range<usize>,
    pub message: String,
    pub hint: String,
}

impl Tables {
    /// The tables of a pipeline, or the first thing wrong with them.
    pub fn load(spec: &Spec, graph: &Graph) -> Result<Self, Diagnostic> {
        #[derive(Deserialize)]
        struct File {
            #[serde(default)]
            table: Tables,
        }
        let source = &spec.source;
        if !source.text().contains("[table.") {
            return Ok(Self::default());
        }
        let File { table } = toml::from_str(source.text())
            .map_err(|e| source.error(&e.span().unwrap_or(0..0), e.message().replace('\n', " ")))?;
        let has_metrics = |s: &crate::graph::Stage| (s.name.clone(), s.metrics_port().is_some());
        let stages: Vec<(String, bool)> = graph.stages.iter().map(has_metrics).collect();
        match table.problems(&stages).into_iter().next() {
            None => Ok(table),
            Some(Problem {
                span,
                message,
                hint,
            }) => Err(source.error(&span, message).hint(hint)),
        }
    }

    /// Everything wrong with the declarations. `stages` names every instance and says whether it
    /// has a metrics output.
    pub fn problems(&self, stages: &[(String, bool)]) -> Vec<Problem> {
        let mut problems = Vec::new();
        for table in &self.0 {
            table.problems(stages, &mut problems);
        }
        problems
    }
}

impl TableDecl {
    pub fn column(&self, id: &str) -> Option<&ColumnDecl> {
        self.columns.iter().find(|c| c.id.get_ref() == id)
    }

    fn problems(&self, stages: &[(String, bool)], problems: &mut Vec<Problem>) {
        let name = self.id.get_ref();
        let mut say = |span: Range<usize>, message: String, hint: String| {
            problems.push(Problem {
                span,
                message,
                hint,
            });
        };
        for (i, column) in self.columns.iter().enumerate() {
            let id = column.id.get_ref();
            if RESERVED.contains(&id.as_str()) {
                let hint = format!("a row's `{id}` is its own; call the column something else");
                say(
                    column.id.span(),
                    format!("table {name}: a column may not be called {id}"),
                    hint,
                );
            } else if self.columns[..i].iter().any(|c| c.id.get_ref() == id) {
                let hint = "each column needs an id of its own".into();
                say(
                    column.id.span(),
                    format!("table {name}: column {id} is declared twice"),
                    hint,
                );
            }
        }
        for (i, row) in self.rows.iter().enumerate() {
            let same =
                |r: &RowDecl| (&r.group, r.name.get_ref()) == (&row.group, row.name.get_ref());
            if self.rows[..i].iter().any(same) {
                let message = format!("table {name}: row {} is declared twice", row.name.get_ref());
                say(
                    row.name.span(),
                    message,
                    "give one of them another name or group".into(),
                );
            }
            for (key, cell) in &row.cells {
                let place = format!(
                    "table {name}, row {}, {}",
                    row.name.get_ref(),
                    key.get_ref()
                );
                let Some(column) = self.column(key.get_ref()) else {
                    let ids: Vec<_> = self
                        .columns
                        .iter()
                        .map(|c| c.id.get_ref().as_str())
                        .collect();
                    let message = format!(
                        "table {name}, row {}: there is no column {}",
                        row.name.get_ref(),
                        key.get_ref()
                    );
                    say(
                        key.span(),
                        message,
                        format!("the columns are {}", ids.join(", ")),
                    );
                    continue;
                };
                if let Some((span, message, hint)) = cell.problem(column, key.span(), stages) {
                    say(span, format!("{place}: {message}"), hint);
                }
            }
        }
    }
}

impl CellDecl {
    fn problem(
        &self,
        column: &ColumnDecl,
        key: Range<usize>,
        stages: &[(String, bool)],
    ) -> Option<(Range<usize>, String, String)> {
        let say = |span, message: &str, hint: &str| Some((span, message.into(), hint.into()));
        match (&self.published, &self.source, &self.stage) {
            (None, _, None) => {
                let hint = "give it `published` and `source`, or `stage`, or leave it out";
                return say(key, "the cell is empty", hint);
            }
            (Some(_), None, _) => {
                return say(
                    key,
                    "a published value needs a source",
                    "add `source = \"…\"`",
                );
            }
            (None, Some(source), _) => {
                let hint = "`source` says where a published value stands";
                return say(
                    source.span(),
                    "there is a source but no published value",
                    hint,
                );
            }
            _ => {}
        }
        if let (None, Some(bound)) = (&self.published, &self.bound) {
            let hint = "whether a reproduced number is a bound, its metric says itself";
            return say(bound.span(), "`bound` belongs to a published value", hint);
        }
        if self.published.is_some() && column.published.is_none() {
            let hint = "say in the column what was published: `published = \"FID\"`";
            return say(
                key,
                "the column does not say what its published values are",
                hint,
            );
        }
        if let (None, Some(metric)) = (&self.stage, &self.metric) {
            let hint = "`metric` picks one of a stage's metrics";
            return say(metric.span(), "there is a metric but no stage", hint);
        }
        let stage = self.stage.as_ref()?;
        let name = stage.get_ref();
        let mut matching = stages.iter().filter(|(s, _)| matches(name, s)).peekable();
        if matching.peek().is_none() {
            let names = stages.iter().filter(|(_, has)| *has);
            let hint = suggest(name, names.map(|(s, _)| s.as_str()));
            return Some((stage.span(), format!("there is no stage {name}"), hint));
        }
        let (without, _) = matching.find(|(_, has_metrics)| !has_metrics)?;
        let hint = "a table shows what a stage with an output that holds `metrics` measured";
        Some((
            stage.span(),
            format!("stage {without} has no metrics"),
            hint.into(),
        ))
    }
}

/// Keys of a row that are not cells.
const RESERVED: &[&str] = &["name", "group", "note"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    title: String,
    #[serde(default)]
    head: String,
    #[serde(default)]
    group_head: String,
    columns: Vec<ColumnDecl>,
    #[serde(default)]
    row: Vec<RowDecl>,
}

impl<'de> Deserialize<'de> for Tables {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InFileOrder;
        impl<'de> Visitor<'de> for InFileOrder {
            type Value = Tables;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("tables by number or name, as in [table.1]")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Tables, M::Error> {
                let mut tables = Vec::new();
                while let Some((id, body)) = map.next_entry::<Spanned<String>, Body>()? {
                    let Body {
                        title,
                        head,
                        group_head,
                        columns,
                        row: rows,
                    } = body;
                    tables.push(TableDecl {
                        id,
                        title,
                        head,
                        group_head,
                        columns,
                        rows,
                    });
                }
                tables.sort_by_key(|t| t.id.span().start);
                Ok(Tables(tables))
            }
        }
        deserializer.deserialize_map(InFileOrder)
    }
}

impl<'de> Deserialize<'de> for RowDecl {
    /// By hand, because a flattened map would lose the spans.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Row;
        impl<'de> Visitor<'de> for Row {
            type Value = RowDecl;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a row: name, and a cell for each column that has one")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<RowDecl, M::Error> {
                let (mut name, mut group, mut note, mut cells) = (None, None, None, Vec::new());
                while let Some(key) = map.next_key::<Spanned<String>>()? {
                    match key.get_ref().as_str() {
                        "name" => name = Some(map.next_value()?),
                        "group" => group = Some(map.next_value()?),
                        "note" => note = Some(map.next_value()?),
                        _ => cells.push((key, map.next_value()?)),
                    }
                }
                let name = name.ok_or_else(|| de::Error::missing_field("name"))?;
                Ok(RowDecl {
                    name,
                    group: group.unwrap_or_default(),
                    note,
                    cells,
                })
            }
        }
        deserializer.deserialize_map(Row)
    }
}
