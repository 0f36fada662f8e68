//! Adam and Adamax with state that can be saved, and the schedule of their step size.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, DType, InplaceOp1, InplaceOp2, Layout, Tensor, Var};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    /// Epochs over which the step size grows linearly from 0; 0: none.
    pub warmup_epochs: u64,
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
        let warmup = self.warmup_epochs * steps_per_epoch;
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
}

struct Slot {
    name: String,
    weight: Var,
    moments: Var,
}

impl Optimiser {
    pub fn new(rule: &Optim, trained: Vec<(String, Var)>, steps_per_epoch: u64) -> Result<Self> {
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
            .collect::<candle_core::Result<_>>()?;
        Ok(Self {
            rule: rule.clone(),
            beta2,
            steps_per_epoch,
            slots,
        })
    }

    /// Moves every trained tensor against its gradient; `step` counts from 0.
    pub fn step(&self, grads: &GradStore, step: u64) -> Result<()> {
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

/// Values a task sums or updates at once: fixed, so that sums do not depend on thread counts.
const CHUNK: usize = 1 << 14;

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

#[derive(Clone, Copy)]
struct Update {
    rule: Rule,
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    rate: f64,
    scale: f64,
}

/// Moments and weight in one pass over memory. It runs on the moments and reaches for the weight.
struct Step<'a> {
    weight: &'a Var,
    update: Update,
}

impl InplaceOp2 for Step<'_> {
    fn name(&self) -> &'static str {
        "optimiser-step"
    }

    fn cpu_fwd(
        &self,
        moments: &mut CpuStorage,
        _: &Layout,
        grad: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<()> {
        let Some((from, to)) = layout.contiguous_offsets() else {
            candle_core::bail!("optimiser-step: wants contiguous gradients");
        };
        match (moments, grad) {
            (CpuStorage::F32(m), CpuStorage::F32(g)) => self.weight.inplace_op1(&Apply32 {
                moments: Mutex::new(m),
                grad: &g[from..to],
                update: self.update,
            }),
            (CpuStorage::F64(m), CpuStorage::F64(g)) => self.weight.inplace_op1(&Apply64 {
                moments: Mutex::new(m),
                grad: &g[from..to],
                update: self.update,
            }),
            _ => candle_core::bail!("optimiser-step: wants f32 or f64"),
        }
    }
}

