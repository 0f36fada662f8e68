//! A convolution whose norm is bounded, as Residual Flow has it (Gouk et al. 2018; Chen et al. 2019,
//! section 3): its largest singular value is that of the linear map on images of its true size, zero
//! padding and all, and not that of the kernel as a matrix.

use anyhow::Result;
use candle_core::{DType, Tensor, Var};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::conv::{Padding, conv2d, conv2d_input_gradient, conv2d_kernel_gradient};
use super::init::Init;
use super::weights::Weights;

/// When a power iteration stops: once both singular vectors have moved by less than
/// `tolerance (1 + the largest entry)` a root of their length, or after `most` rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Power {
    pub tolerance: f64,
    /// Rounds, at most.
    pub most: usize,
}

/// Sizes of a layer: side of the kernel, channels in and out, height and width of its images.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub kernel: usize,
    pub input: usize,
    pub output: usize,
    pub image: (usize, usize),
}

/// A convolution at stride 1 that keeps the size of images; its bias is for what follows to add.
pub struct SpectralConv {
    size: Size,
    weight: Tensor, // [kernel, kernel, input, output]
    bias: Tensor,   // [output]
    /// Unit singular vectors, `[1, h, w, output]` and `[1, h, w, input]`; of one pixel where the kernel
    /// is, since then all pixels are alike.
    u: Var,
    v: Var,
}

impl SpectralConv {
    /// Weights and bias start uniform within `1 / sqrt(fan in)`.
    pub fn new(size: Size, w: &Weights) -> Result<Self> {
        let Size {
            kernel,
            input,
            output,
            ..
        } = size;
        let limit = 1.0 / ((kernel * kernel * input) as f64).sqrt();
        let init = Init::Uniform { limit };
        let (height, width) = if kernel == 1 { (1, 1) } else { size.image };
        let vector = Init::Normal { std: 1.0 };
        Ok(Self {
            size,
            weight: w.get((kernel, kernel, input, output), "weight", init)?,
            bias: w.get(output, "bias", init)?,
            u: w.buffer((1, height, width, output), "u", vector)?,
            v: w.buffer((1, height, width, input), "v", vector)?,
        })
    }

    pub fn bias(&self) -> &Tensor {
        &self.bias
    }

    /// Kernel and bias.
    pub fn trained(&self) -> [&Tensor; 2] {
        [&self.weight, &self.bias]
    }

    /// The kernel divided by `max(1, s / coefficient)`, s its largest singular value as the singular
    /// vectors have it. Gradients go through the division and stop at the vectors.
    pub fn kernel(&self, coefficient: f64) -> candle_core::Result<Tensor> {
        let s = self.norm()?;
        let over = ((s * (1.0 / coefficient))? - 1.0)?.relu()?;
        self.weight.broadcast_mul(&(over + 1.0)?.recip()?)
    }

    /// `u' W v`, a scalar: W enters linearly, with the correlation of v and u as its gradient.
    pub fn norm(&self) -> candle_core::Result<Tensor> {
        let (u, v) = (self.u.as_detached_tensor(), self.v.as_detached_tensor());
        let side = self.size.kernel;
        let slope = conv2d_kernel_gradient(&v, &u, (side, side), self.padding())?;
        (&self.weight * slope)?.sum_all()
    }

    /// One round: `u = W v / |W v|`, then `v = W' u / |W' u|`. How far both moved, as [`Power`] has it:
    /// over what is let through, for a tolerance of 1.
    fn round(&self) -> candle_core::Result<f64> {
        let w = self.weight.detach();
        let (old_u, old_v) = (self.u.as_detached_tensor(), self.v.as_detached_tensor());
        let (_, height, width, _) = old_v.dims4()?;
        let u = unit(&conv2d(&old_v, &w, 1, self.padding())?)?;
        let v = unit(&conv2d_input_gradient(
            &u,
            &w,
            (height, width),
            self.padding(),
        )?)?;
        let moved = |new: &Tensor, old: &Tensor| -> candle_core::Result<Tensor> {
            let root = (new.elem_count() as f64).sqrt();
            let far = ((new - old)?.sqr()?.sum_all()?.sqrt()? / root)?;
            far / (new.max_all()? + 1.0)?
        };
        let moved = Tensor::stack(&[moved(&u, &old_u)?, moved(&v, &old_v)?], 0)?;
        self.u.set(&u)?;
        self.v.set(&v)?;
        moved.max(0)?.to_dtype(DType::F64)?.to_scalar()
    }

    /// Rounds until they change little; how many.
    pub fn settle(&self, power: Power) -> candle_core::Result<usize> {
        for done in 1..=power.most {
            if self.round()? < power.tolerance {
                return Ok(done);
            }
        }
        Ok(power.most)
    }

    /// `W x`, without the bias.
    pub fn apply(&self, x: &Tensor, kernel: &Tensor) -> candle_core::Result<Tensor> {
        conv2d(x, kernel, 1, self.padding())
    }

    /// `W' s`: the transposed map. No gradient.
    pub fn transposed(&self, s: &Tensor, kernel: &Tensor) -> candle_core::Result<Tensor> {
        conv2d_input_gradient(s, kernel, self.size.image, self.padding())
    }

    fn padding(&self) -> Padding {
        Padding::same(self.size.kernel)
    }

    #[cfg(test)]
    pub fn u(&self) -> &Var {
        &self.u
    }

    #[cfg(test)]
    pub fn v(&self) -> &Var {
        &self.v
    }
}

fn unit(x: &Tensor) -> candle_core::Result<Tensor> {
    x.broadcast_div(&(x.sqr()?.sum_all()?.sqrt()? + 1e-12)?)
}
