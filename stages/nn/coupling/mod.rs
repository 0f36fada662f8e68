//! Coupling of Glow: one part of the channels is shifted (and scaled) by a network of the other.

use anyhow::{Result, ensure};
use candle_core::{D, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::act_norm::{ActNorm, Start};
use super::bijector::{Bijector, no_change};
use super::channel::Activation;
use super::conv::{Padding, conv2d};
use super::edge_conv::{EdgeConv, ZeroConv};
use super::init::Init;
use super::weights::Weights;
use op::is_one;

pub use op::additive;

mod op;
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

/// The first `c / 2` channels condition, the rest are transformed. Of three channels one
/// conditions and two are transformed, as integer division in the official code has it (A3).
pub struct Coupling {
    kind: CouplingKind,
    split: usize,
    net: Net,
}

impl Coupling {
    pub fn new(kind: CouplingKind, channels: usize, width: usize, w: &Weights) -> Result<Self> {
        ensure!(
            channels >= 2,
            "a coupling needs at least two channels, the images have {channels}"
        );
        let split = channels / 2;
        let moved = channels - split;
        let outputs = match kind {
            CouplingKind::Additive => moved,
            CouplingKind::Affine => 2 * moved,
        };
        Ok(Self {
            kind,
            split,
            net: Net::new(split, width, outputs, w)?,
        })
    }

    fn halves(&self, x: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        let c = x.dim(D::Minus1)?;
        Ok((
            x.narrow(D::Minus1, 0, self.split)?,
            x.narrow(D::Minus1, self.split, c - self.split)?,
        ))
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
        Ok(self.kind == CouplingKind::Additive && is_one(x, self.split, self.net.width())?)
    }
}

impl Bijector for Coupling {
    fn forward(&self, x: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        if self.fused(x)? {
            let y = additive(x, self.split, self.net.width(), &self.net.parameters(1.0)?)?;
            return Ok((y, no_change(x)?));
        }
        let (z1, z2) = self.halves(x)?;
        self.transform(&z1, &z2, &self.net.forward(&z1)?)
    }

    fn inverse(&self, y: &Tensor) -> candle_core::Result<Tensor> {
        if self.fused(y)? {
            return additive(y, self.split, self.net.width(), &self.net.parameters(-1.0)?);
        }
        let (z1, z2) = self.halves(y)?;
        let h = self.net.forward(&z1)?;
        let z2 = match self.kind {
            CouplingKind::Additive => (z2 - h)?,
            CouplingKind::Affine => {
                let (shift, logits) = interleaved(&h)?;
                ((z2 * log_sigmoid(&(logits + 2.0)?)?.neg()?.exp()?)? - shift)?
            }
        };
        Tensor::cat(&[z1, z2], D::Minus1)
    }

    fn start(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (z1, z2) = self.halves(x)?;
        Ok(self.transform(&z1, &z2, &self.net.start(&z1)?)?.0)
    }
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

/// conv 3x3, actnorm, ReLU, conv 1x1, actnorm, ReLU, zero conv 3x3 (official `f`).
struct Net {
    conv1: EdgeConv,
    norm1: ActNorm,
    conv2: Tensor, // [1, 1, width, width]
    norm2: ActNorm,
    conv3: ZeroConv,
}

impl Net {
    fn new(input: usize, width: usize, output: usize, w: &Weights) -> Result<Self> {
        let init = Init::Normal { std: 0.05 };
        Ok(Self {
            conv1: EdgeConv::new(input, width, init, &w.pp("conv1"))?,
            norm1: ActNorm::new(width, Start::Data, &w.pp("norm1"))?,
            conv2: w.pp("conv2").get((1, 1, width, width), "weight", init)?,
            norm2: ActNorm::new(width, Start::Data, &w.pp("norm2"))?,
            conv3: ZeroConv::new(width, output, &w.pp("conv3"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let h = self
            .norm1
            .apply(&self.conv1.forward(x)?, Activation::Relu)?;
        let h = self.norm2.apply(&self.pointwise(&h)?, Activation::Relu)?;
        self.conv3.forward(&h)
    }

    fn start(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let h = self.norm1.start(&self.conv1.forward(x)?.detach())?;
        let h = self.pointwise(&h.detach().relu()?)?;
        let h = self.norm2.start(&h.detach())?;
        self.conv3.forward(&h.detach().relu()?)
    }

    fn width(&self) -> usize {
        self.conv2.dims()[3]
    }

    /// All parameters as one vector, as [`additive`] wants them; the output times `sign`.
    fn parameters(&self, sign: f64) -> candle_core::Result<Tensor> {
        #[cfg(feature = "cuda")]
        if self.conv2.device().is_cuda() {
            return self.parameters_on_gpu(sign);
        }
        let mut parts = Vec::with_capacity(9);
        for (weight, norm) in [
            (self.conv1.weight(), &self.norm1),
            (&self.conv2, &self.norm2),
        ] {
            let (bias, scale) = norm.shift_and_scale()?;
            let shift = (bias * &scale)?;
            parts.extend([weight.flatten_all()?, scale, shift]);
        }
        let (weight, scale, shift) = self.conv3.parameters()?;
        parts.extend([weight.flatten_all()?, (scale * sign)?, (shift * sign)?]);
        Tensor::cat(&parts, 0)
    }

    /// The same in few launches.
    #[cfg(feature = "cuda")]
    fn parameters_on_gpu(&self, sign: f64) -> candle_core::Result<Tensor> {
        use super::cuda::{affines::Layers, coupling_op};
        let [b1, l1] = self.norm1.trained();
        let [b2, l2] = self.norm2.trained();
        let [w3, b3, l3] = self.conv3.trained();
        let all = [self.conv1.weight(), b1, l1, &self.conv2, b2, l2, w3, b3, l3];
        let layers = [0, 3, 6].map(|i| [all[i].elem_count(), all[i + 1].elem_count()]);
        let flat = all.map(Tensor::flatten_all);
        let trained = Tensor::cat(
            &flat.into_iter().collect::<candle_core::Result<Vec<_>>>()?,
            0,
        )?;
        let factor = super::act_norm::LOG_SCALE_FACTOR;
        let layers = Layers {
            layers,
            factor,
            sign,
        };
        coupling_op::parameters(&trained, layers)
    }

    fn pointwise(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        conv2d(x, &self.conv2, 1, Padding::all(0))
    }
}
