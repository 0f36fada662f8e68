//! `[table.*]` of pipeline.toml as it is written: parsing, and what can be wrong with it before
//! anything has run. Spans are byte ranges in the file.

use std::fmt;

use contract::metrics::Better;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, de};
use toml::Spanned;

use crate::base::diag::Diagnostic;
use crate::pipeline::each::{self, Axes, Each};
use crate::pipeline::graph::Graph;
use crate::pipeline::spec::{Spec, names};

mod problems;

pub use problems::Problem;

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
    /// Empty where a row of `each` is named by its values.
    pub name: Spanned<String>,
    /// Axes for each value of which it stands for a row; none once tables are loaded.
    pub each: Each,
    /// Rows with the same group compete for the best value; rows without one form a group.
    pub group: String,
    pub note: Option<String>,
    /// True if it shows a part of what another row shows: it is never the best.
    pub part: bool,
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

impl Tables {
    /// The tables of a pipeline, or the first thing wrong with them.
    pub fn load(spec: &Spec, graph: &Graph) -> Result<Self, Diagnostic> {
        let (source, table) = (&spec.source, spec.tables.expanded(spec)?);
        let has_metrics =
            |s: &crate::pipeline::graph::Stage| (s.name.clone(), s.metrics_port().is_some());
        let stages: Vec<(String, bool)> = graph.stages.iter().map(has_metrics).collect();
        for decl in &table.0 {
            if let Some(why) = names::problem(decl.id.get_ref(), &['/', '\\']) {
                let message = format!("a table cannot be called so: {why}");
                return Err(source.error(&decl.id.span(), message));
            }
        }
        match table.problems(&stages).into_iter().next() {
            None => Ok(table),
            Some(Problem {
                span,
                message,
                hint,
            }) => Err(source.error(&span, message).hint(hint)),
        }
    }
}

impl Tables {
    /// Which direction the first column that shows a metric calls an improvement.
    pub fn better(&self, metric: &str) -> Option<Better> {
        let mut columns = self.0.iter().flat_map(|table| {
            let rows = table.rows.iter().flat_map(|row| &row.cells);
            let asked = rows.filter(|(_, cell)| {
                cell.metric
                    .as_ref()
                    .is_some_and(|name| name.get_ref() == metric)
            });
            let asked = asked.filter_map(|(id, _)| table.column(id.get_ref()));
            let own = table.columns.iter().filter(|c| c.metric == metric);
            own.chain(asked)
        });
        columns.next().map(|column| column.better)
    }
}

impl Tables {
    /// With a row for each value in the place of every row that has `each`.
    fn expanded(&self, spec: &Spec) -> Result<Self, Diagnostic> {
        let mut tables = self.clone();
        let has_each = |table: &TableDecl| table.rows.iter().any(|row| !row.each.0.is_empty());
        if !tables.0.iter().any(has_each) {
            return Ok(tables);
        }
        let axes = Axes::of(spec);
        for table in tables.0.iter_mut().filter(|table| has_each(table)) {
            let place = format!("table {}", table.id.get_ref());
            let mut rows = Vec::with_capacity(table.rows.len());
            for row in std::mem::take(&mut table.rows) {
                match row.each.0.is_empty() {
                    true => rows.push(row),
                    false => rows.extend(row.expanded(&place, &axes, spec)?),
                }
            }
            table.rows = rows;
        }
        Ok(tables)
    }
}

impl RowDecl {
    /// A row for each value of the axes that `each` names.
    fn expanded(&self, place: &str, axes: &Axes, spec: &Spec) -> Result<Vec<Self>, Diagnostic> {
        let stages: Vec<_> = (self.cells.iter())
            .filter_map(|(_, cell)| cell.stage.as_ref())
            .collect();
        let place = match self.name.get_ref().as_str() {
            "" => place.to_owned(),
            name => format!("{place}, row {name}"),
        };
        if let Some((key, _)) = self.cells.iter().find(|(_, c)| c.published.is_some()) {
            let message =
                format!("{place}: a published value stands in one row, and `each` makes many");
            let hint = "write the row that it belongs to by itself";
            return Err(spec.error(&key.span(), message).hint(hint));
        }
        let choices = axes.choices(&place, &self.each, &stages)?;
        let mut rows = Vec::with_capacity(choices.len());
        for choice in &choices {
            let fill = |text: &String| axes.text(text, choice, &self.name.span());
            let name = match self.name.get_ref().as_str() {
                "" => each::values(choice),
                _ => fill(self.name.get_ref())?,
            };
            let mut cells = Vec::with_capacity(self.cells.len());
            for (key, cell) in &self.cells {
                let mut cell = cell.clone();
                if let Some(stage) = &cell.stage {
                    // Another cell's stage has this value and this one's has not.
                    let Some(meant) = axes.stage(stage, choice)? else {
                        continue;
                    };
                    cell.stage = Some(Spanned::new(stage.span(), meant));
                }
                if let Some(metric) = &cell.metric {
                    let text = axes.text(metric.get_ref(), choice, &metric.span())?;
                    cell.metric = Some(Spanned::new(metric.span(), text));
                }
                cells.push((key.clone(), cell));
            }
            // Of several axes some values may have no stage at all.
            if cells.is_empty() {
                continue;
            }
            let row = Self {
                name: Spanned::new(self.name.span(), name),
                each: Each::default(),
                group: fill(&self.group)?,
                note: self.note.as_ref().map(fill).transpose()?,
                part: self.part,
                cells,
            };
            rows.push((row, choice));
        }
        let named = rows
            .iter()
            .map(|(row, choice)| ((&row.group, row.name.get_ref()), *choice));
        if let Some((one, other)) = each::alike(named) {
            let (one, other) = (each::described(one), each::described(other));
            let message = format!("{place}: it has the same name for {one} and for {other}");
            let hint =
                "put the axes into its name, as in name = \"lr {lr}\", or leave the name out";
            return Err(spec.error(&self.name.span(), message).hint(hint));
        }
        Ok(rows.into_iter().map(|(row, _)| row).collect())
    }
}

impl TableDecl {
    pub fn column(&self, id: &str) -> Option<&ColumnDecl> {
        self.columns.iter().find(|c| c.id.get_ref() == id)
    }
}

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
                let (mut name, mut group, mut note) = (None, None, None);
                let (mut part, mut cells, mut each) = (false, Vec::new(), Each::default());
                while let Some(key) = map.next_key::<Spanned<String>>()? {
                    match key.get_ref().as_str() {
                        "name" => name = Some(map.next_value()?),
                        "group" => group = Some(map.next_value()?),
                        "note" => note = Some(map.next_value()?),
                        "part" => part = map.next_value()?,
                        "each" => each = map.next_value()?,
                        _ => cells.push((key, map.next_value()?)),
                    }
                }
                let by_values = each
                    .0
                    .first()
                    .map(|axis| Spanned::new(axis.span(), String::new()));
                let name = name.or(by_values);
                let name = name.ok_or_else(|| de::Error::missing_field("name"))?;
                Ok(RowDecl {
                    name,
                    each,
                    group: group.unwrap_or_default(),
                    note,
                    part,
                    cells,
                })
            }
        }
        deserializer.deserialize_map(Row)
    }
}
