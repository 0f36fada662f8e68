//! Convolutions with a bias, as layers.

use anyhow::Result;
use candle_core::Tensor;

use super::channel::{self, Activation};
use super::conv::{Padding, conv_transpose2d_bias, conv2d, conv2d_bias};
use super::init::Init;
use super::weights::Weights;

/// Sizes of a square kernel: side, step, channels in and out.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub kernel: usize,
    pub stride: usize,
    pub input: usize,
    pub output: usize,
}

impl Window {
    /// 3x3, step 1: the size stays.
    pub const fn three(input: usize, output: usize) -> Self {
        Self {
            kernel: 3,
            stride: 1,
            input,
            output,
        }
    }

    fn weights(&self, init: Init, w: &Weights) -> Result<(Tensor, Tensor)> {
        let shape = (self.kernel, self.kernel, self.input, self.output);
        Ok((
            w.get(shape, "weight", init)?,
            w.get(self.output, "bias", Init::Zeros)?,
        ))
    }
}

/// A convolution with TensorFlow's "same" padding and a bias that starts at zero.
pub struct Conv {
    window: Window,
    weight: Tensor,
    bias: Tensor,
}

impl Conv {
    pub fn new(window: Window, init: Init, w: &Weights) -> Result<Self> {
        let (weight, bias) = window.weights(init, w)?;
        Ok(Self {
            window,
            weight,
            bias,
        })
    }

    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    pub fn bias(&self) -> &Tensor {
        &self.bias
    }

    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.forward_with(x, &self.weight)
    }

    /// Convolves with another kernel in the weight's place, as spectral normalisation wants.
    pub fn forward_with(&self, x: &Tensor, weight: &Tensor) -> candle_core::Result<Tensor> {
        let padding = self.padding(x)?;
        conv2d_bias(x, weight, &self.bias, self.window.stride, padding)
    }

    /// The same, and an activation in the pass that adds the bias.
    pub fn activated_with(
        &self,
        x: &Tensor,
        weight: &Tensor,
        activation: Activation,
    ) -> candle_core::Result<Tensor> {
        let h = conv2d(x, weight, self.window.stride, self.padding(x)?)?;
        let ones = self.bias.ones_like()?.detach();
        channel::affine(&h, &ones, &self.bias, activation)
    }

    fn padding(&self, x: &Tensor) -> candle_core::Result<Padding> {
        let (_, h, w, _) = x.dims4()?;
        let Window { kernel, stride, .. } = self.window;
        Ok(Padding::tensorflow((h, w), kernel, stride))
    }
}

/// A transposed convolution as TensorFlow's "same": the size times the stride.
pub struct ConvTranspose {
    window: Window,
    weight: Tensor,
    bias: Tensor,
}

impl ConvTranspose {
    pub fn new(window: Window, init: Init, w: &Weights) -> Result<Self> {
        let (weight, bias) = window.weights(init, w)?;
        Ok(Self {
            window,
            weight,
            bias,
        })
    }

    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (_, h, w, _) = x.dims4()?;
        let Window { kernel, stride, .. } = self.window;
        // What the convolution from the result back to x would pad.
        let crop = Padding::tensorflow((h * stride, w * stride), kernel, stride);
        conv_transpose2d_bias(x, &self.weight, &self.bias, stride, crop)
    }
}
