//! Adam and Adamax with state that can be saved, and the schedule of their step size.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use step::{Step, Update};

#[cfg(feature = "cuda")]
use crate::nn::cuda::{adam::Table, optim::Numbers};

mod step;

/// An optimiser and its schedule, as pipeline.toml has them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Optim {
    pub kind: Rule,
    pub lr: f64,
    pub beta1: f64,
    /// For Adamax, 0 stands for 1 - 1 / (steps per epoch), as in the official Glow.
    pub beta2: f64,
    pub epsilon: f64,
    pub form: Form,
    /// Epochs after which the step size halves, again and again; 0: never.
    pub halve_every: u64,
    /// Epochs, or a part of one, over which the step size grows linearly from 0; 0: none.
    pub warmup_epochs: f64,
    /// Gradients whose joint norm is larger are scaled down to it; 0: never.
    pub clip_norm: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    Adam,
    /// The variant of openai/glow: v = max(beta2 v, |g|), both moments bias-corrected as in Adam.
    Adamax,
}

/// Where epsilon stands. With v^ = v / (1 - beta2^t) and m^ likewise:
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// `m^ / (sqrt(v) + epsilon) * sqrt(1 - beta2^t)`: the paper's "epsilon hat".
    Tensorflow,
    /// `m^ / (sqrt(v^) + epsilon)`.
    Torch,
}

impl Optim {
    /// Step size of a step, counted from 0.
    pub fn lr_at(&self, step: u64, steps_per_epoch: u64) -> f64 {
        let halvings = (step / steps_per_epoch)
            .checked_div(self.halve_every)
            .unwrap_or(0);
        let warmup = (self.warmup_epochs * steps_per_epoch as f64).round() as u64;
        let grown = if step < warmup {
            step as f64 / warmup as f64
        } else {
            1.0
        };
        self.lr * 0.5f64.powi(halvings.min(1 << 20) as i32) * grown
    }
}

/// An optimiser at work: for each trained tensor, both moments as one tensor `[2, ...]`.
pub struct Optimiser {
    rule: Optim,
    beta2: f64,
    steps_per_epoch: u64,
    slots: Vec<Slot>,
    /// Where all of it lies on a GPU.
    #[cfg(feature = "cuda")]
    table: Option<Table>,
}

struct Slot {
    name: String,
    weight: Var,
    moments: Var,
}

impl Optimiser {
    pub fn new(rule: &Optim, trained: Vec<(String, Var)>, steps_per_epoch: u64) -> Result<Self> {
        ensure!(
            rule.warmup_epochs.is_finite() && rule.warmup_epochs >= 0.0,
            "train.optim.warmup_epochs = {} must be a finite number, 0 or more; hint: 0 for no warm-up",
            rule.warmup_epochs
        );
        let beta2 = match rule.kind {
            Rule::Adamax if rule.beta2 == 0.0 => 1.0 - 1.0 / steps_per_epoch as f64,
            _ => rule.beta2,
        };
        let slot = |(name, weight): (String, Var)| {
            let shape: Vec<usize> = [&[2], weight.dims()].concat();
            let moments = Var::zeros(shape, weight.dtype(), weight.device())?;
            Ok(Slot {
                name,
                weight,
                moments,
            })
        };
        let slots = trained
            .into_iter()
            .map(slot)
            .collect::<candle_core::Result<Vec<_>>>()?;
        Ok(Self {
            #[cfg(feature = "cuda")]
            table: table(&slots)?,
            rule: rule.clone(),
            beta2,
            steps_per_epoch,
            slots,
        })
    }

    /// Moves every trained tensor against its gradient; `step` counts from 0.
    pub fn step(&self, grads: &GradStore, step: u64) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let Some(table) = &self.table {
            let grad = |slot: &Slot| grads.get(&slot.weight).map(Tensor::contiguous).transpose();
            let grads = self.slots.iter().map(grad);
            let grads: Vec<_> = grads.collect::<candle_core::Result<_>>()?;
            let u = self.update(step, 1.0);
            let numbers = Numbers {
                adamax: u.rule == Rule::Adamax,
                beta1: u.beta1,
                beta2: u.beta2,
                epsilon: u.epsilon,
                rate: u.rate,
            };
            return Ok(table.step(&grads, numbers, self.rule.clip_norm)?);
        }
        let mut found = Vec::with_capacity(self.slots.len());
        for slot in &self.slots {
            // A tensor that the loss does not reach keeps its value.
            if let Some(grad) = grads.get(&slot.weight) {
                found.push((slot, grad.contiguous()?));
            }
        }
        let scale = match self.rule.clip_norm {
            0.0 => 1.0,
            limit => {
                let norm = norm(found.iter().map(|(_, grad)| grad))?;
                if norm > limit { limit / norm } else { 1.0 }
            }
        };
        let update = self.update(step, scale);
        for (slot, grad) in found {
            slot.moments.inplace_op2(
                &grad,
                &Step {
                    weight: &slot.weight,
                    update,
                },
            )?;
        }
        Ok(())
    }

    fn update(&self, step: u64, scale: f64) -> Update {
        let t = i32::try_from(step + 1).unwrap_or(i32::MAX);
        let (c1, c2) = (
            1.0 - self.rule.beta1.powi(t),
            (1.0 - self.beta2.powi(t)).sqrt(),
        );
        let lr = self.rule.lr_at(step, self.steps_per_epoch);
        // Both forms are m / (root v + epsilon) times a number; they differ in its epsilon.
        let epsilon = match (self.rule.kind, self.rule.form) {
            (Rule::Adam, Form::Torch) => self.rule.epsilon * c2,
            _ => self.rule.epsilon,
        };
        Update {
            rule: self.rule.kind,
            beta1: self.rule.beta1,
            beta2: self.beta2,
            epsilon,
            rate: lr * c2 / c1,
            scale,
        }
    }

    /// The moments by name, to be saved.
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        self.slots
            .iter()
            .map(|s| (s.name.clone(), s.moments.as_detached_tensor()))
            .collect()
    }

    /// Takes up saved moments.
    pub fn restore(&self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        if state.len() != self.slots.len() {
            bail!(
                "{} saved moments for {} trained tensors",
                state.len(),
                self.slots.len()
            );
        }
        for slot in &self.slots {
            let saved = state.get(&slot.name);
            let saved = saved.with_context(|| format!("no saved moments of {}", slot.name))?;
            slot.moments.set(&saved.to_device(slot.weight.device())?)?;
        }
        Ok(())
    }
}

#[cfg(feature = "cuda")]
fn table(slots: &[Slot]) -> candle_core::Result<Option<Table>> {
    let Some(candle_core::Device::Cuda(device)) = slots.first().map(|s| s.weight.device()) else {
        return Ok(None);
    };
    let both = |slot: &Slot| (slot.weight.clone(), slot.moments.clone());
    Table::new(slots.iter().map(both).collect(), device).map(Some)
}

/// Euclidean norm of all gradients together, in f64 and in a fixed order.
fn norm<'a>(grads: impl Iterator<Item = &'a Tensor>) -> Result<f64> {
    let mut sum = 0.0;
    for grad in grads {
        sum += grad
            .sqr()?
            .flatten_all()?
            .to_dtype(DType::F64)?
            .sum_all()?
            .to_scalar::<f64>()?;
    }
    Ok(sum.sqrt())
}

#[cfg(test)]
mod tests;
