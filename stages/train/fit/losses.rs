//! The losses of a training run: read, judged, reported, and gathered epoch by epoch.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Result, bail};
use candle_core::{DType, Tensor};
use contract::history::Epoch;
use contract::{Job, Progress};

use super::Run;
use crate::nn::noise::Noise;
use crate::train::trainable::{Dataset, Loss, Trainable};

/// A loss this many times the first one will not come back.
const EXPLODED: f64 = 1e3;

impl Run<'_> {
    /// A loss that is no number, or has exploded, ends the run before it is counted.
    pub(super) fn check_pending(&mut self) -> Result<()> {
        for (step, _, values) in &self.pending {
            let loss = values.to_vec1::<f64>()?[0];
            let first = *self.at.first_loss.get_or_insert(loss);
            if loss.is_finite() && loss <= EXPLODED * first.abs().max(1.0) {
                continue;
            }
            let epoch = step / self.at.steps_per_epoch + 1;
            let i = step % self.at.steps_per_epoch + 1;
            let per_epoch = self.at.steps_per_epoch;
            let last = match self.saved {
                Some(saved) => format!("the last checkpoint is of step {saved}"),
                None => "there is no checkpoint yet".into(),
            };
            bail!(
                "diverged: the loss is {loss} at step {step} (epoch {epoch}, batch {i} of \
                 {per_epoch}; the first loss was {first}); {last}; hint: lower train.optim.lr or \
                 set train.optim.clip_norm"
            );
        }
        Ok(())
    }

    pub(super) fn read_losses(&mut self) -> Result<()> {
        self.check_pending()?;
        for (step, names, values) in std::mem::take(&mut self.pending) {
            let examples = self.steps.range(step % self.at.steps_per_epoch).len();
            let weight = self.steps.batches(examples);
            for (name, value) in names.into_iter().zip(values.to_vec1::<f64>()?) {
                *self.at.sums.entry(name.to_owned()).or_insert(0.0) += value * weight;
            }
        }
        Ok(())
    }

    /// `done` examples of an epoch are done, those after `before` since the clock was started.
    pub(super) fn report(&self, job: &mut Job, done: usize, before: usize, clock: Instant) {
        let batches = self.steps.batches(done);
        let mut values: BTreeMap<String, f64> = self
            .at
            .sums
            .iter()
            .map(|(k, v)| (k.clone(), v / batches))
            .collect();
        let rate = (done - before) as f64 / clock.elapsed().as_secs_f64();
        values.insert("images/s".into(), rate);
        job.progress(Progress {
            done: self.at.step,
            total: self.total(),
            unit: "step".into(),
            epoch: Some((self.at.step - 1) / self.at.steps_per_epoch + 1),
            epochs: Some(self.plan.training.epochs),
            values,
        });
    }

    pub(super) fn end_epoch<B>(
        &mut self,
        model: &dyn Trainable<B>,
        valid: &dyn Dataset<B>,
    ) -> Result<()> {
        let steps = self.at.steps_per_epoch;
        let epoch = self.at.step / steps;
        let train = std::mem::take(&mut self.at.sums);
        let train = train
            .into_iter()
            .map(|(name, sum)| (name, sum / self.steps.full_batches()))
            .collect();
        let valid = self.validate(model, valid)?;
        let held_out = valid.get("loss").copied();
        let lr = self.plan.training.optim.lr_at(self.at.step - 1, steps);
        self.at.history.push(Epoch {
            epoch,
            lr,
            train,
            valid,
        });
        held_out.map_or(Ok(()), |loss| self.judge(epoch, loss))
    }

    /// Means over all held-out examples, with the same noise after every epoch.
    fn validate<B>(
        &self,
        model: &dyn Trainable<B>,
        valid: &dyn Dataset<B>,
    ) -> Result<BTreeMap<String, f64>> {
        let noise = Noise::new(self.plan.seed, &format!("{}.valid", self.plan.purpose));
        let mut sums = BTreeMap::new();
        let all: Vec<usize> = (0..valid.len()).collect();
        for (i, indices) in all.chunks(self.plan.training.batch).enumerate() {
            let loss = model.validate(&valid.batch(indices)?, &mut noise.at(i as u64))?;
            let (names, values) = flatten(&loss)?;
            for (name, value) in names.into_iter().zip(values.to_vec1::<f64>()?) {
                *sums.entry(name.to_owned()).or_insert(0.0) += value * indices.len() as f64;
            }
        }
        Ok(sums
            .into_iter()
            .map(|(name, sum)| (name, sum / valid.len() as f64))
            .collect())
    }
}

/// `loss` and the parts, as one f64 tensor on the host or still on its way there.
pub fn flatten(loss: &Loss) -> candle_core::Result<(Vec<&'static str>, Tensor)> {
    let mut names = vec!["loss"];
    let mut values = vec![loss.total.detach().flatten_all()?];
    for (name, value) in &loss.parts {
        names.push(name);
        values.push(value.detach().flatten_all()?);
    }
    Ok((names, Tensor::cat(&values, 0)?.to_dtype(DType::F64)?))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Line, Points, Toy, optim};
    use super::super::{Keep, Plan, fit};
    use super::*;
    use crate::nn::init::Init;
    use crate::nn::noise::Draws;
    use crate::nn::weights::Weights;
    use crate::train::Training;
    use crate::train::steps::LastBatch;
    use contract::testing::Bench;

    /// The mean of its examples; it learns nothing.
    struct Mean(Weights);

    impl Trainable<Tensor> for Mean {
        fn loss(&self, x: &Tensor, _: &mut Draws) -> Result<Loss> {
            let nothing = (self.0.get(2, "line", Init::Zeros)?.sum_all()? * 0.0)?;
            let size = Tensor::new(x.elem_count() as f32, x.device())?;
            Ok(Loss {
                total: (x.mean_all()? + nothing)?,
                parts: vec![("size", size)],
            })
        }

        fn validate(&self, x: &Tensor, noise: &mut Draws) -> Result<Loss> {
            self.loss(x, noise)
        }
    }

    /// A kept last batch is as large as what is left, and the history weighs it so: an epoch's loss is
    /// the mean over all examples.
    #[test]
    fn a_kept_batch_counts_by_its_size() -> Result<()> {
        let bench = Bench::new::<Toy>(&[]);
        let points = Points(18);
        let every: Vec<usize> = (0..18).collect();
        let mean = points.batch(&every)?.mean_all()?.to_scalar::<f32>()?;
        for (last_batch, size) in [
            (LastBatch::Keep, (4.0 * 16.0 + 2.0 * 2.0) / 18.0),
            (LastBatch::Drop, 4.0),
        ] {
            let model = Mean(Line::new()?.w);
            let plan = Plan {
                seed: 0,
                purpose: "mean",
                training: &Training {
                    epochs: 2,
                    batch: 4,
                    last_batch,
                    patience: 0,
                    keep: Keep::Last {},
                    optim: optim(),
                },
            };
            let mut job = bench.job(None).0;
            let fitted = fit(&plan, &model.0, &model, &points, &Points(5), &mut job)?;
            for epoch in fitted.history {
                assert!((epoch.train["size"] - size).abs() < 1e-12);
                let all_count = (epoch.train["loss"] - f64::from(mean)).abs() < 1e-6;
                assert_eq!(all_count, last_batch == LastBatch::Keep);
            }
        }
        Ok(())
    }
}
