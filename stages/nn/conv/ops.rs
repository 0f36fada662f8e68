//! The convolutions as candle operations: shapes, storages, gradients. The arithmetic is in
//! [`super::super::cpu`] and [`super::super::cuda`].

use candle_core::{
    CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, WithDType, bail,
};
#[cfg(feature = "cuda")]
use candle_core::{CudaStorage, backend::BackendStorage};

use super::super::channel;
use super::super::cpu::conv::{self as cpu, Geometry};
use super::super::cpu::{Real, slice};
#[cfg(feature = "cuda")]
use super::super::cuda::{conv_op, tensor::Made};

/// Which of a convolution's three maps of two operands.
#[derive(Clone, Copy, Debug)]
pub enum Map {
    /// `x, w -> y`.
    Forward,
    /// `y, w -> x`: the transposed convolution, and the gradient of x.
    Input,
    /// `x, y -> w`: the gradient of w.
    Kernel,
}

/// One map, with a bias or not, on contiguous tensors of one dtype.
#[derive(Clone, Copy, Debug)]
pub struct Conv {
    pub g: Geometry,
    pub map: Map,
}

type Stored<'a> = (&'a CpuStorage, &'a Layout);

impl Conv {
    fn name(&self) -> &'static str {
        match self.map {
            Map::Forward => "conv2d",
            Map::Input => "conv-transpose2d",
            Map::Kernel => "conv2d-kernel-gradient",
        }
    }

    pub fn shape(&self) -> Shape {
        let g = &self.g;
        match self.map {
            Map::Forward => (g.n, g.oh, g.ow, g.cout).into(),
            Map::Input => (g.n, g.h, g.w, g.cin).into(),
            Map::Kernel => (g.kh, g.kw, g.cin, g.cout).into(),
        }
    }

    /// A bias is one number for each channel of the result.
    pub fn check_bias(&self, bias: &Layout) -> Result<()> {
        let shape = self.shape();
        if shape.dims().last() != Some(&bias.shape().elem_count()) {
            bail!("{}: bias {:?} for {shape:?}", self.name(), bias.dims());
        }
        Ok(())
    }

    fn run<T: Real + WithDType>(
        &self,
        a: Stored,
        b: Stored,
        bias: Option<Stored>,
    ) -> Result<(CpuStorage, Shape)> {
        let (a, b) = (self.values::<T>(a)?, self.values::<T>(b)?);
        let bias = bias.map(|bias| self.values::<T>(bias)).transpose()?;
        let shape = self.shape();
        let mut out = vec![T::default(); shape.elem_count()];
        match self.map {
            Map::Forward => cpu::forward(&self.g, a, b, bias, &mut out),
            Map::Input => cpu::input_gradient(&self.g, a, b, bias, &mut out),
            Map::Kernel => cpu::kernel_gradient(&self.g, a, b, &mut out),
        }
        Ok((T::to_cpu_storage_owned(out), shape))
    }

    fn values<'a, T: Real + WithDType>(&self, (storage, layout): Stored<'a>) -> Result<&'a [T]> {
        slice(self.name(), storage.as_slice::<T>()?, layout)
    }

    fn on_cpu(&self, a: Stored, b: Stored, bias: Option<Stored>) -> Result<(CpuStorage, Shape)> {
        match a.0 {
            CpuStorage::F32(_) => self.run::<f32>(a, b, bias),
            CpuStorage::F64(_) => self.run::<f64>(a, b, bias),
            _ => bail!("{}: wants f32 or f64", self.name()),
        }
    }

    /// Gradients of both operands.
    fn gradients(
        &self,
        x: &Tensor,
        w: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let with = |map| Self { map, ..*self };
        // The transposed convolution's x is what the convolution would give.
        let (back, x_of_kernel, y_of_kernel) = match self.map {
            Map::Forward => (Map::Input, x, dy),
            Map::Input => (Map::Forward, dy, x),
            Map::Kernel => bail!("BUG: a gradient of a gradient"),
        };
        let dx = x.track_op().then(|| dy.apply_op2_no_bwd(w, &with(back)));
        let kernel = || x_of_kernel.apply_op2_no_bwd(y_of_kernel, &with(Map::Kernel));
        let dw = w.track_op().then(kernel);
        Ok((dx.transpose()?, dw.transpose()?))
    }
}

impl CustomOp2 for Conv {
    fn name(&self) -> &'static str {
        self.name()
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        al: &Layout,
        b: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.on_cpu((a, al), (b, bl), None)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, a: &CudaStorage, al: &Layout, b: &CudaStorage, bl: &Layout) -> Made {
        conv_op::run(self, a.dtype(), (a, al), (b, bl), None)
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        self.gradients(x, w, &dy.contiguous()?)
    }
}

impl CustomOp3 for Conv {
    fn name(&self) -> &'static str {
        self.name()
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        al: &Layout,
        b: &CpuStorage,
        bl: &Layout,
        bias: &CpuStorage,
        l: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.check_bias(l)?;
        self.on_cpu((a, al), (b, bl), Some((bias, l)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        a: &CudaStorage,
        al: &Layout,
        b: &CudaStorage,
        bl: &Layout,
        bias: &CudaStorage,
        l: &Layout,
    ) -> Made {
        self.check_bias(l)?;
        conv_op::run(self, a.dtype(), (a, al), (b, bl), Some((bias, l)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let (dx, dw) = self.gradients(x, w, &dy)?;
        let db = b.track_op().then(|| channel::sum(&dy));
        Ok((dx, dw, db.transpose()?))
    }
}
