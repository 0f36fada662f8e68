//! One coupling of the flow.

use anyhow::Result;
use candle_core::Tensor;

use super::roles::Roles;
use super::{Config, Coupling};
use crate::nn::dense::Dense;
use crate::nn::init::Init;
use crate::nn::weights::Weights;

pub struct Layer {
    roles: Roles,
    net: [Dense; 3],
    coupling: Coupling,
    bound: f64,
}

/// How the transformed dimensions change: `x exp(log_scale) + shift`.
struct Change {
    log_scale: Option<Tensor>,
    shift: Tensor,
}

impl Layer {
    /// Layer `k` of a flow whose weights are below `w`.
    pub fn new(config: &Config, dim: usize, k: usize, w: &Weights) -> Result<Self> {
        let roles = Roles::new(config, dim, k, w)?;
        let (read, given) = roles.sizes();
        let outputs = match config.coupling {
            Coupling::Affine => 2 * given,
            Coupling::Additive => given,
        };
        let w = w.pp(format!("layer{k}"));
        let net = [
            Dense::new(read, config.width, Init::HeNormal, &w.pp("dense0"))?,
            Dense::new(config.width, config.width, Init::HeNormal, &w.pp("dense1"))?,
            // Zero: the layer starts as a permutation, p(z) as N(0, I).
            Dense::new(config.width, outputs, Init::Zeros, &w.pp("dense2"))?,
        ];
        Ok(Self {
            roles,
            net,
            coupling: config.coupling,
            bound: config.max_log_scale,
        })
    }

    /// The change that what is read asks for.
    fn change(&self, read: &Tensor) -> Result<Change> {
        let [first, second, last] = &self.net;
        let h = second.forward(&first.forward(read)?.relu()?)?.relu()?;
        let out = last.forward(&h)?;
        if self.coupling == Coupling::Additive {
            return Ok(Change {
                log_scale: None,
                shift: out,
            });
        }
        let half = out.dim(1)? / 2;
        let log_scale = ((out.narrow(1, 0, half)? / self.bound)?.tanh()? * self.bound)?;
        Ok(Change {
            log_scale: Some(log_scale),
            shift: out.narrow(1, half, half)?,
        })
    }

    /// The image of `x` `[n, d]`, and ln|det| `[n]` of a map that can change volumes.
    pub fn forward(&self, x: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
        match &self.roles {
            Roles::Ordered { order, half, .. } => {
                let (a, b) = halves(&x.index_select(order, 1)?, *half)?;
                let change = self.change(&a)?;
                let b = change.apply(&b)?;
                Ok((Tensor::cat(&[a, b], 1)?, change.log_det()?))
            }
            Roles::Masked { read, moved } => {
                let change = self.change(&x.broadcast_mul(read)?)?.masked(moved)?;
                Ok((change.apply(x)?, change.log_det()?))
            }
        }
    }

    pub fn inverse(&self, y: &Tensor) -> Result<Tensor> {
        match &self.roles {
            Roles::Ordered { back, half, .. } => {
                let (a, b) = halves(y, *half)?;
                let b = self.change(&a)?.undo(&b)?;
                Ok(Tensor::cat(&[a, b], 1)?.index_select(back, 1)?)
            }
            Roles::Masked { read, moved } => {
                self.change(&y.broadcast_mul(read)?)?.masked(moved)?.undo(y)
            }
        }
    }
}

impl Change {
    /// None where the mask is zero.
    fn masked(self, mask: &Tensor) -> Result<Self> {
        let log_scale = self.log_scale.map(|s| s.broadcast_mul(mask)).transpose()?;
        let shift = self.shift.broadcast_mul(mask)?;
        Ok(Self { log_scale, shift })
    }

    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        Ok(match &self.log_scale {
            Some(log_scale) => ((x * log_scale.exp()?)? + &self.shift)?,
            None => (x + &self.shift)?,
        })
    }

    fn undo(&self, y: &Tensor) -> Result<Tensor> {
        let x = (y - &self.shift)?;
        Ok(match &self.log_scale {
            Some(log_scale) => (x * log_scale.neg()?.exp()?)?,
            None => x,
        })
    }

    fn log_det(&self) -> Result<Option<Tensor>> {
        Ok(self.log_scale.as_ref().map(|s| s.sum(1)).transpose()?)
    }
}

fn halves(x: &Tensor, half: usize) -> Result<(Tensor, Tensor)> {
    let a = x.narrow(1, 0, half)?.contiguous()?;
    Ok((a, x.narrow(1, half, x.dim(1)? - half)?))
}
