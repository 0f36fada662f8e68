//! A fully connected layer.

use anyhow::Result;
use candle_core::Tensor;

use super::init::Init;
use super::weights::Weights;

/// `x W + b` on `[n, input]`, W of shape `[input, output]`.
pub struct Dense {
    weight: Tensor,
    bias: Tensor,
}

impl Dense {
    /// Makes a layer whose bias starts at zero.
    pub fn new(input: usize, output: usize, init: Init, w: &Weights) -> Result<Self> {
        let weight = w.get((input, output), "weight", init)?;
        let bias = w.get(output, "bias", Init::Zeros)?;
        Ok(Self { weight, bias })
    }

    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.forward_with(x, &self.weight)
    }

    /// Multiplies by another matrix in the weight's place, as spectral normalisation wants.
    pub fn forward_with(&self, x: &Tensor, weight: &Tensor) -> candle_core::Result<Tensor> {
        x.matmul(weight)?.broadcast_add(&self.bias)
    }
}
