mod keep;

use std::path::Path;

use anyhow::{Context, bail};
use candle_core::{DType, Device};
use contract::testing::Bench;
use contract::{Input, Output, Stage};

use super::super::optim::{Form, Optim, Rule};
use super::super::steps::LastBatch;
use super::super::trainable::Loss;
use super::*;
use crate::nn::init::Init;
use crate::nn::noise::Draws;

/// A straight line through noisy points; the noise of the loss depends on the step.
pub struct Line {
    pub w: Weights,
}

impl Line {
    pub fn new() -> Result<Self> {
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

pub struct Points(pub usize);

impl Dataset<Tensor> for Points {
    fn len(&self) -> usize {
        self.0
    }
    fn batch(&self, indices: &[usize]) -> Result<Tensor> {
        let x: Vec<f32> = indices.iter().map(|i| *i as f32 / 10.0 - 1.0).collect();
        Ok(Tensor::new(x.as_slice(), &Device::Cpu)?)
    }
}

pub struct Toy;
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

pub fn optim() -> Optim {
    Optim {
        kind: Rule::Adam,
        lr: 0.05,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        form: Form::Torch,
        halve_every: 2,
        warmup_epochs: 1.0,
        clip_norm: 1.0,
    }
}

struct Settings {
    epochs: u64,
    last_batch: LastBatch,
    keep: Keep,
    patience: u64,
    lr: f64,
}

const PLAIN: Settings = Settings {
    epochs: 3,
    last_batch: LastBatch::Drop,
    keep: Keep::Last {},
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
        training: &Training {
            epochs: s.epochs,
            batch: 4,
            last_batch: s.last_batch,
            patience: s.patience,
            keep: s.keep,
            optim: Optim {
                lr: s.lr,
                ..optim()
            },
        },
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
            last_batch: LastBatch::Keep,
            ..PLAIN
        },
        Settings {
            keep: Keep::Average { decay: 0.9 },
            ..PLAIN
        },
        Settings {
            patience: 1,
            keep: Keep::Best {},
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
    for (keep, last_batch) in [
        (Keep::Last {}, LastBatch::Drop),
        (Keep::Average { decay: 0.9 }, LastBatch::Drop),
        (Keep::Best {}, LastBatch::Drop),
        (Keep::Last {}, LastBatch::Keep),
    ] {
        let s = Settings {
            keep,
            last_batch,
            ..PLAIN
        };
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
        text.contains("there is no checkpoint yet; hint: lower train.optim.lr"),
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
        training: &Training {
            epochs: 1,
            batch: 4,
            last_batch: LastBatch::Drop,
            patience: 0,
            keep: Keep::Last {},
            optim: optim(),
        },
    };
    let error = fit(
        &plan,
        &line.w,
        &line,
        &Points(3),
        &Points(0),
        &mut bench.job(None).0,
    );
    assert!(error.is_err_and(|e| e.to_string() == "3 training examples do not fill a batch of 4"));
    Ok(())
}
