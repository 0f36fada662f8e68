//! What PixelCNN adds to convolutions, as candle's operations on a GPU.

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail,
};

use super::gpu::at;
use super::pixel;
use super::tensor::{Made, Number, by_dtype, gpu_of, make, no_cpu, of, size, tensor};

struct Gate;

impl Gate {
    fn forward<T: Number>(&self, x: &CudaStorage, layout: &Layout) -> Made {
        let mut dims = layout.dims().to_vec();
        let both = size(&dims);
        if both.channels % 2 == 1 {
            bail!("gate: {dims:?} has no two halves");
        }
        if let Some(last) = dims.last_mut() {
            *last /= 2;
        }
        let from = at::<T>("gate", x, layout)?;
        make(&x.device, dims.into(), |m, y| {
            pixel::gate(m, [both.rows, both.channels / 2], from, y)
        })
    }

    fn backward<T: Number>(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let both = size(x.dims());
        let from = [of::<T>("gate", x)?, of("gate", dy)?];
        let made = make(&gpu_of(x)?, x.shape().clone(), |m, dx| {
            pixel::gate_gradient(m, [both.rows, both.channels / 2], from, dx)
        })?;
        Ok(tensor(made))
    }
}

impl CustomOp1 for Gate {
    fn name(&self) -> &'static str {
        "gate"
    }
    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        no_cpu("gate")
    }
    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Made {
        by_dtype!("gate", x.dtype(), [self.forward]::<T>(x, layout))
    }
    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let dx = by_dtype!("gate", x.dtype(), [self.backward]::<T>(x, &dy))?;
        Ok(Some(dx))
    }
}

/// `tanh(t) sigmoid(s)`, t and s the halves of the last dimension.
pub fn gate(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Gate)
}

struct Bits;

impl Bits {
    fn forward<T: Number>(&self, x: (&CudaStorage, &Layout), v: (&CudaStorage, &Layout)) -> Made {
        let rows = size(x.1.dims());
        if Some((&rows.channels, v.1.dims())) != x.1.dims().split_last() {
            bail!("bits: logits {:?} for values {:?}", x.1.dims(), v.1.dims());
        }
        let from = [at::<T>("bits", x.0, x.1)?, at("bits", v.0, v.1)?];
        make(&x.0.device, v.1.shape().clone(), |m, y| {
            pixel::bits(m, [rows.rows, rows.channels], from, y)
        })
    }

    fn backward<T: Number>(&self, x: &Tensor, v: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let rows = size(x.dims());
        let from = [of::<T>("bits", x)?, of("bits", v)?, of("bits", dy)?];
        let made = make(&gpu_of(x)?, x.shape().clone(), |m, dx| {
            pixel::bits_gradient(m, [rows.rows, rows.channels], from, dx)
        })?;
        Ok(tensor(made))
    }
}

impl CustomOp2 for Bits {
    fn name(&self) -> &'static str {
        "bits"
    }
    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        no_cpu("bits")
    }
    fn cuda_fwd(&self, x: &CudaStorage, xl: &Layout, v: &CudaStorage, vl: &Layout) -> Made {
        by_dtype!("bits", x.dtype(), [self.forward]::<T>((x, xl), (v, vl)))
    }
    fn bwd(
        &self,
        x: &Tensor,
        v: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let dx = by_dtype!("bits", x.dtype(), [self.backward]::<T>(x, v, &dy))?;
        Ok((Some(dx), None))
    }
}

/// `-log2 softmax(logits)[value]`; values get no gradient.
pub fn bits(logits: &Tensor, values: &Tensor) -> Result<Tensor> {
    logits
        .contiguous()?
        .apply_op2(&values.detach().contiguous()?, Bits)
}
