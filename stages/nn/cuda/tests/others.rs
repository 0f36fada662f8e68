//! Noise, matrices, the optimiser, pooling.

use candle_core::{DType, Result, Tensor, Var};

use super::super::channel::{self, Size};
use super::super::emulate::{Emulator, emulator};
use super::super::machine::{At, Machine, Scalar};
use super::super::matrix;
use super::super::noise::{Law, Position, fill};
use super::super::optim::{self, Numbers, Tables};
use super::super::pixel;
use super::super::pool::{bias_relu, pool};
use super::super::resize::{Table, resize};
use super::{CPU, Room, at, close, draw, values};
use crate::metrics::resize::Resize;
use crate::models::pool::Pool;
use crate::nn::categorical;
use crate::nn::gate::gate;
use crate::nn::inv_conv::log_abs_det;
use crate::nn::noise::{Noise, philox};

/// Every bit, wherever a draw starts.
#[test]
fn noise_is_the_hosts() -> Result<()> {
    let Some(m) = emulator("noise_is_the_hosts") else {
        return Ok(());
    };
    for (before, n, step) in [(0, 1, 0), (3, 4, 7), (9, 4097, 1 << 40)] {
        let mut draws = Noise::new(3, "kernels").at(step);
        draws.words(before);
        for law in [Law::Uniform, Law::Normal] {
            let position = draws.position();
            let expected = match law {
                Law::Uniform => draws.uniform(n, DType::F32, &CPU)?,
                Law::Normal => draws.normal(n, DType::F32, &CPU)?,
            };
            let expected = expected.to_vec1::<f32>()?;
            let mut ours = Room::<f32>::new(n);
            fill(&m, position, law, n, ours.at())?;
            let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&ours.0), bits(&expected), "{law:?} {position:?}");
            let mut wide = Room::<f64>::new(n);
            fill(&m, position, law, n, wide.at())?;
            assert!(wide.0.iter().zip(expected).all(|(a, b)| *a == f64::from(b)));
        }
    }
    // Beyond the 32 bits of a word.
    let position = Position {
        key: [1, 2],
        step: 5 << 33,
        block: (1 << 32) - 1,
    };
    let mut ours = Room::<f32>::new(8);
    fill(&m, position, Law::Uniform, 8, ours.at())?;
    let block = |low, high| philox([low, high, 0, 10], [1, 2]);
    let words = [block(u32::MAX, 0), block(0, 1)].concat();
    let expected: Vec<f32> = words
        .iter()
        .map(|w| (w >> 8) as f32 / 16_777_216.0)
        .collect();
    assert_eq!(ours.0, expected);
    Ok(())
}

#[test]
fn determinants_and_inverses_are_as_on_the_cpu() -> Result<()> {
    let Some(m) = emulator("determinants_and_inverses_are_as_on_the_cpu") else {
        return Ok(());
    };
    for n in [1, 2, 3, 12, 48, 96] {
        let w = Var::from_tensor(&draw(n as u64, &[n, n])?)?;
        let log_det = log_abs_det(&w)?;
        let gradient = log_det.backward()?.get(&w).unwrap().clone();
        let ws = values::<f64>(&w)?;
        let mut ours = Room::<f64>::new(1 + n * n);
        matrix::log_det_and_inverse(&m, n, at(&ws), ours.at())?;
        close(&ours.0[..1], &[log_det.to_scalar::<f64>()?], 1e-11);
        close(
            &ours.0[1..],
            &values::<f64>(&gradient.t()?.contiguous()?)?,
            1e-9,
        );
    }
    // Zero on the diagonal wants an exchange of rows.
    let mut ours = Room::<f32>::new(5);
    matrix::log_det_and_inverse(&m, 2, at(&[0f32, 2.0, 4.0, 0.0]), ours.at())?;
    close(&ours.0, &[8f64.ln(), 0.0, 0.25, 0.5, 0.0], 1e-7);
    Ok(())
}

