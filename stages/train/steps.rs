//! How the examples of an epoch fall into batches.

use std::ops::Range;

use anyhow::{Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What becomes of the examples of an epoch that do not fill a batch (A34).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LastBatch {
    /// They are left out, and others in the next epoch: floor(n / batch) steps.
    Drop,
    /// They are a smaller batch: ceil(n / batch) steps.
    Keep,
}

/// The steps of an epoch.
#[derive(Clone, Copy, Debug)]
pub struct Steps {
    count: usize,
    batch: usize,
    /// Examples of an epoch.
    examples: usize,
}

impl Steps {
    /// An error where there would be none.
    pub fn new(n: usize, batch: usize, last: LastBatch) -> Result<Self> {
        let count = match last {
            LastBatch::Drop => n.checked_div(batch),
            LastBatch::Keep => (batch > 0).then(|| n.div_ceil(batch)),
        };
        let count = count.unwrap_or(0);
        ensure!(
            count > 0,
            "{n} training examples do not fill a batch of {batch}"
        );
        Ok(Self {
            count,
            batch,
            examples: n.min(count * batch),
        })
    }

    pub fn count(&self) -> u64 {
        self.count as u64
    }

    /// Which of an epoch's shuffled examples its `i`th step takes.
    pub fn range(&self, i: u64) -> Range<usize> {
        let first = i as usize * self.batch;
        first..self.examples.min(first + self.batch)
    }

    /// `examples` in full batches: the weight of what is a mean over them.
    pub fn batches(&self, examples: usize) -> f64 {
        examples as f64 / self.batch as f64
    }

    /// An epoch in full batches; the last one may be a fraction.
    pub fn full_batches(&self) -> f64 {
        self.batches(self.examples)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(n: usize, batch: usize, last: LastBatch) -> Result<Vec<usize>> {
        let steps = Steps::new(n, batch, last)?;
        let ranges = (0..steps.count()).map(|i| steps.range(i));
        // One after the other, from the first example on.
        let mut end = 0;
        let mut sizes = Vec::new();
        for range in ranges {
            assert_eq!(range.start, end);
            end = range.end;
            sizes.push(range.len());
        }
        assert_eq!(steps.full_batches(), end as f64 / batch as f64);
        Ok(sizes)
    }

    #[test]
    fn the_last_batch_is_dropped_or_kept() -> Result<()> {
        use LastBatch::{Drop, Keep};
        assert_eq!(sizes(10, 4, Drop)?, [4, 4]);
        assert_eq!(sizes(10, 4, Keep)?, [4, 4, 2]);
        for last in [Drop, Keep] {
            assert_eq!(sizes(8, 4, last)?, [4, 4]);
        }
        assert_eq!(sizes(3, 4, Keep)?, [3]);
        for (n, batch, last) in [(3, 4, Drop), (0, 4, Keep), (3, 0, Drop), (3, 0, Keep)] {
            let error = Steps::new(n, batch, last).err().map(|e| e.to_string());
            let text = format!("{n} training examples do not fill a batch of {batch}");
            assert_eq!(error, Some(text));
        }
        Ok(())
    }
}
