//! Batch normalisation as TensorFlow 1 has it: population variance, and moving averages that are
//! corrected for their start at zero (Dai & Wipf's code; REFERENCE 2.1).

use anyhow::Result;
use candle_core::{DType, Tensor, Var};

use super::channel::{self, Activation};
use super::init::Init;
use super::weights::Weights;

pub const EPSILON: f64 = 1e-5;

/// Whether batches are normalised by their own statistics or by the moving averages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Own statistics, which also move the averages.
    Train,
    Eval,
}

/// Normalises the last dimension of `[..., c]`.
pub struct BatchNorm {
    scale: Tensor,
    shift: Tensor,
    /// Sums of decayed statistics, not yet corrected, `[c]` each.
    mean: Var,
    variance: Var,
    /// How many batches they have seen.
    steps: Var,
    /// How much of the averages a batch leaves.
    decay: f64,
}

impl BatchNorm {
    /// `decay` is the share of the moving averages that a batch leaves: 0.999 in Dai & Wipf's code,
    /// less for a training of few steps, whose averages would lag behind its weights.
    pub fn new(channels: usize, decay: f64, w: &Weights) -> Result<Self> {
        Ok(Self {
            scale: w.get(channels, "scale", Init::Ones)?,
            shift: w.get(channels, "shift", Init::Zeros)?,
            mean: w.buffer(channels, "moving_mean", Init::Zeros)?,
            variance: w.buffer(channels, "moving_variance", Init::Zeros)?,
            steps: w.buffer(1, "steps", Init::Zeros)?,
            decay,
        })
    }

    /// Normalises and applies `activation`, in one pass over memory.
    pub fn forward(&self, x: &Tensor, mode: Mode, activation: Activation) -> Result<Tensor> {
        match mode {
            Mode::Train => {
                let (y, mean, variance) =
                    channel::batch_norm(x, &self.scale, &self.shift, EPSILON, activation)?;
                self.observe(mean, variance)?;
                Ok(y)
            }
            Mode::Eval => {
                let (scale, shift) = self.frozen()?;
                Ok(channel::affine(x, &scale, &shift, activation)?)
            }
        }
    }

    /// What is learned: scale and shift, `[c]` each.
    pub fn parameters(&self) -> (&Tensor, &Tensor) {
        (&self.scale, &self.shift)
    }

    /// Moves the averages towards a batch's mean and population variance, f64 `[c]` each.
    pub fn observe(&self, mean: Tensor, variance: Tensor) -> Result<()> {
        self.follow(&self.mean, mean)?;
        self.follow(&self.variance, variance)?;
        Ok(self.steps.set(&(self.steps.as_tensor() + 1.0)?.detach())?)
    }

    /// `average = decay average + (1 - decay) value`.
    fn follow(&self, average: &Var, value: Tensor) -> Result<()> {
        let value = (value * (1.0 - self.decay))?.to_dtype(average.dtype())?;
        Ok(average.set(&((average.as_detached_tensor() * self.decay)? + value)?)?)
    }

    /// Scale and shift that stand for the moving averages; before any batch, mean 0, variance 1.
    fn frozen(&self) -> Result<(Tensor, Tensor)> {
        if self.steps.device().is_cuda() {
            return self.frozen_on_device();
        }
        let steps = self.steps.to_dtype(DType::F64)?.to_vec1::<f64>()?[0];
        if steps == 0.0 {
            let scale = (&self.scale / (1.0 + EPSILON).sqrt())?;
            return Ok((scale, self.shift.clone()));
        }
        let seen = 1.0 - self.decay.powf(steps);
        let mean = (self.mean.as_detached_tensor() / seen)?;
        let variance = (self.variance.as_detached_tensor() / seen)?;
        let scale = (&self.scale / (variance + EPSILON)?.sqrt()?)?;
        let shift = (&self.shift - (mean * &scale)?)?;
        Ok((scale, shift))
    }

    /// The same without asking the device how many batches there were, which would wait for all
    /// that it still has to do.
    fn frozen_on_device(&self) -> Result<(Tensor, Tensor)> {
        let steps = self.steps.as_detached_tensor();
        let none = steps.eq(0.0)?.to_dtype(steps.dtype())?;
        // 1 - decay^steps; 1 where there were none, so that nothing is divided by zero.
        let left = (steps * self.decay.ln())?.exp()?;
        let seen = ((1.0 - left)? + &none)?;
        let mean = self.mean.as_detached_tensor().broadcast_div(&seen)?;
        let variance = self.variance.as_detached_tensor().broadcast_div(&seen)?;
        let variance = variance.broadcast_add(&none)?;
        let scale = (&self.scale / (variance + EPSILON)?.sqrt()?)?;
        let shift = (&self.shift - (mean * &scale)?)?;
        Ok((scale, shift))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::noise::Noise;
    use super::*;

    /// After one batch the corrected averages are that batch's statistics, so both modes agree;
    /// after two they weigh both nearly alike.
    #[test]
    fn averages_are_corrected_for_their_start() -> Result<()> {
        let w = Weights::new(0, DType::F64, &Device::Cpu);
        let bn = BatchNorm::new(3, 0.999, &w)?;
        let draw = |step, offset: f64| -> Result<Tensor> {
            let x = Noise::new(0, "bn")
                .at(step)
                .normal((4, 5, 5, 3), DType::F64, &Device::Cpu)?;
            Ok((x + offset)?)
        };
        let x = draw(0, 2.0)?;
        let train = bn.forward(&x, Mode::Train, Activation::Relu)?;
        let eval = bn.forward(&x, Mode::Eval, Activation::Relu)?;
        assert!((train - eval)?.abs()?.max_all()?.to_scalar::<f64>()? < 1e-11);
        bn.forward(&draw(1, 4.0)?, Mode::Train, Activation::None)?;
        let (scale, shift) = bn.frozen()?;
        let (a, b) = bn.frozen_on_device()?;
        assert!((&a - &scale)?.abs()?.max_all()?.to_scalar::<f64>()? < 1e-9);
        assert!((&b - &shift)?.abs()?.max_all()?.to_scalar::<f64>()? < 1e-9);
        let means = (shift / scale)?.neg()?.to_vec1::<f64>()?;
        assert!(means.iter().all(|m| (m - 3.0).abs() < 0.3), "{means:?}");
        Ok(())
    }

    #[test]
    fn an_untrained_layer_is_nearly_the_identity() -> Result<()> {
        let w = Weights::new(0, DType::F64, &Device::Cpu);
        let x = Tensor::new(&[[1f64, -2.0]], &Device::Cpu)?;
        let bn = BatchNorm::new(2, 0.999, &w)?;
        let y = bn.forward(&x, Mode::Eval, Activation::None)?;
        assert!((y - x)?.abs()?.max_all()?.to_scalar::<f64>()? < 2e-5);
        let (ours, same) = (bn.frozen()?.0, bn.frozen_on_device()?.0);
        assert!((ours - same)?.abs()?.max_all()?.to_scalar::<f64>()? < 1e-12);
        Ok(())
    }
}
