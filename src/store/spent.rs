//! What an interrupted run has used, for the record of the run that goes on from its checkpoint.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

use super::Work;
use crate::base::read;

/// In `work/FINGERPRINT/spent.json`, as of the last checkpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Spent {
    pub wall_seconds: f64,
    pub cpu_seconds: f64,
    pub peak_memory_bytes: u64,
}

impl Spent {
    /// Adds what was used after it: times add up, and the larger peak of memory counts.
    pub fn and(self, later: Self) -> Self {
        Self {
            wall_seconds: self.wall_seconds + later.wall_seconds,
            cpu_seconds: self.cpu_seconds + later.cpu_seconds,
            peak_memory_bytes: self.peak_memory_bytes.max(later.peak_memory_bytes),
        }
    }
}

impl Work {
    pub fn spent(&self) -> Option<Spent> {
        let text = read::own_bytes(&self.dir.join("spent.json"), read::TOLD).ok()?;
        serde_json::from_slice(&text).ok()
    }

    pub fn note_spent(&self, spent: &Spent) -> io::Result<()> {
        fs::write(self.dir.join("spent.json"), serde_json::to_vec(spent)?)
    }
}
