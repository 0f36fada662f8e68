//! The kernels' logic and their launches, on an emulated GPU, against the CPU in f64.

mod coupling;
mod others;

use candle_core::{DType, Device, Result, Tensor, Var};

use super::channel::{self, Gradients, Norm, Size};
use super::conv;
use super::emulate::{Emulator, emulator};
use super::machine::{At, Geometry, Real, Scalar};
use crate::nn::channel::{Activation, affine, batch_norm};
use crate::nn::conv::{Padding, conv2d_bias};
use crate::nn::noise::Noise;

const CPU: Device = Device::Cpu;

fn draw(step: u64, dims: &[usize]) -> Result<Tensor> {
    Noise::new(6, "kernels")
        .at(step)
        .normal(dims, DType::F64, &CPU)
}

/// A tensor's values as a kernel takes them.
fn values<T: Scalar>(x: &Tensor) -> Result<Vec<T>> {
    let all = x.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    Ok(all.into_iter().map(T::new).collect())
}

fn at<T>(values: &[T]) -> At<T> {
    At::new(values.as_ptr() as u64)
}

/// Room for results, which a kernel must fill.
struct Room<T>(Vec<T>);

impl<T: Scalar> Room<T> {
    fn new(len: usize) -> Self {
        Self(vec![T::new(f64::NAN); len])
    }
    fn at(&mut self) -> At<T> {
        At::new(self.0.as_mut_ptr() as u64)
    }
    #[track_caller]
    fn equals(&self, expected: &Tensor, tolerance: f64) -> Result<()> {
        close(&self.0, &values::<f64>(expected)?, tolerance);
        Ok(())
    }
}

/// Relative to the largest value expected.
#[track_caller]
fn close<T: Real>(ours: &[T], expected: &[f64], tolerance: f64) {
    assert_eq!(ours.len(), expected.len());
    let scale = expected.iter().fold(1e-300, |m: f64, v| m.max(v.abs()));
    for (i, (a, b)) in ours.iter().zip(expected).enumerate() {
        let gap = (a.f64() - b).abs() / scale;
        assert!(gap <= tolerance, "value {i}: {} for {b}", a.f64());
    }
}

fn slope(activation: Activation) -> f64 {
    match activation {
        Activation::None => 1.0,
        Activation::Relu => 0.0,
        Activation::Leaky(slope) => slope,
    }
}

fn channels_on<T: Scalar>(m: &Emulator, tolerance: f64) -> Result<()> {
    // Fewer channels than a block takes, as many, more; rows of one part and of many.
    for (rows, c) in [(1, 1), (7, 3), (5000, 3), (130, 32), (70, 45), (300, 70)] {
        let size = Size { rows, channels: c };
        let [x, dy] = [draw(0, &[rows, c])?, draw(1, &[rows, c])?];
        let [scale, shift] = [draw(2, &[c])?, draw(3, &[c])?];
        let [x, scale, shift] = [&x, &scale, &shift].map(Var::from_tensor);
        let (x, scale, shift) = (x?, scale?, shift?);
        let [xs, ss, ts] = [&x, &scale, &shift].map(|v| values::<T>(v));
        let (xs, ss, ts, ds) = (xs?, ss?, ts?, values::<T>(&dy)?);
        for activation in [Activation::None, Activation::Relu, Activation::Leaky(0.2)] {
            for normal in [false, true] {
                let (y, epsilon) = match normal {
                    false => (affine(&x, &scale, &shift, activation)?, 0.0),
                    true => (batch_norm(&x, &scale, &shift, 1e-5, activation)?.0, 1e-5),
                };
                let grads = (&y * &dy)?.sum_all()?.backward()?;
                let (mut mean, mut variance) = (Room::<f64>::new(c), Room::<f64>::new(c));
                let norm = normal.then(|| Norm {
                    mean: mean.at(),
                    variance: variance.at(),
                    epsilon,
                });
                let (from, slope) = ([at(&xs), at(&ss), at(&ts)], slope(activation));
                let mut ours = Room::<T>::new(rows * c);
                match norm {
                    None => channel::affine(m, size, from, slope, ours.at())?,
                    Some(norm) => {
                        channel::moments(m, size, at(&xs), norm.mean, norm.variance)?;
                        channel::normalise(m, size, norm, from, slope, ours.at())?;
                    }
                }
                // One row alone has no spread: what is left is rounding.
                if rows == 1 && normal {
                    continue;
                }
                ours.equals(&y, tolerance)?;
                let [mut dx, mut dscale, mut dshift] = [rows * c, c, c].map(Room::<T>::new);
                let to = Gradients {
                    x: dx.at(),
                    scale: dscale.at(),
                    shift: dshift.at(),
                };
                let from = [at(&xs), at(&ss), ours.at(), at(&ds)];
                channel::backward(m, size, norm, from, slope, to)?;
                dx.equals(grads.get(&x).unwrap(), 4.0 * tolerance)?;
                dscale.equals(grads.get(&scale).unwrap(), 4.0 * tolerance)?;
                dshift.equals(grads.get(&shift).unwrap(), 4.0 * tolerance)?;
            }
        }
        let mut total = Room::<T>::new(c);
        channel::sum(m, size, at(&xs), total.at())?;
        total.equals(&x.sum(0)?, tolerance)?;
    }
    // So many rows that a part has more than the least.
    let x = draw(0, &[20_000, 3])?;
    let (xs, mut total) = (values::<T>(&x)?, Room::<T>::new(3));
    let size = Size {
        rows: 20_000,
        channels: 3,
    };
    channel::sum(m, size, at(&xs), total.at())?;
    total.equals(&x.sum(0)?, tolerance)
}

