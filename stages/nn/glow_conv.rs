//! Glow's 3x3 convolutions: zero padding, and an extra input channel that marks it.

use anyhow::Result;
use candle_core::{DType, Device, Tensor};

use super::act_norm::LOG_SCALE_FACTOR;
use super::conv::{Padding, conv2d};
use super::init::Init;
use super::weights::Weights;

/// 3x3 convolution whose input has one more channel, 1 on padded positions and 0 inside
/// (`add_edge_padding` of the official code). No bias.
///
/// What the extra channel adds is the same for every image, so where the output has few channels
/// it is computed once and added; where the input has few, appending the channel is cheaper.
pub struct GlowConv {
    weight: Tensor, // [3, 3, input + 1, output]
}

impl GlowConv {
    pub fn new(input: usize, output: usize, init: Init, w: &Weights) -> Result<Self> {
        Ok(Self {
            weight: w.get((3, 3, input + 1, output), "weight", init)?,
        })
    }

    /// `[3, 3, input + 1, output]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (n, h, w, c) = x.dims4()?;
        if c < self.weight.dim(3)? {
            let padded = x.pad_with_zeros(1, 1, 1)?.pad_with_zeros(2, 1, 1)?;
            let marks = marks(h, w, x.dtype(), x.device())?.broadcast_as((n, h + 2, w + 2, 1))?;
            let marked = Tensor::cat(&[padded, marks], 3)?;
            return conv2d(&marked, &self.weight, 1, Padding::all(0));
        }
        let y = conv2d(x, &self.weight.narrow(2, 0, c)?, 1, Padding::same(3))?;
        y.broadcast_add(&self.edge((h, w))?)
    }

    /// The part of the output due to the edges, `[1, h, w, output]`.
    pub fn edge(&self, (h, w): (usize, usize)) -> candle_core::Result<Tensor> {
        let marks = marks(h, w, self.weight.dtype(), self.weight.device())?;
        let last = self.weight.dim(2)? - 1;
        conv2d(&marks, &self.weight.narrow(2, last, 1)?, 1, Padding::all(0))
    }
}

/// 1 on the ring around `h` by `w` zeros.
fn marks(h: usize, w: usize, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
    let inside = Tensor::ones((1, h, w, 1), dtype, device)?;
    let padded = inside.pad_with_zeros(1, 1, 1)?.pad_with_zeros(2, 1, 1)?;
    1.0 - padded
}

/// A last layer that starts as zero: `(conv(x) + bias) exp(3 log_scale)`.
pub struct ZeroConv {
    conv: GlowConv,
    bias: Tensor,
    log_scale: Tensor,
}

impl ZeroConv {
    pub fn new(input: usize, output: usize, w: &Weights) -> Result<Self> {
        let conv = GlowConv::new(input, output, Init::Zeros, w)?;
        let bias = w.get(output, "bias", Init::Zeros)?;
        let log_scale = w.get(output, "log_scale", Init::Zeros)?;
        Ok(Self {
            conv,
            bias,
            log_scale,
        })
    }

    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.scaled(&self.conv.forward(x)?)
    }

    /// The output for an all-zero image: `[1, h, w, output]`.
    pub fn of_zeros(&self, size: (usize, usize)) -> candle_core::Result<Tensor> {
        self.scaled(&self.conv.edge(size)?)
    }

    /// Kernel, and what its outputs are scaled by and then shifted.
    pub fn parameters(&self) -> candle_core::Result<(&Tensor, Tensor, Tensor)> {
        let scale = (&self.log_scale * LOG_SCALE_FACTOR)?.exp()?;
        let shift = (&self.bias * &scale)?;
        Ok((self.conv.weight(), scale, shift))
    }

    /// What is trained: kernel, bias and log-scale.
    #[cfg(feature = "cuda")]
    pub fn trained(&self) -> [&Tensor; 3] {
        [self.conv.weight(), &self.bias, &self.log_scale]
    }

    fn scaled(&self, y: &Tensor) -> candle_core::Result<Tensor> {
        let scale = (&self.log_scale * LOG_SCALE_FACTOR)?.exp()?;
        y.broadcast_add(&self.bias)?.broadcast_mul(&scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::noise::Noise;

    /// Against the definition: the extra channel really appended to a padded image.
    #[test]
    fn the_extra_channel_marks_the_padding() -> Result<()> {
        let w = Weights::new(0, DType::F64, &Device::Cpu);
        for (output, (h, width)) in [(5, (1, 1)), (5, (2, 3)), (2, (2, 3)), (1, (5, 4))] {
            let name = format!("{output} {h}");
            let conv = GlowConv::new(2, output, Init::Normal { std: 1.0 }, &w.pp(&name))?;
            let x = Noise::new(0, "x")
                .at(0)
                .normal((2, h, width, 2), DType::F64, &Device::Cpu)?;
            let padded = x.pad_with_zeros(1, 1, 1)?.pad_with_zeros(2, 1, 1)?;
            let marks = marks(h, width, DType::F64, &Device::Cpu)?;
            let marks = marks.broadcast_as((2, h + 2, width + 2, 1))?;
            let padded = Tensor::cat(&[padded, marks], 3)?;
            let plain = conv2d(&padded, &conv.weight, 1, Padding::all(0))?;
            let error = (conv.forward(&x)? - plain)?
                .abs()?
                .sum_all()?
                .to_scalar::<f64>()?;
            assert!(error < 1e-10);
        }
        Ok(())
    }
}
