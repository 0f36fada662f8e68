//! Residual Flow's actnorm: Glow's without its factor of three, and with a floor under the variance.

use anyhow::Result;
use candle_core::Tensor;

use crate::nn::bijector::{Bijector, positions};
use crate::nn::channel::{Activation, affine};
use crate::nn::init::Init;
use crate::nn::weights::{Weights, assign};

/// Channels that vary less on the first images are not blown up further.
const LEAST_VARIANCE: f64 = 0.2;

/// `y = (x + bias) exp(log_scale)` over the last dimension.
pub struct ActNorm {
    bias: Tensor,
    log_scale: Tensor,
}

impl ActNorm {
    pub fn new(channels: usize, w: &Weights) -> Result<Self> {
        Ok(Self {
            bias: w.get(channels, "bias", Init::Zeros)?,
            log_scale: w.get(channels, "log_scale", Init::Zeros)?,
        })
    }

    /// Bias and log-scale.
    pub fn trained(&self) -> [&Tensor; 2] {
        [&self.bias, &self.log_scale]
    }
}

impl Bijector for ActNorm {
    fn forward(&self, x: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        let scale = self.log_scale.exp()?;
        let y = affine(x, &scale, &(&self.bias * &scale)?, Activation::None)?;
        let log_det = (self.log_scale.sum_all()? * positions(x)?)?;
        Ok((y, log_det.broadcast_as(x.dim(0)?)?))
    }

    fn inverse(&self, y: &Tensor) -> candle_core::Result<Tensor> {
        y.broadcast_div(&self.log_scale.exp()?)?
            .broadcast_sub(&self.bias)
    }

    /// `bias = -mean`, `log_scale = -ln max(variance, 0.2) / 2`, over examples and positions.
    fn start(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let rows = x.detach().flatten_to(x.rank() - 2)?;
        let bias = rows.mean(0)?.neg()?;
        let squares = rows.broadcast_add(&bias)?.sqr()?.sum(0)?;
        let variance = (squares / (rows.dim(0)? as f64 - 1.0).max(1.0))?;
        assign(&self.bias, &bias)?;
        let log_scale = (variance.maximum(LEAST_VARIANCE)?.log()? * -0.5)?;
        assign(&self.log_scale, &log_scale)?;
        Ok(self.forward(x)?.0)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    /// Oracle R4: two images of 1x2 pixels and two channels. The other side has f32 here.
    #[test]
    fn starts_from_data_above_a_floor() -> Result<()> {
        let w = Weights::new(0, DType::F64, &Device::Cpu);
        let norm = ActNorm::new(2, &w)?;
        let x = [1.0, 0.0, 2.0, 0.4, 3.0, 0.2, 6.0, 0.2];
        let x = Tensor::new(&x, &Device::Cpu)?.reshape((2, 1, 2, 2))?;
        let y = norm.start(&x)?;
        let near = |name: &str, expected: [f64; 2]| -> Result<()> {
            let found = w.all()[name].to_vec1::<f64>()?;
            let mut pairs = found.iter().zip(expected);
            assert!(pairs.all(|(a, b)| (a - b).abs() < 5e-8), "{name} {found:?}");
            Ok(())
        };
        near("bias", [-3.0, -0.2])?;
        near("log_scale", [-0.7702225447, 0.8047189713])?;
        let back = (norm.inverse(&y)? - &x)?.abs()?.max_all()?;
        assert!(back.to_scalar::<f64>()? < 1e-14);
        let log_det = norm.forward(&x)?.1.to_vec1::<f64>()?;
        let expected = 2.0 * (-0.7702225447 + 0.8047189713);
        assert!(log_det.iter().all(|d| (d - expected).abs() < 1e-7));
        Ok(())
    }
}
