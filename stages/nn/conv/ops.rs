//! The convolutions as candle operations: shapes, storages, gradients. The arithmetic is in
//! [`super::super::cpu`].

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::super::channel;
use super::super::cpu::conv::{self as cpu, Geometry};
use super::super::cpu::{Real, slice};

/// `x, w -> y`.
#[derive(Clone, Copy)]
pub struct Conv(pub Geometry);
/// `y, w -> x`, the transpose of [`Conv`].
#[derive(Clone, Copy)]
pub struct Transposed(pub Geometry);
/// `dy, w -> dx`.
struct InputGradient(Geometry);
/// `x, dy -> dw`.
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
        let y = on_slices!("conv2d", x, xl, w, wl, len, |x, w, y| cpu::forward(
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
with_bias!(Conv, "conv2d-bias", cpu::forward, y_shape);
with_bias!(
    Transposed,
    "conv-transpose2d-bias",
    cpu::input_gradient,
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
            cpu::input_gradient(g, dy, w, None, dx)
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
            cpu::kernel_gradient(g, x, dy, dw)
        });
        Ok((dw, shape))
    }
}
