//! Which weights of a training run are its result.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use candle_core::{Tensor, Var};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Run;

/// The weights that training leaves (A31).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Keep {
    /// The weights of the last step.
    Last {},
    /// The weights after the epoch with the lowest held-out loss.
    Best {},
    /// A running average: `decay` of itself and the rest of the trained weights after every step
    /// (Polyak). What is not trained, such as a batch norm's statistics, is that of the last step.
    Average {
        /// Above 0 and below 1, such as 0.999.
        decay: f64,
    },
}

impl Keep {
    pub(super) fn check(self) -> Result<()> {
        if let Self::Average { decay } = self {
            ensure!(
                (0.0..1.0).contains(&decay),
                "train.keep.decay = {decay} is no share of an average; hint: 0.999"
            );
        }
        Ok(())
    }
}

impl Run<'_> {
    /// Whether held-out losses decide something.
    pub(super) fn looks_for_best(&self) -> bool {
        let training = self.plan.training;
        training.patience > 0 || training.keep == Keep::Best {}
    }

    /// An epoch has ended with this held-out loss.
    pub(super) fn judge(&mut self, epoch: u64, loss: f64) -> Result<()> {
        if self.looks_for_best() && self.at.best.is_none_or(|(_, best)| loss < best) {
            self.at.best = Some((epoch, loss));
            if self.plan.training.keep == (Keep::Best {}) {
                self.best = copies(self.weights.all())?;
            }
        }
        Ok(())
    }

    pub(super) fn start_average(&mut self) -> Result<()> {
        if matches!(self.plan.training.keep, Keep::Average { .. }) {
            self.average = copies(self.weights.trained())?;
        }
        Ok(())
    }

    pub(super) fn update_average(&mut self) -> Result<()> {
        if let Keep::Average { decay } = self.plan.training.keep {
            for (name, var) in self.weights.trained() {
                let old = self.average.get(&name).context("BUG: no average")?;
                let new = ((old * decay)? + (var.as_tensor() * (1.0 - decay))?)?.detach();
                self.average.insert(name, new);
            }
        }
        Ok(())
    }

    /// Makes what is to be kept the weights.
    pub(super) fn keep(&self) -> Result<()> {
        let kept = match self.plan.training.keep {
            Keep::Last {} => return Ok(()),
            Keep::Best {} => &self.best,
            Keep::Average { .. } => &self.average,
        };
        let all = self.weights.all();
        for (name, tensor) in kept {
            let var = all.get(name);
            var.context("BUG: kept what is no weight")?.set(tensor)?;
        }
        Ok(())
    }
}

fn copies(vars: impl IntoIterator<Item = (String, Var)>) -> Result<BTreeMap<String, Tensor>> {
    let vars = vars.into_iter();
    vars.map(|(name, var)| Ok((name, var.copy()?.detach())))
        .collect()
}
