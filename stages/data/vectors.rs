//! Artifact `vectors`: one feature vector for each image, f32, with the protocol they came from.

use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::protocol::Protocol;
use super::tensors::{Entry, Number, TensorFile, save};

#[derive(Debug, Clone, PartialEq)]
pub struct Vectors {
    /// Length of a vector.
    pub d: usize,
    /// Laid end to end.
    pub values: Vec<f32>,
    /// Where the images came from; of generated ones nothing.
    pub source: Option<String>,
    pub protocol: Protocol,
}

#[derive(Serialize, Deserialize)]
struct About {
    source: Option<String>,
    protocol: Protocol,
}

impl Vectors {
    pub fn n(&self) -> usize {
        self.values.len() / self.d
    }

    /// The protocol of a number that compares `fake` with these.
    pub fn against(&self, fake: &Self) -> Result<Map<String, Value>> {
        let source = self.source.as_deref();
        self.protocol.against(&fake.protocol, source, self.n())
    }

    pub fn load(path: &Path) -> Result<Self> {
        let file = TensorFile::open(path)?;
        let About { source, protocol } = file.about()?;
        let (shape, values) = file.numbers::<f32>("vectors", 2)?;
        Ok(Self {
            d: shape[1],
            values,
            source,
            protocol,
        })
    }

    pub fn save(&self, path: &Path) -> Result<()> {
        let bytes = f32::to_bytes(&self.values);
        let entry = Entry {
            name: "vectors",
            dtype: f32::DTYPE,
            shape: vec![self.n(), self.d],
            bytes: &bytes,
        };
        let about = About {
            source: self.source.clone(),
            protocol: self.protocol.clone(),
        };
        save(path, &[entry], &about)
    }
}
