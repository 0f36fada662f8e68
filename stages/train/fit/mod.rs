//! The one training loop: epochs of shuffled batches, optimiser steps, history, checkpoints.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Result, ensure};
use candle_core::Tensor;
use contract::history::Epoch;
use contract::{Event, Interrupted, Job};
use losses::flatten;

use super::checkpoint::{self, Groups};
use super::optim::Optimiser;
use super::steps::Steps;
use super::trainable::{Dataset, Trainable};
use super::training::Training;
use crate::nn::noise::{Draws, Noise};
use crate::nn::weights::Weights;

mod keep;
mod losses;

pub use keep::Keep;

/// What to do, and with which noise.
pub struct Plan<'a> {
    pub seed: u64,
    /// Names this training's noise, such as `vae`.
    pub purpose: &'a str,
    pub training: &'a Training,
}

/// What a training run leaves besides the weights.
#[derive(Debug)]
pub struct Fitted {
    pub history: Vec<Epoch>,
}

const GROUPS: &[&str] = &["weights", "moments", "average", "best"];

/// Trains `weights` on `loss`, resuming from the job's checkpoint or from a shorter run.
///
/// An epoch is the steps of [`Steps`] on freshly shuffled examples. At the end `weights` hold the
/// result. Errors: [`Interrupted`], divergence, and what loss and disk give.
pub fn fit<B>(
    plan: &Plan,
    weights: &Weights,
    model: &dyn Trainable<B>,
    train: &dyn Dataset<B>,
    valid: &dyn Dataset<B>,
    job: &mut Job,
) -> Result<Fitted> {
    let steps = plan.training.steps(train.len())?;
    plan.training.keep.check()?;
    let mut run = Run::new(plan, weights, steps)?;
    ensure!(
        !run.looks_for_best() || valid.len() > 0,
        "early stopping and the best weights need held-out examples"
    );
    if !run.resume(job)? {
        model.start(train)?;
        run.start_average()?;
    }
    run.train(model, train, valid, job)?;
    run.finish(model, job)
}

/// A training run between two steps.
struct Run<'a> {
    plan: &'a Plan<'a>,
    weights: &'a Weights,
    steps: Steps,
    optimiser: Optimiser,
    at: checkpoint::Progress,
    average: BTreeMap<String, Tensor>,
    best: BTreeMap<String, Tensor>,
    /// Step of the last checkpoint written or read.
    saved: Option<u64>,
    /// Losses not yet read back from the device: step and parts, `loss` first.
    pending: Vec<(u64, Vec<&'static str>, Tensor)>,
}

/// Steps whose losses may wait on a GPU before they are read back.
const READ_EVERY: usize = 32;

