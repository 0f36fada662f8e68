//! Safetensors files that are mapped, not copied, and whose bytes depend on their content alone.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorView};
use serde::{Serialize, de::DeserializeOwned};

/// The one metadata key we write. The header's map is unordered, so a second key would make
/// equal content differ in bytes.
const KEY: &str = "repro";

/// A tensor about to be written: name, dtype, shape, little-endian bytes.
pub struct Entry<'a> {
    pub name: &'a str,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: &'a [u8],
}

/// Writes `entries`, with `about` as JSON in the header. An existing file is replaced whole.
pub fn save<T: Serialize>(path: &Path, entries: &[Entry], about: &T) -> Result<()> {
    let views: Result<Vec<_>> = entries
        .iter()
        .map(|e| Ok((e.name, TensorView::new(e.dtype, e.shape.clone(), e.bytes)?)))
        .collect();
    let about = HashMap::from([(KEY.to_string(), serde_json::to_string(about)?)]);
    safetensors::serialize_to_file(views?, Some(about), path)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// An open file: tensors are read where the kernel mapped them.
pub struct TensorFile {
    path: PathBuf,
    map: Mmap,
    start: usize,
    header: Metadata,
}

impl TensorFile {
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        // SAFETY: what is mapped is a committed artifact, and those are replaced, never edited.
        let map = unsafe { Mmap::map(&file) }
            .with_context(|| format!("cannot map {}", path.display()))?;
        let (header_len, header) = SafeTensors::read_metadata(&map).with_context(|| {
            format!(
                "{} is not a whole safetensors file; hint: copy it again",
                path.display()
            )
        })?;
        Ok(Self {
            path: path.to_path_buf(),
            map,
            start: 8 + header_len,
            header,
        })
    }

    /// What [`save`] put into the header.
    pub fn about<T: DeserializeOwned>(&self) -> Result<T> {
        let text = self.header.metadata().as_ref().and_then(|m| m.get(KEY));
        let text =
            text.with_context(|| format!("{} was not written by repro", self.path.display()))?;
        serde_json::from_str(text).with_context(|| {
            format!(
                "{}: its header does not fit this version",
                self.path.display()
            )
        })
    }

    pub fn has(&self, name: &str) -> bool {
        self.header.info(name).is_some()
    }

    /// Element type of a tensor, if there is one of that name.
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        self.header.info(name).map(|info| info.dtype)
    }

    /// Shape and position (see [`bytes`](Self::bytes)) of a tensor of that type and rank.
    pub fn find(&self, name: &str, dtype: Dtype, rank: usize) -> Result<(&[usize], Range<usize>)> {
        let path = self.path.display();
        let info = self.header.info(name);
        let info = info.with_context(|| format!("{path} has no tensor {name}"))?;
        if info.dtype != dtype || info.shape.len() != rank {
            bail!(
                "{path}: {name} is {:?} {:?}, expected {dtype:?} of {rank} dimensions",
                info.dtype,
                info.shape
            );
        }
        Ok((
            &info.shape,
            self.start + info.data_offsets.0..self.start + info.data_offsets.1,
        ))
    }

    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.map[range]
    }

    /// A small tensor as numbers.
    pub fn numbers<T: Number>(&self, name: &str, rank: usize) -> Result<(&[usize], Vec<T>)> {
        let (shape, range) = self.find(name, T::DTYPE, rank)?;
        let bytes = self.bytes(range);
        ensure!(
            bytes.len().is_multiple_of(size_of::<T>()),
            "BUG: {name} ends inside a number"
        );
        Ok((
            shape,
            bytes
                .chunks_exact(size_of::<T>())
                .map(T::from_bytes)
                .collect(),
        ))
    }
}

/// Element types of our small tensors.
pub trait Number: Copy {
    const DTYPE: Dtype;
    fn from_bytes(bytes: &[u8]) -> Self;
    fn to_bytes(values: &[Self]) -> Vec<u8>;
}

macro_rules! number {
    ($type:ty, $dtype:expr) => {
        impl Number for $type {
            const DTYPE: Dtype = $dtype;
            fn from_bytes(bytes: &[u8]) -> Self {
                let mut whole = [0; size_of::<Self>()];
                whole.copy_from_slice(bytes);
                Self::from_le_bytes(whole)
            }
            fn to_bytes(values: &[Self]) -> Vec<u8> {
                values.iter().flat_map(|v| v.to_le_bytes()).collect()
            }
        }
    };
}
number!(f32, Dtype::F32);
number!(f64, Dtype::F64);
number!(half::bf16, Dtype::BF16);
