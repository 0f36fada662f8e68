//! How long single operations of the CPU take, for `benches/operations.py`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::Result;
use candle_core::{DType, Device};
use serde::Serialize;

use crate::data::images::Images;
use crate::nn::batch_norm::EPSILON;
use crate::nn::cpu::conv::{self, Geometry};
use crate::nn::cpu::{coupling, residual};
use crate::nn::noise::Noise;

/// One operation on images `[n, side, side, inputs]`, f32.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case", tag = "operation")]
pub enum Operation {
    /// A convolution that keeps the size.
    Conv {
        n: usize,
        side: usize,
        inputs: usize,
        kernel: usize,
        outputs: usize,
    },
    /// A residual block of the VAE, in training.
    Residual {
        n: usize,
        side: usize,
        inputs: usize,
    },
    /// An additive coupling of the flow layer, or of a Glow.
    Coupling {
        n: usize,
        side: usize,
        inputs: usize,
        width: usize,
    },
    /// Standard normal noise, as many values as the images have.
    Noise {
        n: usize,
        side: usize,
        inputs: usize,
    },
    /// A batch, gathered from the bytes of [`SET`] images, as f32.
    Batch {
        n: usize,
        side: usize,
        inputs: usize,
    },
}

/// Images that a batch is gathered from.
const SET: usize = 10_000;

/// The fastest of several runs.
#[derive(Debug, Serialize)]
pub struct Time {
    #[serde(flatten)]
    pub operation: Operation,
    /// `forward`, `input-gradient`, `kernel-gradient` or `backward`, which is both.
    pub part: &'static str,
    pub seconds: f64,
    /// Multiplications and additions, in 1e9; 0 where they are not what takes the time.
    pub gflop: f64,
}

/// Those that a training step at the paper's CIFAR-10 settings consists of.
pub const ALL: &[Operation] = &[
    conv(64, 32, 32, 3, 32),
    conv(64, 16, 64, 3, 64),
    conv(64, 8, 128, 3, 128),
    conv(16, 32, 256, 1, 256),
    conv(16, 16, 512, 1, 512),
    conv(16, 32, 256, 3, 2),
    Operation::Residual {
        n: 64,
        side: 32,
        inputs: 32,
    },
    Operation::Residual {
        n: 64,
        side: 8,
        inputs: 128,
    },
    Operation::Coupling {
        n: 16,
        side: 32,
        inputs: 3,
        width: 256,
    },
    Operation::Coupling {
        n: 16,
        side: 16,
        inputs: 12,
        width: 512,
    },
    Operation::Noise {
        n: 64,
        side: 32,
        inputs: 3,
    },
    Operation::Batch {
        n: 64,
        side: 32,
        inputs: 3,
    },
];

const fn conv(n: usize, side: usize, inputs: usize, kernel: usize, outputs: usize) -> Operation {
    Operation::Conv {
        n,
        side,
        inputs,
        kernel,
        outputs,
    }
}

impl Operation {
    /// Every part of it, timed on as many threads as rayon has.
    pub fn time(&self) -> Result<Vec<Time>> {
        let time = |part, gflop: f64, run: &mut dyn FnMut()| Time {
            operation: *self,
            part,
            seconds: fastest(run),
            gflop,
        };
        let times = match *self {
            Self::Conv {
                n,
                side,
                inputs,
                kernel,
                outputs,
            } => {
                let g = Geometry {
                    n,
                    h: side,
                    w: side,
                    cin: inputs,
                    kh: kernel,
                    kw: kernel,
                    cout: outputs,
                    stride: 1,
                    top: kernel / 2,
                    left: kernel / 2,
                    oh: side,
                    ow: side,
                };
                let pixels = n * side * side;
                let (x, dy) = (values(pixels * inputs), values(pixels * outputs));
                let w = values(kernel * kernel * inputs * outputs);
                let (mut y, mut dx) = (dy.clone(), x.clone());
                let mut dw = w.clone();
                let gflop = products(pixels, kernel * kernel * inputs, outputs);
                vec![
                    time("forward", gflop, &mut || {
                        conv::forward(&g, &x, &w, None, &mut y)
                    }),
                    time("input-gradient", gflop, &mut || {
                        conv::input_gradient(&g, &dy, &w, None, &mut dx);
                    }),
                    time("kernel-gradient", gflop, &mut || {
                        dw.fill(0.0);
                        conv::kernel_gradient(&g, &x, &dy, &mut dw);
                    }),
                ]
            }
            Self::Residual { n, side, inputs: c } => {
                let sizes = residual::Sizes {
                    n,
                    h: side,
                    w: side,
                    c,
                };
                let x = values(n * side * side * c);
                let parameters = values(3 * (9 * c * c + c) + 4 * c);
                let gflop = 3.0 * products(n * side * side, 9 * c, c);
                let forward = || residual::forward(&sizes, &x, &parameters, EPSILON);
                let (_, kept, _) = forward();
                vec![
                    time("forward", gflop, &mut || drop(black_box(forward()))),
                    time("backward", 2.0 * gflop, &mut || {
                        drop(black_box(residual::backward(
                            &sizes,
                            &x,
                            &parameters,
                            &kept,
                            &x,
                        )));
                    }),
                ]
            }
            Self::Coupling {
                n,
                side,
                inputs,
                width,
            } => {
                let sizes = coupling::Sizes {
                    n,
                    h: side,
                    w: side,
                    channels: inputs,
                    split: inputs / 2,
                    width,
                };
                let x = values(n * side * side * inputs);
                let parameters = values(sizes.parameters());
                let pixels = n * side * side;
                let gflop = products(pixels, 9 * (inputs / 2), width)
                    + products(pixels, width, width)
                    + products(pixels, 9 * width, inputs - inputs / 2);
                let forward = || coupling::forward(&sizes, &x, &parameters, true);
                let (_, hidden) = forward();
                vec![
                    time("forward", gflop, &mut || drop(black_box(forward()))),
                    time("backward", 2.0 * gflop, &mut || {
                        drop(black_box(coupling::backward(
                            &sizes,
                            &x,
                            &parameters,
                            &hidden,
                            &x,
                        )));
                    }),
                ]
            }
            Self::Noise { n, side, inputs } => {
                let noise = Noise::new(0, "operations");
                vec![time("forward", 0.0, &mut || {
                    drop(black_box(noise.at(0).normals(n * side * side * inputs)));
                })]
            }
            Self::Batch { n, side, inputs } => {
                let bytes = vec![7; SET * side * side * inputs];
                let images = Images::new([side, side, inputs], bytes, None)?;
                let chosen: Vec<usize> = (0..n).map(|i| i * 7919 % SET).collect();
                vec![time("forward", 0.0, &mut || {
                    drop(black_box(images.batch(&chosen, DType::F32, &Device::Cpu)));
                })]
            }
        };
        Ok(times)
    }
}

/// Of a matrix product, in 1e9.
fn products(rows: usize, inner: usize, columns: usize) -> f64 {
    2e-9 * rows as f64 * inner as f64 * columns as f64
}

fn values(n: usize) -> Vec<f32> {
    let one = |i: usize| ((i * 2_654_435_761) >> 13 & 0xff) as f32 / 2560.0 - 0.05;
    (0..n).map(one).collect()
}

/// Of at least five runs and half a second, after one that warms up.
fn fastest(run: &mut dyn FnMut()) -> f64 {
    run();
    let mut best = f64::INFINITY;
    let (begin, mut runs) = (Instant::now(), 0);
    while runs < 5 || begin.elapsed() < Duration::from_millis(500) {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
        runs += 1;
    }
    best
}
