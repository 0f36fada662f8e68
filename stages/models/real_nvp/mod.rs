//! A flow on latent vectors: affine couplings in the manner of Real NVP (Dinh et al. 2017), as the
//! prior p(z) of the paper (section 3.2; REFERENCE 3.1).

use anyhow::{Result, ensure};
use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::gaussian;
use crate::nn::weights::Weights;
use layer::Layer;

mod layer;
mod roles;

/// Sizes and form of the flow (A15).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub layers: usize,
    pub width: usize,
    pub split: Split,
    pub permutation: Permutation,
    pub coupling: Coupling,
    /// Bound of an affine coupling's log-scale, reached smoothly: `b tanh(s / b)`.
    pub max_log_scale: f64,
}

#[cfg(test)]
impl Config {
    /// With the choices of pipeline.toml.
    pub fn of(layers: usize, width: usize) -> Self {
        Self {
            layers,
            width,
            split: Split::Halves,
            permutation: Permutation::Random,
            coupling: Coupling::Affine,
            max_log_scale: 2.0,
        }
    }
}

/// How a layer's network sees one half of the dimensions and speaks of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// Half as many numbers go in, half as many (of each sort) come out.
    Halves,
    /// All go in and come out, those that do not count being masked with zeros.
    Masks,
}

/// Which dimensions are a half. Every two layers transform every dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Permutation {
    /// AnyImages from the seed for every second layer, and fixed; the next has the other half.
    Random,
    /// The first and the second half in turn.
    None,
}

/// What a layer does to its half.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Coupling {
    /// Scales and shifts it.
    Affine,
    /// Shifts it, which keeps volumes.
    Additive,
}

/// h: Z -> U, u ~ N(0, I).
pub struct RealNvp {
    layers: Vec<Layer>,
    dim: usize,
}

impl RealNvp {
    pub fn new(config: &Config, dim: usize, w: &Weights) -> Result<Self> {
        ensure!(dim > 1, "a flow of {dim} dimensions has no halves");
        let layer = |k| Layer::new(config, dim, k, w);
        let layers = (0..config.layers).map(layer).collect::<Result<_>>()?;
        Ok(Self { layers, dim })
    }

    /// `u = h(z)` and ln|det dh/dz| `[n]`.
    pub fn forward(&self, z: &Tensor) -> Result<(Tensor, Tensor)> {
        let mut u = z.clone();
        let mut log_det = Tensor::zeros(z.dim(0)?, z.dtype(), z.device())?;
        for layer in &self.layers {
            let (next, term) = layer.forward(&u)?;
            u = next;
            if let Some(term) = term {
                log_det = (log_det + term)?;
            }
        }
        Ok((u, log_det))
    }

    /// `z = h^-1(u)`.
    pub fn inverse(&self, u: &Tensor) -> Result<Tensor> {
        self.layers
            .iter()
            .rev()
            .try_fold(u.clone(), |z, layer| layer.inverse(&z))
    }

    /// ln p(z), `[n]`.
    pub fn log_prob(&self, z: &Tensor) -> Result<Tensor> {
        let (u, log_det) = self.forward(z)?;
        Ok((gaussian::log_standard(&u)? + log_det)?)
    }

    pub fn dim(&self) -> usize {
        self.dim
    }
}

#[cfg(test)]
mod tests;
