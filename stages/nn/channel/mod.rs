//! Operations that treat every channel (last dimension) alike, fused so that each map is read and
//! written once: bias, scale and shift, batch normalisation, all with the activation that follows.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, WithDType, bail};

use super::cpu::channel::{Affine, moments, totals};
use super::cpu::{Real, slice};
#[cfg(feature = "cuda")]
use super::cuda::channel_op;

/// What follows the affine part. Its sign is that of its argument, so the result alone tells the
/// slope.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    None,
    Relu,
    /// Negative values times this.
    Leaky(f64),
}

impl Activation {
    fn slope(self) -> f64 {
        match self {
            Self::None => 1.0,
            Self::Relu => 0.0,
            Self::Leaky(slope) => slope,
        }
    }
}

/// `activation(x scale + shift)` with `[c]` vectors on `[..., c]`.
pub fn affine(
    x: &Tensor,
    scale: &Tensor,
    shift: &Tensor,
    activation: Activation,
) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return channel_op::affine(x, scale, shift, activation.slope());
    }
    let op = Affine {
        normalise: None,
        slope: activation.slope(),
    };
    x.contiguous()?.apply_op3(scale, shift, op)
}

/// `activation((x - mean) / sqrt(variance + epsilon) scale + shift)` with the batch's own
/// statistics over all but the last dimension, and these: mean and population variance, f64 `[c]`.
pub fn batch_norm(
    x: &Tensor,
    scale: &Tensor,
    shift: &Tensor,
    epsilon: f64,
    activation: Activation,
) -> Result<(Tensor, Tensor, Tensor)> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return channel_op::batch_norm(x, scale, shift, epsilon, activation.slope());
    }
    let x = x.contiguous()?;
    let channels = x.dims()[x.rank() - 1];
    let (mean, variance) = {
        let (storage, layout) = x.storage_and_layout();
        match &*storage {
            candle_core::Storage::Cpu(CpuStorage::F32(v)) => {
                moments(slice("bn", v, layout)?, channels)
            }
            candle_core::Storage::Cpu(CpuStorage::F64(v)) => {
                moments(slice("bn", v, layout)?, channels)
            }
            _ => bail!("batch-norm: wants f32 or f64 on the CPU"),
        }
    };
    let deviation = variance.iter().map(|v| (v + epsilon).sqrt()).collect();
    let normalise = Some((mean.clone(), deviation));
    let y = x.apply_op3(
        scale,
        shift,
        Affine {
            normalise,
            slope: activation.slope(),
        },
    )?;
    let vector = |values| Tensor::from_vec(values, channels, &candle_core::Device::Cpu);
    Ok((y, vector(mean)?, vector(variance)?))
}

/// Sum over all but the last dimension, `[c]`, in f64 and a fixed order.
pub fn sum(x: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return channel_op::sum(x);
    }
    let channels = x.dims()[x.rank() - 1];
    let (storage, layout) = x.storage_and_layout();
    match &*storage {
        candle_core::Storage::Cpu(CpuStorage::F32(v)) => total(slice("sum", v, layout)?, channels),
        candle_core::Storage::Cpu(CpuStorage::F64(v)) => total(slice("sum", v, layout)?, channels),
        _ => bail!("channel-sum: wants f32 or f64 on the CPU"),
    }
}

fn total<T: Real + WithDType>(x: &[T], channels: usize) -> Result<Tensor> {
    Tensor::from_vec(totals(x, channels), channels, &candle_core::Device::Cpu)
}

impl CustomOp3 for Affine {
    fn name(&self) -> &'static str {
        "channel-affine"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        a: &CpuStorage,
        al: &Layout,
        b: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let name = self.name();
        let (c, dims) = (al.shape().elem_count(), xl.dims());
        if dims.last() != Some(&c) || bl.shape().elem_count() != c {
            bail!("{name}: {c} scales and {:?} shifts for {dims:?}", bl.dims());
        }
        let y = match (x, a, b) {
            (CpuStorage::F32(x), CpuStorage::F32(a), CpuStorage::F32(b)) => {
                CpuStorage::F32(self.forward(
                    slice(name, x, xl)?,
                    slice(name, a, al)?,
                    slice(name, b, bl)?,
                ))
            }
            (CpuStorage::F64(x), CpuStorage::F64(a), CpuStorage::F64(b)) => {
                CpuStorage::F64(self.forward(
                    slice(name, x, xl)?,
                    slice(name, a, al)?,
                    slice(name, b, bl)?,
                ))
            }
            _ => bail!("{name}: wants three f32 or three f64 tensors"),
        };
        Ok((y, xl.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        scale: &Tensor,
        shift: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let name = self.name();
        let dy = dy.contiguous()?;
        let (xs, xl) = x.storage_and_layout();
        let (ss, sl) = scale.storage_and_layout();
        let (ys, yl) = y.storage_and_layout();
        let (ds, dl) = dy.storage_and_layout();
        use candle_core::Storage::Cpu;
        macro_rules! dispatch {
            ($($kind:ident),*) => {
                match (&*xs, &*ss, &*ys, &*ds) {
                    $((
                        Cpu(CpuStorage::$kind(x)), Cpu(CpuStorage::$kind(s)),
                        Cpu(CpuStorage::$kind(y)), Cpu(CpuStorage::$kind(d)),
                    ) => {
                        let (dx, dscale, dshift) = self.backward(
                            slice(name, x, xl)?, slice(name, s, sl)?,
                            slice(name, y, yl)?, slice(name, d, dl)?,
                        );
                        let device = candle_core::Device::Cpu;
                        (
                            Tensor::from_vec(dx, xl.shape().clone(), &device)?,
                            Tensor::from_vec(dscale, scale.shape().clone(), &device)?,
                            Tensor::from_vec(dshift, shift.shape().clone(), &device)?,
                        )
                    })*
                    _ => bail!("{name}: wants f32 or f64 on the CPU"),
                }
            };
        }
        let (dx, dscale, dshift) = dispatch!(F32, F64);
        let wanted = |of: &Tensor, grad| of.track_op().then_some(grad);
        Ok((wanted(x, dx), wanted(scale, dscale), wanted(shift, dshift)))
    }
}

#[cfg(test)]
mod tests;
