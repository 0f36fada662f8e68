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
        // Pixels that no tap reaches.
        case([2, 6, 6, 3], [1, 1, 3, 2], 2, Padding::default()),
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

/// The operation of networks that are only used, into a part of a wider result.
#[test]
fn a_frozen_convolution_is_a_convolution_bias_and_relu() -> Result<()> {
    for c in cases() {
        let (x, w) = (draw(&c.x, 0, DType::F32)?, draw(&c.w, 1, DType::F32)?);
        let b = draw(&[c.w[3]], 2, DType::F32)?;
        let expected = conv2d_bias(&x, &w, &b, c.stride, c.padding)?.relu()?;
        let conv = frozen::FrozenConv::new(w, b, c.stride, c.padding)?;
        close(&flat(&conv.forward(&x)?)?, &flat(&expected)?, 1e-6);
        let mut shape = conv.shape(&x)?;
        shape[3] += 5;
        let wide = Tensor::full(7f32, &shape[..], &Device::Cpu)?;
        conv.write(&x, &wide, 2)?;
        close(&flat(&wide.narrow(3, 2, c.w[3])?)?, &flat(&expected)?, 1e-6);
        let others = [wide.narrow(3, 0, 2)?, wide.narrow(3, c.w[3] + 2, 3)?];
        for other in others {
            assert!(flat(&other)?.iter().all(|v| *v == 7.0));
        }
    }
    Ok(())
}
