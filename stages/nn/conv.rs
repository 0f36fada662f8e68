//! Two-dimensional convolution and its transpose as operations of candle's autograd: images
//! `[n, h, w, c]`, kernels `[kh, kw, cin, cout]`, padding given for each side.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::channel;
use super::kernel::{self, Geometry, Real, slice};

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
    let op = Conv(geometry(x, w, stride, padding)?);
    x.contiguous()?.apply_op2(&w.contiguous()?, op)
}

/// [`conv2d`] plus a bias `[cout]`.
pub fn conv2d_bias(
    x: &Tensor,
    w: &Tensor,
    bias: &Tensor,
    stride: usize,
    padding: Padding,
) -> Result<Tensor> {
    let op = Conv(geometry(x, w, stride, padding)?);
    x.contiguous()?.apply_op3(&w.contiguous()?, bias, op)
}

/// The transpose of [`conv2d`] as a linear map: `y[stride i + k - crop] += x[i] w[k]`, of size
/// `(h - 1) stride + kh - crop`.
#[cfg(test)]
pub fn conv_transpose2d(x: &Tensor, w: &Tensor, stride: usize, crop: Padding) -> Result<Tensor> {
    let op = Transposed(transposed_geometry(x, w, stride, crop)?);
    x.contiguous()?
        .apply_op2(&w.transpose(2, 3)?.contiguous()?, op)
}

/// [`conv_transpose2d`] plus a bias `[cout]`.
pub fn conv_transpose2d_bias(
    x: &Tensor,
    w: &Tensor,
    bias: &Tensor,
    stride: usize,
    crop: Padding,
) -> Result<Tensor> {
    let op = Transposed(transposed_geometry(x, w, stride, crop)?);
    x.contiguous()?
        .apply_op3(&w.transpose(2, 3)?.contiguous()?, bias, op)
}

fn geometry(x: &Tensor, w: &Tensor, stride: usize, padding: Padding) -> Result<Geometry> {
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

/// Of the convolution, from y to x, whose input gradient the transposed convolution is.
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

#[derive(Clone, Copy)]
struct Conv(Geometry);
#[derive(Clone, Copy)]
struct Transposed(Geometry);
struct InputGradient(Geometry);
struct KernelGradient(Geometry);

/// Runs a kernel over two contiguous storages of one dtype into a new one.
macro_rules! on_slices {
    ($name:expr, $s1:expr, $l1:expr, $s2:expr, $l2:expr, $len:expr, $kernel:expr) => {
        match ($s1, $s2) {
            (CpuStorage::F32(a), CpuStorage::F32(b)) => CpuStorage::F32(run(
                slice($name, a, $l1)?,
                slice($name, b, $l2)?,
                $len,
                $kernel,
            )),
            (CpuStorage::F64(a), CpuStorage::F64(b)) => CpuStorage::F64(run(
                slice($name, a, $l1)?,
                slice($name, b, $l2)?,
                $len,
                $kernel,
            )),
            _ => bail!("{}: wants two f32 or two f64 tensors", $name),
        }
    };
}

fn run<T: Real>(a: &[T], b: &[T], len: usize, kernel: impl FnOnce(&[T], &[T], &mut [T])) -> Vec<T> {
    let mut out = vec![T::default(); len];
    kernel(a, b, &mut out);
    out
}

impl Geometry {
    fn x_shape(&self) -> Shape {
        (self.n, self.h, self.w, self.cin).into()
    }
    fn y_shape(&self) -> Shape {
        (self.n, self.oh, self.ow, self.cout).into()
    }
    fn w_shape(&self) -> Shape {
        (self.kh, self.kw, self.cin, self.cout).into()
    }
}

impl CustomOp2 for Conv {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (g, shape) = (&self.0, self.0.y_shape());
        let len = shape.elem_count();
        let y = on_slices!("conv2d", x, xl, w, wl, len, |x, w, y| kernel::forward(
            g, x, w, None, y
        ));
        Ok((y, shape))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let dx = x
            .track_op()
            .then(|| dy.apply_op2_no_bwd(w, &InputGradient(self.0)));
        let dw = w
            .track_op()
            .then(|| x.apply_op2_no_bwd(&dy, &KernelGradient(self.0)));
        Ok((dx.transpose()?, dw.transpose()?))
    }
}

