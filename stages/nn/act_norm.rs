//! Actnorm of Glow: a learned shift and scale per channel.

use anyhow::Result;
use candle_core::Tensor;

use super::bijector::{Bijector, positions};
use super::channel::{Activation, affine};
use super::init::Init;
use super::weights::{Weights, assign};

/// Log-scales are stored divided by this, which triples their effective learning rate
/// (`logscale_factor` of the official code).
pub const LOG_SCALE_FACTOR: f64 = 3.0;

/// Where shift and scale start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Shift 0, scale 1.
    Identity,
    /// Output of mean 0 and deviation 1 per channel on the first batch.
    Data,
}

/// `y = (x + bias) exp(3 log_scale)` over the last dimension.
pub struct ActNorm {
    bias: Tensor,
    log_scale: Tensor,
    start: Start,
}

impl ActNorm {
    pub fn new(channels: usize, start: Start, w: &Weights) -> Result<Self> {
        let bias = w.get(channels, "bias", Init::Zeros)?;
        let log_scale = w.get(channels, "log_scale", Init::Zeros)?;
        Ok(Self {
            bias,
            log_scale,
            start,
        })
    }

    /// `bias` and `exp(3 log_scale)`.
    pub fn shift_and_scale(&self) -> candle_core::Result<(&Tensor, Tensor)> {
        Ok((&self.bias, (&self.log_scale * LOG_SCALE_FACTOR)?.exp()?))
    }

    /// What is trained: bias and log-scale, which counts [`LOG_SCALE_FACTOR`] times.
    #[cfg(feature = "cuda")]
    pub fn trained(&self) -> [&Tensor; 2] {
        [&self.bias, &self.log_scale]
    }

    /// The layer and the activation that follows it, in one pass.
    pub fn apply(&self, x: &Tensor, activation: Activation) -> candle_core::Result<Tensor> {
        let (bias, scale) = self.shift_and_scale()?;
        affine(x, &scale, &(bias * &scale)?, activation)
    }

    /// `ln |det|` of one pixel: a scalar.
    pub fn log_det(&self) -> candle_core::Result<Tensor> {
        &self.log_scale.sum_all()? * LOG_SCALE_FACTOR
    }
}

impl Bijector for ActNorm {
    fn forward(&self, x: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        let log_det = (self.log_det()? * positions(x)?)?;
        Ok((
            self.apply(x, Activation::None)?,
            log_det.broadcast_as(x.dim(0)?)?,
        ))
    }

    fn inverse(&self, y: &Tensor) -> candle_core::Result<Tensor> {
        let (bias, scale) = self.shift_and_scale()?;
        y.broadcast_div(&scale)?.broadcast_sub(bias)
    }

    /// `bias = -mean`, `log_scale = ln(1 / (deviation + 1e-6)) / 3`, over examples and positions.
    fn start(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        if self.start == Start::Data {
            let rows = x.detach().flatten_to(x.rank() - 2)?;
            let bias = rows.mean(0)?.neg()?;
            let std = rows.broadcast_add(&bias)?.sqr()?.mean(0)?.sqrt()?;
            let log_scale = ((std + 1e-6)?.log()? * (-1.0 / LOG_SCALE_FACTOR))?;
            assign(&self.bias, &bias)?;
            assign(&self.log_scale, &log_scale)?;
        }
        self.apply(x, Activation::None)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::nn::noise::Noise;

    #[test]
    fn starts_from_data_with_mean_0_and_deviation_1() -> Result<()> {
        let w = Weights::new(0, DType::F64, &Device::Cpu);
        let x = Noise::new(0, "x")
            .at(0)
            .normal((8, 5, 5, 3), DType::F64, &Device::Cpu)?;
        let x = ((x * 0.2)? + 3.0)?;
        let norm = ActNorm::new(3, Start::Data, &w)?;
        let rows = norm.start(&x)?.flatten_to(2)?;
        let mean = rows.mean(0)?.to_vec1::<f64>()?;
        let square = rows.sqr()?.mean(0)?.to_vec1::<f64>()?;
        assert!(mean.iter().all(|m| m.abs() < 1e-9), "{mean:?}");
        assert!(square.iter().all(|s| (s - 1.0).abs() < 1e-4), "{square:?}");
        // The file keeps what was set.
        assert!((w.all()["bias"].to_vec1::<f64>()?[0] + 3.0).abs() < 0.1);
        Ok(())
    }

    #[test]
    fn starts_as_the_identity_when_asked() -> Result<()> {
        let w = Weights::new(0, DType::F32, &Device::Cpu);
        let x = Noise::new(0, "x")
            .at(0)
            .normal((2, 5, 5, 3), DType::F32, &Device::Cpu)?;
        let y = ActNorm::new(3, Start::Identity, &w)?.start(&x)?;
        assert_eq!(
            y.flatten_all()?.to_vec1::<f32>()?,
            x.flatten_all()?.to_vec1::<f32>()?
        );
        Ok(())
    }
}
