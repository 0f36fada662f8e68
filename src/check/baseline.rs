//! The committed numbers of a profile: what is expected, how far it may move, where it was measured.

use std::ops::Range;

use anyhow::Result;
use contract::metrics::Better;
use serde::{Deserialize, Serialize};
use toml::Spanned;

const HEAD: &str = "\
# Numbers that `repro check` holds the pipeline to, a metric an entry. `repro check --update`
# rewrites this file; a tolerance stays as it is unless the spread over runs is measured anew.

";

/// A baseline file, its entries ordered by stage and metric.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Baseline(pub Vec<Entry>);

/// One expected number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub stage: String,
    pub metric: String,
    /// A number with another label is another metric, and not compared.
    pub label: String,
    pub value: f64,
    /// How much worse it may become, in the metric's unit.
    pub tolerance: f64,
    /// Where the tolerance comes from.
    pub tolerance_from: String,
    pub better: Better,
    /// Number of examples; a number over another count is not compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u64>,
    /// Device and version that measured the value.
    pub measured: String,
    /// Bytes of the file; for annotations.
    #[serde(skip)]
    pub span: Range<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    #[serde(default)]
    metric: Vec<Spanned<Entry>>,
}

#[derive(Serialize)]
struct Write<'a> {
    metric: &'a [Entry],
}

impl Baseline {
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        let read: Read = toml::from_str(text)?;
        let entries = read.metric.into_iter().map(|entry| {
            let span = entry.span();
            Entry {
                span,
                ..entry.into_inner()
            }
        });
        Ok(Self(entries.collect()))
    }

    pub fn find(&self, stage: &str, metric: &str) -> Option<&Entry> {
        self.0
            .iter()
            .find(|e| e.stage == stage && e.metric == metric)
    }

    /// The file's text.
    pub fn to_text(&self) -> Result<String> {
        Ok(HEAD.to_owned() + &toml::to_string(&Write { metric: &self.0 })?)
    }
}
