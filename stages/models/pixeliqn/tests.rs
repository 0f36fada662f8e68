//! Oracles Q of TABLE2.md.

use anyhow::Context;
use candle_core::Var;

use super::*;
use crate::models::pixelcnn::network::Colours;
use crate::models::pixelcnn::tests::{
    Fill, entries, fill_trunk, image, images, kernel, near, norm, scalar, tiny, weights,
};
use crate::oracles::stream;

fn taus() -> Result<Tensor> {
    images(stream::uniform(9001, 2 * 3 * 4 * 5), [2, 3, 4, 5])
}

fn model(tau: Tau, how: Fill) -> Result<(PixelIqn, Weights)> {
    let w = weights();
    let config = Config {
        network: tiny(2, 5, 3),
        tau,
        input: Range::Centred,
        image: [4, 5, 3],
    };
    let model = PixelIqn::new(&config, &w)?;
    fill_trunk(&model.trunk, how, u64::from(model.head.is_some()))?;
    if let Some(head) = &model.head {
        let (features, maps) = head.weight.dims2()?;
        // Blocks of five tensors, the last without `out`.
        let t = 5 * 3 - 1;
        let scale = (3.0 / features as f64).sqrt();
        let (mut values, mut bias) = (
            stream::signed(2 * t, features * maps, scale),
            stream::signed(2 * t + 1, maps, 0.1),
        );
        if let Fill::Positive = how {
            values.iter_mut().for_each(|v| *v = v.abs() / 2.0);
            bias.iter_mut().for_each(|v| *v = v.abs());
        }
        let values = kernel(values, [1, 1, features, maps])?.reshape((features, maps))?;
        Var::from_tensor(&head.weight)?.set(&values)?;
        Var::from_tensor(&head.bias)?.set(&Tensor::from_vec(bias, maps, &Device::Cpu)?)?;
    }
    Ok((model, w))
}

fn number(values: &[f64]) -> Result<Tensor> {
    Ok(Tensor::new(values, &Device::Cpu)?)
}

/// Q1.
#[test]
fn the_loss_and_its_slope_are_those_of_the_other_side() -> Result<()> {
    let u = number(&[0.001, -0.001, 0.5, -0.5, 0.002, 0.0])?;
    let tau = number(&[0.3; 6])?;
    for (kappa, expected) in [
        (0.002, [7.5e-5, 1.75e-4, 0.1497, 0.3493, 3e-4, 0.0]),
        (1.0, [1.5e-7, 3.5e-7, 0.0375, 0.0875, 6e-7, 0.0]),
        (0.0, [3e-4, 7e-4, 0.15, 0.35, 6e-4, 0.0]),
    ] {
        let loss = quantile_loss(&u, &tau, kappa)?.to_vec1::<f64>()?;
        for (a, b) in loss.iter().zip(expected) {
            assert!((a - b).abs() < 1e-15, "{kappa} {loss:?}");
        }
    }
    let q = Var::from_tensor(&number(&[-0.1, 0.1, -0.0005, 0.0005])?)?;
    let u = q.as_tensor().neg()?;
    let loss = quantile_loss(&u, &number(&[0.3; 4])?, 0.002)?.sum_all()?;
    let grads = loss.backward()?;
    let slope = grads.get(q.as_tensor()).context("no gradient")?;
    let slope = slope.to_vec1::<f64>()?;
    for (a, b) in slope.iter().zip([-0.3, 0.7, -0.075, 0.175]) {
        assert!((a - b).abs() < 1e-12, "{slope:?}");
    }
    Ok(())
}

/// Q2: over x and tau uniform, on a grid.
#[test]
fn mean_losses_of_known_quantiles() -> Result<()> {
    let n = 2000;
    let grid: Vec<f64> = (0..n).map(|i| (i as f64 + 0.5) / n as f64).collect();
    let grid = Tensor::new(&grid[..], &Device::Cpu)?;
    let (x, tau) = (
        grid.unsqueeze(1)?.broadcast_as((n, n))?.contiguous()?,
        grid.unsqueeze(0)?.broadcast_as((n, n))?.contiguous()?,
    );
    let mean = |q: &Tensor, kappa: f64| -> Result<f64> {
        scalar(&quantile_loss(&(&x - q)?, &tau, kappa)?.mean_all()?)
    };
    let half = x.affine(0.0, 0.5)?;
    near(mean(&tau, 0.0)?, 1.0 / 12.0, 1e-6);
    near(mean(&half, 0.0)?, 1.0 / 8.0, 1e-6);
    near(mean(&tau, 0.002)?, 0.08300067, 1e-6);
    near(mean(&half, 0.002)?, 0.12450066, 1e-6);
    Ok(())
}

