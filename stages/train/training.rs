//! How a model is trained, as pipeline.toml says it: the table `params.train` of every kind that trains.

use std::path::Path;

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};
use contract::{Job, history};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::fit::{Keep, Plan, fit};
use super::optim::Optim;
use super::steps::{LastBatch, Steps};
use super::trainable::{Dataset, ImageSet, Trainable};
use crate::data::images::Images;
use crate::nn::device;
use crate::nn::weights::Weights;

/// Epochs, batches, the optimiser, and which weights are the result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Training {
    pub epochs: u64,
    /// Examples in a step.
    pub batch: usize,
    pub last_batch: LastBatch,
    /// Epochs without a better held-out loss after which to stop; 0: never.
    pub patience: u64,
    pub keep: Keep,
    pub optim: Optim,
}

impl Training {
    /// The parameter whose raising goes on from a finished, shorter run.
    pub const EXTENDS: Option<&'static str> = Some("train.epochs");

    /// The steps of an epoch of `n` examples.
    pub fn steps(&self, n: usize) -> Result<Steps> {
        Steps::new(n, self.batch, self.last_batch)
    }

    /// Trains `weights`, which then hold the result, and writes the job's `history`. `purpose` names this
    /// training's noise, such as `vae`.
    ///
    /// Errors: those of [`fit`].
    pub fn run<B>(
        &self,
        (purpose, seed): (&str, u64),
        weights: &Weights,
        model: &dyn Trainable<B>,
        [train, valid]: [&dyn Dataset<B>; 2],
        job: &mut Job,
    ) -> Result<()> {
        let plan = Plan {
            seed,
            purpose,
            training: self,
        };
        let fitted = fit(&plan, weights, model, train, valid, job)?;
        history::save(job.output("history")?, &fitted.history)
    }
}

/// A model of images before its first step, with all that its training needs: what `timing` takes.
pub struct Trained {
    pub model: Box<dyn Trainable<Tensor>>,
    pub weights: Weights,
    pub training: Training,
}

impl Trained {
    /// Before its first step, with weights drawn from `seed`, in f32.
    pub fn new<M: Trainable<Tensor> + 'static>(
        (seed, training): (u64, &Training),
        device: &Device,
        build: impl FnOnce(&Weights) -> Result<M>,
    ) -> Result<Self> {
        let weights = Weights::new(seed, DType::F32, device);
        Ok(Self {
            model: Box::new(build(&weights)?),
            weights,
            training: training.clone(),
        })
    }
}

/// What every kind that trains a model of images does: reads `in.train`, of which the first `images` are used
/// (0: all), and `in.valid`, builds, trains, and writes `history` and `model`, with `config` in it.
///
/// Errors: those of [`ImageSets`] and of [`Training::run`].
pub fn train_images<C: Serialize, M: Trainable<Tensor>>(
    named: (&str, u64),
    (images, training): (usize, &Training),
    job: &mut Job,
    config: impl FnOnce([usize; 3]) -> C,
    build: impl FnOnce(&C, &Weights) -> Result<M>,
) -> Result<()> {
    let device = device::open(&job.spec().device)?;
    let images = ImageSets::load(job)?.first(images)?;
    let weights = Weights::new(named.1, DType::F32, &device);
    let config = config(images.shape());
    let model = build(&config, &weights)?;
    images.fit(training, named, &weights, &model, job)?;
    weights.save(job.output("model")?, &config)
}

/// What a model of images learns from: `in.train` and `in.valid`.
pub struct ImageSets {
    pub train: Images,
    pub valid: Images,
    /// Training images that are used, from the first on.
    used: usize,
}

/// The first examples of a set.
struct First<'a> {
    set: &'a ImageSet<'a>,
    n: usize,
}

impl Dataset<Tensor> for First<'_> {
    fn len(&self) -> usize {
        self.n
    }

    fn batch(&self, indices: &[usize]) -> Result<Tensor> {
        self.set.batch(indices)
    }
}

impl ImageSets {
    /// An error if the two are of different shapes.
    pub fn load(job: &Job) -> Result<Self> {
        let load = |port: &str| -> Result<Images> { Images::load(job.input(port)?) };
        let (train, valid) = (load("train")?, load("valid")?);
        ensure!(
            train.shape() == valid.shape(),
            "training images are {:?}, held-out images {:?}",
            train.shape(),
            valid.shape()
        );
        let used = train.n;
        Ok(Self { train, valid, used })
    }

    /// The same, of whose training images only the first `n` are used; 0: all. An error if there are fewer.
    pub fn first(self, n: usize) -> Result<Self> {
        ensure!(
            n <= self.train.n,
            "images = {n}, and there are {} training images; hint: 0 takes all",
            self.train.n
        );
        let used = if n == 0 { self.train.n } else { n };
        Ok(Self { used, ..self })
    }

    /// Height, width, channels.
    pub fn shape(&self) -> [usize; 3] {
        self.train.shape()
    }

    /// An error if `path` holds a model of images of another shape.
    pub fn ensure_shape(&self, path: &Path, shape: [usize; 3]) -> Result<()> {
        ensure!(
            shape == self.shape(),
            "{}: the model is of images {shape:?}, input train has {:?}",
            path.display(),
            self.shape()
        );
        Ok(())
    }

    /// [`Training::run`] on these images, in f32.
    pub fn fit(
        &self,
        training: &Training,
        named: (&str, u64),
        weights: &Weights,
        model: &dyn Trainable<Tensor>,
        job: &mut Job,
    ) -> Result<()> {
        let device: &Device = weights.device();
        let set = |images| ImageSet {
            images,
            dtype: DType::F32,
            device,
        };
        let (train, valid) = (set(&self.train), set(&self.valid));
        let train = First {
            set: &train,
            n: self.used,
        };
        training.run(named, weights, model, [&train, &valid], job)
    }
}
