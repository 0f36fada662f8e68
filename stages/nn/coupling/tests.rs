use candle_core::{DType, Device, Var};

use super::*;
use crate::nn::noise::Noise;

fn images(c: usize) -> Result<Tensor> {
    Ok(Noise::new(1, "x")
        .at(0)
        .normal((2, 4, 4, c), DType::F64, &Device::Cpu)?)
}

fn additive_of(network: CouplingNetwork, width: usize) -> Config {
    Config {
        network,
        ..Config::official(CouplingKind::Additive, width)
    }
}

const NETWORKS: [CouplingNetwork; 2] = [CouplingNetwork::Official, CouplingNetwork::Plain];

#[test]
fn an_additive_coupling_starts_as_the_identity() -> Result<()> {
    for network in NETWORKS {
        for split in [ChannelSplit::ConditionOnOne, ChannelSplit::Alternate] {
            let w = Weights::new(0, DType::F64, &Device::Cpu);
            let x = images(3)?;
            let layer = Coupling::new(additive_of(network, 8), split.roles(3, 1)?, &w)?;
            let y = layer.start(&x)?;
            assert_eq!(
                y.flatten_all()?.to_vec1::<f64>()?,
                x.flatten_all()?.to_vec1::<f64>()?
            );
        }
    }
    Ok(())
}

/// Which of three channels change in the first two steps.
#[test]
fn channels_have_the_roles_of_their_split() -> Result<()> {
    for (split, changed) in [
        (ChannelSplit::ConditionOnOne, [[false, true, true]; 2]),
        (ChannelSplit::ConditionOnTwo, [[false, false, true]; 2]),
        (
            ChannelSplit::Alternate,
            [[false, true, true], [true, false, false]],
        ),
    ] {
        for (step, expected) in changed.into_iter().enumerate() {
            let w = Weights::new(0, DType::F64, &Device::Cpu);
            let config = additive_of(CouplingNetwork::Official, 8);
            let layer = Coupling::new(config, split.roles(3, step)?, &w)?;
            super::super::bijector::check::disturb(&w, 0.3)?;
            let x = images(3)?;
            let change = (layer.forward(&x)?.0 - &x)?.abs()?.flatten_to(2)?.sum(0)?;
            let changes: Vec<_> = change.to_vec1::<f64>()?.iter().map(|c| *c != 0.0).collect();
            assert_eq!(changes, expected, "{split:?}, step {step}");
        }
    }
    let grey = ChannelSplit::ConditionOnOne.roles(1, 0);
    assert!(grey.is_err_and(|e| e.to_string().contains("the images have 1")));
    Ok(())
}

#[test]
fn an_affine_coupling_starts_by_scaling_with_sigmoid_2() -> Result<()> {
    let w = Weights::new(0, DType::F64, &Device::Cpu);
    let x = images(4)?;
    let config = Config::official(CouplingKind::Affine, 8);
    let (y, log_det) = Coupling::new(config, Roles::official(4)?, &w)?.forward(&x)?;
    let ratio = (y / x)?.flatten_to(2)?.to_vec2::<f64>()?;
    for pixel in ratio {
        assert_eq!(pixel[..2], [1.0, 1.0]);
        assert!(pixel[2..].iter().all(|s| (s - 0.880_797).abs() < 1e-6));
    }
    let expected = 32.0 * 0.880_797_077_977_882_3_f64.ln();
    assert!(
        log_det
            .to_vec1::<f64>()?
            .iter()
            .all(|l| (l - expected).abs() < 1e-10)
    );
    Ok(())
}

#[test]
fn log_sigmoid_is_finite_far_out() -> Result<()> {
    let x = Tensor::new(&[-800f64, -1.0, 0.0, 2.0, 800.0], &Device::Cpu)?;
    let y = log_sigmoid(&x)?.to_vec1::<f64>()?;
    let expected = [
        -800.0,
        -1.313_261_687,
        -std::f64::consts::LN_2,
        -0.126_928_011,
        0.0,
    ];
    assert!(
        y.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-8),
        "{y:?}"
    );
    Ok(())
}