/// Q3: where a constant has the least loss, for x one of ten values.
#[test]
fn the_best_constant_is_the_quantile() -> Result<()> {
    let x: Vec<f64> = (0..10).map(|i| f64::from(i) / 9.0).collect();
    let x = Tensor::new(&x[..], &Device::Cpu)?.unsqueeze(0)?;
    let q: Vec<f64> = (0..=100_000).map(|i| f64::from(i) * 1e-5).collect();
    let u = x.broadcast_sub(&Tensor::new(&q[..], &Device::Cpu)?.unsqueeze(1)?)?;
    let least = |tau: f64, kappa: f64| -> Result<(f64, f64)> {
        let tau = u.affine(0.0, tau)?;
        let losses = quantile_loss(&u, &tau, kappa)?.mean(1)?.to_vec1::<f64>()?;
        let pairs = losses.into_iter().zip(&q);
        let best = pairs.min_by(|a, b| a.0.total_cmp(&b.0));
        best.map(|(l, q)| (l, *q)).context("no losses")
    };
    for (tau, kappa, at, value) in [
        (0.25, 0.0, 0.22222, 0.102777889),
        (0.25, 0.002, 0.22289, 0.102444444),
        (0.25, 0.2, 0.27222, 0.071033951),
        (0.93, 0.002, 0.99865, 0.034894323),
    ] {
        let (found, q) = least(tau, kappa)?;
        assert!((q - at).abs() < 1.5e-5, "{tau} {kappa}: {q} is not {at}");
        near(found, value, 2e-7);
    }
    Ok(())
}

