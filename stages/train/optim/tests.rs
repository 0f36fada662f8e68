use candle_core::Device;

use super::*;

fn rule(kind: Rule, form: Form) -> Optim {
    Optim {
        kind,
        lr: 1e-4,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        form,
        halve_every: 250,
        warmup_epochs: 0.0,
        clip_norm: 0.0,
    }
}

/// The weight after each step along the given gradients, from 0.
fn walk(rule: &Optim, grads: &[f64]) -> Result<Vec<f64>> {
    let w = Var::zeros(1, DType::F64, &Device::Cpu)?;
    let optimiser = Optimiser::new(rule, vec![("w".into(), w.clone())], 10)?;
    let mut path = Vec::new();
    for (step, g) in grads.iter().enumerate() {
        let store = (w.as_tensor() * *g)?.sum_all()?.backward()?;
        optimiser.step(&store, step as u64)?;
        path.push(w.to_vec1::<f64>()?[0]);
    }
    Ok(path)
}

/// REFERENCE 7, oracle 31.
#[test]
fn the_first_step_is_the_step_size() -> Result<()> {
    for g in [1e-9, 1e-6, -0.3, 20.0] {
        let tf = walk(&rule(Rule::Adam, Form::Tensorflow), &[g])?[0];
        let torch = walk(&rule(Rule::Adam, Form::Torch), &[g])?[0];
        let expect = |epsilon: f64| -1e-4 * g / (g.abs() + epsilon);
        assert!(
            (tf / expect(1e-8 / 0.001f64.sqrt()) - 1.0).abs() < 1e-9,
            "{tf}"
        );
        assert!((torch / expect(1e-8) - 1.0).abs() < 1e-9, "{torch}");
    }
    let ratio = |g: f64| -> Result<f64> {
        let step = |form| walk(&rule(Rule::Adam, form), &[g]);
        Ok(step(Form::Torch)?[0] / step(Form::Tensorflow)?[0])
    };
    assert!((ratio(1e-6)? - 1.30).abs() < 0.005 && (ratio(1e-9)? - 28.8).abs() < 0.05);
    Ok(())
}

/// Against the textbook formulae in the textbook's order, over several steps.
#[test]
fn paths_follow_the_formulae() -> Result<()> {
    let grads: Vec<f64> = (0..20).map(|i| (f64::from(i) * 1.7).sin() * 0.1).collect();
    for (kind, form) in [
        (Rule::Adam, Form::Torch),
        (Rule::Adam, Form::Tensorflow),
        (Rule::Adamax, Form::Tensorflow),
    ] {
        let path = walk(&rule(kind, form), &grads)?;
        let (mut w, mut m, mut v) = (0.0, 0.0, 0.0f64);
        for (t, g) in (1..).zip(&grads) {
            let (c1, c2) = (1.0 - 0.9f64.powi(t), 1.0 - 0.999f64.powi(t));
            m = 0.9 * m + 0.1 * g;
            w -= match (kind, form) {
                (Rule::Adamax, _) => {
                    v = (0.999 * v).max(g.abs());
                    1e-4 * c2.sqrt() / c1 * m / (v + 1e-8)
                }
                (_, Form::Torch) => {
                    v = 0.999 * v + 0.001 * g * g;
                    1e-4 * (m / c1) / ((v / c2).sqrt() + 1e-8)
                }
                (_, Form::Tensorflow) => {
                    v = 0.999 * v + 0.001 * g * g;
                    1e-4 * c2.sqrt() / c1 * m / (v.sqrt() + 1e-8)
                }
            };
            let ours = path[t as usize - 1];
            assert!(
                (ours - w).abs() < 1e-12,
                "{kind:?} {form:?} step {t}: {ours} {w}"
            );
        }
    }
    Ok(())
}

/// REFERENCE 7, oracle 31.
#[test]
fn the_step_size_halves_on_schedule() {
    let rule = rule(Rule::Adam, Form::Torch);
    let at = |epoch: u64| rule.lr_at(epoch * 781, 781);
    assert_eq!(
        [0, 249, 250, 500, 750].map(at),
        [1e-4, 1e-4, 5e-5, 2.5e-5, 1.25e-5]
    );
    assert_eq!(rule.lr_at(250 * 781 - 1, 781), 1e-4);
}

#[test]
fn warm_up_is_linear_in_images_seen() {
    let rule = Optim {
        warmup_epochs: 10.0,
        halve_every: 0,
        ..rule(Rule::Adamax, Form::Torch)
    };
    assert_eq!(rule.lr_at(0, 100), 0.0);
    assert_eq!(rule.lr_at(500, 100), 0.5e-4);
    assert_eq!(rule.lr_at(1000, 100), 1e-4);
    assert_eq!(rule.lr_at(1 << 40, 100), 1e-4);

    // A part of an epoch is whole steps.
    let short = Optim {
        warmup_epochs: 0.04,
        ..rule
    };
    assert_eq!(short.lr_at(5, 251), 0.5e-4);
    assert_eq!(short.lr_at(10, 251), 1e-4);

    // It was a whole number, whose type said what must hold.
    for wrong in [-1.0, f64::NAN, f64::INFINITY] {
        let rule = Optim {
            warmup_epochs: wrong,
            ..short.clone()
        };
        let error = Optimiser::new(&rule, Vec::new(), 10).err();
        let error = error.map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains("train.optim.warmup_epochs"), "{error}");
    }
}

#[test]
fn clipping_scales_all_gradients_together() -> Result<()> {
    // Adamax's first step is g / (|g| + epsilon); a huge epsilon makes it linear in g.
    let base = Optim {
        epsilon: 1e6,
        lr: 1e6,
        ..rule(Rule::Adamax, Form::Torch)
    };
    let clipped = Optim {
        clip_norm: 1.0,
        ..base.clone()
    };
    let move_by = |rule: &Optim| -> Result<Vec<f64>> {
        let w = Var::zeros(2, DType::F64, &Device::Cpu)?;
        let optimiser = Optimiser::new(rule, vec![("w".into(), w.clone())], 10)?;
        let g = Tensor::new(&[3f64, 4.0], &Device::Cpu)?;
        optimiser.step(&(w.as_tensor() * g)?.sum_all()?.backward()?, 0)?;
        Ok(w.to_vec1()?)
    };
    for (free, clipped) in move_by(&base)?.iter().zip(move_by(&clipped)?) {
        assert!((free / clipped - 5.0).abs() < 1e-4);
    }
    Ok(())
}