/// The one operation against the layers one by one: values and all gradients, at sizes with one
/// pixel, several images in a task, several blocks of rows, and one or many outputs.
#[test]
fn the_fused_coupling_equals_its_layers() -> Result<()> {
    let halves = |c| Roles::official(c);
    let mut cases = Vec::new();
    for network in NETWORKS {
        cases.extend([
            (network, (1, 1, 1), halves(2)?, 3),
            (network, (3, 2, 3), halves(3)?, 5),
            (
                network,
                (3, 4, 3),
                ChannelSplit::ConditionOnTwo.roles(3, 0)?,
                5,
            ),
            (network, (3, 4, 3), ChannelSplit::Alternate.roles(3, 1)?, 5),
        ]);
    }
    cases.extend([
        (CouplingNetwork::Official, (17, 4, 4), halves(6)?, 20),
        (CouplingNetwork::Official, (2, 13, 17), halves(3)?, 40),
        (CouplingNetwork::Official, (2, 4, 5), halves(40)?, 33),
        (CouplingNetwork::Plain, (2, 4, 5), halves(40)?, 33),
        (CouplingNetwork::Official, (40, 2, 2), halves(4)?, 8),
    ]);
    for (network, (n, h, w), roles, width) in cases {
        let store = Weights::new(0, DType::F64, &Device::Cpu);
        let config = additive_of(network, width);
        let layer = Coupling::new(config, roles, &store)?;
        super::super::bijector::check::disturb(&store, 0.3)?;
        let c = roles.conditioning + roles.transformed;
        let draw = |step| {
            let mut noise = Noise::new(4, "fused").at(step);
            noise.normal((n, h, w, c), DType::F64, &Device::Cpu)
        };
        let (x, r) = (Var::from_tensor(&draw(0)?)?, draw(1)?);
        let fused = layer.forward(&x)?.0;
        let layers = layer.in_order(&layer.by_layers(&layer.conditioning_first(&x)?)?.0)?;
        let far = |a: &Tensor, b: &Tensor| -> Result<f64> {
            let size = 1.0 + b.abs()?.max_all()?.to_scalar::<f64>()?;
            Ok((a - b)?.abs()?.max_all()?.to_scalar::<f64>()? / size)
        };
        assert!(far(&fused, &layers)? < 1e-13);
        let ours = (fused * &r)?.sum_all()?.backward()?;
        let theirs = (layers * &r)?.sum_all()?.backward()?;
        let mut all = store.all();
        all.insert("x".into(), x);
        for (name, var) in &all {
            let (Some(a), Some(b)) = (ours.get(var), theirs.get(var)) else {
                panic!("no gradient of {name}");
            };
            let gap = far(a, b)?;
            assert!(gap < 1e-12, "{name} of {config:?} {n} {h} {w} {c}: {gap:e}");
        }
        // Without anything to learn nothing is kept, and nothing changes.
        let frozen = Coupling::new(config, roles, &store.frozen())?;
        let again = frozen.forward(&draw(0)?)?.0;
        assert_eq!(far(&again, &layer.forward(&draw(0)?)?.0)?, 0.0);
    }
    Ok(())
}

#[test]
fn couplings_do_not_depend_on_the_number_of_threads() -> Result<()> {
    let work = || -> Result<Vec<Vec<f32>>> {
        let store = Weights::new(0, DType::F32, &Device::Cpu);
        let config = additive_of(CouplingNetwork::Official, 24);
        let layer = Coupling::new(config, Roles::official(4)?, &store)?;
        super::super::bijector::check::disturb(&store, 0.3)?;
        let mut noise = Noise::new(4, "threads").at(0);
        let x = Var::from_tensor(&noise.normal((19, 9, 9, 4), DType::F32, &Device::Cpu)?)?;
        let y = layer.forward(&x)?.0;
        let grads = y.sqr()?.sum_all()?.backward()?;
        let mut all = vec![y.flatten_all()?.to_vec1()?];
        for var in store.all().values().chain([&x]) {
            let grad = grads
                .get(var)
                .map_or_else(|| var.zeros_like(), |g| Ok(g.clone()));
            all.push(grad?.flatten_all()?.to_vec1()?);
        }
        Ok(all)
    };
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.map(|pool| pool.install(work))
    };
    assert_eq!(on(1)??, on(3)??);
    Ok(())
}
