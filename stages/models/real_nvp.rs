//! A flow on latent vectors: affine couplings in the manner of Real NVP (Dinh et al. 2017), as the
//! prior p(z) of the paper (section 3.2; REFERENCE 3.1).

use anyhow::Result;
use candle_core::{DType, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::gaussian;
use crate::nn::dense::Dense;
use crate::nn::init::Init;
use crate::nn::weights::Weights;

/// Sizes of the flow.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub layers: usize,
    pub width: usize,
    /// Bound of the log-scale, reached smoothly: `b tanh(s / b)`.
    pub max_log_scale: f64,
}

/// h: Z -> U, u ~ N(0, I).
pub struct RealNvp {
    layers: Vec<Layer>,
    dim: usize,
}

/// Even layers mix dimensions by a fixed random permutation and transform the second half given
/// the first; odd layers swap the halves, so that every two layers transform every dimension.
struct Layer {
    /// Where each dimension comes from, u32 `[d]`, and the inverse.
    order: Tensor,
    back: Tensor,
    net: [Dense; 3],
    half: usize,
    bound: f64,
}

impl RealNvp {
    pub fn new(config: &Config, dim: usize, w: &Weights) -> Result<Self> {
        let layer = |k| Layer::new(config, dim, k, &w.pp(format!("layer{k}")));
        let layers = (0..config.layers).map(layer).collect::<Result<_>>()?;
        Ok(Self { layers, dim })
    }

    /// `u = h(z)` and ln|det dh/dz| `[n]`.
    pub fn forward(&self, z: &Tensor) -> Result<(Tensor, Tensor)> {
        let mut u = z.clone();
        let mut log_det = Tensor::zeros(z.dim(0)?, z.dtype(), z.device())?;
        for layer in &self.layers {
            let (next, term) = layer.forward(&u)?;
            (u, log_det) = (next, (log_det + term)?);
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

impl Layer {
    fn new(config: &Config, dim: usize, k: usize, w: &Weights) -> Result<Self> {
        let half = dim / 2;
        let order: Vec<u32> = if k.is_multiple_of(2) {
            // A buffer, so that a file holds the whole map; drawn by name like any other tensor.
            let order = w.buffer(dim, "permutation", Init::Permutation)?;
            order
                .to_dtype(DType::F64)?
                .to_vec1::<f64>()?
                .into_iter()
                .map(|i| i as u32)
                .collect()
        } else {
            (half as u32..dim as u32).chain(0..half as u32).collect()
        };
        let mut back = vec![0u32; dim];
        for (to, from) in (0u32..).zip(&order) {
            back[*from as usize] = to;
        }
        let rest = dim - half;
        let net = [
            Dense::new(half, config.width, Init::HeNormal, &w.pp("dense0"))?,
            Dense::new(config.width, config.width, Init::HeNormal, &w.pp("dense1"))?,
            // Zero: the layer starts as a permutation, p(z) as N(0, I).
            Dense::new(config.width, 2 * rest, Init::Zeros, &w.pp("dense2"))?,
        ];
        let device = w.device();
        let (order, back) = (Tensor::new(order, device)?, Tensor::new(back, device)?);
        Ok(Self {
            order,
            back,
            net,
            half,
            bound: config.max_log_scale,
        })
    }

    /// Log-scale and shift of the second half from the first.
    fn net(&self, a: &Tensor) -> Result<(Tensor, Tensor)> {
        let [first, second, last] = &self.net;
        let h = second.forward(&first.forward(a)?.relu()?)?.relu()?;
        let out = last.forward(&h)?;
        let rest = out.dim(1)? / 2;
        let log_scale = ((out.narrow(1, 0, rest)? / self.bound)?.tanh()? * self.bound)?;
        Ok((log_scale, out.narrow(1, rest, rest)?))
    }

    fn halves(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let a = x.narrow(1, 0, self.half)?.contiguous()?;
        let b = x.narrow(1, self.half, x.dim(1)? - self.half)?;
        Ok((a, b))
    }

    fn forward(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let (a, b) = self.halves(&x.index_select(&self.order, 1)?)?;
        let (log_scale, shift) = self.net(&a)?;
        let b = ((b * log_scale.exp()?)? + shift)?;
        Ok((Tensor::cat(&[a, b], 1)?, log_scale.sum(1)?))
    }

    fn inverse(&self, y: &Tensor) -> Result<Tensor> {
        let (a, b) = self.halves(y)?;
        let (log_scale, shift) = self.net(&a)?;
        let b = ((b - shift)? * log_scale.neg()?.exp()?)?;
        Ok(Tensor::cat(&[a, b], 1)?.index_select(&self.back, 1)?)
    }
}