#[test]
fn channels_are_as_on_the_cpu() -> Result<()> {
    let Some(m) = emulator("channels_are_as_on_the_cpu") else {
        return Ok(());
    };
    channels_on::<f64>(&m, 1e-12)?;
    channels_on::<f32>(&m, 1e-5)
}

/// A convolution's sizes, and the padding the CPU's interface takes.
fn convolutions() -> Vec<(Geometry, Padding)> {
    let case = |[n, h, w, cin]: [usize; 4], k: usize, cout: usize, stride: usize, p: Padding| {
        let out = |size: usize, pad: usize| (size + pad - k) / stride + 1;
        let (oh, ow) = (out(h, p.top + p.bottom), out(w, p.left + p.right));
        let (top, left) = (p.top, p.left);
        let g = Geometry {
            n,
            h,
            w,
            cin,
            kh: k,
            kw: k,
            cout,
            stride,
            top,
            left,
            oh,
            ow,
        };
        (g, p)
    };
    vec![
        case([2, 5, 4, 3], 3, 4, 1, Padding::same(3)),
        case([2, 4, 3, 5], 1, 6, 1, Padding::all(0)),
        // TensorFlow's stride 2: nothing above, one row below.
        case([2, 6, 8, 3], 3, 4, 2, Padding::tensorflow((6, 8), 3, 2)),
        case([1, 8, 6, 2], 4, 3, 2, Padding::tensorflow((8, 6), 4, 2)),
        case([1, 5, 5, 2], 3, 2, 1, Padding::new(2, 0, 1, 2)),
        // Not all of the image is reached.
        case([2, 7, 7, 2], 3, 2, 3, Padding::all(0)),
        case([1, 8, 8, 2], 3, 2, 2, Padding::all(0)),
        case([2, 6, 6, 3], 1, 2, 2, Padding::all(0)),
    ]
}

fn convolutions_on<T: Scalar>(m: &Emulator, tolerance: f64) -> Result<()> {
    for (g, padding) in convolutions() {
        let x = Var::from_tensor(&draw(0, &[g.n, g.h, g.w, g.cin])?)?;
        let w = Var::from_tensor(&draw(1, &[g.kh, g.kw, g.cin, g.cout])?)?;
        let b = draw(2, &[g.cout])?;
        let y = conv2d_bias(&x, &w, &b, g.stride, padding)?;
        let dy = draw(3, y.dims())?;
        let grads = (&y * &dy)?.sum_all()?.backward()?;
        let [xs, ws, bs, ds] = [x.as_tensor(), w.as_tensor(), &b, &dy].map(values::<T>);
        let (xs, ws, bs, ds) = (xs?, ws?, bs?, ds?);

        let mut ours = Room::<T>::new(y.elem_count());
        conv::forward(m, &g, at(&xs), at(&ws), Some(at(&bs)), ours.at())?;
        ours.equals(&y, tolerance)?;
        let mut dx = Room::<T>::new(x.elem_count());
        conv::input_gradient(m, &g, at(&ds), at(&ws), None, dx.at())?;
        dx.equals(grads.get(&x).unwrap(), tolerance)?;
        let mut dw = Room::<T>::new(w.elem_count());
        conv::kernel_gradient(m, &g, at(&xs), at(&ds), dw.at())?;
        dw.equals(grads.get(&w).unwrap(), tolerance)?;

        // With a bias the input gradient is a transposed convolution.
        let c = draw(4, &[g.cin])?;
        let shifted = grads.get(&x).unwrap().broadcast_add(&c)?;
        let cs = values::<T>(&c)?;
        conv::input_gradient(m, &g, at(&ds), at(&ws), Some(at(&cs)), dx.at())?;
        dx.equals(&shifted, tolerance)?;
    }
    Ok(())
}

#[test]
fn convolutions_are_as_on_the_cpu() -> Result<()> {
    let Some(mut m) = emulator("convolutions_are_as_on_the_cpu") else {
        return Ok(());
    };
    // By patches and products, then by the library's interface.
    for library in [false, true] {
        m.library = library;
        convolutions_on::<f64>(&m, 1e-12)?;
        convolutions_on::<f32>(&m, 1e-5)?;
    }
    Ok(())
}
