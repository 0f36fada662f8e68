//! Comparison with the files of `tests/golden`, which independent PyTorch models wrote.
//!
//! `cargo test --release -p stages parity -- --nocapture` prints the largest differences.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Tensor};

use crate::nn::tensor_file;
use crate::nn::weights::Weights;
use crate::train::optim::Optim;
use crate::train::optim::{Form, Optimiser, Rule};

/// One file, and the largest difference seen of each sort.
pub struct Golden {
    name: String,
    tensors: BTreeMap<String, Tensor>,
    largest: RefCell<BTreeMap<&'static str, f64>>,
}

/// Largest relative differences that pass: of one pass and its gradients, and after 20 steps.
#[derive(Clone, Copy)]
pub struct Tolerance {
    pub first: f64,
    pub after: f64,
}

/// Both precisions. In f32 Adam divides small gradients by themselves, so that rounding grows from
/// step to step, by `after`.
pub fn cases(after: f64) -> [(DType, Tolerance); 2] {
    let exact = Tolerance {
        first: 1e-9,
        after: 1e-9,
    };
    let single = Tolerance { first: 1e-4, after };
    [(DType::F64, exact), (DType::F32, single)]
}

impl Golden {
    pub fn load(name: &str, dtype: DType) -> Result<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
        let (tensors, _) = tensor_file::read(&folder.join(format!("{name}.safetensors")))?;
        let convert = |(name, t): (String, Tensor)| Ok((name, t.to_dtype(dtype)?));
        Ok(Self {
            name: format!("{name} {dtype:?}"),
            tensors: tensors.into_iter().map(convert).collect::<Result<_>>()?,
            largest: RefCell::default(),
        })
    }

    pub fn get(&self, name: &str) -> Result<&Tensor> {
        let tensor = self.tensors.get(name);
        tensor.with_context(|| format!("{}: no golden {name}", self.name))
    }

    /// Tensors whose names start so, by the rest of their names.
    pub fn group<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a Tensor)> {
        let tensors = self.tensors.iter();
        tensors.filter_map(move |(n, t)| Some((n.strip_prefix(prefix)?, t)))
    }

    /// Sets what the file has under `prefix`.
    pub fn assign(&self, prefix: &str, w: &Weights) -> Result<()> {
        let all = w.all();
        for (name, value) in self.group(prefix) {
            let var = all.get(name);
            var.with_context(|| format!("{}: the model has no {name}", self.name))?
                .set(value)?;
        }
        Ok(())
    }

    /// The largest difference relative to the largest value, or to `floor` where all are tiny.
    pub fn close(
        &self,
        (sort, what): (&'static str, &str),
        (ours, theirs): (&Tensor, &Tensor),
        floor: f64,
        tolerance: f64,
    ) -> Result<()> {
        let gap = largest(&(ours - theirs)?)? / largest(theirs)?.max(floor);
        let mut seen = self.largest.borrow_mut();
        let seen = seen.entry(sort).or_default();
        *seen = seen.max(gap);
        ensure!(
            gap <= tolerance,
            "{}: {what} differs by {gap:e} of its size",
            self.name
        );
        Ok(())
    }

    /// What networks gave, against the group `prefix`.
    pub fn outputs(&self, prefix: &str, ours: &[(&str, Tensor)], tolerance: f64) -> Result<()> {
        let names: BTreeSet<&str> = ours.iter().map(|(n, _)| *n).collect();
        assert_eq!(names, self.group(prefix).map(|(n, _)| n).collect());
        for (name, value) in ours {
            let theirs = self.get(&format!("{prefix}{name}"))?;
            self.close(("outputs", name), (value, theirs), 0.0, tolerance)?;
        }
        Ok(())
    }
}

impl Drop for Golden {
    fn drop(&mut self) {
        let seen = self.largest.borrow();
        let seen: Vec<String> = seen.iter().map(|(k, v)| format!("{k} {v:.1e}")).collect();
        println!("parity {}: {}", self.name, seen.join(", "));
    }
}

fn largest(t: &Tensor) -> Result<f64> {
    let t = t.to_dtype(DType::F64)?;
    Ok(t.abs()?.flatten_all()?.max(0)?.to_scalar()?)
}

/// Adam as most of the golden files were trained.
pub fn adam(form: Form) -> Optim {
    Optim {
        kind: Rule::Adam,
        lr: 1e-3,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        form,
        halve_every: 0,
        warmup_epochs: 0.0,
        clip_norm: 0.0,
    }
}

/// Twenty steps from `w.` to `f.` along `losses`, with the first gradients `g.`.
pub struct Training<'a> {
    pub golden: &'a Golden,
    pub weights: &'a Weights,
    pub rule: Optim,
    pub steps_per_epoch: u64,
    /// The loss of a step, counted from 0.
    pub loss: &'a dyn Fn(usize) -> Result<Tensor>,
    /// Gradients are compared relative to at least this share of the largest: a bias before a
    /// batch norm has no gradient but rounding.
    pub floor: f64,
}

impl Training<'_> {
    /// The weights must hold `w.` already.
    pub fn check(&self, tolerance: Tolerance) -> Result<()> {
        let Self { golden, floor, .. } = self;
        let trained = self.weights.trained();
        let ours: BTreeSet<&str> = trained.iter().map(|(n, _)| n.as_str()).collect();
        assert_eq!(ours, golden.group("w.").map(|(n, _)| n).collect());
        let norms = golden.group("g.").map(|(_, g)| largest(g));
        let norm = norms.collect::<Result<Vec<_>>>()?;
        let norm = norm.into_iter().fold(0.0, f64::max);
        let optimiser = Optimiser::new(&self.rule, trained.clone(), self.steps_per_epoch)?;
        let losses = golden.get("losses")?;
        for t in 0..losses.dim(0)? {
            let value = (self.loss)(t)?;
            let limit = if t == 0 {
                tolerance.first
            } else {
                tolerance.after
            };
            let sort = if t == 0 { "loss" } else { "20 steps" };
            let pair = (&value, &losses.get(t)?);
            golden.close((sort, &format!("loss {t}")), pair, 1.0, limit)?;
            let gradients = value.backward()?;
            for (name, var) in trained.iter().filter(|_| t == 0) {
                let gradient = gradients.get(var);
                let gradient = gradient.with_context(|| format!("no gradient of {name}"))?;
                let pair = (gradient, golden.get(&format!("g.{name}"))?);
                golden.close(("gradients", name), pair, floor * norm, tolerance.first)?;
            }
            optimiser.step(&gradients, t as u64)?;
        }
        for (name, var) in &trained {
            // Adam divides a gradient that is all rounding by itself, so where such a bias walks
            // means nothing.
            if largest(golden.get(&format!("g.{name}"))?)? > 1e-10 * norm {
                let pair = (var.as_tensor(), golden.get(&format!("f.{name}"))?);
                golden.close(("20 steps", name), pair, 1e-2, tolerance.after)?;
            }
        }
        Ok(())
    }
}