impl CustomOp2 for Transposed {
    fn name(&self) -> &'static str {
        "conv-transpose2d"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        InputGradient(self.0).cpu_fwd(x, xl, w, wl)
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let dx = x.track_op().then(|| dy.apply_op2_no_bwd(w, &Conv(self.0)));
        let dw = w
            .track_op()
            .then(|| dy.apply_op2_no_bwd(x, &KernelGradient(self.0)));
        Ok((dx.transpose()?, dw.transpose()?))
    }
}

/// A biased operation from its plain one, a kernel that takes a bias, and its result's shape.
macro_rules! with_bias {
    ($op:ident, $name:literal, $kernel:path, $shape:ident) => {
        impl CustomOp3 for $op {
            fn name(&self) -> &'static str {
                $name
            }

            fn cpu_fwd(
                &self,
                x: &CpuStorage,
                xl: &Layout,
                w: &CpuStorage,
                wl: &Layout,
                b: &CpuStorage,
                bl: &Layout,
            ) -> Result<(CpuStorage, Shape)> {
                let (g, shape) = (&self.0, self.0.$shape());
                let len = shape.elem_count();
                if shape.dims().last() != Some(&bl.shape().elem_count()) {
                    bail!("{}: bias {:?} for {shape:?}", $name, bl.dims());
                }
                let y = match b {
                    CpuStorage::F32(b) => {
                        let CpuStorage::F32(x) = x else {
                            bail!("{}: dtypes differ", $name)
                        };
                        let CpuStorage::F32(w) = w else {
                            bail!("{}: dtypes differ", $name)
                        };
                        let (x, w) = (slice($name, x, xl)?, slice($name, w, wl)?);
                        let b = Some(slice($name, b, bl)?);
                        CpuStorage::F32(run(x, w, len, |x, w, y| $kernel(g, x, w, b, y)))
                    }
                    CpuStorage::F64(b) => {
                        let CpuStorage::F64(x) = x else {
                            bail!("{}: dtypes differ", $name)
                        };
                        let CpuStorage::F64(w) = w else {
                            bail!("{}: dtypes differ", $name)
                        };
                        let (x, w) = (slice($name, x, xl)?, slice($name, w, wl)?);
                        let b = Some(slice($name, b, bl)?);
                        CpuStorage::F64(run(x, w, len, |x, w, y| $kernel(g, x, w, b, y)))
                    }
                    _ => bail!("{}: wants f32 or f64", $name),
                };
                Ok((y, shape))
            }

            fn bwd(
                &self,
                x: &Tensor,
                w: &Tensor,
                b: &Tensor,
                y: &Tensor,
                dy: &Tensor,
            ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
                let dy = dy.contiguous()?;
                let (dx, dw) = CustomOp2::bwd(self, x, w, y, &dy)?;
                let db = b.track_op().then(|| channel::sum(&dy));
                Ok((dx, dw, db.transpose()?))
            }
        }
    };
}
with_bias!(Conv, "conv2d-bias", kernel::forward, y_shape);
with_bias!(
    Transposed,
    "conv-transpose2d-bias",
    kernel::input_gradient,
    x_shape
);

impl CustomOp2 for InputGradient {
    fn name(&self) -> &'static str {
        "conv2d-input-gradient"
    }

    fn cpu_fwd(
        &self,
        dy: &CpuStorage,
        yl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (g, shape) = (&self.0, self.0.x_shape());
        let len = shape.elem_count();
        let dx = on_slices!("conv2d-input-gradient", dy, yl, w, wl, len, |dy, w, dx| {
            kernel::input_gradient(g, dy, w, None, dx)
        });
        Ok((dx, shape))
    }
}

