//! Two-dimensional convolution and its transpose as operations of candle's autograd: images
//! `[n, h, w, c]`, kernels `[kh, kw, cin, cout]`, padding given for each side.

use candle_core::{Result, Shape, Tensor, bail};

use super::cpu::conv::Geometry;
use ops::{Conv, Map};

pub mod frozen;
pub mod ops;
#[cfg(test)]
mod tests;

/// Zeros around an image, or what a transposed convolution cuts off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Padding {
    pub top: usize,
    pub bottom: usize,
    pub left: usize,
    pub right: usize,
}

impl Padding {
    pub const fn new(top: usize, bottom: usize, left: usize, right: usize) -> Self {
        Self {
            top,
            bottom,
            left,
            right,
        }
    }

    /// The same on all sides.
    pub const fn all(p: usize) -> Self {
        Self::new(p, p, p, p)
    }

    /// Keeps the size at stride 1 for an odd kernel.
    pub const fn same(kernel: usize) -> Self {
        Self::all(kernel / 2)
    }

    /// TensorFlow's "same": output `ceil(size / stride)`, the odd zero at bottom and right.
    pub fn tensorflow((h, w): (usize, usize), kernel: usize, stride: usize) -> Self {
        let total =
            |size: usize| ((size.div_ceil(stride) - 1) * stride + kernel).saturating_sub(size);
        let (v, u) = (total(h), total(w));
        Self::new(v / 2, v - v / 2, u / 2, u - u / 2)
    }
}

/// Cross-correlation `y[i] = sum_k x[stride i + k - padding] w[k]`, as every framework calls it.
pub fn conv2d(x: &Tensor, w: &Tensor, stride: usize, padding: Padding) -> Result<Tensor> {
    let g = geometry(x.shape(), w.shape(), stride, padding)?;
    let map = Map::Forward;
    x.contiguous()?.apply_op2(&w.contiguous()?, Conv { g, map })
}

/// [`conv2d`] plus a bias `[cout]`.
pub fn conv2d_bias(
    x: &Tensor,
    w: &Tensor,
    bias: &Tensor,
    stride: usize,
    padding: Padding,
) -> Result<Tensor> {
    let g = geometry(x.shape(), w.shape(), stride, padding)?;
    let map = Map::Forward;
    x.contiguous()?
        .apply_op3(&w.contiguous()?, &bias.contiguous()?, Conv { g, map })
}

/// The gradient of [`conv2d`]'s images `[n, h, w, cin]` from that of its result, at stride 1. It has no
/// gradient itself.
pub fn conv2d_input_gradient(
    dy: &Tensor,
    w: &Tensor,
    (height, width): (usize, usize),
    padding: Padding,
) -> Result<Tensor> {
    let x = Shape::from((dy.dim(0)?, height, width, w.dim(2)?));
    let g = geometry(&x, w.shape(), 1, padding)?;
    if dy.dims() != [g.n, g.oh, g.ow, g.cout] {
        bail!("conv2d: {:?} is no gradient of {g:?}", dy.dims());
    }
    let map = Map::Input;
    dy.contiguous()?
        .apply_op2_no_bwd(&w.contiguous()?, &Conv { g, map })
}

/// The gradient of [`conv2d`]'s kernel, of `size` (height, width), from that of its result, at stride 1.
/// It has no gradient itself.
pub fn conv2d_kernel_gradient(
    x: &Tensor,
    dy: &Tensor,
    (kh, kw): (usize, usize),
    padding: Padding,
) -> Result<Tensor> {
    let w = Shape::from((kh, kw, x.dim(3)?, dy.dim(3)?));
    let g = geometry(x.shape(), &w, 1, padding)?;
    if dy.dims() != [g.n, g.oh, g.ow, g.cout] {
        bail!("conv2d: {:?} is no gradient of {g:?}", dy.dims());
    }
    let map = Map::Kernel;
    x.contiguous()?
        .apply_op2_no_bwd(&dy.contiguous()?, &Conv { g, map })
}

/// The transpose of [`conv2d`] as a linear map: `y[stride i + k - crop] += x[i] w[k]`, of size
/// `(h - 1) stride + kh - crop`.
#[cfg(test)]
pub fn conv_transpose2d(x: &Tensor, w: &Tensor, stride: usize, crop: Padding) -> Result<Tensor> {
    let g = transposed_geometry(x, w, stride, crop)?;
    let map = Map::Input;
    x.contiguous()?
        .apply_op2(&w.transpose(2, 3)?.contiguous()?, Conv { g, map })
}

/// [`conv_transpose2d`] plus a bias `[cout]`.
pub fn conv_transpose2d_bias(
    x: &Tensor,
    w: &Tensor,
    bias: &Tensor,
    stride: usize,
    crop: Padding,
) -> Result<Tensor> {
    let g = transposed_geometry(x, w, stride, crop)?;
    let turned = w.transpose(2, 3)?.contiguous()?;
    let map = Map::Input;
    x.contiguous()?
        .apply_op3(&turned, &bias.contiguous()?, Conv { g, map })
}

fn geometry(x: &Shape, w: &Shape, stride: usize, padding: Padding) -> Result<Geometry> {
    let (n, h, width, cin) = x.dims4()?;
    let (kh, kw, kernel_in, cout) = w.dims4()?;
    let (ph, pw) = (
        h + padding.top + padding.bottom,
        width + padding.left + padding.right,
    );
    if kernel_in != cin || ph < kh || pw < kw {
        bail!(
            "conv2d: kernel {:?} does not fit image {:?}, {padding:?}",
            w.dims(),
            x.dims()
        );
    }
    let (oh, ow) = ((ph - kh) / stride + 1, (pw - kw) / stride + 1);
    let (top, left) = (padding.top, padding.left);
    Ok(Geometry {
        n,
        h,
        w: width,
        cin,
        kh,
        kw,
        cout,
        stride,
        top,
        left,
        oh,
        ow,
    })
}

/// The geometry of the convolution from y to x: the transposed convolution is its input gradient.
fn transposed_geometry(x: &Tensor, w: &Tensor, stride: usize, crop: Padding) -> Result<Geometry> {
    let (n, h, width, cin) = x.dims4()?;
    let (kh, kw, kernel_in, cout) = w.dims4()?;
    let size = |i: usize, k: usize, cut: usize| ((i - 1) * stride + k).checked_sub(cut);
    let y = (
        size(h, kh, crop.top + crop.bottom),
        size(width, kw, crop.left + crop.right),
    );
    let (true, (Some(oh @ 1..), Some(ow @ 1..))) = (kernel_in == cin, y) else {
        bail!(
            "conv_transpose2d: kernel {:?} on image {:?}, crop {crop:?}",
            w.dims(),
            x.dims()
        );
    };
    let (top, left) = (crop.top, crop.left);
    Ok(Geometry {
        n,
        h: oh,
        w: ow,
        cin: cout,
        kh,
        kw,
        cout: cin,
        stride,
        top,
        left,
        oh: h,
        ow: width,
    })
}
