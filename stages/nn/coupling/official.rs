//! The official Glow's coupling network.

use anyhow::Result;
use candle_core::Tensor;

use super::Net;
use crate::nn::act_norm::{ActNorm, Start};
use crate::nn::bijector::Bijector;
use crate::nn::channel::Activation;
use crate::nn::conv::{Padding, conv2d};
use crate::nn::glow_conv::{GlowConv, ZeroConv};
use crate::nn::init::Init;
use crate::nn::weights::Weights;

/// conv 3x3, actnorm, ReLU, conv 1x1, actnorm, ReLU, zero conv 3x3 (official `f`).
pub struct Official {
    conv1: GlowConv,
    norm1: ActNorm,
    conv2: Tensor, // [1, 1, width, width]
    norm2: ActNorm,
    conv3: ZeroConv,
}

impl Official {
    pub fn new(input: usize, width: usize, output: usize, w: &Weights) -> Result<Self> {
        let init = Init::Normal { std: 0.05 };
        Ok(Self {
            conv1: GlowConv::new(input, width, init, &w.pp("conv1"))?,
            norm1: ActNorm::new(width, Start::Data, &w.pp("norm1"))?,
            conv2: w.pp("conv2").get((1, 1, width, width), "weight", init)?,
            norm2: ActNorm::new(width, Start::Data, &w.pp("norm2"))?,
            conv3: ZeroConv::new(width, output, &w.pp("conv3"))?,
        })
    }

    /// [`Net::parameters`] in few launches.
    #[cfg(feature = "cuda")]
    fn parameters_on_gpu(&self, sign: f64) -> candle_core::Result<Tensor> {
        use crate::nn::cuda::{coupling_op, coupling_parameters::Layers};
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
        let factor = crate::nn::act_norm::LOG_SCALE_FACTOR;
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

impl Net for Official {
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
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::nn::noise::Noise;

    #[test]
    fn hidden_actnorms_start_from_data() -> Result<()> {
        let w = Weights::new(0, DType::F64, &Device::Cpu);
        let net = Official::new(2, 8, 2, &w)?;
        let noise = &mut Noise::new(1, "x").at(0);
        let x = noise.normal((2, 4, 4, 2), DType::F64, &Device::Cpu)?;
        net.start(&x)?;
        let first = net.norm1.apply(&net.conv1.forward(&x)?, Activation::None)?;
        let second = net.pointwise(&first.relu()?)?;
        let second = net.norm2.apply(&second, Activation::None)?;
        for h in [first.flatten_to(2)?, second.flatten_to(2)?] {
            let means = h.mean(0)?.to_vec1::<f64>()?;
            let squares = h.sqr()?.mean(0)?.to_vec1::<f64>()?;
            for (mean, square) in means.iter().zip(squares) {
                assert!(mean.abs() < 1e-9 && (square - 1.0).abs() < 1e-3);
            }
        }
        Ok(())
    }
}
