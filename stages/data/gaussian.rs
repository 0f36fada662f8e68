//! Artifact `gaussian`: mean and covariance of features, f64, with the protocol they came from.

use std::path::Path;

use anyhow::{Result, ensure};
use half::bf16;
use serde::{Deserialize, Serialize};

use super::protocol::Protocol;
use super::tensors::{Entry, Number, TensorFile, save};

/// Moments of `n` feature vectors of length `d`.
#[derive(Debug, Clone, PartialEq)]
pub struct Gaussian {
    pub n: usize,
    pub mean: Vec<f64>,
    /// Row by row, `d * d`, divided by `n - 1`.
    pub cov: Vec<f64>,
    /// The features themselves, `n * d` row by row, rounded: from them the error of a distance is
    /// found. Empty where they are not known, as for statistics of other tools.
    pub vectors: Vec<bf16>,
    /// Where the images came from; of generated ones nothing.
    pub source: Option<String>,
    pub protocol: Protocol,
}

#[derive(Serialize, Deserialize)]
struct About {
    n: usize,
    source: Option<String>,
    protocol: Protocol,
}

impl Gaussian {
    pub fn load(path: &Path) -> Result<Self> {
        let file = TensorFile::open(path)?;
        let About {
            n,
            source,
            protocol,
        } = file.about()?;
        let (_, mean) = file.numbers::<f64>("mean", 1)?;
        let (shape, cov) = file.numbers::<f64>("cov", 2)?;
        ensure!(
            shape == [mean.len(), mean.len()],
            "{}: a mean of {} and a covariance of {shape:?} do not belong together",
            path.display(),
            mean.len()
        );
        let vectors = match file.has("vectors") {
            true => {
                let (shape, vectors) = file.numbers::<bf16>("vectors", 2)?;
                ensure!(
                    shape == [n, mean.len()],
                    "{}: {n} vectors of {} numbers are said and {shape:?} are there",
                    path.display(),
                    mean.len()
                );
                vectors
            }
            false => Vec::new(),
        };
        Ok(Self {
            n,
            mean,
            cov,
            vectors,
            source,
            protocol,
        })
    }

    pub fn save(&self, path: &Path) -> Result<()> {
        let d = self.mean.len();
        let (mean, cov) = (f64::to_bytes(&self.mean), f64::to_bytes(&self.cov));
        let vectors = bf16::to_bytes(&self.vectors);
        let mut entries = vec![
            Entry {
                name: "mean",
                dtype: f64::DTYPE,
                shape: vec![d],
                bytes: &mean,
            },
            Entry {
                name: "cov",
                dtype: f64::DTYPE,
                shape: vec![d, d],
                bytes: &cov,
            },
        ];
        if !self.vectors.is_empty() {
            entries.push(Entry {
                name: "vectors",
                dtype: bf16::DTYPE,
                shape: vec![self.n, d],
                bytes: &vectors,
            });
        }
        save(
            path,
            &entries,
            &About {
                n: self.n,
                source: self.source.clone(),
                protocol: self.protocol.clone(),
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::protocol::UINT8;

    #[test]
    fn a_round_trip_keeps_numbers_and_protocol() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("gaussian.safetensors");
        let mut gaussian = Gaussian {
            n: 3,
            source: Some("three test".into()),
            mean: vec![0.1, 0.2],
            cov: vec![1.0, 0.5, 0.5, 2.0],
            vectors: Vec::new(),
            protocol: Protocol {
                label: "FID".into(),
                extractor: "inception-2015-12-05".into(),
                digest: "00".into(),
                resize: "tf-legacy".into(),
                pixels: UINT8.into(),
                dtype: "f32".into(),
            },
        };
        for pixels in [UINT8, "float stretched min-max"] {
            gaussian.protocol.pixels = pixels.into();
            gaussian.save(&path)?;
            assert_eq!(Gaussian::load(&path)?, gaussian);
        }
        gaussian.vectors = [0.5, -1.0, 2.0, 3.0, 1e30, 0.0]
            .map(bf16::from_f32)
            .to_vec();
        gaussian.save(&path)?;
        assert_eq!(Gaussian::load(&path)?, gaussian);
        gaussian.n = 2;
        assert!(gaussian.save(&path).is_err());
        Ok(())
    }
}
