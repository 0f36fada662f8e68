//! The named tensors of a model: made from a seed, trained, frozen, written and read as safetensors.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Shape, Tensor, Var};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::init::Init;
use super::noise::Noise;
use super::tensor_file;

/// Where a tensor of a [`Weights`] store comes from when a layer asks for it.
enum Source {
    /// Not there yet: drawn from the seed.
    Fresh { seed: u64 },
    /// Must be there: it was read from a file, named for errors.
    File { name: String },
}

struct Entry {
    var: Var,
    trained: bool,
}

struct Store {
    entries: BTreeMap<String, Entry>,
    source: Source,
    frozen: bool,
}

/// A store of named tensors, and a prefix below which a layer finds its own.
///
/// Each tensor is drawn from (seed, full name), so the order of construction does not matter.
/// Clones share the store.
#[derive(Clone)]
pub struct Weights {
    store: Arc<Mutex<Store>>,
    prefix: String,
    dtype: DType,
    device: Device,
}

impl Weights {
    /// An empty store that layers fill with freshly initialised tensors.
    pub fn new(seed: u64, dtype: DType, device: &Device) -> Self {
        Self::with(Source::Fresh { seed }, false, dtype, device)
    }

    /// Reads a file written by [`Weights::save`]: the tensors, frozen (nothing tracks a gradient
    /// to them), and the model's configuration.
    pub fn load<C: DeserializeOwned>(
        path: &Path,
        dtype: DType,
        device: &Device,
    ) -> Result<(Self, C)> {
        let (tensors, config) = tensor_file::read(path)?;
        let name = path.display().to_string();
        let config = config.with_context(|| format!("{name}: no model configuration in it"))?;
        let config = serde_json::from_str(&config)
            .with_context(|| format!("{name}: the model configuration is not understood"))?;
        let weights = Self::with(Source::File { name }, true, dtype, device);
        {
            let mut store = weights.lock();
            for (name, tensor) in tensors {
                let tensor = tensor.to_dtype(dtype)?;
                // Zero times anything finite is zero; the sum of the rest is not a number.
                let probe = (&tensor * 0.0)?
                    .sum_all()?
                    .to_dtype(DType::F64)?
                    .to_scalar::<f64>()?;
                if probe != 0.0 {
                    bail!("{}: tensor {name} holds NaN or infinity", path.display());
                }
                let var = Var::from_tensor(&tensor.to_device(device)?)?;
                store.entries.insert(
                    name,
                    Entry {
                        var,
                        trained: false,
                    },
                );
            }
        }
        Ok((weights, config))
    }

    fn with(source: Source, frozen: bool, dtype: DType, device: &Device) -> Self {
        let store = Store {
            entries: BTreeMap::new(),
            source,
            frozen,
        };
        let store = Arc::new(Mutex::new(store));
        Self {
            store,
            prefix: String::new(),
            dtype,
            device: device.clone(),
        }
    }

