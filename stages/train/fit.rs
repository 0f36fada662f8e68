//! The one training loop: epochs of shuffled batches, optimiser steps, history, checkpoints.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};

use super::checkpoint::{self, Groups};
use super::optim::{Optim, Optimiser};
use crate::contract::{Event, Interrupted, Job, Progress};
use crate::data::history::Epoch;
use crate::data::images::Images;
use crate::nn::noise::{Draws, Noise};
use crate::nn::weights::Weights;

/// What to descend on, and the parts worth logging; all scalars, means over the batch.
pub struct Loss {
    pub total: Tensor,
    pub parts: Vec<(&'static str, Tensor)>,
}

/// A model with a loss. Randomness comes in as an argument.
pub trait Trainable<B> {
    /// Before the first step of a new run: data-dependent initialisation.
    fn start(&self, _train: &dyn Dataset<B>) -> Result<()> {
        Ok(())
    }

    /// The training loss; may update running statistics.
    fn loss(&self, batch: &B, noise: &mut Draws) -> Result<Loss>;

    /// The same on held-out data, changing nothing.
    fn validate(&self, batch: &B, noise: &mut Draws) -> Result<Loss>;
}

/// Examples by number.
pub trait Dataset<B> {
    fn len(&self) -> usize;
    fn batch(&self, indices: &[usize]) -> Result<B>;
}

/// Images as batches `[b, h, w, c]` of whole numbers 0 to 255.
pub struct ImageSet<'a> {
    pub images: &'a Images,
    pub dtype: DType,
    pub device: &'a Device,
}

impl Dataset<Tensor> for ImageSet<'_> {
    fn len(&self) -> usize {
        self.images.n
    }

    fn batch(&self, indices: &[usize]) -> Result<Tensor> {
        Ok(self.images.batch(indices, self.dtype, self.device)?)
    }
}

/// How to train.
pub struct Plan<'a> {
    pub seed: u64,
    /// Names this training's noise, such as `vae`.
    pub purpose: &'a str,
    pub epochs: u64,
    pub batch: usize,
    pub optim: &'a Optim,
    /// Decay of a running average of the weights, which then is the result; 0: none.
    pub average: f64,
    /// Epochs without a better held-out loss after which to stop, with the best weights as the
    /// result; 0: run all epochs and take the last.
    pub patience: u64,
}

/// What a training run leaves besides the weights.
#[derive(Debug)]
pub struct Fitted {
    pub history: Vec<Epoch>,
}

/// A loss this many times the first one will not come back.
const EXPLODED: f64 = 1e3;

const GROUPS: &[&str] = &["weights", "moments", "average", "best"];

/// Trains `weights` on `loss`, resuming from the job's checkpoint or from a shorter run.
///
/// An epoch is `floor(n / batch)` steps on freshly shuffled examples (A34). At the end `weights`
/// hold the result. Errors: [`Interrupted`], divergence, and what loss and disk give.
pub fn fit<B>(
    plan: &Plan,
    weights: &Weights,
    model: &dyn Trainable<B>,
    train: &dyn Dataset<B>,
    valid: &dyn Dataset<B>,
    job: &mut Job,
) -> Result<Fitted> {
    ensure!(
        plan.batch > 0 && train.len() >= plan.batch,
        "{} training examples do not fill a batch of {}",
        train.len(),
        plan.batch
    );
    ensure!(
        plan.patience == 0 || valid.len() > 0,
        "early stopping needs held-out examples"
    );
    let mut run = Run::new(plan, weights, train.len())?;
    if !run.resume(job)? {
        model.start(train)?;
        run.restart_average()?;
    }
    run.train(model, train, valid, job)?;
    run.finish(job)
}

