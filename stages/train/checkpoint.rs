//! Everything a training run is: in one file, so that it can go on as if nothing had happened.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_core::{Tensor, Var};
use contract::history::Epoch;
use serde::{Deserialize, Serialize};

use crate::nn::tensor_file;

/// The file of a checkpoint or of a finished run's state, in the directory the runner gives.
pub const FILE: &str = "training.safetensors";

/// What is not a tensor. Randomness needs no entry: it is a function of the step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    pub steps_per_epoch: u64,
    /// Complete epochs.
    pub history: Vec<Epoch>,
    /// Sums of the training parts over the steps of the epoch begun, a smaller batch for less.
    pub sums: BTreeMap<String, f64>,
    /// Loss of the first step, by which an exploding one is judged.
    pub first_loss: Option<f64>,
    /// Epoch and value of the best held-out loss so far.
    pub best: Option<(u64, f64)>,
}

/// Groups of tensors by name: `weights`, `moments`, `average`, `best`.
pub type Groups = BTreeMap<&'static str, BTreeMap<String, Tensor>>;

pub fn save(dir: &Path, progress: &Progress, groups: &Groups) -> Result<()> {
    let mut tensors = BTreeMap::new();
    for (group, members) in groups {
        for (name, tensor) in members {
            tensors.insert(format!("{group}.{name}"), tensor.clone());
        }
    }
    std::fs::create_dir_all(dir)
        .with_context(|| format!("{}: cannot be created", dir.display()))?;
    tensor_file::write(
        &dir.join(FILE),
        &tensors,
        Some(&serde_json::to_string(progress)?),
    )
}

/// The checkpoint in a directory, or none. Each of `groups` comes back, perhaps empty.
pub fn load(dir: &Path, groups: &[&'static str]) -> Result<Option<(Progress, Groups)>> {
    let path = dir.join(FILE);
    if !path.exists() {
        return Ok(None);
    }
    let (tensors, text) = tensor_file::read(&path)?;
    let explain = || format!("{}: not a checkpoint of this version", path.display());
    let progress = serde_json::from_str(&text.with_context(explain)?).with_context(explain)?;
    let mut found: Groups = groups.iter().map(|g| (*g, BTreeMap::new())).collect();
    for (name, tensor) in tensors {
        let (group, rest) = name.split_once('.').with_context(explain)?;
        let members = found.iter_mut().find(|(g, _)| **g == group);
        members
            .with_context(explain)?
            .1
            .insert(rest.to_owned(), tensor);
    }
    Ok(Some((progress, found)))
}

/// Puts saved values into variables; every variable must be there.
pub fn restore(vars: &BTreeMap<String, Var>, saved: &BTreeMap<String, Tensor>) -> Result<()> {
    if vars.len() != saved.len() {
        bail!(
            "the checkpoint has {} tensors, the model {}",
            saved.len(),
            vars.len()
        );
    }
    for (name, var) in vars {
        let tensor = saved.get(name);
        let tensor = tensor.with_context(|| format!("the checkpoint has no tensor {name}"))?;
        var.set(&tensor.to_device(var.device())?)?;
    }
    Ok(())
}
