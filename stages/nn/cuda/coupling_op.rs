//! The additive coupling on a GPU as candle's operation, with gradients. Nothing is kept for them but
//! the images themselves.

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail,
};

use super::coupling::{Coupling, Sizes};
use super::coupling_parameters::Layers;
use super::gpu::{Gpu, at};
use super::machine::Machine;
use super::tensor::{Made, Number, by_dtype, gpu_of, make, no_cpu, of, tensor};

const NAME: &str = "additive-coupling";

struct Additive {
    sizes: Sizes,
    tf32: bool,
}

impl Additive {
    fn on<T: Number>(&self, m: &Gpu) -> Result<Coupling> {
        match Coupling::new::<_, T>(m, self.sizes, self.tf32)? {
            Some(coupling) => Ok(coupling),
            None => bail!("BUG: {NAME}: {:?} does not fit this GPU", self.sizes),
        }
    }

    fn forward<T: Number>(&self, [x, parameters]: [(&CudaStorage, &Layout); 2]) -> Made {
        let from = at::<T>(NAME, x.0, x.1)?;
        let parameters = at::<T>(NAME, parameters.0, parameters.1)?;
        make(&x.0.device, x.1.shape().clone(), |m, out| {
            self.on::<T>(m)?.forward(m, from, parameters, out)
        })
    }

    fn backward<T: Number>(
        &self,
        x: &Tensor,
        parameters: &Tensor,
        dy: &Tensor,
    ) -> Result<[Tensor; 2]> {
        let device = gpu_of(x)?;
        let m = Gpu(&device);
        let (dx, gradient) = (
            m.alloc::<T>(x.elem_count())?,
            m.alloc::<T>(parameters.elem_count())?,
        );
        let from = [of::<T>(NAME, x)?, of(NAME, parameters)?, of(NAME, dy)?];
        let coupling = self.on::<T>(&m)?;
        coupling.backward(&m, from, m.at(&dx), m.at(&gradient))?;
        let wrap = |slice, of: &Tensor| {
            let storage = CudaStorage::wrap_cuda_slice(slice, device.clone());
            tensor((storage, of.shape().clone()))
        };
        Ok([wrap(dx, x), wrap(gradient, parameters)])
    }
}

impl CustomOp2 for Additive {
    fn name(&self) -> &'static str {
        NAME
    }
    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        no_cpu(NAME)
    }
    fn cuda_fwd(&self, x: &CudaStorage, xl: &Layout, p: &CudaStorage, pl: &Layout) -> Made {
        by_dtype!(NAME, x.dtype(), [self.forward]::<T>([(x, xl), (p, pl)]))
    }
    fn bwd(
        &self,
        x: &Tensor,
        parameters: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let [dx, gradient] = by_dtype!(NAME, x.dtype(), [self.backward]::<T>(x, parameters, &dy))?;
        let wanted = |of: &Tensor, grad| of.track_op().then_some(grad);
        Ok((wanted(x, dx), wanted(parameters, gradient)))
    }
}

/// Whether these sizes are for the kernels, on the device of `x`.
pub fn fits(x: &Tensor, sizes: Sizes) -> Result<bool> {
    fn run<T: Number>(x: &Tensor, sizes: Sizes) -> Result<bool> {
        let device = gpu_of(x)?;
        Ok(Coupling::new::<_, T>(&Gpu(&device), sizes, false)?.is_some())
    }
    by_dtype!(NAME, x.dtype(), run::<T>(x, sizes))
}

/// `x + [0, f(x1)]`; with `tf32` factors of f32 are rounded to ten bits.
pub fn additive(x: &Tensor, parameters: &Tensor, sizes: Sizes, tf32: bool) -> Result<Tensor> {
    let op = Additive { sizes, tf32 };
    x.contiguous()?.apply_op2(&parameters.contiguous()?, op)
}

/// A coupling's parameters from its trained values.
struct Affines(Layers);

impl Affines {
    const NAME: &'static str = "coupling-parameters";

    fn forward<T: Number>(&self, trained: &CudaStorage, layout: &Layout) -> Made {
        let from = at::<T>(Self::NAME, trained, layout)?;
        if layout.shape().elem_count() != self.0.len() {
            bail!("BUG: {}: {:?} values", Self::NAME, layout.dims());
        }
        make(&trained.device, layout.shape().clone(), |m, out| {
            self.0.forward(m, from, out)
        })
    }

    fn backward<T: Number>(&self, trained: &Tensor, gradient: &Tensor) -> Result<Tensor> {
        let from = of::<T>(Self::NAME, trained)?;
        let gradient = of::<T>(Self::NAME, gradient)?;
        let made = make(&gpu_of(trained)?, trained.shape().clone(), |m, out| {
            self.0.backward(m, from, gradient, out)
        })?;
        Ok(tensor(made))
    }
}

impl CustomOp1 for Affines {
    fn name(&self) -> &'static str {
        Self::NAME
    }
    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        no_cpu(Self::NAME)
    }
    fn cuda_fwd(&self, x: &CudaStorage, l: &Layout) -> Made {
        by_dtype!(Self::NAME, x.dtype(), [self.forward]::<T>(x, l))
    }
    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        Ok(Some(by_dtype!(
            Self::NAME,
            x.dtype(),
            [self.backward]::<T>(x, &dy)
        )?))
    }
}

/// Kernel, bias and log-scale of each layer, end to end, to kernel, scale and shift.
pub fn parameters(trained: &Tensor, layers: Layers) -> Result<Tensor> {
    trained.contiguous()?.apply_op1(Affines(layers))
}
