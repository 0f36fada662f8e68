//! Against another implementation (PyTorch, f64, equal to the official code), and against what must hold.

use super::block::Ready;
use super::series::Law;
use super::solve::Rule;
use super::*;
use crate::nn::inv_conv::log_abs_det;
use crate::nn::noise::Noise;
use crate::oracles::stream;

mod estimates;
mod oracles;

/// What comparisons with golden files ask for.
impl ResidualFlow {
    /// Noise and estimated log-determinants of images as [`logit::logit`] gives them.
    pub fn noise_of(&self, x: &Tensor, probes: &Probes) -> Result<(Tensor, Tensor)> {
        Ok(self.forward(x, |i, block, x| {
            let (e, weights) = (&probes.vectors[i], &probes.weights[i]);
            block.ready()?.estimate(x, e, weights)
        })?)
    }

    /// [`ResidualFlow::objective`], whichever way its size would choose.
    pub fn objective_by(&self, y: &Tensor, probes: &Probes, layers: bool) -> Result<Tensor> {
        Ok(match layers {
            true => self.objective_by_layers(y, probes)?,
            false => self.objective_at_once(y, probes)?,
        })
    }
}

/// Blocks (2, 1), width 5, one dense block of 4, on images of 4x4 pixels.
fn tiny() -> Config {
    Config {
        network: Network {
            blocks: vec![2, 1],
            width: 5,
            dense_blocks: 1,
            dense_width: 4,
            coefficient: 0.98,
            alpha: 0.05,
        },
        evaluation: series(Law::Geometric, 20),
        probe: Probe::Gaussian,
        inverse: rule(Rule::Strict, 1e-5),
        image: [4, 4, 3],
    }
}

fn series(law: Law, exact: usize) -> Series {
    let mean = 2.0;
    Series { law, mean, exact }
}

fn rule(rule: Rule, tolerance: f64) -> Inverse {
    Inverse {
        rule,
        tolerance,
        most: 1000,
    }
}

/// No limit on how far a power iteration goes but this many rounds.
fn rounds(most: usize) -> Power {
    Power {
        tolerance: 0.0,
        most,
    }
}

/// Numbers in the order of `[n, c, h, w]` as our `[n, h, w, c]`.
fn nchw(values: Vec<f64>, [n, c, h, w]: [usize; 4]) -> Result<Tensor> {
    let t = Tensor::from_vec(values, (n, c, h, w), &Device::Cpu)?;
    Ok(t.permute((0, 2, 3, 1))?.contiguous()?)
}

/// The place `[c, h, w]` of our channels `[h, w, c]` in a dense block.
fn flat(values: Vec<f64>, n: usize) -> Result<Tensor> {
    let d = values.len() / n;
    Ok(nchw(values, [n, 12, 2, 2])?.reshape((n, 1, 1, d))?)
}

/// The tiny flow with the numbers of the other side. Its singular vectors are where that starts.
fn of_streams() -> Result<(ResidualFlow, Weights)> {
    let w = Weights::new(0, DType::F64, &Device::Cpu);
    let flow = ResidualFlow::new(&tiny(), &w)?;
    let all = w.all();
    let unit = |t: Tensor| -> Result<Tensor> { Ok(t.broadcast_div(&t.sqr()?.sum_all()?.sqrt()?)?) };
    for (i, block) in flow.blocks().enumerate() {
        let [h, _, channels] = block.image();
        let dense = h == 1;
        let (width, side) = if dense { (4, 1) } else { (5, 3) };
        let sizes = [
            (side, channels, width),
            (1, width, width),
            (side, width, channels),
        ];
        for (j, (k, input, output)) in sizes.into_iter().enumerate() {
            let t = 3 * i + j;
            let name = |what: &str| format!("block{i}.conv{j}.{what}");
            let fan_in = input * k * k;
            let scale = 1.5 * (3.0 / fan_in as f64).sqrt();
            let weights = stream::signed(2 * t as u64, output * fan_in, scale);
            let weights = match (dense, j) {
                (true, 0) => flat(weights, output)?.reshape((output, input))?.t()?,
                (true, 2) => {
                    let columns = Tensor::from_vec(weights, (output, input), &Device::Cpu)?;
                    let rows = columns.t()?.flatten_all()?.to_vec1::<f64>()?;
                    flat(rows, input)?.reshape((input, output))?
                }
                _ => nchw(weights, [output, input, k, k])?
                    .permute((1, 2, 3, 0))?
                    .reshape((fan_in, output))?,
            };
            let shape = (k, k, input, output);
            all[&name("weight")].set(&weights.contiguous()?.reshape(shape)?)?;
            let bias = stream::signed(2 * t as u64 + 1, output, 0.1);
            let bias = match (dense, j) {
                (true, 2) => flat(bias, 1)?.flatten_all()?,
                _ => Tensor::new(bias, &Device::Cpu)?,
            };
            all[&name("bias")].set(&bias)?;
            let side = if k == 1 { 1 } else { h };
            for (what, of, c) in [("u", 1000, output), ("v", 1001, input)] {
                let values = stream::signed(of + 2 * t as u64, c * side * side, 1.0);
                let vector = match dense && c == channels {
                    true => flat(values, 1)?,
                    false => nchw(values, [1, c, side, side])?,
                };
                all[&name(what)].set(&unit(vector)?)?;
            }
        }
    }
    for (a, channels) in [3, 3, 3, 12, 48].into_iter().enumerate() {
        for (what, of) in [("bias", 500), ("log_scale", 501)] {
            let values = stream::signed(of + 2 * a as u64, channels, 0.1);
            let values = match channels {
                48 => flat(values, 1)?.flatten_all()?,
                _ => Tensor::new(values, &Device::Cpu)?,
            };
            all[&format!("norm{a}.{what}")].set(&values)?;
        }
    }
    Ok((flow, w))
}

