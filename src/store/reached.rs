//! How far an interrupted run had come: for people, and for the time a run is told to take.

use std::fs;
use std::io;

use contract::Progress;
use serde::{Deserialize, Serialize};

use super::Work;
use crate::base::read;

/// As of the last checkpoint, in `work/FINGERPRINT/reached.json`. The checkpoint itself is what
/// a run goes on from; this may lag behind it, and may be missing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reached {
    pub at: u64,
    pub total: u64,
    /// What is counted, such as `step`.
    pub unit: String,
    pub epochs: Option<u64>,
    /// Seconds of work up to here, over all interruptions.
    pub seconds: f64,
}

impl Reached {
    /// From the position of a checkpoint and what was last said of the progress.
    pub fn new(at: u64, last: Option<&Progress>, seconds: f64) -> Self {
        Self {
            at,
            total: last.map_or(0, |p| p.total),
            unit: last.map_or_else(|| "step".into(), |p| p.unit.clone()),
            epochs: last.and_then(|p| p.epochs),
            seconds,
        }
    }

    /// `epoch 412 of 1000`: the first that is not complete; or the position itself.
    pub fn describe(&self) -> String {
        match self.epochs {
            Some(epochs) if epochs > 0 && self.total >= epochs => {
                let epoch = (self.at / (self.total / epochs) + 1).min(epochs);
                format!("epoch {epoch} of {epochs}")
            }
            _ => format!("{} {}", self.unit, self.at),
        }
    }

    /// Seconds still to go, at the pace so far.
    pub fn left(&self) -> Option<f64> {
        let rest = self.total.checked_sub(self.at)?;
        (self.at > 0 && self.total > 0).then(|| self.seconds / self.at as f64 * rest as f64)
    }
}

impl Work {
    pub fn reached(&self) -> Option<Reached> {
        let text = read::own_bytes(&self.dir.join("reached.json"), read::TOLD).ok()?;
        serde_json::from_slice(&text).ok()
    }

    pub fn note_reached(&self, reached: &Reached) -> io::Result<()> {
        fs::write(self.dir.join("reached.json"), serde_json::to_vec(reached)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_told_as_the_epoch_it_is_in() {
        let progress = Progress {
            total: 40,
            unit: "step".into(),
            epochs: Some(4),
            ..Progress::default()
        };
        let at = |n| Reached::new(n, Some(&progress), 30.0);
        assert_eq!(at(0).describe(), "epoch 1 of 4");
        assert_eq!(at(9).describe(), "epoch 1 of 4");
        assert_eq!(at(10).describe(), "epoch 2 of 4");
        assert_eq!(at(40).describe(), "epoch 4 of 4");
        assert_eq!(at(30).left(), Some(10.0));
        assert_eq!(Reached::new(7, None, 1.0).describe(), "step 7");
        assert_eq!(Reached::new(7, None, 1.0).left(), None);
    }
}
