//! The committed numbers of a profile: what is expected, how far it may move, where it was measured.

use std::ops::Range;

use anyhow::Result;
use contract::metrics::Better;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::spread::Spread;

const HEAD: &str = "\
# Numbers that `repro check` holds the pipeline to, a metric an entry. `repro check --update`
# rewrites this file; a tolerance and a spread stay as they are unless they are measured anew.

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
    /// How far it may move, in the metric's unit, where its spread is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<f64>,
    /// Where the tolerance comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance_from: Option<String>,
    pub better: Better,
    /// Number of examples; a number over another count is not compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u64>,
    /// Device and version that measured the value.
    pub measured: String,
    /// What its digits depend on besides the code: there, another value is another result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// How far it moves from seed to seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<Spread>,
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
