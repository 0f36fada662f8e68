//! The metrics artifact: what a stage measured, for tables and checks. A kind writes it, or any
//! program; the runner reads it.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The label of outputs that hold metrics.
pub const HOLDS: &str = "metrics";

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
    /// What it honestly is, such as `bits/dim (bound)`; the head of its column. `FID` only with
    /// the features of the official Inception.
    pub label: String,
    pub value: f64,
    /// Standard error of the mean over the `n` examples, in the metric's unit.
    #[serde(default)]
    pub std_error: Option<f64>,
    /// Number of examples (images, steps) it was measured on.
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

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    metrics: Vec<Metric>,
}

/// Writes a metrics artifact.
pub fn save(path: &Path, metrics: &[Metric]) -> Result<()> {
    // JSON has no NaN and serde would write null, which reads as "not measured".
    for metric in metrics {
        let numbers = [Some(metric.value), metric.std_error];
        if numbers.iter().flatten().any(|v| !v.is_finite()) {
            bail!("{} ({}) is {}", metric.label, metric.name, metric.value);
        }
    }
    let metrics = metrics.to_vec();
    let mut text = serde_json::to_string_pretty(&File { metrics })?;
    text.push('\n');
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Reads a metrics artifact.
pub fn load(file: &Path) -> Result<Vec<Metric>> {
    let text =
        read(file).with_context(|| format!("cannot read the metrics file {}", file.display()))?;
    parse(&text).with_context(|| format!("{} is not a metrics file", file.display()))
}

/// Bytes of the longest file that is read.
const LONGEST: u64 = 256 << 20;

/// Any program may have put anything there: a pipe would be waited for, and a device has no end.
pub(crate) fn read(file: &Path) -> Result<String> {
    ensure!(
        std::fs::metadata(file)?.is_file(),
        "it is not a regular file"
    );
    let mut text = String::new();
    let file = std::fs::File::open(file)?;
    file.take(LONGEST + 1).read_to_string(&mut text)?;
    ensure!(
        text.len() as u64 <= LONGEST,
        "it is larger than {LONGEST} bytes, the limit"
    );
    Ok(text)
}

/// On one line, without control characters and marks that turn the direction of text.
pub(crate) fn one_line(text: &str) -> String {
    let words = text.split(['\n', '\r', '\t', '\u{2028}', '\u{2029}']);
    let mut line = String::with_capacity(text.len());
    for c in words.collect::<Vec<_>>().join(" ").chars() {
        match c {
            c if c.is_control() => line.extend(c.escape_unicode()),
            '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' => {
                line.extend(c.escape_unicode());
            }
            c => line.push(c),
        }
    }
    line
}

pub(crate) fn parse(text: &str) -> Result<Vec<Metric>> {
    let File { mut metrics } = serde_json::from_str(text)?;
    // They head columns and stand in lines.
    for text in metrics
        .iter_mut()
        .flat_map(|m| [&mut m.name, &mut m.label, &mut m.unit])
    {
        *text = one_line(text);
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

    fn metric(value: f64) -> Metric {
        Metric {
            name: "bits-per-dim".into(),
            label: "bits/dim (bound)".into(),
            value,
            std_error: Some(0.01),
            n: Some(100),
            better: Better::Lower,
            unit: "bits".into(),
            protocol: Map::from_iter([("draws".to_string(), Value::from(1))]),
        }
    }

    #[test]
    fn every_digit_survives() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("metrics.json");
        save(&path, &[metric(0.1 + 0.2)])?;
        assert_eq!(load(&path)?, [metric(0.1 + 0.2)]);
        Ok(())
    }

    /// Results of earlier builds are the same bytes.
    #[test]
    fn the_order_of_the_fields_stays() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("metrics.json");
        save(&path, &[metric(3.5)])?;
        let text = std::fs::read_to_string(&path)?;
        let words: Vec<&str> = text.split('"').skip(1).step_by(2).collect();
        let expected = "metrics name bits-per-dim label bits/dim (bound) value std_error n better \
                        lower unit bits protocol draws";
        assert_eq!(words.join(" "), expected);
        Ok(())
    }

    #[test]
    fn a_number_that_is_none_is_not_written() {
        let error = save(Path::new("/nowhere"), &[metric(f64::NAN)]).unwrap_err();
        assert_eq!(error.to_string(), "bits/dim (bound) (bits-per-dim) is NaN");
    }

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