/// A training run between two steps.
struct Run<'a> {
    plan: &'a Plan<'a>,
    weights: &'a Weights,
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
    fn new(plan: &'a Plan, weights: &'a Weights, n: usize) -> Result<Self> {
        let steps_per_epoch = (n / plan.batch) as u64;
        let optimiser = Optimiser::new(plan.optim, weights.trained(), steps_per_epoch)?;
        let at = checkpoint::Progress {
            steps_per_epoch,
            ..Default::default()
        };
        let (average, best) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self {
            plan,
            weights,
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
        self.average = groups.remove("average").unwrap_or_default();
        self.best = groups.remove("best").unwrap_or_default();
        self.saved = Some(at.step);
        job.say(&Event::Resumed {
            at: at.step,
            unit: "step".into(),
        });
        self.at = at;
        Ok(true)
    }

    fn total(&self) -> u64 {
        self.plan.epochs * self.at.steps_per_epoch
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
        let (mut clock, mut since) = (Instant::now(), self.at.step);
        while self.at.step < self.total() && !self.out_of_patience() {
            let epoch = self.at.step / self.at.steps_per_epoch;
            let shuffled = order.at(epoch).permutation(train.len());
            for i in (self.at.step % self.at.steps_per_epoch)..self.at.steps_per_epoch {
                if job.checkpoint_due() {
                    self.checkpoint(job)?;
                    if job.should_stop() {
                        return Err(Interrupted.into());
                    }
                }
                let first = i as usize * self.plan.batch;
                let chosen = &shuffled[first..first + self.plan.batch];
                let indices: Vec<usize> = chosen.iter().map(|&i| i as usize).collect();
                let batch = train.batch(&indices)?;
                self.step(model, &batch, &mut noise.at(self.at.step))?;
                if self.pending.len() >= READ_EVERY || self.weights.device().is_cpu() {
                    self.read_losses()?;
                    self.report(job, i + 1, (self.at.step - since) as f64, clock);
                }
            }
            self.read_losses()?;
            self.end_epoch(model, valid)?;
            (clock, since) = (Instant::now(), self.at.step);
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
        self.at.step += 1;
        self.update_average()
    }

    /// A loss that is no number, or has exploded, ends the run before it is counted.
    fn check_pending(&mut self) -> Result<()> {
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
                 {per_epoch}; the first loss was {first}); {last}; hint: lower optim.lr or set \
                 optim.clip_norm"
            );
        }
        Ok(())
    }

    fn read_losses(&mut self) -> Result<()> {
        self.check_pending()?;
        for (_, names, values) in std::mem::take(&mut self.pending) {
            for (name, value) in names.into_iter().zip(values.to_vec1::<f64>()?) {
                *self.at.sums.entry(name.to_owned()).or_insert(0.0) += value;
            }
        }
        Ok(())
    }

    fn report(&self, job: &mut Job, steps: u64, measured: f64, clock: Instant) {
        let mut values: BTreeMap<String, f64> = self
            .at
            .sums
            .iter()
            .map(|(k, v)| (k.clone(), v / steps as f64))
            .collect();
        let rate = measured * self.plan.batch as f64 / clock.elapsed().as_secs_f64();
        values.insert("images/s".into(), rate);
        job.progress(Progress {
            done: self.at.step,
            total: self.total(),
            unit: "step".into(),
            epoch: Some((self.at.step - 1) / self.at.steps_per_epoch + 1),
            epochs: Some(self.plan.epochs),
            values,
        });
    }

    fn end_epoch<B>(&mut self, model: &dyn Trainable<B>, valid: &dyn Dataset<B>) -> Result<()> {
        let steps = self.at.steps_per_epoch;
        let epoch = self.at.step / steps;
        let train = std::mem::take(&mut self.at.sums);
        let train = train
            .into_iter()
            .map(|(name, sum)| (name, sum / steps as f64))
            .collect();
        let valid = self.validate(model, valid)?;
        let held_out = valid.get("loss").copied();
        let lr = self.plan.optim.lr_at(self.at.step - 1, steps);
        self.at.history.push(Epoch {
            epoch,
            lr,
            train,
            valid,
        });
        if let (true, Some(loss)) = (self.plan.patience > 0, held_out)
            && self.at.best.is_none_or(|(_, best)| loss < best)
        {
            self.at.best = Some((epoch, loss));
            self.best = self.snapshot()?;
        }
        Ok(())
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
        for (i, indices) in all.chunks(self.plan.batch).enumerate() {
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

    fn out_of_patience(&self) -> bool {
        let epoch = self.at.step / self.at.steps_per_epoch;
        self.plan.patience > 0
            && self
                .at
                .best
                .is_some_and(|(best, _)| epoch >= best + self.plan.patience)
    }

    fn snapshot(&self) -> Result<BTreeMap<String, Tensor>> {
        let all = self.weights.all().into_iter();
        all.map(|(name, var)| Ok((name, var.copy()?.detach())))
            .collect()
    }

    fn restart_average(&mut self) -> Result<()> {
        if self.plan.average > 0.0 {
            self.average = self.snapshot()?;
        }
        Ok(())
    }

    fn update_average(&mut self) -> Result<()> {
        let keep = self.plan.average;
        if keep > 0.0 {
            for (name, var) in self.weights.all() {
                let old = self.average.get(&name).context("BUG: no average")?;
                let new = ((old * keep)? + (var.as_tensor() * (1.0 - keep))?)?.detach();
                self.average.insert(name, new);
            }
        }
        Ok(())
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
    fn finish(self, job: &mut Job) -> Result<Fitted> {
        checkpoint::save(&job.spec().state, &self.at, &self.groups()?)?;
        let result = if self.plan.patience > 0 {
            &self.best
        } else {
            &self.average
        };
        if !result.is_empty() {
            checkpoint::restore(&self.weights.all(), result)?;
        }
        if let (true, Some((epoch, loss))) = (self.plan.patience > 0, self.at.best) {
            job.note(format!(
                "kept the weights of epoch {epoch}: held-out loss {loss:.4}"
            ));
        }
        Ok(Fitted {
            history: self.at.history,
        })
    }
}

/// `loss` and the parts, as one f64 tensor on the host or still on its way there.
fn flatten(loss: &Loss) -> candle_core::Result<(Vec<&'static str>, Tensor)> {
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
    use std::path::Path;

    use super::super::optim::{Form, Rule};
    use super::*;
    use crate::contract::testing::Bench;
    use crate::contract::{Input, Output, Stage};
    use crate::nn::init::Init;

    /// A straight line through noisy points; the noise of the loss depends on the step.
    struct Line {
        w: Weights,
    }

    impl Line {
        fn new() -> Result<Self> {
            let w = Weights::new(1, DType::F32, &Device::Cpu);
            w.get(2, "line", Init::Normal { std: 1.0 })?;
            w.buffer(1, "seen", Init::Zeros)?;
            Ok(Self { w })
        }
    }

    impl Trainable<Tensor> for Line {
        fn start(&self, train: &dyn Dataset<Tensor>) -> Result<()> {
            self.w.buffer(1, "seen", Init::Zeros)?.set(&Tensor::full(
                train.len() as f32,
                1,
                &Device::Cpu,
            )?)?;
            Ok(())
        }

        fn loss(&self, x: &Tensor, noise: &mut Draws) -> Result<Loss> {
            let line = self.w.get(2, "line", Init::Zeros)?;
            let seen = self.w.buffer(1, "seen", Init::Zeros)?;
            seen.set(&(seen.as_tensor() + 1.0)?)?;
            let e = (noise.normal(x.shape(), x.dtype(), x.device())? * 0.1)?;
            let y = x
                .broadcast_mul(&line.narrow(0, 0, 1)?)?
                .broadcast_add(&line.narrow(0, 1, 1)?)?;
            let total = ((y - ((x * 2.0)? + 1.0)?)? + e)?.sqr()?.mean_all()?;
            let parts = vec![("slope", line.get(0)?)];
            Ok(Loss { total, parts })
        }

        fn validate(&self, x: &Tensor, noise: &mut Draws) -> Result<Loss> {
            let seen = self.w.buffer(1, "seen", Init::Zeros)?;
            let before = seen.copy()?.detach();
            let loss = self.loss(x, noise)?;
            seen.set(&before)?;
            Ok(loss)
        }
    }

    struct Points(usize);

    impl Dataset<Tensor> for Points {
        fn len(&self) -> usize {
            self.0
        }
        fn batch(&self, indices: &[usize]) -> Result<Tensor> {
            let x: Vec<f32> = indices.iter().map(|i| *i as f32 / 10.0 - 1.0).collect();
            Ok(Tensor::new(x.as_slice(), &Device::Cpu)?)
        }
    }

    struct Toy;
    impl Stage for Toy {
        const KIND: &'static str = "toy";
        const ABOUT: &'static str = "A line.";
        const INPUTS: &'static [Input] = &[];
        const OUTPUTS: &'static [Output] = &[Output::new("model", "line", "line.safetensors")];
        type Params = u64;
        fn run(_: &u64, _: &mut Job) -> Result<()> {
            Ok(())
        }
    }

    fn optim() -> Optim {
        Optim {
            kind: Rule::Adam,
            lr: 0.05,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            form: Form::Torch,
            halve_every: 2,
            warmup_epochs: 1,
            clip_norm: 1.0,
        }
    }

    struct Settings {
        epochs: u64,
        average: f64,
        patience: u64,
        lr: f64,
    }

    const PLAIN: Settings = Settings {
        epochs: 3,
        average: 0.0,
        patience: 0,
        lr: 0.05,
    };

    /// Runs to the end, with `cut` stopped in every step; gives the bytes of weights, state and
    /// history.
    fn train(
        s: &Settings,
        cut: bool,
        extends: Option<&Path>,
    ) -> Result<(Bench, Vec<Vec<u8>>, Vec<Epoch>)> {
        let mut bench = Bench::new::<Toy>(&[]);
        bench.spec().extends = extends.map(Path::to_path_buf);
        let plan = Plan {
            seed: 5,
            purpose: "toy",
            epochs: s.epochs,
            batch: 4,
            optim: &Optim {
                lr: s.lr,
                ..optim()
            },
            average: s.average,
            patience: s.patience,
        };
        for runs in 1..1000 {
            let line = Line::new()?;
            // Events: progress; then, resumed and progress.
            let (mut job, _) = bench.job(cut.then_some(runs.min(2)));
            match fit(&plan, &line.w, &line, &Points(18), &Points(5), &mut job) {
                Err(e) if e.is::<Interrupted>() => continue,
                Err(e) => return Err(e),
                Ok(fitted) => {
                    assert!(!cut || runs as u64 >= 4 * fitted.history.len() as u64);
                    line.w.save(&bench.output::<Toy>("model"), &())?;
                    let mut bytes = bench.bytes::<Toy>();
                    bytes.push(std::fs::read(bench.spec().state.join(checkpoint::FILE))?);
                    return Ok((bench, bytes, fitted.history));
                }
            }
        }
        bail!("no progress between interruptions")
    }

    #[test]
    fn the_loss_falls_and_history_has_every_epoch() -> Result<()> {
        let (_, _, history) = train(
            &Settings {
                epochs: 40,
                lr: 0.3,
                ..PLAIN
            },
            false,
            None,
        )?;
        assert_eq!(
            history.iter().map(|e| e.epoch).collect::<Vec<_>>(),
            (1..=40).collect::<Vec<_>>()
        );
        assert!(history[39].valid["loss"] < 0.5 * history[0].valid["loss"]);
        assert_eq!(history[2].lr, 0.15);
        Ok(())
    }

    #[test]
    fn interruptions_change_no_byte() -> Result<()> {
        for s in [
            PLAIN,
            Settings {
                average: 0.9,
                ..PLAIN
            },
            Settings {
                patience: 1,
                epochs: 12,
                lr: 0.5,
                ..PLAIN
            },
        ] {
            let (whole, cut) = (train(&s, false, None)?, train(&s, true, None)?);
            assert!(whole.1 == cut.1 && whole.2 == cut.2);
        }
        Ok(())
    }

    #[test]
    fn a_longer_run_continues_a_shorter_one() -> Result<()> {
        for average in [0.0, 0.9] {
            let s = Settings { average, ..PLAIN };
            let (mut short, ..) = train(&s, false, None)?;
            let long = Settings { epochs: 5, ..s };
            let state = short.spec().state.clone();
            let continued = train(&long, false, Some(&state))?;
            let scratch = train(&long, false, None)?;
            assert!(continued.1 == scratch.1 && continued.2 == scratch.2);
        }
        Ok(())
    }

    #[test]
    fn early_stopping_keeps_the_best_weights() -> Result<()> {
        let s = Settings {
            patience: 2,
            epochs: 200,
            lr: 0.5,
            ..PLAIN
        };
        let (bench, _, history) = train(&s, false, None)?;
        assert!(history.len() < 200);
        let losses: Vec<f64> = history.iter().map(|e| e.valid["loss"]).collect();
        let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
        let at = losses.iter().position(|l| *l == best).context("no best")?;
        assert_eq!(history.len(), at + 3);
        let path = bench.output::<Toy>("model");
        let (w, ()): (Weights, ()) = Weights::load(&path, DType::F32, &Device::Cpu)?;
        let again = Line { w }.validate(
            &Points(5).batch(&[0, 1, 2, 3])?,
            &mut Noise::new(5, "toy.valid").at(0),
        )?;
        let last = Line {
            w: Weights::load::<()>(&path, DType::F32, &Device::Cpu)?.0,
        }
        .validate(
            &Points(5).batch(&[4])?,
            &mut Noise::new(5, "toy.valid").at(1),
        )?;
        let loss =
            |l: &Loss| -> Result<f64> { Ok(l.total.to_dtype(DType::F64)?.to_scalar::<f64>()?) };
        assert!(((loss(&again)? * 4.0 + loss(&last)?) / 5.0 - best).abs() < 1e-12);
        Ok(())
    }

    #[test]
    fn divergence_names_step_and_checkpoint() -> Result<()> {
        let error = train(&Settings { lr: 1e30, ..PLAIN }, false, None)
            .err()
            .context("survived")?;
        let text = error.to_string();
        assert!(
            text.starts_with("diverged: the loss is ")
                && text.contains("at step 2 (epoch 1, batch 3 of 4"),
            "{text}"
        );
        assert!(
            text.contains("there is no checkpoint yet; hint: lower optim.lr"),
            "{text}"
        );
        Ok(())
    }

    #[test]
    fn too_few_examples_are_an_error() -> Result<()> {
        let line = Line::new()?;
        let bench = Bench::new::<Toy>(&[]);
        let plan = Plan {
            seed: 0,
            purpose: "toy",
            epochs: 1,
            batch: 4,
            optim: &optim(),
            average: 0.0,
            patience: 0,
        };
        let error = fit(
            &plan,
            &line.w,
            &line,
            &Points(3),
            &Points(0),
            &mut bench.job(None).0,
        );
        assert!(
            error.is_err_and(|e| e.to_string() == "3 training examples do not fill a batch of 4")
        );
        Ok(())
    }
}
