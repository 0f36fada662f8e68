//! The residual block of Dai & Wipf's ResNet: twice batch norm, ReLU and a 3x3 convolution, plus a
//! 3x3 convolution of the input.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use candle_core::Tensor;

use super::batch_norm::{BatchNorm, EPSILON, Mode};
use super::channel::Activation;
use super::conv_layer::{Conv, Window};
use super::cpu::Real;
use super::cpu::residual::{Kept, Moments, Sizes, backward, forward};
use super::fused;
use super::init::Init;
use super::weights::Weights;

/// Keeps size and channels.
pub struct ResidualBlock {
    norms: [BatchNorm; 2],
    convs: [Conv; 2],
    shortcut: Conv,
}

impl ResidualBlock {
    pub fn new(width: usize, norm_decay: f64, init: Init, w: &Weights) -> Result<Self> {
        let conv = |name| Conv::new(Window::three(width, width), init, &w.pp(name));
        let norm = |name| BatchNorm::new(width, norm_decay, &w.pp(name));
        Ok(Self {
            norms: [norm("norm0")?, norm("norm1")?],
            convs: [conv("conv0")?, conv("conv1")?],
            shortcut: conv("shortcut")?,
        })
    }

    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        match mode {
            Mode::Train if x.device().is_cpu() => self.fused(x),
            _ => self.layered(x, mode),
        }
    }

    fn layered(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let mut h = x.clone();
        for (norm, conv) in self.norms.iter().zip(&self.convs) {
            h = conv.forward(&norm.forward(&h, mode, Activation::Relu)?)?;
        }
        Ok((h + self.shortcut.forward(x)?)?)
    }

    /// The same for training, as one operation.
    fn fused(&self, x: &Tensor) -> Result<Tensor> {
        let (n, h, w, c) = x.dims4()?;
        let mut parts = Vec::with_capacity(10);
        for (norm, conv) in self.norms.iter().zip(&self.convs) {
            let (gain, offset) = norm.parameters();
            parts.extend([gain.clone(), offset.clone()]);
            parts.extend([conv.weight().flatten_all()?, conv.bias().clone()]);
        }
        parts.push(self.shortcut.weight().flatten_all()?);
        parts.push(self.shortcut.bias().clone());
        let seen = Arc::new(Mutex::new(None));
        let block = Block {
            sizes: Sizes { n, h, w, c },
            seen: seen.clone(),
        };
        let y = fused::apply(block, x, &Tensor::cat(&parts, 0)?)?;
        let seen = seen.lock().unwrap_or_else(PoisonError::into_inner).take();
        for (norm, (mean, variance)) in self.norms.iter().zip(seen.into_iter().flatten()) {
            let vector = |values| Tensor::from_vec(values, c, x.device());
            norm.observe(vector(mean)?, vector(variance)?)?;
        }
        Ok(y)
    }
}

struct Block {
    sizes: Sizes,
    /// The statistics of the forward pass.
    seen: Arc<Mutex<Option<[Moments; 2]>>>,
}

impl fused::Block for Block {
    const NAME: &'static str = "residual-block";
    type Kept<T: Real> = Kept<T>;

    fn forward<T: Real>(&self, x: &[T], parameters: &[T], _: bool) -> (Vec<T>, Kept<T>) {
        let (y, kept, moments) = forward(&self.sizes, x, parameters, EPSILON);
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(moments);
        (y, kept)
    }

    fn backward<T: Real>(
        &self,
        x: &[T],
        parameters: &[T],
        kept: &Kept<T>,
        dy: &[T],
    ) -> (Vec<T>, Vec<T>) {
        backward(&self.sizes, x, parameters, kept, dy)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::super::bijector::check::disturb;
    use super::super::noise::Noise;
    use super::*;

    /// The one operation against its layers: values, all gradients, moving averages.
    #[test]
    fn the_fused_block_equals_its_layers() -> Result<()> {
        for (n, h, w, c) in [(2, 1, 1, 1), (3, 4, 5, 7), (2, 20, 17, 18), (9, 2, 2, 34)] {
            let store = Weights::new(0, DType::F64, &Device::Cpu);
            let block = ResidualBlock::new(c, 0.9, Init::HeNormal, &store)?;
            disturb(&store, 0.1)?;
            let draw = |step| {
                let mut noise = Noise::new(4, "residual").at(step);
                noise.normal((n, h, w, c), DType::F64, &Device::Cpu)
            };
            let (x, r) = (Var::from_tensor(&(draw(0)? + 3.0)?)?, draw(1)?);
            let start = |name: &str| Ok::<_, anyhow::Error>(store.all()[name].copy()?.detach());
            let buffers = ["norm0.moving_mean", "norm1.moving_variance", "norm1.steps"];
            for name in buffers {
                store.all()[name].set(&(start(name)? + 0.3)?)?;
            }
            let before: Vec<Tensor> = buffers.into_iter().map(start).collect::<Result<_>>()?;
            let fused = block.forward(&x, Mode::Train)?;
            let after: Vec<Tensor> = buffers.into_iter().map(start).collect::<Result<_>>()?;
            for (name, value) in buffers.iter().zip(&before) {
                store.all()[*name].set(value)?;
            }
            let plain = block.layered(&x, Mode::Train)?;
            let far = |a: &Tensor, b: &Tensor| -> Result<f64> {
                let size = 1.0 + b.abs()?.max_all()?.to_scalar::<f64>()?;
                Ok((a - b)?.abs()?.max_all()?.to_scalar::<f64>()? / size)
            };
            assert!(far(&fused, &plain)? < 1e-12);
            for (name, value) in buffers.into_iter().zip(&after) {
                assert!(far(value, &start(name)?)? < 1e-12, "{name}");
            }
            let ours = (fused * &r)?.sum_all()?.backward()?;
            let theirs = (plain * &r)?.sum_all()?.backward()?;
            let mut all = store.trained();
            all.push(("x".into(), x));
            for (name, var) in &all {
                let (Some(a), Some(b)) = (ours.get(var), theirs.get(var)) else {
                    panic!("no gradient of {name}");
                };
                let gap = far(a, b)?;
                assert!(gap < 1e-10, "{name} of {n} {h} {w} {c}: {gap:e}");
            }
        }
        Ok(())
    }
}
