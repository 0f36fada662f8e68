//! The history artifact: how a training went, a JSON object a line. Read for curves only.
//!
//! A kind writes one [`Epoch`] a line. Wall-clock facts go to events, not here, so that an
//! interrupted run ends with the bytes of an uninterrupted one. Any program may write other lines:
//! numbers, and objects of numbers, at an `epoch` or a `step`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The label of outputs that hold a history.
pub const HOLDS: &str = "history";

/// The fields that say where a line stands, the first that it has; a line with neither stands at
/// its number.
pub const PLACES: [&str; 2] = ["epoch", "step"];

/// Means over one epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Counted from 1: how many epochs were complete.
    pub epoch: u64,
    /// Learning rate of the epoch's last step.
    pub lr: f64,
    /// Parts of the training loss, such as `loss`, `kl`, `bits/dim`.
    pub train: BTreeMap<String, f64>,
    /// The same on held-out data; empty where none was looked at.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub valid: BTreeMap<String, f64>,
}

/// Writes a history artifact.
pub fn save(path: &Path, epochs: &[Epoch]) -> Result<()> {
    let mut text = String::new();
    for epoch in epochs {
        writeln!(text, "{}", serde_json::to_string(epoch)?)?;
    }
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Reads a history that a kind has written.
pub fn load(path: &Path) -> Result<Vec<Epoch>> {
    let text = std::fs::read_to_string(path);
    let text = text.with_context(|| format!("cannot read {}", path.display()))?;
    let lines = text.lines().enumerate();
    lines
        .map(|(i, line)| {
            serde_json::from_str(line)
                .with_context(|| format!("{}:{}: not an epoch", path.display(), i + 1))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_come_back_as_they_were() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("history.jsonl");
        let train = BTreeMap::from([("loss".to_string(), 0.1 + 0.2)]);
        let first = Epoch {
            epoch: 1,
            lr: 1e-4,
            train: train.clone(),
            valid: BTreeMap::new(),
        };
        let second = Epoch {
            epoch: 2,
            lr: 5e-5,
            valid: train.clone(),
            train,
        };
        save(&path, &[first.clone(), second.clone()])?;
        assert_eq!(load(&path)?, [first, second]);
        std::fs::write(&path, "{\"epoch\":1}\n")?;
        assert!(
            load(&path)
                .unwrap_err()
                .to_string()
                .ends_with("history.jsonl:1: not an epoch")
        );
        Ok(())
    }
}
