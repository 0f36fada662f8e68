//! Convolutions on a GPU as candle's operations, with gradients.

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail,
};

use super::channel_op::sum;
use super::conv;
use super::gpu::at;
use super::machine::Geometry;
use super::tensor::{Made, Number, by_dtype, make, no_cpu};

#[derive(Clone, Copy, Debug)]
enum Map {
    Forward,
    Input,
    Kernel,
}

/// One of a convolution's linear maps, of two operands, with a bias or not.
#[derive(Clone, Copy, Debug)]
struct Conv {
    g: Geometry,
    map: Map,
}

impl Conv {
    fn shape(&self) -> Shape {
        let g = &self.g;
        match self.map {
            Map::Forward => (g.n, g.oh, g.ow, g.cout).into(),
            Map::Input => (g.n, g.h, g.w, g.cin).into(),
            Map::Kernel => (g.kh, g.kw, g.cin, g.cout).into(),
        }
    }

    fn apply<T: Number>(
        &self,
        (a, al): (&CudaStorage, &Layout),
        (b, bl): (&CudaStorage, &Layout),
        bias: Option<(&CudaStorage, &Layout)>,
    ) -> Made {
        let (name, shape) = ("conv2d", self.shape());
        let (x, y) = (at::<T>(name, a, al)?, at::<T>(name, b, bl)?);
        let bias = bias.map(|(s, l)| {
            if shape.dims().last() != Some(&l.shape().elem_count()) {
                bail!("{name}: bias {:?} for {shape:?}", l.dims());
            }
            at::<T>(name, s, l)
        });
        let bias = bias.transpose()?;
        make(&a.device, shape, |m, out| match self.map {
            Map::Forward => conv::forward(m, &self.g, x, y, bias, out),
            Map::Input => conv::input_gradient(m, &self.g, x, y, bias, out),
            Map::Kernel => conv::kernel_gradient(m, &self.g, x, y, out),
        })
    }

    fn with(&self, map: Map) -> Self {
        Self { map, ..*self }
    }

    /// Gradients of both operands. `Forward` is (x, w) to y, `Input` is (y, w) to x.
    fn gradients(
        &self,
        x: &Tensor,
        w: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let back = match self.map {
            Map::Forward => Map::Input,
            Map::Input => Map::Forward,
            Map::Kernel => bail!("BUG: a gradient of a gradient"),
        };
        let dx = (x.track_op()).then(|| dy.apply_op2_no_bwd(w, &self.with(back)));
        let dw = w.track_op().then(|| match self.map {
            Map::Forward => x.apply_op2_no_bwd(dy, &self.with(Map::Kernel)),
            _ => dy.apply_op2_no_bwd(x, &self.with(Map::Kernel)),
        });
        Ok((dx.transpose()?, dw.transpose()?))
    }
}

impl CustomOp2 for Conv {
    fn name(&self) -> &'static str {
        "conv2d"
    }
    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        no_cpu("conv2d")
    }
    fn cuda_fwd(&self, a: &CudaStorage, al: &Layout, b: &CudaStorage, bl: &Layout) -> Made {
        by_dtype!("conv2d", a.dtype(), [self.apply]::<T>((a, al), (b, bl), None))
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
        "conv2d-bias"
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
        no_cpu("conv2d-bias")
    }
    fn cuda_fwd(
        &self,
        a: &CudaStorage,
        al: &Layout,
        b: &CudaStorage,
        bl: &Layout,
        c: &CudaStorage,
        cl: &Layout,
    ) -> Made {
        by_dtype!("conv2d", a.dtype(), [self.apply]::<T>((a, al), (b, bl), Some((c, cl))))
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
        let db = b.track_op().then(|| sum(&dy)).transpose()?;
        Ok((dx, dw, db))
    }
}

fn convolve(op: Conv, x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (x, w) = (x.contiguous()?, w.contiguous()?);
    match bias {
        Some(bias) => x.apply_op3(&w, &bias.contiguous()?, op),
        None => x.apply_op2(&w, op),
    }
}

/// `y = x * w`, plus the bias, if any.
pub fn conv2d(g: Geometry, x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let map = Map::Forward;
    convolve(Conv { g, map }, x, w, bias)
}

/// The transposed map of `g`, with `w` as that convolution has it.
pub fn conv_transpose2d(
    g: Geometry,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let map = Map::Input;
    convolve(Conv { g, map }, x, w, bias)
}
