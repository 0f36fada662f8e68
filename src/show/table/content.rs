//! A table's content: computed once, rendered five times. What it serialises to is the format
//! of `repro tables --format json`.

use contract::metrics::Better;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::versus::Number;

/// One table: published numbers beside reproduced ones.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Table {
    /// `1`, `parts`.
    pub id: String,
    pub title: String,
    pub head: String,
    pub group_head: String,
    pub profile: Profile,
    pub columns: Vec<Column>,
    pub rows: Vec<Row>,
}

/// Which settings the reproduced numbers come from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
pub struct Profile {
    pub name: String,
    /// One sentence: what the profile is for.
    pub about: String,
    /// What stands in for the paper's data, where something does. No reproduced number is then
    /// compared with a published one.
    pub data: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Column {
    pub id: String,
    pub metric: String,
    pub better: Better,
    pub digits: u8,
    /// What the published numbers are, if the column has any.
    pub published: Option<String>,
    /// What the reproduced numbers are, by their own label; absent until one is there.
    pub reproduced: Option<String>,
    /// Why no difference is shown, where both kinds of number are there but do not compare.
    pub incomparable: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Row {
    pub name: String,
    pub group: String,
    pub note: Option<String>,
    /// True if it shows a part of what another row shows: then it is the best of nothing.
    pub part: bool,
    /// One for each column, in their order.
    pub cells: Vec<Cell>,
}

/// Published and reproduced are never one number: each has its own place.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
pub struct Cell {
    pub published: Option<Published>,
    pub reproduced: Option<Reproduced>,
    /// Reproduced minus published, where the two are the same metric on the same data.
    pub difference: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Published {
    pub value: f64,
    /// True if the truth may be better than the value.
    pub bound: bool,
    pub source: String,
    /// True for the best of the group.
    pub best: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Reproduced {
    /// A number from a fresh result.
    Measured(Measured),
    /// There is a result, but of another pipeline than the present one. Its number is not shown.
    Stale { stage: String, reason: String },
    /// There is no result.
    NotRun { stage: String },
}

#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Measured {
    /// The mean over `runs`.
    pub value: f64,
    pub spread: Option<Spread>,
    pub bound: bool,
    pub best: bool,
    /// The metric's name for itself.
    pub label: String,
    pub unit: String,
    /// Number of examples each run was measured on.
    pub n: Option<u64>,
    pub device: String,
    pub protocol: Map<String, Value>,
    pub runs: Vec<Run>,
}

impl Measured {
    /// To be compared with others: of a mean over runs, the error is that of the mean.
    pub fn number(&self) -> Number {
        let error = self.spread.as_ref().map_or(0.0, |spread| match spread.of {
            SpreadOf::Runs => spread.value / (self.runs.len() as f64).sqrt(),
            SpreadOf::Examples => spread.value,
        });
        Number {
            value: self.value,
            error,
            bound: self.bound,
        }
    }

    /// Where the results behind it come from, of those that were not made here.
    pub fn origins(&self) -> Vec<&str> {
        let mut origins: Vec<&str> = Vec::new();
        for origin in self.runs.iter().filter_map(|run| run.origin.as_deref()) {
            if !origins.contains(&origin) {
                origins.push(origin);
            }
        }
        origins
    }
}

/// What stands behind `±`.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Spread {
    pub of: SpreadOf,
    pub value: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SpreadOf {
    /// Sample standard deviation over several runs.
    Runs,
    /// Standard error of one run's mean over its examples.
    Examples,
}

/// One result behind a number.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Run {
    pub stage: String,
    pub fingerprint: String,
    pub value: f64,
    /// Where the result comes from, if it was not made here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
}
