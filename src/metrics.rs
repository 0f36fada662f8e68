//! The metrics artifact: the one file of a kind that the runner opens, for tables and checks.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::plain;
use crate::read;

/// Which direction is an improvement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    Lower,
    Higher,
}

impl Better {
    /// True if `a` is strictly better than `b`.
    pub fn than(self, a: f64, b: f64) -> bool {
        match self {
            Better::Lower => a < b,
            Better::Higher => a > b,
        }
    }

    /// How a bound on such a number is written: a loss is bounded from above, a score from below.
    pub fn bound_sign(self) -> &'static str {
        match self {
            Better::Lower => "≤",
            Better::Higher => "≥",
        }
    }
}

/// One number that a stage measured, with what it takes to compare it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// How tables and baselines ask for it, such as `frechet`.
    pub name: String,
    /// What it honestly is, such as `FID` or `bits/dim (bound)`; the head of its column.
    pub label: String,
    pub value: f64,
    /// Of the mean over the `n` examples, in the metric's unit.
    #[serde(default)]
    pub std_error: Option<f64>,
    /// Number of examples it was measured on.
    #[serde(default)]
    pub n: Option<u64>,
    pub better: Better,
    #[serde(default)]
    pub unit: String,
    /// Everything that must agree before two such numbers may stand in one column.
    #[serde(default)]
    pub protocol: Map<String, Value>,
}

impl Metric {
    /// The label without the remark that the number is a bound: `bits/dim (bound, 8 draws)` is
    /// `bits/dim`, and may stand in a column with exact values behind its `≤`.
    pub fn base_label(&self) -> &str {
        self.label
            .split_once(" (bound")
            .map_or(&self.label, |(base, _)| base)
    }

    pub fn is_bound(&self) -> bool {
        self.base_label().len() < self.label.len()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    metrics: Vec<Metric>,
}

/// Reads a metrics artifact.
pub fn load(file: &Path) -> Result<Vec<Metric>> {
    let text = read::text(file, read::TOLD)
        .with_context(|| format!("cannot read the metrics file {}", file.display()))?;
    parse(&text).with_context(|| format!("{} is not a metrics file", file.display()))
}

fn parse(text: &str) -> Result<Vec<Metric>> {
    let File { mut metrics } = serde_json::from_str(text)?;
    // They head columns and stand in lines.
    for text in metrics
        .iter_mut()
        .flat_map(|m| [&mut m.name, &mut m.label, &mut m.unit])
    {
        *text = plain::line(text).into_owned();
    }
    for (i, metric) in metrics.iter().enumerate() {
        let name = &metric.name;
        ensure!(
            !metrics[..i].iter().any(|m| m.name == *name),
            "metric {name} stands in it twice"
        );
    }
    Ok(metrics)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_told_by_its_label() {
        let text = r#"{"metrics":[
            {"name":"bits-per-dim","label":"bits/dim (bound, 8 draws)","value":3.5,"std_error":0.01,
             "n":100,"better":"lower","unit":"bits/dim","protocol":{"draws":8}},
            {"name":"frechet","label":"Fréchet distance (classifier features)","value":1,"better":"lower"}]}"#;
        let metrics = parse(text).unwrap();
        assert_eq!(
            (metrics[0].base_label(), metrics[0].is_bound()),
            ("bits/dim", true)
        );
        assert_eq!(
            metrics[1].base_label(),
            "Fréchet distance (classifier features)"
        );
        assert!(!metrics[1].is_bound());
        assert!(metrics[1].protocol.is_empty() && metrics[1].n.is_none());
    }

    #[test]
    fn a_number_that_is_none_and_a_name_twice_are_errors() {
        let row = r#"{"name":"a","label":"a","value":VALUE,"better":"lower"}"#;
        let none = format!(r#"{{"metrics":[{}]}}"#, row.replace("VALUE", "null"));
        assert!(
            parse(&none)
                .unwrap_err()
                .to_string()
                .contains("expected f64")
        );
        let row = row.replace("VALUE", "1");
        let twice = parse(&format!(r#"{{"metrics":[{row},{row}]}}"#)).unwrap_err();
        assert_eq!(twice.to_string(), "metric a stands in it twice");
    }
}
