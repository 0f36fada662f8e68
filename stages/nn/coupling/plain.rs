//! The usual coupling network without Glow's additions.

use anyhow::Result;
use candle_core::Tensor;

use super::Net;
use crate::nn::conv_layer::{Conv, Window};
use crate::nn::init::Init;
use crate::nn::weights::Weights;

/// conv 3x3, ReLU, conv 1x1, ReLU, conv 3x3, each with a bias and zero padding; the last
/// convolution starts as zero. Hidden kernels start as in [`super::official::Official`].
pub struct Plain {
    layers: [Conv; 3],
    width: usize,
}

impl Plain {
    pub fn new(input: usize, width: usize, output: usize, w: &Weights) -> Result<Self> {
        let init = Init::Normal { std: 0.05 };
        let pointwise = Window {
            kernel: 1,
            ..Window::three(width, width)
        };
        let last = Window::three(width, output);
        Ok(Self {
            layers: [
                Conv::new(Window::three(input, width), init, &w.pp("conv1"))?,
                Conv::new(pointwise, init, &w.pp("conv2"))?,
                Conv::new(last, Init::Zeros, &w.pp("conv3"))?,
            ],
            width,
        })
    }
}

impl Net for Plain {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let [first, second, last] = &self.layers;
        let h = first.forward(x)?.relu()?;
        last.forward(&second.forward(&h)?.relu()?)
    }

    fn width(&self) -> usize {
        self.width
    }

    /// The channel that marks the padding gets weight 0, and every scale is 1.
    fn parameters(&self, sign: f64) -> candle_core::Result<Tensor> {
        let mut parts = Vec::with_capacity(9);
        for (layer, (marked, sign)) in self.layers.iter().zip([(1, 1.0), (0, 1.0), (1, sign)]) {
            let (weight, bias) = (layer.weight(), layer.bias());
            let weight = weight.pad_with_zeros(2, 0, marked)?;
            let scale = (bias.ones_like()? * sign)?;
            parts.extend([weight.flatten_all()?, scale, (bias * sign)?]);
        }
        Tensor::cat(&parts, 0)
    }
}
