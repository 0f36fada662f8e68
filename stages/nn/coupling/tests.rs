use candle_core::{DType, Device, Var};

use super::*;
use crate::nn::noise::Noise;

fn images(c: usize) -> Result<Tensor> {
    Ok(Noise::new(1, "x")
        .at(0)
        .normal((2, 4, 4, c), DType::F64, &Device::Cpu)?)
}

#[test]
fn an_additive_coupling_starts_as_the_identity() -> Result<()> {
    let w = Weights::new(0, DType::F64, &Device::Cpu);
    let x = images(3)?;
    let layer = Coupling::new(CouplingKind::Additive, 3, 8, &w)?;
    let y = layer.start(&x)?;
    assert_eq!(
        y.flatten_all()?.to_vec1::<f64>()?,
        x.flatten_all()?.to_vec1::<f64>()?
    );
    Ok(())
}

#[test]
fn an_affine_coupling_starts_by_scaling_with_sigmoid_2() -> Result<()> {
    let w = Weights::new(0, DType::F64, &Device::Cpu);
    let x = images(4)?;
    let (y, log_det) = Coupling::new(CouplingKind::Affine, 4, 8, &w)?.forward(&x)?;
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
fn hidden_actnorms_start_from_data() -> Result<()> {
    let w = Weights::new(0, DType::F64, &Device::Cpu);
    let layer = Coupling::new(CouplingKind::Additive, 4, 8, &w)?;
    let x = images(4)?;
    layer.start(&x)?;
    let (z1, _) = layer.halves(&x)?;
    let h = layer
        .net
        .norm1
        .apply(&layer.net.conv1.forward(&z1)?, Activation::None)?
        .flatten_to(2)?;
    for (m, s) in h
        .mean(0)?
        .to_vec1::<f64>()?
        .iter()
        .zip(h.sqr()?.mean(0)?.to_vec1::<f64>()?)
    {
        assert!(m.abs() < 1e-9 && (s - 1.0).abs() < 1e-3);
    }
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
    for (n, h, w, c, width) in [
        (1, 1, 1, 2, 3),
        (3, 2, 3, 3, 5),
        (17, 4, 4, 6, 20),
        (2, 13, 17, 3, 40),
        (2, 4, 5, 40, 33),
        (40, 2, 2, 4, 8),
    ] {
        let store = Weights::new(0, DType::F64, &Device::Cpu);
        let layer = Coupling::new(CouplingKind::Additive, c, width, &store)?;
        super::super::bijector::check::disturb(&store, 0.3)?;
        let draw = |step| {
            let mut noise = Noise::new(4, "fused").at(step);
            noise.normal((n, h, w, c), DType::F64, &Device::Cpu)
        };
        let (x, r) = (Var::from_tensor(&draw(0)?)?, draw(1)?);
        let fused = layer.forward(&x)?.0;
        let (z1, z2) = layer.halves(&x)?;
        let plain = layer.transform(&z1, &z2, &layer.net.forward(&z1)?)?.0;
        let far = |a: &Tensor, b: &Tensor| -> Result<f64> {
            let size = 1.0 + b.abs()?.max_all()?.to_scalar::<f64>()?;
            Ok((a - b)?.abs()?.max_all()?.to_scalar::<f64>()? / size)
        };
        assert!(far(&fused, &plain)? < 1e-13);
        let ours = (fused * &r)?.sum_all()?.backward()?;
        let theirs = (plain * &r)?.sum_all()?.backward()?;
        let mut all = store.all();
        all.insert("x".into(), x);
        for (name, var) in &all {
            let (Some(a), Some(b)) = (ours.get(var), theirs.get(var)) else {
                panic!("no gradient of {name}");
            };
            let gap = far(a, b)?;
            assert!(gap < 1e-12, "{name} of {n} {h} {w} {c} {width}: {gap:e}");
        }
        // Without anything to learn nothing is kept, and nothing changes.
        let frozen = Coupling::new(CouplingKind::Additive, c, width, &store.frozen())?;
        let again = frozen.forward(&draw(0)?)?.0;
        assert_eq!(far(&again, &layer.forward(&draw(0)?)?.0)?, 0.0);
    }
    Ok(())
}

#[test]
fn couplings_do_not_depend_on_the_number_of_threads() -> Result<()> {
    let work = || -> Result<Vec<Vec<f32>>> {
        let store = Weights::new(0, DType::F32, &Device::Cpu);
        let layer = Coupling::new(CouplingKind::Additive, 4, 24, &store)?;
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
