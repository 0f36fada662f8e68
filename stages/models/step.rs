//! One step of Glow: actnorm, invertible 1x1 convolution, coupling.

use anyhow::Result;
use candle_core::Tensor;

use crate::nn::act_norm::{ActNorm, Start};
use crate::nn::bijector::Bijector;
use crate::nn::coupling::{Coupling, CouplingKind};
use crate::nn::init::Init;
use crate::nn::inv_conv::InvConv;
use crate::nn::weights::Weights;

pub struct Step {
    norm: ActNorm,
    mix: InvConv,
    coupling: Coupling,
}

impl Step {
    /// The official start is `Start::Data` with `Init::Orthogonal`; with `Start::Identity` and
    /// `Init::Identity` every pixel stays as it is.
    pub fn new(
        kind: CouplingKind,
        channels: usize,
        width: usize,
        norm: Start,
        mix: Init,
        w: &Weights,
    ) -> Result<Self> {
        Ok(Self {
            norm: ActNorm::new(channels, norm, &w.pp("norm"))?,
            mix: InvConv::new(channels, mix, &w.pp("mix"))?,
            coupling: Coupling::new(kind, channels, width, &w.pp("coupling"))?,
        })
    }

    /// The matrix that mixes channels.
    pub fn mix(&self) -> &InvConv {
        &self.mix
    }
}

impl Bijector for Step {
    fn forward(&self, x: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        let (x, by_norm) = self.norm.forward(x)?;
        let (x, by_mix) = self.mix.forward(&x)?;
        let (y, by_coupling) = self.coupling.forward(&x)?;
        Ok((y, ((by_norm + by_mix)? + by_coupling)?))
    }

    fn inverse(&self, y: &Tensor) -> candle_core::Result<Tensor> {
        let x = self.coupling.inverse(y)?;
        self.norm.inverse(&self.mix.inverse(&x)?)
    }

    fn start(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let x = self.norm.start(x)?;
        let (x, _) = self.mix.forward(&x)?;
        self.coupling.start(&x)
    }
}
