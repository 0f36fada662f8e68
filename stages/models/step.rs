//! One step of Glow: actnorm, invertible 1x1 convolution, coupling.

use anyhow::Result;
use candle_core::Tensor;

use crate::nn::act_norm::{ActNorm, Start};
use crate::nn::bijector::{Bijector, positions};
use crate::nn::conv::{Padding, conv2d_bias};
use crate::nn::coupling::{self, Coupling, Roles};
use crate::nn::init::Init;
use crate::nn::inv_conv::{InvConv, InvConvForm};
use crate::nn::weights::Weights;

/// What a step is made of, and how it starts: the official start is `Start::Data` with
/// `Init::Orthogonal`; with `Start::Identity` and `Init::Identity` every pixel stays as it is.
#[derive(Clone, Copy)]
pub struct Config {
    pub norm: Start,
    pub mix: Init,
    pub inv_conv: InvConvForm,
    pub coupling: coupling::Config,
}

pub struct Step {
    norm: ActNorm,
    mix: InvConv,
    coupling: Coupling,
}

impl Step {
    pub fn new(config: Config, roles: Roles, w: &Weights) -> Result<Self> {
        let channels = roles.conditioning + roles.transformed;
        let mix = InvConv::new(config.inv_conv, channels, config.mix, &w.pp("mix"))?;
        Ok(Self {
            norm: ActNorm::new(channels, config.norm, &w.pp("norm"))?,
            mix,
            coupling: Coupling::new(config.coupling, roles, &w.pp("coupling"))?,
        })
    }

    /// Actnorm and 1x1 convolution as one: `((x + bias) scale) W = x (scale W) + (bias scale) W`.
    fn mixed(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (bias, scale) = self.norm.shift_and_scale()?;
        let matrix = self.mix.matrix()?;
        let c = matrix.dim(0)?;
        let shift = (bias * &scale)?.reshape((1, c))?.matmul(&matrix)?;
        let kernel = matrix.broadcast_mul(&scale.reshape((c, 1))?)?;
        let kernel = kernel.reshape((1, 1, c, c))?;
        conv2d_bias(x, &kernel, &shift.flatten_all()?, 1, Padding::all(0))
    }

    /// The matrix that mixes channels.
    pub fn mix(&self) -> &InvConv {
        &self.mix
    }
}

impl Bijector for Step {
    fn forward(&self, x: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        let pixels = positions(x)?;
        let by_pixel = ((self.norm.log_det()? + self.mix.log_det()?)? * pixels)?;
        let (y, by_coupling) = self.coupling.forward(&self.mixed(x)?)?;
        Ok((y, by_coupling.broadcast_add(&by_pixel)?))
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
