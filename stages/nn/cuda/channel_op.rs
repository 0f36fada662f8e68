//! Operations on channels as candle's, with gradients.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::channel::{self, Gradients, Norm};
use super::gpu::{Gpu, at};
use super::machine::Machine;
use super::tensor::{Made, Number, by_dtype, gpu_of, make, no_cpu, of, size, tensor};

/// Sum over all but the last dimension, `[c]`.
pub fn sum(x: &Tensor) -> Result<Tensor> {
    fn run<T: Number>(x: &Tensor) -> Result<Tensor> {
        let (size, from) = (size(x.dims()), of::<T>("channel-sum", x)?);
        let made = make(&gpu_of(x)?, size.channels.into(), |m, out| {
            channel::sum(m, size, from, out)
        })?;
        Ok(tensor(made))
    }
    let x = x.contiguous()?;
    by_dtype!("channel-sum", x.dtype(), run::<T>(&x))
}

/// `activation(x scale + shift)`, the batch's statistics normalising x first, if given.
struct Affine {
    norm: Option<(Tensor, Tensor, f64)>,
    slope: f64,
}

impl Affine {
    const NAME: &'static str = "channel-affine";

    fn norm(&self) -> Result<Option<Norm>> {
        let Some((mean, variance, epsilon)) = &self.norm else {
            return Ok(None);
        };
        Ok(Some(Norm {
            mean: of(Self::NAME, mean)?,
            variance: of(Self::NAME, variance)?,
            epsilon: *epsilon,
        }))
    }

    fn forward<T: Number>(&self, [x, scale, shift]: [(&CudaStorage, &Layout); 3]) -> Made {
        let (size, name) = (size(x.1.dims()), Self::NAME);
        let lengths = [scale, shift].map(|v| v.1.shape().elem_count());
        if lengths != [size.channels; 2] {
            bail!("{name}: {lengths:?} scales and shifts for {:?}", x.1.dims());
        }
        let norm = self.norm()?;
        let from = [
            at::<T>(name, x.0, x.1)?,
            at(name, scale.0, scale.1)?,
            at(name, shift.0, shift.1)?,
        ];
        make(&x.0.device, x.1.shape().clone(), |m, out| match norm {
            Some(norm) => channel::normalise(m, size, norm, from, self.slope, out),
            None => channel::affine(m, size, from, self.slope, out),
        })
    }

    fn backward<T: Number>(
        &self,
        x: &Tensor,
        scale: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> Result<[Tensor; 3]> {
        let (device, name) = (gpu_of(x)?, Self::NAME);
        let m = Gpu(&device);
        let size = size(x.dims());
        let (dx, c) = (m.alloc::<T>(size.len())?, size.channels);
        let (dscale, dshift) = (m.alloc::<T>(c)?, m.alloc::<T>(c)?);
        let to = Gradients {
            x: m.at(&dx),
            scale: m.at(&dscale),
            shift: m.at(&dshift),
        };
        let from = [of(name, x)?, of(name, scale)?, of(name, y)?, of(name, dy)?];
        channel::backward(&m, size, self.norm()?, from, self.slope, to)?;
        let wrap = |slice, shape: &Shape| {
            tensor((
                CudaStorage::wrap_cuda_slice(slice, device.clone()),
                shape.clone(),
            ))
        };
        Ok([
            wrap(dx, x.shape()),
            wrap(dscale, scale.shape()),
            wrap(dshift, scale.shape()),
        ])
    }
}

impl CustomOp3 for Affine {
    fn name(&self) -> &'static str {
        Self::NAME
    }
    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        no_cpu(Self::NAME)
    }
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        xl: &Layout,
        scale: &CudaStorage,
        sl: &Layout,
        shift: &CudaStorage,
        tl: &Layout,
    ) -> Made {
        let from = [(x, xl), (scale, sl), (shift, tl)];
        by_dtype!(Self::NAME, x.dtype(), [self.forward]::<T>(from))
    }
    fn bwd(
        &self,
        x: &Tensor,
        scale: &Tensor,
        shift: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let [dx, dscale, dshift] =
            by_dtype!(Self::NAME, x.dtype(), [self.backward]::<T>(x, scale, y, &dy))?;
        let wanted = |of: &Tensor, grad| of.track_op().then_some(grad);
        Ok((wanted(x, dx), wanted(scale, dscale), wanted(shift, dshift)))
    }
}

/// `activation(x scale + shift)`; the activation multiplies negative values by `slope`.
pub fn affine(x: &Tensor, scale: &Tensor, shift: &Tensor, slope: f64) -> Result<Tensor> {
    let op = Affine { norm: None, slope };
    x.contiguous()?
        .apply_op3(&scale.contiguous()?, &shift.contiguous()?, op)
}

/// Normalised by its own statistics first; those come too, mean and population variance, f64 `[c]`.
pub fn batch_norm(
    x: &Tensor,
    scale: &Tensor,
    shift: &Tensor,
    epsilon: f64,
    slope: f64,
) -> Result<(Tensor, Tensor, Tensor)> {
    fn moments<T: Number>(x: &Tensor) -> Result<[Tensor; 2]> {
        let (device, size) = (gpu_of(x)?, size(x.dims()));
        let m = Gpu(&device);
        let (mean, variance) = (
            m.alloc::<f64>(size.channels)?,
            m.alloc::<f64>(size.channels)?,
        );
        let from = of::<T>("batch-norm", x)?;
        channel::moments(&m, size, from, m.at(&mean), m.at(&variance))?;
        let wrap = |slice| {
            let storage = CudaStorage::wrap_cuda_slice(slice, device.clone());
            tensor((storage, size.channels.into()))
        };
        Ok([wrap(mean), wrap(variance)])
    }
    let x = x.contiguous()?;
    let [mean, variance] = by_dtype!("batch-norm", x.dtype(), moments::<T>(&x))?;
    let norm = Some((mean.clone(), variance.clone(), epsilon));
    let op = Affine { norm, slope };
    let y = x.apply_op3(&scale.contiguous()?, &shift.contiguous()?, op)?;
    Ok((y, mean, variance))
}
