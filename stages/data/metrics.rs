//! Artifact `metrics`: what was measured and by which protocol, as JSON; the runner reads it too.

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One number and everything needed to say what it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// What tables ask for, such as `frechet` or `bits-per-dim`.
    pub name: String,
    /// What it honestly is: `FID` only with the features of the official Inception.
    pub label: String,
    pub value: f64,
    /// Standard error of the mean, where the value is a mean over images.
    pub std_error: Option<f64>,
    /// Images (or steps) it was measured on.
    pub n: usize,
    pub better: Better,
    pub unit: String,
    /// Numbers with different protocols are not comparable.
    pub protocol: Map<String, Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    Lower,
    Higher,
}

#[derive(Serialize, Deserialize)]
struct File {
    metrics: Vec<Metric>,
}

pub fn save(path: &Path, metrics: &[Metric]) -> Result<()> {
    // JSON has no NaN and serde would write null, which reads as "not measured".
    for metric in metrics {
        let numbers = [Some(metric.value), metric.std_error];
        if numbers.iter().flatten().any(|v| !v.is_finite()) {
            anyhow::bail!("{} ({}) is {}", metric.label, metric.name, metric.value);
        }
    }
    let mut text = serde_json::to_string_pretty(&File {
        metrics: metrics.to_vec(),
    })?;
    text.push('\n');
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
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
            n: 100,
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
        let back: File = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
        assert_eq!(back.metrics, [metric(0.1 + 0.2)]);
        Ok(())
    }

    #[test]
    fn a_number_that_is_none_is_not_written() {
        let error = save(Path::new("/nowhere"), &[metric(f64::NAN)]).unwrap_err();
        assert_eq!(error.to_string(), "bits/dim (bound) (bits-per-dim) is NaN");
    }
}
