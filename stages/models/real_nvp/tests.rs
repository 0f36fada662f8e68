use candle_core::{DType, Device, Var};

use super::*;
use crate::nn::noise::Noise;

const CPU: Device = Device::Cpu;

/// Every form of the flow, that of pipeline.toml first.
fn forms(layers: usize) -> Vec<Config> {
    let mut all = Vec::new();
    for split in [Split::Halves, Split::Masks] {
        for permutation in [Permutation::Random, Permutation::None] {
            for coupling in [Coupling::Affine, Coupling::Additive] {
                all.push(Config {
                    split,
                    permutation,
                    coupling,
                    ..Config::of(layers, 8)
                });
            }
        }
    }
    all
}

/// A flow whose layers all do something: the zero output layers are drawn again.
fn flow(config: &Config, dim: usize, std: f64, dtype: DType) -> Result<RealNvp> {
    let w = Weights::new(3, dtype, &CPU);
    let flow = RealNvp::new(config, dim, &w)?;
    for (i, (name, var)) in w.trained().into_iter().enumerate() {
        if name.contains("dense2") {
            let e = Noise::new(8, "perturb")
                .at(i as u64)
                .normal(var.shape(), dtype, &CPU)?;
            var.set(&(e * std)?)?;
        }
    }
    Ok(flow)
}

fn draw(n: usize, dim: usize) -> Result<Tensor> {
    Ok(Noise::new(1, "z")
        .at(0)
        .normal((n, dim), DType::F64, &CPU)?)
}

fn far(a: &Tensor, b: &Tensor) -> Result<f64> {
    Ok((a - b)?.abs()?.max_all()?.to_scalar()?)
}

/// REFERENCE 3.1.
#[test]
fn the_paper_size_has_the_known_number_of_parameters() -> Result<()> {
    let halves = Config::of(16, 1024);
    let masks = Config {
        split: Split::Masks,
        ..halves
    };
    for (config, dim, expect) in [
        (halves, 64, 18_383_872),
        (halves, 128, 19_957_760),
        (masks, 64, 19_957_760),
        (masks, 128, 23_105_536),
    ] {
        let w = Weights::new(0, DType::F32, &CPU);
        RealNvp::new(&config, dim, &w)?;
        assert_eq!(w.count(), expect);
    }
    Ok(())
}

/// Oracle 1: back and forth, at an even and an odd size. Sixteen layers let rounding grow, so in f32
/// they are gentler.
#[test]
fn the_inverse_undoes_the_flow() -> Result<()> {
    for (dtype, std, limit) in [(DType::F64, 0.1, 1e-10), (DType::F32, 0.02, 1e-4)] {
        for (config, dim) in forms(16).iter().flat_map(|c| [(c, 6), (c, 5)]) {
            let flow = flow(config, dim, std, dtype)?;
            let z = draw(20, dim)?.to_dtype(dtype)?;
            let (u, _) = flow.forward(&z)?;
            let wide = |t: &Tensor| t.to_dtype(DType::F64);
            assert!(far(&wide(&z)?, &wide(&u)?)? > 0.01, "the flow does nothing");
            let back = far(&wide(&flow.inverse(&u)?)?, &wide(&z)?)?;
            assert!(back < limit, "{config:?}: {back}");
        }
    }
    Ok(())
}

/// `ln |det|` of the Jacobian of a map at `z`, by autodiff row for row.
fn log_det(map: impl Fn(&Tensor) -> Result<Tensor>, z: &Tensor) -> Result<f64> {
    let z = Var::from_tensor(z)?;
    let (y, dim) = (map(&z)?, z.dim(1)?);
    let mut rows = Vec::new();
    for i in 0..dim {
        let grads = y.get(0)?.get(i)?.backward()?;
        let row = grads
            .get(&z)
            .map_or_else(|| z.zeros_like(), |g| Ok(g.clone()))?;
        rows.extend(row.flatten_all()?.to_vec1::<f64>()?);
    }
    let jacobian = faer::Mat::from_fn(dim, dim, |i, j| rows[i * dim + j]);
    Ok(jacobian.determinant().abs().ln())
}

/// Oracles 2 and 3: the log-determinant is the Jacobian's, and cancels that of the inverse.
#[test]
fn log_det_is_that_of_the_jacobian() -> Result<()> {
    for (config, dim) in forms(4).iter().flat_map(|c| [(c, 6), (c, 5)]) {
        let flow = flow(config, dim, 0.3, DType::F64)?;
        let z = draw(1, dim)?;
        let (u, claimed) = flow.forward(&z)?;
        let claimed = claimed.to_vec1::<f64>()?[0];
        assert!((claimed - log_det(|z| Ok(flow.forward(z)?.0), &z)?).abs() < 1e-8);
        assert!((claimed + log_det(|u| flow.inverse(u), &u)?).abs() < 1e-8);
        let keeps_volumes = config.coupling == Coupling::Additive;
        assert_eq!(claimed == 0.0, keeps_volumes, "{config:?}");
    }
    Ok(())
}

/// Oracle 9: the density over the plane sums to one.
#[test]
fn the_density_is_normalised() -> Result<()> {
    // Gentle enough that next to nothing lies beyond the grid.
    let flow = flow(&Config::of(4, 8), 2, 0.1, DType::F64)?;
    let (n, reach) = (600usize, 9.0);
    let step = 2.0 * reach / n as f64;
    let at = |i: usize| (i as f64 + 0.5) * step - reach;
    let grid: Vec<f64> = (0..n * n).flat_map(|i| [at(i / n), at(i % n)]).collect();
    let z = Tensor::from_vec(grid, (n * n, 2), &CPU)?;
    let mass = flow.log_prob(&z)?.exp()?.sum_all()?.to_scalar::<f64>()? * step * step;
    assert!((mass - 1.0).abs() < 1e-3, "{mass}");
    Ok(())
}

/// Oracle 11: at the start p(z) is N(0, I).
#[test]
fn a_new_flow_is_standard_normal() -> Result<()> {
    for config in forms(16) {
        let w = Weights::new(0, DType::F64, &CPU);
        let flow = RealNvp::new(&config, 64, &w)?;
        let z = draw(10, 64)?;
        assert!(far(&flow.log_prob(&z)?, &gaussian::log_standard(&z)?)? < 1e-12);
    }
    Ok(())
}

/// Two layers of any form transform every dimension, each given some of the others.
#[test]
fn two_layers_transform_every_dimension() -> Result<()> {
    for (config, dim) in forms(2).iter().flat_map(|c| [(c, 6), (c, 5)]) {
        let flow = flow(config, dim, 0.3, DType::F64)?;
        let z = draw(1, dim)?;
        // Where the flow puts dimension i at its start, and what it makes of it when it does
        // something.
        let w = Weights::new(3, DType::F64, &CPU);
        let still = RealNvp::new(config, dim, &w)?.forward(&z)?.0;
        let moved = (flow.forward(&z)?.0 - still)?.abs()?.to_vec2::<f64>()?;
        assert!(moved[0].iter().all(|m| *m > 1e-9), "{config:?}: {moved:?}");
    }
    Ok(())
}