impl CustomOp2 for KernelGradient {
    fn name(&self) -> &'static str {
        "conv2d-kernel-gradient"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        dy: &CpuStorage,
        yl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (g, shape) = (&self.0, self.0.w_shape());
        let len = shape.elem_count();
        let dw = on_slices!("conv2d-kernel-gradient", x, xl, dy, yl, len, |x, dy, dw| {
            kernel::kernel_gradient(g, x, dy, dw)
        });
        Ok((dw, shape))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::super::noise::Noise;
    use super::*;

    struct Case {
        x: [usize; 4],
        w: [usize; 4],
        stride: usize,
        padding: Padding,
    }

    fn cases() -> Vec<Case> {
        let case = |x, w, stride, padding| Case {
            x,
            w,
            stride,
            padding,
        };
        vec![
            case([2, 5, 6, 3], [3, 3, 3, 4], 1, Padding::same(3)),
            case([2, 6, 4, 3], [3, 3, 3, 4], 2, Padding::new(0, 1, 0, 1)),
            case([1, 8, 8, 2], [4, 4, 2, 5], 2, Padding::all(1)),
            case([3, 4, 4, 5], [1, 1, 5, 7], 1, Padding::default()),
            case([1, 5, 5, 2], [1, 3, 2, 3], 1, Padding::new(0, 0, 1, 1)),
            case([2, 7, 7, 1], [3, 3, 1, 2], 2, Padding::default()),
            case([1, 2, 2, 1], [3, 3, 1, 1], 1, Padding::new(2, 0, 0, 2)),
            // More positions than a tile holds.
            case([2, 40, 33, 6], [3, 3, 6, 3], 1, Padding::same(3)),
        ]
    }

    fn draw(dims: &[usize], step: u64, dtype: DType) -> Result<Tensor> {
        Noise::new(9, "conv")
            .at(step)
            .normal(dims, dtype, &Device::Cpu)
    }

    fn flat(t: &Tensor) -> Result<Vec<f64>> {
        t.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
    }

    /// Every output from its definition, one multiplication at a time.
    fn naive(x: &Tensor, w: &Tensor, stride: usize, p: Padding) -> Result<Vec<f64>> {
        let ((n, h, wd, c), (kh, kw, _, o)) = (x.dims4()?, w.dims4()?);
        let (xv, wv) = (flat(x)?, flat(w)?);
        let oh = (h + p.top + p.bottom - kh) / stride + 1;
        let ow = (wd + p.left + p.right - kw) / stride + 1;
        let mut y = vec![0.0; n * oh * ow * o];
        for (at, v) in y.iter_mut().enumerate() {
            let (oc, ox, oy, b) = (at % o, at / o % ow, at / o / ow % oh, at / o / ow / oh);
            for ky in 0..kh {
                for kx in 0..kw {
                    let (iy, ix) = (oy * stride + ky, ox * stride + kx);
                    if iy < p.top || ix < p.left || iy - p.top >= h || ix - p.left >= wd {
                        continue;
                    }
                    let row = ((b * h + iy - p.top) * wd + ix - p.left) * c;
                    for ic in 0..c {
                        *v += xv[row + ic] * wv[((ky * kw + kx) * c + ic) * o + oc];
                    }
                }
            }
        }
        Ok(y)
    }

    fn close(a: &[f64], b: &[f64], tolerance: f64) {
        assert_eq!(a.len(), b.len());
        for (a, b) in a.iter().zip(b) {
            assert!((a - b).abs() <= tolerance * (1.0 + b.abs()), "{a} and {b}");
        }
    }