/// Q5, Q6: losses, outputs and gradients of the tiny network, for each way to tell it tau.
#[test]
fn losses_and_gradients_are_those_of_the_other_side() -> Result<()> {
    let (x, tau) = (image()?, taus()?);
    let eight = 8;
    type Expected<'a> = (Tau, [f64; 3], &'a [(&'a str, f64)]);
    let cases: [Expected; 3] = [
        (
            Tau::Linear {},
            [0.253719650407, 0.25423126571, -0.055554967868],
            &[
                ("block0.vertical.weight", 0.008545780179),
                ("block2.horizontal.weight", 0.004046814904),
                ("head2.weight", 0.04248094414),
                ("block0.told.weight", 0.004742999269),
                ("block2.told.weight", 0.00448361236),
            ],
        ),
        (
            Tau::Cosine { features: eight },
            [0.263927689295, 0.264438312127, -1.31812474743],
            &[
                ("block0.vertical.weight", 0.007094130039),
                ("block2.horizontal.weight", 0.005486081068),
                ("head2.weight", 0.06225270645),
                ("block0.told.weight", 0.009691828849),
                ("block2.told.weight", 0.0119494317),
            ],
        ),
        (
            Tau::Head { features: eight },
            [0.224377431501, 0.224885730891, 6.92145838782],
            &[
                ("block0.vertical.weight", 0.009961302716),
                ("block2.horizontal.weight", 0.004109664144),
                ("head2.weight", 0.0297931525),
                ("tau.weight", 0.01375505502),
            ],
        ),
    ];
    for (form, [smooth, pinball, sum], gradients) in cases {
        let (model, w) = model(form, Fill::Signed)?;
        let q = model.quantiles(&x, &tau)?;
        near(scalar(&q.sum_all()?)?, sum, 1e-9);
        let u = ((&x / 255.0)? - &q)?;
        let loss = quantile_loss(&u, &tau, 0.002)?.mean_all()?;
        near(scalar(&loss)?, smooth, 1e-9);
        near(
            scalar(&quantile_loss(&u, &tau, 0.0)?.mean_all()?)?,
            pinball,
            1e-9,
        );
        if form == (Tau::Linear {}) {
            let at = q.get(0)?.get(2)?.get(3)?.to_vec1::<f64>()?;
            for (a, b) in at.iter().zip([-0.1113987762, 0.1283127965, -0.04350334641]) {
                near(*a, b, 1e-9);
            }
        }
        let grads = loss.backward()?;
        let all = w.all();
        for (name, expected) in gradients {
            let grad = grads.get(all[*name].as_tensor()).context("no gradient")?;
            near(norm(grad)?, *expected, 1e-8);
        }
    }
    Ok(())
}

/// Q7, Q9, Q11: drawing in order says what one pass over the result says; the values of the other side.
#[test]
fn drawing_in_order_is_one_pass_over_the_result() -> Result<()> {
    assert_eq!(
        [-0.2, 0.0019, 0.00197, 0.5, 1.3].map(rounded),
        [0.0, 0.0, 1.0, 128.0, 255.0]
    );
    for form in [
        Tau::Linear {},
        Tau::Cosine { features: 8 },
        Tau::Head { features: 8 },
    ] {
        let (model, _) = model(form, Fill::Signed)?;
        let given = taus()?;
        let mut numbers = given.flatten_all()?.to_vec1::<f64>()?;
        model.draw(&mut numbers)?;
        if form == (Tau::Linear {}) {
            assert_eq!(
                numbers[..9],
                [0.0, 42.0, 0.0, 0.0, 33.0, 0.0, 0.0, 29.0, 0.0]
            );
            assert_eq!(numbers.iter().sum::<f64>(), 1560.0);
        }
        let drawn = Tensor::from_vec(numbers.clone(), (2, 4, 5, 3), &Device::Cpu)?;
        let again = model.quantiles(&drawn, &given)?.flatten_all()?;
        for (a, b) in again.to_vec1::<f64>()?.iter().zip(&numbers) {
            // In f32 a quantile may fall to the other side of an edge.
            assert!((rounded(*a) - b).abs() <= 1.0, "{form:?}: {a} {b}");
            let edge = (a.clamp(0.0, 1.0) * 255.0 + 0.5).fract();
            assert!(rounded(*a) == *b || !(1e-4..1.0 - 1e-4).contains(&edge));
        }
    }
    Ok(())
}

/// Q8: causality in x, and in tau: only its own is seen, but for what those before did to the trunk.
#[test]
fn no_quantile_sees_what_follows() -> Result<()> {
    for (form, in_tau) in [
        (Tau::Linear {}, [312, 60, 0]),
        (Tau::Cosine { features: 8 }, [312, 60, 0]),
    ] {
        let (model, _) = model(form, Fill::Positive)?;
        // What the network is shown of it is the stream itself.
        let x = images(stream::uniform(9002, 60), [1, 3, 4, 5])?.affine(127.5, 127.5)?;
        let tau = images(stream::uniform(9001, 60), [1, 3, 4, 5])?;
        let (x, tau) = (Var::from_tensor(&x)?, Var::from_tensor(&tau)?);
        let q = model.quantiles(x.as_tensor(), tau.as_tensor())?;
        assert_eq!(entries(&x, &q)?, [1770, 0, 0], "{form:?}");
        assert_eq!(entries(&tau, &q)?, in_tau, "{form:?}");
    }
    Ok(())
}

/// Q10, Q12, C8.
#[test]
fn starts_near_a_half_and_has_the_published_size() -> Result<()> {
    let (model, w) = model(Tau::Linear {}, Fill::Signed)?;
    let all = w.all();
    all["head2.weight"].set(&all["head2.weight"].zeros_like()?)?;
    all["head2.bias"].set(&all["head2.bias"].affine(0.0, 0.5)?)?;
    let (x, tau) = (image()?, taus()?);
    let u = ((&x / 255.0)? - model.quantiles(&x, &tau)?)?;
    let mean = |kappa| -> Result<f64> { scalar(&quantile_loss(&u, &tau, kappa)?.mean_all()?) };
    near(mean(0.002)?, 0.11772450344, 1e-10);
    near(mean(0.0)?, 0.118220571125, 1e-10);

    for (tau, expected) in [
        (Tau::Linear {}, 13_350_787),
        (Tau::Cosine { features: 64 }, 13_608_835),
        (Tau::Head { features: 64 }, 13_413_251),
    ] {
        let w = Weights::new(0, DType::F32, &Device::Cpu);
        let network = Network {
            layers: 15,
            width: 128,
            kernel: 5,
            first_kernel: 7,
            skip: 1024,
            head: 1024,
            colours: Colours::Contiguous,
            vertical_residual: false,
        };
        let config = Config {
            network,
            tau,
            input: Range::Unit,
            image: [32, 32, 3],
        };
        PixelIqn::new(&config, &w)?;
        assert_eq!(w.count(), expected, "{tau:?}");
        let all = w.all();
        let last = all["head2.weight"].abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(last <= 0.1 / 32.0 && last > 0.09 / 32.0, "{last}");
    }
    Ok(())
}
