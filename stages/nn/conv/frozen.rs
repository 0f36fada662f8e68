//! Convolutions of a network that is only used: bias and ReLU are part of the operation, weights
//! are made ready once, and branches write side by side into one result.

use candle_core::{CpuStorage, DType, Device, InplaceOp2, Layout, Result, Shape, Tensor, bail};

use super::super::cpu::conv::{Kernel, apply};
use super::super::cpu::micro::Finish;
use super::super::cpu::pack::padded;
use super::super::cpu::patches::Plain;
use super::super::cpu::slice;
use super::{Padding, conv2d, geometry};
#[cfg(feature = "cuda")]
use crate::nn::cuda::pool_op::bias_relu;

/// `relu(conv2d(x) + bias)` in f32.
pub struct FrozenConv {
    weight: Tensor,
    bias: Tensor,
    stride: usize,
    padding: Padding,
    /// On the CPU: the weights as the inner loops read them, and the bias.
    ready: Option<(Kernel<f32>, Vec<f32>)>,
}

impl FrozenConv {
    /// Makes it of a kernel `[kh, kw, cin, cout]` and a bias `[cout]` in f32.
    pub fn new(weight: Tensor, bias: Tensor, stride: usize, padding: Padding) -> Result<Self> {
        let mut ready = None;
        if weight.device().is_cpu() {
            let (kh, kw, cin, _) = weight.dims4()?;
            // Readiness depends on the kernel alone; any image that it fits will do.
            let image = Shape::from((1, kh, kw, cin));
            let g = geometry(&image, weight.shape(), 1, Padding::default())?;
            let values = weight.flatten_all()?.to_vec1::<f32>()?;
            let kernel = Kernel::forward(&g, &values);
            ready = Some((kernel, padded(&bias.to_vec1::<f32>()?)));
        }
        Ok(Self {
            weight,
            bias,
            stride,
            padding,
            ready,
        })
    }

    /// Channels of the result.
    pub fn channels(&self) -> Result<usize> {
        self.weight.dim(3)
    }

    /// Shape of the result.
    pub fn shape(&self, x: &Tensor) -> Result<[usize; 4]> {
        let g = geometry(x.shape(), self.weight.shape(), self.stride, self.padding)?;
        Ok([g.n, g.oh, g.ow, g.cout])
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if self.ready.is_none() {
            let y = conv2d(x, &self.weight, self.stride, self.padding)?;
            #[cfg(feature = "cuda")]
            if y.device().is_cuda() {
                bias_relu(&y, &self.bias)?;
                return Ok(y);
            }
            return y.broadcast_add(&self.bias)?.relu();
        }
        let y = Tensor::zeros(&self.shape(x)?, DType::F32, &Device::Cpu)?;
        self.write(x, &y, 0)?;
        Ok(y)
    }

    /// On the CPU: writes the result into `y`, which must be nobody else's, from channel `first`
    /// on.
    pub fn write(&self, x: &Tensor, y: &Tensor, first: usize) -> Result<()> {
        let op = Write { conv: self, first };
        y.inplace_op2(&x.contiguous()?, &op)
    }
}

struct Write<'a> {
    conv: &'a FrozenConv,
    first: usize,
}

impl InplaceOp2 for Write<'_> {
    fn name(&self) -> &'static str {
        "frozen-conv"
    }

    fn cpu_fwd(&self, y: &mut CpuStorage, yl: &Layout, x: &CpuStorage, xl: &Layout) -> Result<()> {
        let name = self.name();
        let conv = self.conv;
        let (CpuStorage::F32(x), CpuStorage::F32(y), Some((kernel, bias))) = (x, y, &conv.ready)
        else {
            bail!("{name}: wants f32 tensors and weights on the CPU")
        };
        let g = geometry(xl.shape(), conv.weight.shape(), conv.stride, conv.padding)?;
        let (n, oh, ow, channels) = yl.shape().dims4()?;
        let Some((from, to)) = yl.contiguous_offsets() else {
            bail!("{name}: wants contiguous tensors")
        };
        if (n, oh, ow) != (g.n, g.oh, g.ow) || self.first + g.cout > channels {
            bail!("{name}: {g:?} into {:?} at {}", yl.dims(), self.first);
        }
        let window = g.window();
        let source = Plain::new(slice(name, x, xl)?, &window);
        let finish = Finish {
            shift: Some(bias),
            slope: 0.0,
            ..Finish::plain()
        };
        let into = (self.first, channels);
        apply(&window, &source, kernel, into, &finish, &mut y[from..to]);
        Ok(())
    }
}
