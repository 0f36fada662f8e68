//! PyTorch's `.pth` files: a zip archive with a pickle and a file for each storage, or, before 1.6, pickles and
//! storages one after the other.

mod archive;
mod old;
mod state;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};

use crate::data::guess;
use crate::data::pickle::Slice;

pub use state::State;

/// Bytes that the wanted tensors of one file may take; the official weights take 96 million.
const BUDGET: usize = 1 << 30;

/// The floating-point tensors of a state dict whose names are wanted, on the host. The rest of the file is passed
/// over: integers (PyTorch's counters of batches), other state dicts, what a training keeps beside them.
pub fn read(path: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<State> {
    let name = path.display();
    let file = File::open(path).with_context(|| format!("cannot open {name}"))?;
    let mut file = BufReader::new(file);
    let mut start = vec![];
    file.by_ref().take(512).read_to_end(&mut start)?;
    file.seek(SeekFrom::Start(0))?;
    if start.starts_with(b"PK") {
        archive::read(file, wanted).with_context(|| name.to_string())
    } else if old::begins(&start) {
        old::read(file, wanted).with_context(|| name.to_string())
    } else {
        bail!(guess::not(path, "a .pth file of PyTorch"))
    }
}

/// Tensors by name, cut out of storages that `bytes` gives.
fn cut(
    wanted: &[(String, Rc<Slice>)],
    mut bytes: impl FnMut(&Slice) -> Result<Vec<u8>>,
) -> Result<BTreeMap<String, Tensor>> {
    let mut storages: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut out = BTreeMap::new();
    let mut taken = 0;
    for (name, slice) in wanted {
        let context = || format!("tensor {name}");
        let key = slice.storage.key.to_string();
        if !storages.contains_key(&key) {
            taken = spend(taken, slice.storage.bytes()).with_context(context)?;
            storages.insert(key.clone(), bytes(slice).with_context(context)?);
        }
        taken = spend(taken, slice.bytes()).with_context(context)?;
        let tensor = slice.cut(&storages[&key]).with_context(context)?;
        out.insert(name.clone(), tensor);
    }
    Ok(out)
}

/// Memory is asked for by numbers in the file, which anybody can write.
fn spend(taken: usize, bytes: Option<usize>) -> Result<usize> {
    let all = bytes.and_then(|bytes| taken.checked_add(bytes));
    all.filter(|&all| all <= 2 * BUDGET).with_context(|| {
        format!("the tensors take more than {BUDGET} bytes; hint: wanted are the weights of pytorch-fid's network")
    })
}

impl Slice {
    /// Of its numbers, repeated ones as often as they are.
    fn bytes(&self) -> Option<usize> {
        let mut sizes = self.shape.iter();
        sizes.try_fold(self.element.size, |n, &size| n.checked_mul(size))
    }

    /// Its numbers row by row, whatever its strides.
    fn cut(&self, storage: &[u8]) -> Result<Tensor> {
        let dtype = self.element.float.context("BUG: no floats")?;
        let size = self.element.size;
        let length = self.bytes().context("it is too large")?;
        // The last number, if there is any.
        let last = self
            .shape
            .iter()
            .zip(&self.stride)
            .try_fold(self.offset, |at, (&n, &stride)| {
                at.checked_add(n.saturating_sub(1).checked_mul(stride)?)
            })
            .and_then(|at| at.checked_add(1)?.checked_mul(size));
        if length == 0 {
            return Ok(Tensor::from_raw_buffer(
                &[],
                dtype,
                &self.shape,
                &Device::Cpu,
            )?);
        }
        ensure!(
            last.is_some_and(|last| last <= storage.len()),
            "its storage is too short"
        );
        let mut contiguous = 1;
        let in_rows = self
            .shape
            .iter()
            .zip(&self.stride)
            .rev()
            .all(|(&n, &stride)| {
                let fits = n == 1 || stride == contiguous;
                contiguous *= n;
                fits
            });
        if in_rows {
            let bytes = &storage[self.offset * size..][..length];
            return Ok(Tensor::from_raw_buffer(
                bytes,
                dtype,
                &self.shape,
                &Device::Cpu,
            )?);
        }
        let mut bytes = Vec::with_capacity(length);
        let mut index = vec![0; self.shape.len()];
        let mut at = self.offset;
        while bytes.len() < length {
            bytes.extend_from_slice(&storage[at * size..(at + 1) * size]);
            for i in (0..index.len()).rev() {
                index[i] += 1;
                at += self.stride[i];
                if index[i] < self.shape[i] {
                    break;
                }
                at -= self.stride[i] * self.shape[i];
                index[i] = 0;
            }
        }
        Ok(Tensor::from_raw_buffer(
            &bytes,
            dtype,
            &self.shape,
            &Device::Cpu,
        )?)
    }
}

#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;