impl<'a> Run<'a> {
    fn new(plan: &'a Plan, weights: &'a Weights, steps: Steps) -> Result<Self> {
        let steps_per_epoch = steps.count();
        let optimiser = Optimiser::new(&plan.training.optim, weights.trained(), steps_per_epoch)?;
        let at = checkpoint::Progress {
            steps_per_epoch,
            ..Default::default()
        };
        let (average, best) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self {
            plan,
            weights,
            steps,
            optimiser,
            at,
            average,
            best,
            saved: None,
            pending: Vec::new(),
        })
    }

    /// Takes up a checkpoint of this job, or the end of a shorter run.
    fn resume(&mut self, job: &mut Job) -> Result<bool> {
        let mut found = checkpoint::load(&job.spec().checkpoint, GROUPS)?;
        if let (None, Some(dir)) = (&found, &job.spec().extends) {
            found = checkpoint::load(dir, GROUPS)?;
        }
        let Some((at, mut groups)) = found else {
            return Ok(false);
        };
        ensure!(
            at.steps_per_epoch == self.at.steps_per_epoch && at.step <= self.total(),
            "the checkpoint is at step {} of epochs of {} steps, the run wants {} of {}",
            at.step,
            at.steps_per_epoch,
            self.total(),
            self.at.steps_per_epoch
        );
        checkpoint::restore(&self.weights.all(), &groups["weights"])?;
        self.optimiser.restore(&groups["moments"])?;
        let mut on_device = |group: &str| -> Result<BTreeMap<String, Tensor>> {
            let members = groups.remove(group).unwrap_or_default().into_iter();
            let moved = members.map(|(name, t)| Ok((name, t.to_device(self.weights.device())?)));
            moved.collect()
        };
        self.average = on_device("average")?;
        self.best = on_device("best")?;
        self.saved = Some(at.step);
        job.say(&Event::Resumed {
            at: at.step,
            unit: "step".into(),
        });
        self.at = at;
        Ok(true)
    }

    fn total(&self) -> u64 {
        self.plan.training.epochs * self.at.steps_per_epoch
    }

    fn train<B>(
        &mut self,
        model: &dyn Trainable<B>,
        train: &dyn Dataset<B>,
        valid: &dyn Dataset<B>,
        job: &mut Job,
    ) -> Result<()> {
        let order = Noise::new(self.plan.seed, &format!("{}.order", self.plan.purpose));
        let noise = Noise::new(self.plan.seed, &format!("{}.train", self.plan.purpose));
        while self.at.step < self.total() && !self.out_of_patience() {
            let epoch = self.at.step / self.at.steps_per_epoch;
            let shuffled = order.at(epoch).permutation(train.len());
            let first = self.at.step % self.at.steps_per_epoch;
            let (clock, before) = (Instant::now(), self.steps.range(first).start);
            for i in first..self.at.steps_per_epoch {
                if job.checkpoint_due() {
                    self.checkpoint(job)?;
                    if job.should_stop() {
                        return Err(Interrupted.into());
                    }
                }
                let chosen = &shuffled[self.steps.range(i)];
                let indices: Vec<usize> = chosen.iter().map(|&i| i as usize).collect();
                let batch = train.batch(&indices)?;
                self.step(model, &batch, &mut noise.at(self.at.step))?;
                if self.pending.len() >= READ_EVERY || self.weights.device().is_cpu() {
                    self.read_losses()?;
                    self.report(job, self.steps.range(i).end, before, clock);
                }
            }
            self.read_losses()?;
            self.end_epoch(model, valid)?;
            if job.checkpoint_due_after(epoch + 1) && self.at.step < self.total() {
                self.checkpoint(job)?;
            }
        }
        Ok(())
    }

    fn step<B>(&mut self, model: &dyn Trainable<B>, batch: &B, noise: &mut Draws) -> Result<()> {
        let loss = model.loss(batch, noise)?;
        let (names, values) = flatten(&loss)?;
        self.pending.push((self.at.step, names, values));
        if self.weights.device().is_cpu() {
            // Where reading costs nothing, a bad loss must not reach the weights.
            self.check_pending()?;
        }
        self.optimiser.step(&loss.total.backward()?, self.at.step)?;
        model.moved()?;
        self.at.step += 1;
        self.update_average()
    }

    fn out_of_patience(&self) -> bool {
        let epoch = self.at.step / self.at.steps_per_epoch;
        let patience = self.plan.training.patience;
        patience > 0
            && self
                .at
                .best
                .is_some_and(|(best, _)| epoch >= best + patience)
    }

    fn groups(&self) -> Result<Groups> {
        let weights = self.weights.all().into_iter();
        let weights = weights
            .map(|(name, var)| (name, var.as_detached_tensor()))
            .collect();
        Ok(BTreeMap::from([
            ("weights", weights),
            ("moments", self.optimiser.state()),
            ("average", self.average.clone()),
            ("best", self.best.clone()),
        ]))
    }

    fn checkpoint(&mut self, job: &mut Job) -> Result<()> {
        self.read_losses()?;
        checkpoint::save(&job.spec().checkpoint, &self.at, &self.groups()?)?;
        self.saved = Some(self.at.step);
        job.checkpointed(self.at.step);
        Ok(())
    }

    /// Keeps the state for a longer run, then makes the weights the result.
    fn finish<B>(self, model: &dyn Trainable<B>, job: &mut Job) -> Result<Fitted> {
        checkpoint::save(&job.spec().state, &self.at, &self.groups()?)?;
        self.keep()?;
        if let Keep::Average { .. } = self.plan.training.keep {
            model.moved()?;
        }
        if let (Keep::Best {}, Some((epoch, loss))) = (self.plan.training.keep, self.at.best) {
            job.note(format!(
                "kept the weights of epoch {epoch}: held-out loss {loss:.4}"
            ));
        }
        Ok(Fitted {
            history: self.at.history,
        })
    }
}

#[cfg(test)]
mod tests;