macro_rules! apply {
    ($name:ident, $type:ident, $storage:ident) => {
        struct $name<'a> {
            moments: Mutex<&'a mut Vec<$type>>,
            grad: &'a [$type],
            update: Update,
        }

        impl InplaceOp1 for $name<'_> {
            fn name(&self) -> &'static str {
                "optimiser-step"
            }

            fn cpu_fwd(&self, weight: &mut CpuStorage, _: &Layout) -> candle_core::Result<()> {
                let CpuStorage::$storage(weight) = weight else {
                    candle_core::bail!("optimiser-step: weight and gradient differ in dtype");
                };
                let u = &self.update;
                let (b1, b2) = (u.beta1 as $type, u.beta2 as $type);
                let (r1, r2) = ((1.0 - u.beta1) as $type, (1.0 - u.beta2) as $type);
                let (epsilon, rate) = (u.epsilon as $type, u.rate as $type);
                let scale = u.scale as $type;
                let mut moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
                let (m, v) = moments.split_at_mut(self.grad.len());
                let chunks = weight
                    .par_chunks_mut(CHUNK)
                    .zip(m.par_chunks_mut(CHUNK))
                    .zip(v.par_chunks_mut(CHUNK))
                    .zip(self.grad.par_chunks(CHUNK));
                chunks.for_each(|(((w, m), v), g)| match u.rule {
                    Rule::Adam => {
                        for (((w, m), v), g) in w.iter_mut().zip(m).zip(v).zip(g) {
                            let g = *g * scale;
                            *m = b1 * *m + r1 * g;
                            *v = b2 * *v + r2 * g * g;
                            *w -= rate * *m / (v.sqrt() + epsilon);
                        }
                    }
                    Rule::Adamax => {
                        for (((w, m), v), g) in w.iter_mut().zip(m).zip(v).zip(g) {
                            let g = *g * scale;
                            *m = b1 * *m + r1 * g;
                            *v = (b2 * *v).max(g.abs());
                            *w -= rate * *m / (*v + epsilon);
                        }
                    }
                });
                Ok(())
            }
        }
    };
}
apply!(Apply32, f32, F32);
apply!(Apply64, f64, F64);

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn rule(kind: Rule, form: Form) -> Optim {
        Optim {
            kind,
            lr: 1e-4,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            form,
            halve_every: 250,
            warmup_epochs: 0,
            clip_norm: 0.0,
        }
    }

    /// The weight after each step along the given gradients, from 0.
    fn walk(rule: &Optim, grads: &[f64]) -> Result<Vec<f64>> {
        let w = Var::zeros(1, DType::F64, &Device::Cpu)?;
        let optimiser = Optimiser::new(rule, vec![("w".into(), w.clone())], 10)?;
        let mut path = Vec::new();
        for (step, g) in grads.iter().enumerate() {
            let store = (w.as_tensor() * *g)?.sum_all()?.backward()?;
            optimiser.step(&store, step as u64)?;
            path.push(w.to_vec1::<f64>()?[0]);
        }
        Ok(path)
    }

    /// REFERENCE 7, oracle 31.
    #[test]
    fn the_first_step_is_the_step_size() -> Result<()> {
        for g in [1e-9, 1e-6, -0.3, 20.0] {
            let tf = walk(&rule(Rule::Adam, Form::Tensorflow), &[g])?[0];
            let torch = walk(&rule(Rule::Adam, Form::Torch), &[g])?[0];
            let expect = |epsilon: f64| -1e-4 * g / (g.abs() + epsilon);
            assert!(
                (tf / expect(1e-8 / 0.001f64.sqrt()) - 1.0).abs() < 1e-9,
                "{tf}"
            );
            assert!((torch / expect(1e-8) - 1.0).abs() < 1e-9, "{torch}");
        }
        let ratio = |g: f64| -> Result<f64> {
            let step = |form| walk(&rule(Rule::Adam, form), &[g]);
            Ok(step(Form::Torch)?[0] / step(Form::Tensorflow)?[0])
        };
        assert!((ratio(1e-6)? - 1.30).abs() < 0.005 && (ratio(1e-9)? - 28.8).abs() < 0.05);
        Ok(())
    }

    /// Against the textbook formulae in the textbook's order, over several steps.
    #[test]
    fn paths_follow_the_formulae() -> Result<()> {
        let grads: Vec<f64> = (0..20).map(|i| (f64::from(i) * 1.7).sin() * 0.1).collect();
        for (kind, form) in [
            (Rule::Adam, Form::Torch),
            (Rule::Adam, Form::Tensorflow),
            (Rule::Adamax, Form::Tensorflow),
        ] {
            let path = walk(&rule(kind, form), &grads)?;
            let (mut w, mut m, mut v) = (0.0, 0.0, 0.0f64);
            for (t, g) in (1..).zip(&grads) {
                let (c1, c2) = (1.0 - 0.9f64.powi(t), 1.0 - 0.999f64.powi(t));
                m = 0.9 * m + 0.1 * g;
                w -= match (kind, form) {
                    (Rule::Adamax, _) => {
                        v = (0.999 * v).max(g.abs());
                        1e-4 * c2.sqrt() / c1 * m / (v + 1e-8)
                    }
                    (_, Form::Torch) => {
                        v = 0.999 * v + 0.001 * g * g;
                        1e-4 * (m / c1) / ((v / c2).sqrt() + 1e-8)
                    }
                    (_, Form::Tensorflow) => {
                        v = 0.999 * v + 0.001 * g * g;
                        1e-4 * c2.sqrt() / c1 * m / (v.sqrt() + 1e-8)
                    }
                };
                let ours = path[t as usize - 1];
                assert!(
                    (ours - w).abs() < 1e-12,
                    "{kind:?} {form:?} step {t}: {ours} {w}"
                );
            }
        }
        Ok(())
    }

    /// REFERENCE 7, oracle 31.
    #[test]
    fn the_step_size_halves_on_schedule() {
        let rule = rule(Rule::Adam, Form::Torch);
        let at = |epoch: u64| rule.lr_at(epoch * 781, 781);
        assert_eq!(
            [0, 249, 250, 500, 750].map(at),
            [1e-4, 1e-4, 5e-5, 2.5e-5, 1.25e-5]
        );
        assert_eq!(rule.lr_at(250 * 781 - 1, 781), 1e-4);
    }

    #[test]
    fn warm_up_is_linear_in_images_seen() {
        let rule = Optim {
            warmup_epochs: 10,
            halve_every: 0,
            ..rule(Rule::Adamax, Form::Torch)
        };
        assert_eq!(rule.lr_at(0, 100), 0.0);
        assert_eq!(rule.lr_at(500, 100), 0.5e-4);
        assert_eq!(rule.lr_at(1000, 100), 1e-4);
        assert_eq!(rule.lr_at(1 << 40, 100), 1e-4);
    }

    #[test]
    fn clipping_scales_all_gradients_together() -> Result<()> {
        // Adamax's first step is g / (|g| + epsilon); a huge epsilon makes it linear in g.
        let base = Optim {
            epsilon: 1e6,
            lr: 1e6,
            ..rule(Rule::Adamax, Form::Torch)
        };
        let clipped = Optim {
            clip_norm: 1.0,
            ..base.clone()
        };
        let move_by = |rule: &Optim| -> Result<Vec<f64>> {
            let w = Var::zeros(2, DType::F64, &Device::Cpu)?;
            let optimiser = Optimiser::new(rule, vec![("w".into(), w.clone())], 10)?;
            let g = Tensor::new(&[3f64, 4.0], &Device::Cpu)?;
            optimiser.step(&(w.as_tensor() * g)?.sum_all()?.backward()?, 0)?;
            Ok(w.to_vec1()?)
        };
        for (free, clipped) in move_by(&base)?.iter().zip(move_by(&clipped)?) {
            assert!((free / clipped - 5.0).abs() < 1e-4);
        }
        Ok(())
    }
}
