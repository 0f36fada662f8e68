//! Coupling of Glow: one part of the channels is shifted (and scaled) by a network of the other.

use anyhow::Result;
use candle_core::{D, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bijector::{Bijector, no_change};
use super::weights::Weights;
use official::Official;
use op::has_fused_op;
use plain::Plain;

pub use op::additive;
pub use roles::{ChannelSplit, Roles};

mod official;
mod op;
mod plain;
mod roles;
#[cfg(test)]
mod tests;

/// What the network does to the transformed channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CouplingKind {
    /// `z2 + f(z1)`: keeps volumes.
    Additive,
    /// `(z2 + shift(z1)) sigmoid(logit(z1) + 2)`.
    Affine,
}

/// The network inside a coupling (A5): convolutions 3x3, 1x1 and 3x3 with ReLUs between them. The last
/// convolution starts as zero in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CouplingNetwork {
    /// The official Glow's: hidden actnorms in the place of biases, an input channel that marks
    /// the padding, the output times `exp(3 log_scale)`.
    Official,
    /// Biases, zero padding, and nothing else.
    Plain,
}

/// What a coupling is made of.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub kind: CouplingKind,
    pub network: CouplingNetwork,
    /// Channels inside the network.
    pub width: usize,
}

impl Config {
    /// A coupling with the official Glow's network.
    #[cfg(test)]
    pub fn official(kind: CouplingKind, width: usize) -> Self {
        Self {
            kind,
            network: CouplingNetwork::Official,
            width,
        }
    }
}

/// Some channels condition, the others are transformed.
pub struct Coupling {
    kind: CouplingKind,
    roles: Roles,
    net: Box<dyn Net>,
}

/// The network inside a coupling.
trait Net {
    /// Conditioning channels `[n, h, w, c]` to what transforms the others.
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor>;

    /// Sets what starts from data, as [`Bijector::start`].
    fn start(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.forward(x)
    }

    /// Channels inside.
    fn width(&self) -> usize;

    /// All parameters as one vector, as [`additive`] wants them; the output times `sign`.
    fn parameters(&self, sign: f64) -> candle_core::Result<Tensor>;
}

impl Coupling {
    pub fn new(config: Config, roles: Roles, w: &Weights) -> Result<Self> {
        let Config {
            kind,
            network,
            width,
        } = config;
        let outputs = match kind {
            CouplingKind::Additive => roles.transformed,
            CouplingKind::Affine => 2 * roles.transformed,
        };
        let net: Box<dyn Net> = match network {
            CouplingNetwork::Official => {
                Box::new(Official::new(roles.conditioning, width, outputs, w)?)
            }
            CouplingNetwork::Plain => Box::new(Plain::new(roles.conditioning, width, outputs, w)?),
        };
        Ok(Self { kind, roles, net })
    }

    /// The conditioning channels before the others.
    fn conditioning_first(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        if !self.roles.last_condition {
            return Ok(x.clone());
        }
        swapped(x, self.roles.transformed)
    }

    /// Undoes [`Self::conditioning_first`].
    fn in_order(&self, y: &Tensor) -> candle_core::Result<Tensor> {
        if !self.roles.last_condition {
            return Ok(y.clone());
        }
        swapped(y, self.roles.conditioning)
    }

    /// Conditioning and transformed channels of what [`Self::conditioning_first`] gave.
    fn halves(&self, x: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        parts(x, self.roles.conditioning)
    }

    /// `y` and the log-determinant, from the two parts and the network's output.
    fn transform(
        &self,
        z1: &Tensor,
        z2: &Tensor,
        h: &Tensor,
    ) -> candle_core::Result<(Tensor, Tensor)> {
        let (z2, log_det) = match self.kind {
            CouplingKind::Additive => ((z2 + h)?, no_change(z1)?),
            CouplingKind::Affine => {
                let (shift, logits) = interleaved(h)?;
                let log_scale = log_sigmoid(&(logits + 2.0)?)?;
                let z2 = ((z2 + shift)? * log_scale.exp()?)?;
                (z2, log_scale.flatten_from(1)?.sum(1)?)
            }
        };
        Ok((Tensor::cat(&[z1, &z2], D::Minus1)?, log_det))
    }
}

impl Coupling {
    /// Whether one operation does it all.
    fn fused(&self, x: &Tensor) -> candle_core::Result<bool> {
        Ok(self.kind == CouplingKind::Additive
            && has_fused_op(x, self.roles.conditioning, self.net.width())?)
    }

    /// That operation: shifts by `sign` times the network's output.
    fn shift(&self, x: &Tensor, sign: f64) -> candle_core::Result<Tensor> {
        let parameters = self.net.parameters(sign)?;
        additive(x, self.roles.conditioning, self.net.width(), &parameters)
    }

    fn by_layers(&self, x: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        let (z1, z2) = self.halves(x)?;
        self.transform(&z1, &z2, &self.net.forward(&z1)?)
    }
}

impl Bijector for Coupling {
    fn forward(&self, x: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        let x = self.conditioning_first(x)?;
        let (y, log_det) = match self.fused(&x)? {
            true => (self.shift(&x, 1.0)?, no_change(&x)?),
            false => self.by_layers(&x)?,
        };
        Ok((self.in_order(&y)?, log_det))
    }

    fn inverse(&self, y: &Tensor) -> candle_core::Result<Tensor> {
        let y = self.conditioning_first(y)?;
        if self.fused(&y)? {
            return self.in_order(&self.shift(&y, -1.0)?);
        }
        let (z1, z2) = self.halves(&y)?;
        let h = self.net.forward(&z1)?;
        let z2 = match self.kind {
            CouplingKind::Additive => (z2 - h)?,
            CouplingKind::Affine => {
                let (shift, logits) = interleaved(&h)?;
                ((z2 * log_sigmoid(&(logits + 2.0)?)?.neg()?.exp()?)? - shift)?
            }
        };
        self.in_order(&Tensor::cat(&[z1, z2], D::Minus1)?)
    }

    fn start(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (z1, z2) = self.halves(&self.conditioning_first(x)?)?;
        let y = self.transform(&z1, &z2, &self.net.start(&z1)?)?.0;
        self.in_order(&y)
    }
}

/// The first `at` channels and the others.
fn parts(x: &Tensor, at: usize) -> candle_core::Result<(Tensor, Tensor)> {
    let c = x.dim(D::Minus1)?;
    Ok((
        x.narrow(D::Minus1, 0, at)?,
        x.narrow(D::Minus1, at, c - at)?,
    ))
}

/// The first `at` channels after the others.
fn swapped(x: &Tensor, at: usize) -> candle_core::Result<Tensor> {
    let (first, last) = parts(x, at)?;
    Tensor::cat(&[last, first], D::Minus1)
}

/// Even and odd channels.
pub fn interleaved(h: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
    let mut dims = h.dims().to_vec();
    let last = dims.pop().unwrap_or_default();
    dims.extend([last / 2, 2]);
    let pairs = h.reshape(dims)?;
    Ok((
        pairs.narrow(D::Minus1, 0, 1)?.squeeze(D::Minus1)?,
        pairs.narrow(D::Minus1, 1, 1)?.squeeze(D::Minus1)?,
    ))
}

/// `ln sigmoid(x) = min(x, 0) - ln(1 + exp(-|x|))`: no overflow on either side.
fn log_sigmoid(x: &Tensor) -> candle_core::Result<Tensor> {
    let tail = (x.abs()?.neg()?.exp()? + 1.0)?.log()?;
    x.neg()?.relu()?.neg()? - tail
}