    /// The same store, one level down: `w.pp("encoder").pp("conv1")`.
    pub fn pp(&self, name: impl std::fmt::Display) -> Self {
        Self {
            prefix: self.full(&name.to_string()),
            ..self.clone()
        }
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// A trained tensor; detached from any gradient when the store is frozen.
    pub fn get<S: Into<Shape>>(&self, shape: S, name: &str, init: Init) -> Result<Tensor> {
        let var = self.entry(shape.into(), name, init, true)?;
        Ok(if self.lock().frozen {
            var.as_detached_tensor()
        } else {
            var.as_tensor().clone()
        })
    }

    /// A tensor that belongs to the model but is not trained: running statistics, permutations.
    pub fn buffer<S: Into<Shape>>(&self, shape: S, name: &str, init: Init) -> Result<Var> {
        self.entry(shape.into(), name, init, false)
    }

    fn entry(&self, shape: Shape, name: &str, init: Init, trained: bool) -> Result<Var> {
        let name = self.full(name);
        let mut store = self.lock();
        if let Some(entry) = store.entries.get_mut(&name) {
            if entry.var.shape() != &shape {
                let file = match &store.source {
                    Source::File { name } => name.as_str(),
                    Source::Fresh { .. } => "weights",
                };
                let has = store.entries[&name].var.shape().clone();
                bail!("{file}: tensor {name} has shape {has:?}, the model wants {shape:?}");
            }
            entry.trained |= trained;
            return Ok(entry.var.clone());
        }
        let seed = match &store.source {
            Source::Fresh { seed } => *seed,
            Source::File { name: file } => {
                bail!("{file}: no tensor {name} in it; hint: was it written for another model?")
            }
        };
        let var = Var::from_tensor(&self.first(seed, &name, &shape, init)?)?;
        store.entries.insert(
            name,
            Entry {
                var: var.clone(),
                trained,
            },
        );
        Ok(var)
    }

    /// Draws what [`Weights::get`] would start a tensor with, for a layer that keeps it in another
    /// form as `kept`. None where that is there already, or where weights come from a file.
    pub fn draw_unless<S: Into<Shape>>(
        &self,
        kept: &str,
        shape: S,
        name: &str,
        init: Init,
    ) -> Result<Option<Tensor>> {
        let store = self.lock();
        match store.source {
            Source::Fresh { seed } if !store.entries.contains_key(&self.full(kept)) => {
                let name = self.full(name);
                Ok(Some(self.first(seed, &name, &shape.into(), init)?))
            }
            _ => Ok(None),
        }
    }

    fn first(
        &self,
        seed: u64,
        name: &str,
        shape: &Shape,
        init: Init,
    ) -> candle_core::Result<Tensor> {
        let mut noise = Noise::new(seed, &format!("weights.{name}")).at(0);
        init.draw(shape, &mut noise, self.dtype, &self.device)
    }

    /// All trained tensors in name order; none when frozen.
    pub fn trained(&self) -> Vec<(String, Var)> {
        let store = self.lock();
        if store.frozen {
            return Vec::new();
        }
        let trained = store.entries.iter().filter(|(_, e)| e.trained);
        trained
            .map(|(name, e)| (name.clone(), e.var.clone()))
            .collect()
    }

    /// All tensors, trained or not, in name order.
    pub fn all(&self) -> BTreeMap<String, Var> {
        self.lock()
            .entries
            .iter()
            .map(|(name, e)| (name.clone(), e.var.clone()))
            .collect()
    }

    /// Number of trained scalars; of a frozen store, of those its model asked for with `get`.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        let store = self.lock();
        store
            .entries
            .values()
            .filter(|e| e.trained)
            .map(|e| e.var.elem_count())
            .sum()
    }

    /// The tensors below this prefix as a store of their own, with the prefix removed; they are
    /// shared, not copied.
    pub fn part(&self) -> Self {
        let part = Self::with(Source::Fresh { seed: 0 }, false, self.dtype, &self.device);
        let prefix = format!("{}.", self.prefix);
        {
            let (from, mut to) = (self.lock(), part.lock());
            to.frozen = from.frozen;
            for (name, entry) in &from.entries {
                if let Some(rest) = name.strip_prefix(&prefix) {
                    let entry = Entry {
                        var: entry.var.clone(),
                        trained: entry.trained,
                    };
                    to.entries.insert(rest.to_owned(), entry);
                }
            }
        }
        part
    }

    /// The same tensors in a frozen store: a model built on it follows the training of this one
    /// and tracks no gradients.
    pub fn frozen(&self) -> Self {
        let frozen = Self::with(Source::Fresh { seed: 0 }, true, self.dtype, &self.device);
        for (name, entry) in &self.lock().entries {
            let entry = Entry {
                var: entry.var.clone(),
                trained: entry.trained,
            };
            frozen.lock().entries.insert(name.clone(), entry);
        }
        Self {
            prefix: self.prefix.clone(),
            ..frozen
        }
    }

    /// Sets all tensors to those of the same names in another store, which must have them.
    pub fn set(&self, from: &Self) -> Result<()> {
        let theirs = from.all();
        for (name, var) in self.all() {
            let value = theirs.get(&name);
            var.set(value.with_context(|| format!("no tensor {name} to start from"))?)?;
        }
        Ok(())
    }

    /// Writes all tensors and the model's configuration. Equal contents give equal bytes.
    pub fn save<C: Serialize>(&self, path: &Path, config: &C) -> Result<()> {
        let config = serde_json::to_string(config)?;
        let tensors = self
            .all()
            .into_iter()
            .map(|(name, var)| (name, var.as_detached_tensor()));
        tensor_file::write(path, &tensors.collect(), Some(&config))
    }

    fn full(&self, name: &str) -> String {
        if self.prefix.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.prefix)
        }
    }

    fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sets a trained tensor as [`Weights::get`] gave it.
pub fn assign(tensor: &Tensor, value: &Tensor) -> candle_core::Result<()> {
    if !tensor.is_variable() {
        // `Var::from_tensor` would quietly set a copy.
        candle_core::bail!("BUG: a frozen tensor cannot be set");
    }
    Var::from_tensor(tensor)?.set(value)
}

#[cfg(test)]
mod tests;