/// The formulae of train/optim.rs over several steps, on tensors of odd sizes.
#[test]
fn the_optimiser_follows_its_formulae() -> Result<()> {
    let Some(m) = emulator("the_optimiser_follows_its_formulae") else {
        return Ok(());
    };
    let lengths = [1usize, 4096, 5, 8193];
    let pieces = optim::pieces(&lengths);
    assert_eq!(
        pieces,
        [[0, 0], [1, 0], [2, 0], [3, 0], [3, 4096], [3, 8192]]
    );
    let counts = lengths.map(|n| n as u32);
    for (adamax, limit) in [(false, 0.0), (true, 0.0), (false, 0.5)] {
        let mut weights: Vec<Vec<f64>> = lengths.iter().map(|n| vec![0.5; *n]).collect();
        let mut moments: Vec<Vec<f64>> = lengths.iter().map(|n| vec![0.0; 2 * n]).collect();
        let (mut expected, mut state) = (weights.clone(), moments.clone());
        for step in 0..3 {
            let grads: Vec<Vec<f64>> = (lengths.iter().enumerate())
                .map(|(i, n)| values(&draw(10 * step + i as u64, &[*n])?))
                .collect::<Result<_>>()?;
            let address = |v: &Vec<f64>| v.as_ptr() as u64;
            let mut at_grads: Vec<u64> = grads.iter().map(address).collect();
            // The loss does not reach the third tensor.
            at_grads[2] = 0;
            let at_weights: Vec<u64> = weights.iter_mut().map(|v| v.as_mut_ptr() as u64).collect();
            let at_moments: Vec<u64> = moments.iter_mut().map(|v| v.as_mut_ptr() as u64).collect();
            let tables = Tables {
                count: pieces.len(),
                pieces: At::new(pieces.as_ptr() as u64),
                lengths: at(&counts),
                weights: at(&at_weights),
                moments: at(&at_moments),
                grads: at(&at_grads),
            };
            let (u, mut scale) = (
                Numbers {
                    adamax,
                    beta1: 0.9,
                    beta2: 0.99,
                    epsilon: 1e-3,
                    rate: 0.1,
                },
                Room::<f64>::new(1),
            );
            let mut factor = 1.0;
            if limit > 0.0 {
                optim::clip::<_, f64>(&m, &tables, limit, scale.at())?;
                let reached = [0, 1, 3].map(|i| &grads[i]);
                let norm = reached
                    .iter()
                    .flat_map(|g| g.iter())
                    .map(|g| g * g)
                    .sum::<f64>()
                    .sqrt();
                factor = limit / norm;
                close(&scale.0, &[factor], 1e-13);
            }
            let place = if limit > 0.0 { scale.at() } else { At::NULL };
            optim::step::<_, f64>(&m, &tables, u, place)?;
            for i in [0, 1, 3] {
                let n = lengths[i];
                for k in 0..n {
                    let g = grads[i][k] * factor;
                    let first = 0.9 * state[i][k] + 0.1 * g;
                    let (second, root) = match adamax {
                        true => {
                            let v = (0.99 * state[i][n + k]).max(g.abs());
                            (v, v)
                        }
                        false => {
                            let v = 0.99 * state[i][n + k] + 0.01 * g * g;
                            (v, v.sqrt())
                        }
                    };
                    (state[i][k], state[i][n + k]) = (first, second);
                    expected[i][k] -= 0.1 * first / (root + 1e-3);
                }
            }
        }
        let both = weights.iter().chain(&moments);
        for (ours, expected) in both.zip(expected.iter().chain(&state)) {
            close(ours, expected, 1e-12);
        }
    }
    Ok(())
}

#[test]
fn pooling_is_as_on_the_cpu() -> Result<()> {
    let Some(m) = emulator("pooling_is_as_on_the_cpu") else {
        return Ok(());
    };
    let image = [2, 7, 9, 5];
    let x = draw(0, &image)?.abs()?.to_dtype(DType::F32)?;
    let xs = values::<f32>(&x)?;
    for kind in [Pool::HalvingMax, Pool::Max, Pool::Mean] {
        let expected = kind.forward(&x)?;
        let mut ours = Room::<f32>::new(expected.elem_count());
        let window = kind.on_gpu(image);
        assert_eq!(window.output, expected.dims()[1..3]);
        pool(&m, window, at(&xs), ours.at())?;
        ours.equals(&expected, 1e-6)?;
    }
    let (x, bias) = (
        draw(1, &[20, 5])?.to_dtype(DType::F32)?,
        draw(2, &[5])?.to_dtype(DType::F32)?,
    );
    let (mut ours, bs) = (Room(values::<f32>(&x)?), values::<f32>(&bias)?);
    let size = Size {
        rows: 20,
        channels: 5,
    };
    bias_relu(&m, size, at(&bs), ours.at())?;
    ours.equals(&x.broadcast_add(&bias)?.relu()?, 0.0)
}