/// The same with singular vectors that have converged.
fn converged() -> Result<(ResidualFlow, Weights)> {
    let (flow, w) = of_streams()?;
    flow.settle(rounds(2000))?;
    Ok((flow, w))
}

/// Two images in [0, 1].
fn images() -> Result<Tensor> {
    let noise = stream::uniform(9101, 96).into_iter();
    let bytes = stream::bytes(9100, 96).into_iter();
    let y = bytes.zip(noise).map(|(x, u)| (f64::from(x) + u) / 256.0);
    nchw(y.collect(), [2, 3, 4, 4])
}

/// What a block sees, in the order of the other side.
fn vector(of: u64, block: &Block) -> Result<Tensor> {
    let [h, w, c] = block.image();
    let values = stream::normal(of, 2 * h * w * c);
    match h {
        1 => flat(values, 2),
        _ => nchw(values, [2, c, h, w]),
    }
}

/// The Jacobian of g for each image, `[n, d, d]`.
fn jacobian(ready: &Ready, x: &Tensor) -> candle_core::Result<Tensor> {
    let (n, d) = (x.dim(0)?, x.elem_count() / x.dim(0)?);
    let slopes = ready.g_and_slopes(x)?.1;
    let eye = Tensor::eye(d, x.dtype(), x.device())?;
    let row = |i: usize| {
        let s = eye.narrow(0, i, 1)?.broadcast_as((n, d))?.contiguous()?;
        ready.vjp(&s.reshape(x.shape())?, &slopes)?.reshape((n, d))
    };
    Tensor::stack(
        &(0..d).map(row).collect::<candle_core::Result<Vec<_>>>()?,
        1,
    )
}

/// `ln det(I + J)` of each image.
fn log_det(jacobian: &Tensor) -> candle_core::Result<Tensor> {
    let eye = Tensor::eye(jacobian.dim(1)?, jacobian.dtype(), jacobian.device())?;
    let of = |i| log_abs_det(&(jacobian.get(i)? + &eye)?);
    let all = (0..jacobian.dim(0)?).map(of);
    Tensor::stack(&all.collect::<candle_core::Result<Vec<_>>>()?, 0)
}

/// A pass with exact log-determinants.
fn exactly(_: usize, block: &Block, x: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
    let ready = block.ready()?;
    let change = log_det(&jacobian(&ready, x)?)?;
    Ok(((x + ready.g(x)?)?, change))
}

/// What each block of the tiny flow is given for [`images`].
fn inputs(flow: &ResidualFlow) -> Result<Vec<Tensor>> {
    let mut seen = Vec::new();
    let x = logit::logit(&images()?, 0.05)?.0;
    flow.forward(&x, |_, block, x| {
        seen.push(x.detach());
        Ok(((x + block.ready()?.g(x)?)?, no_change(x)?))
    })?;
    Ok(seen)
}

fn numbers(t: &Tensor) -> Result<Vec<f64>> {
    Ok(t.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?)
}

fn number(t: &Tensor) -> Result<f64> {
    Ok(t.to_scalar()?)
}

/// Euclidean norm.
fn size(t: &Tensor) -> Result<f64> {
    number(&t.sqr()?.sum_all()?.sqrt()?)
}

/// Relative errors below a limit.
#[track_caller]
fn near(found: &[f64], expected: &[f64], limit: f64) {
    assert_eq!(found.len(), expected.len(), "{found:?} {expected:?}");
    let close = |(a, b): (&f64, &f64)| (a - b).abs() <= limit * b.abs();
    assert!(
        found.iter().zip(expected).all(close),
        "{found:?} {expected:?}"
    );
}
