//! What can be wrong with the declaration of a table before anything has run.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::{CellDecl, ColumnDecl, TableDecl, Tables};
use crate::base::diag::suggest;
use crate::pipeline::graph::matches;

/// One thing wrong with a declaration.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// Bytes of pipeline.toml.
    pub span: Range<usize>,
    pub message: String,
    pub hint: String,
}

/// Every instance, and whether it has a metrics output.
struct Stages<'a> {
    all: &'a [(String, bool)],
    by_name: HashMap<&'a str, &'a (String, bool)>,
}

impl<'a> Stages<'a> {
    /// The stages that a cell means. Thousands of rows name one each.
    fn matching<'p>(&self, pattern: &'p str) -> Box<dyn Iterator<Item = &'a (String, bool)> + 'p>
    where
        'a: 'p,
    {
        match pattern.contains('*') {
            false => Box::new(self.by_name.get(pattern).copied().into_iter()),
            true => Box::new(self.all.iter().filter(move |(s, _)| matches(pattern, s))),
        }
    }
}

/// Keys of a row that are not cells.
const RESERVED: &[&str] = &["name", "group", "note", "part", "each"];

impl Tables {
    /// Everything wrong with the declarations. `stages` names every instance and says whether it
    /// has a metrics output.
    pub fn problems(&self, stages: &[(String, bool)]) -> Vec<Problem> {
        let mut problems = Vec::new();
        let stages = Stages {
            all: stages,
            by_name: stages
                .iter()
                .map(|stage| (stage.0.as_str(), stage))
                .collect(),
        };
        for table in &self.0 {
            table.problems(&stages, &mut problems);
        }
        problems
    }
}

impl TableDecl {
    fn problems(&self, stages: &Stages, problems: &mut Vec<Problem>) {
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
        let mut seen = HashSet::new();
        for row in &self.rows {
            if !seen.insert((&row.group, row.name.get_ref())) {
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
        stages: &Stages,
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
        let mut matching = stages.matching(name).peekable();
        if matching.peek().is_none() {
            let names = stages.all.iter().filter(|(_, has)| *has);
            let hint = match name.contains('{') {
                true => "a row with `each` has values in the place of `{axis}`".into(),
                false => suggest(name, names.map(|(s, _)| s.as_str())),
            };
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