/// To the bit: larger, smaller, equal, not square; grey and coloured.
#[test]
fn resizing_is_the_hosts() -> Result<()> {
    let Some(m) = emulator("resizing_is_the_hosts") else {
        return Ok(());
    };
    for (n, h, w, c, side) in [(3, 5, 7, 3, 11), (2, 9, 6, 1, 4), (1, 8, 8, 3, 8)] {
        let bytes = (0..n * h * w * c).map(|i| (i * i * 37 % 256) as u8);
        let bytes: Vec<u8> = bytes.collect();
        let images: Vec<&[u8]> = bytes.chunks_exact(h * w * c).collect();
        for how in [Resize::TfLegacy, Resize::PytorchFid, Resize::Clean] {
            let expected = how.apply(&images, [h, w, c], side);
            let tables = [w, h].map(|from| how.table(from, side));
            let tables = tables.each_ref().map(|(first, count, weights)| Table {
                first: at(first),
                count: at(count),
                weights: at(weights),
                most: weights.len() / side,
            });
            let mut ours = Room::<f32>::new(expected.len());
            let size = [n, h, w, c];
            resize(
                &m,
                size,
                side,
                how.is_bilinear(),
                tables,
                at(&bytes),
                ours.at(),
            )?;
            assert_eq!(ours.0, expected, "{how:?} {size:?}");
        }
    }
    Ok(())
}

#[test]
fn sizes_that_kernels_cannot_count_are_refused() -> Result<()> {
    let Some(m) = emulator("sizes_that_kernels_cannot_count_are_refused") else {
        return Ok(());
    };
    let size = Size {
        rows: 1 << 30,
        channels: 2,
    };
    let error = channel::sum::<_, f32>(&m, size, At::NULL, At::NULL).unwrap_err();
    assert!(
        error.to_string().contains("hint: a smaller batch"),
        "{error}"
    );
    // Memory of one machine is its own: nothing was launched.
    let memory = m.alloc::<f32>(1)?;
    assert!(memory.borrow()[0].is_nan());
    Ok(())
}

/// The gate and the bits of PixelCNN, and their gradients.
#[test]
fn gates_and_bits_are_as_on_the_cpu() -> Result<()> {
    fn on<T: Scalar>(m: &Emulator, tolerance: f64) -> Result<()> {
        for (rows, width) in [(1, 1), (70, 24), (300, 7)] {
            let x = Var::from_tensor(&(draw(1, &[rows, 2 * width])? * 3.0)?)?;
            let dy = draw(2, &[rows, width])?;
            let y = gate(x.as_tensor())?;
            let grads = (&y * &dy)?.sum_all()?.backward()?;
            let (xs, ds) = (values::<T>(&x)?, values::<T>(&dy)?);
            let [mut ours, mut dx] = [rows * width, 2 * rows * width].map(Room::<T>::new);
            pixel::gate(m, [rows, width], at(&xs), ours.at())?;
            ours.equals(&y, tolerance)?;
            pixel::gate_gradient(m, [rows, width], [at(&xs), at(&ds)], dx.at())?;
            dx.equals(grads.get(&x).unwrap(), tolerance)?;
        }
        // Fewer levels than a block has threads, as many, more.
        for (rows, levels) in [(3, 1), (40, 3), (20, 256), (5, 700)] {
            let x = Var::from_tensor(&(draw(3, &[rows, levels])? * 20.0)?)?;
            let dy = draw(4, &[rows])?;
            let chosen: Vec<f64> = (0..rows).map(|i| (i * 37 % levels) as f64).collect();
            let chosen = Tensor::new(&chosen[..], &CPU)?;
            let y = categorical::bits(x.as_tensor(), &chosen)?;
            let grads = (&y * &dy)?.sum_all()?.backward()?;
            let (xs, ds, vs) = (values::<T>(&x)?, values::<T>(&dy)?, values::<T>(&chosen)?);
            let [mut ours, mut dx] = [rows, rows * levels].map(Room::<T>::new);
            pixel::bits(m, [rows, levels], [at(&xs), at(&vs)], ours.at())?;
            ours.equals(&y, tolerance)?;
            let from = [at(&xs), at(&vs), at(&ds)];
            pixel::bits_gradient(m, [rows, levels], from, dx.at())?;
            dx.equals(grads.get(&x).unwrap(), 4.0 * tolerance)?;
        }
        Ok(())
    }
    for backwards in [false, true] {
        let Some(m) = emulator("gates_and_bits_are_as_on_the_cpu") else {
            return Ok(());
        };
        let m = Emulator { backwards, ..m };
        on::<f64>(&m, 1e-13)?;
        on::<f32>(&m, 1e-5)?;
    }
    Ok(())
}