    #[test]
    fn equals_the_definition() -> Result<()> {
        for c in cases() {
            for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 1e-5)] {
                let (x, w) = (draw(&c.x, 0, dtype)?, draw(&c.w, 1, dtype)?);
                let y = conv2d(&x, &w, c.stride, c.padding)?;
                close(&flat(&y)?, &naive(&x, &w, c.stride, c.padding)?, tolerance);
            }
        }
        Ok(())
    }

    /// A convolution is linear, so differences of any size are exact: the gradient of
    /// `<conv(x, w), r>` in direction d is `<conv(d, w), r>`, and likewise for w.
    #[test]
    fn gradients_are_the_adjoint_maps() -> Result<()> {
        let dot = |a: &Tensor, b: &Tensor| (a * b)?.sum_all()?.to_scalar::<f64>();
        for c in cases() {
            let x = Var::from_tensor(&draw(&c.x, 0, DType::F64)?)?;
            let w = Var::from_tensor(&draw(&c.w, 1, DType::F64)?)?;
            let y = conv2d(&x, &w, c.stride, c.padding)?;
            let r = draw(y.dims(), 2, DType::F64)?;
            let grads = (&y * &r)?.sum_all()?.backward()?;
            let (dx, dw) = (grads.get(&x).unwrap(), grads.get(&w).unwrap());
            for step in 3..6 {
                let along = draw(&c.x, step, DType::F64)?;
                let moved = dot(&conv2d(&along, &w, c.stride, c.padding)?, &r)?;
                close(&[dot(dx, &along)?], &[moved], 1e-11);
                let along = draw(&c.w, step, DType::F64)?;
                let moved = dot(&conv2d(&x, &along, c.stride, c.padding)?, &r)?;
                close(&[dot(dw, &along)?], &[moved], 1e-11);
            }
        }
        Ok(())
    }

    /// By central differences, so that the two tests above cannot share a mistake.
    #[test]
    fn gradients_equal_finite_differences() -> Result<()> {
        for c in cases().into_iter().take(7) {
            for transposed in [false, true] {
                let mut dims = c.w;
                let apply = |x: &Tensor, w: &Tensor| match transposed {
                    false => conv2d(x, w, c.stride, c.padding)?.sqr()?.sum_all(),
                    true => conv_transpose2d(x, w, c.stride, c.padding)?
                        .sqr()?
                        .sum_all(),
                };
                dims[3] = 2;
                let x = Var::from_tensor(&draw(&c.x, 0, DType::F64)?)?;
                let w = Var::from_tensor(&draw(&dims, 1, DType::F64)?)?;
                let grads = apply(&x, &w)?.backward()?;
                for (var, dims) in [(&x, &c.x), (&w, &dims)] {
                    let grad = flat(grads.get(var).unwrap())?;
                    let start = var.as_detached_tensor().copy()?;
                    let len = grad.len();
                    for i in [0, len / 3, len / 2, len - 1] {
                        let mut unit = vec![0f64; len];
                        unit[i] = 1e-4;
                        let unit = Tensor::from_vec(unit, dims.to_vec(), &Device::Cpu)?;
                        let at = |t: Tensor| -> Result<f64> {
                            var.set(&t)?;
                            apply(&x, &w)?.to_scalar()
                        };
                        let slope = (at((&start + &unit)?)? - at((&start - &unit)?)?) / 2e-4;
                        close(&[grad[i]], &[slope], 1e-7);
                    }
                    var.set(&start)?;
                }
            }
        }
        Ok(())
    }

    /// `<conv_transpose(x, w), y> = <x, conv(y, w')>`, with w' the kernel with channels swapped.
    #[test]
    fn the_transpose_is_the_transpose() -> Result<()> {
        for c in cases() {
            let w = draw(&c.w, 1, DType::F64)?;
            let y = draw(&c.x, 0, DType::F64)?;
            let small = conv2d(&y, &w, c.stride, c.padding)?;
            let x = draw(small.dims(), 2, DType::F64)?;
            let large = conv_transpose2d(&x, &w.transpose(2, 3)?, c.stride, c.padding)?;
            if large.dims() == y.dims() {
                let a = (&large * &y)?.sum_all()?.to_scalar::<f64>()?;
                let b = (&x * &small)?.sum_all()?.to_scalar::<f64>()?;
                close(&[a], &[b], 1e-11);
            }
        }
        Ok(())
    }

    /// TensorFlow's "same" transposed convolution, kernel 3, stride 2: `y[2i + k] += x[i] w[k]`,
    /// the last row and column dropped.
    #[test]
    fn upsampling_doubles_the_size() -> Result<()> {
        let x = Tensor::new(&[1f64, 10.0], &Device::Cpu)?.reshape((1, 1, 2, 1))?;
        let w = Tensor::new(&[1f64, 2.0, 3.0], &Device::Cpu)?.reshape((1, 3, 1, 1))?;
        let y = conv_transpose2d(&x, &w, 2, Padding::new(0, 0, 0, 1))?;
        assert_eq!(flat(&y)?, [1.0, 2.0, 13.0, 20.0]);
        Ok(())
    }

    #[test]
    fn results_do_not_depend_on_the_number_of_threads() -> Result<()> {
        let work = || -> Result<Vec<Vec<f64>>> {
            let x = Var::from_tensor(&draw(&[3, 24, 24, 9], 0, DType::F32)?)?;
            let w = Var::from_tensor(&draw(&[3, 3, 9, 20], 1, DType::F32)?)?;
            let y = conv2d(&x, &w, 1, Padding::same(3))?;
            let grads = y.sqr()?.sum_all()?.backward()?;
            [&y, grads.get(&x).unwrap(), grads.get(&w).unwrap()]
                .into_iter()
                .map(flat)
                .collect()
        };
        let on = |threads| {
            rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap()
        };
        let one = on(1).install(work)?;
        assert_eq!(one, on(3).install(work)?);
        Ok(())
    }

    #[test]
    fn a_bias_is_added_to_every_position() -> Result<()> {
        for c in cases() {
            for transposed in [false, true] {
                let (x, w) = (draw(&c.x, 0, DType::F64)?, draw(&c.w, 1, DType::F64)?);
                let b = Var::from_tensor(&draw(&[c.w[3]], 2, DType::F64)?)?;
                let (plain, biased) = match transposed {
                    false => (
                        conv2d(&x, &w, c.stride, c.padding)?,
                        conv2d_bias(&x, &w, &b, c.stride, c.padding)?,
                    ),
                    true => (
                        conv_transpose2d(&x, &w, c.stride, c.padding)?,
                        conv_transpose2d_bias(&x, &w, &b, c.stride, c.padding)?,
                    ),
                };
                let sum = plain.broadcast_add(&b)?;
                close(&flat(&biased)?, &flat(&sum)?, 1e-12);
                let (a, e) = (
                    biased.sqr()?.sum_all()?.backward()?,
                    sum.sqr()?.sum_all()?.backward()?,
                );
                close(
                    &flat(a.get(&b).unwrap())?,
                    &flat(e.get(&b).unwrap())?,
                    1e-10,
                );
            }
        }
        Ok(())
    }

    #[test]
    fn an_input_without_gradient_gets_none() -> Result<()> {
        let x = draw(&[1, 4, 4, 1], 0, DType::F64)?;
        let w = Var::from_tensor(&draw(&[3, 3, 1, 1], 1, DType::F64)?)?;
        let grads = conv2d(&x, &w, 1, Padding::same(3))?.sum_all()?.backward()?;
        assert!(grads.get(&x).is_none() && grads.get(&w).is_some());
        Ok(())
    }

    #[test]
    fn tensorflow_pads_below_and_right() {
        assert_eq!(Padding::tensorflow((8, 8), 3, 2), Padding::new(0, 1, 0, 1));
        assert_eq!(Padding::tensorflow((8, 8), 4, 2), Padding::all(1));
        assert_eq!(Padding::tensorflow((7, 7), 3, 1), Padding::all(1));
    }
}
