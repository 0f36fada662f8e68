//! What must hold of estimates, norms and inverses, whatever the numbers.

use super::*;
use crate::data::images::Images;
use crate::metrics::bits::mean_and_error;
use crate::models::augment::Augment;
use crate::models::residual_flow_training::{How, ResidualFlowTraining};
use crate::train::optim::{Optim, Optimiser};
use crate::train::{Dataset, ImageSet, Trainable};

/// Over many draws of N and e the estimate is the log-determinant, and so is its gradient; for both laws
/// and both probes.
#[test]
fn estimates_are_unbiased() -> Result<()> {
    const DRAWS: usize = 10_000;
    let w = Weights::new(4, DType::F64, &Device::Cpu);
    let mut config = tiny();
    config.network.blocks = vec![1];
    config.network.dense_blocks = 0;
    config.image = [1, 2, 2];
    for probe in [Probe::Gaussian, Probe::Rademacher] {
        for law in [Law::Poisson, Law::Geometric] {
            config.probe = probe;
            let flow = ResidualFlow::new(&config, &w)?;
            for (name, var) in w.trained() {
                let mut noise = Noise::new(7, &name).at(0);
                // Positive weights, and activations where they are steep: far from the identity.
                if name.starts_with("block") && !name.contains("beta") {
                    let values = noise.uniform(var.shape(), DType::F64, &Device::Cpu)?;
                    let shift = if name.contains("bias") { 1.5 } else { 0.0 };
                    var.set(&(values + shift)?)?;
                }
            }
            flow.settle(rounds(300))?;
            let Some(block) = flow.blocks().next() else {
                panic!("no block");
            };
            // The same image many times: one pass estimates as often.
            let mut noise = Noise::new(2, "x").at(0);
            let x = noise.normal((1, 1, 2, 2), DType::F64, &Device::Cpu)?;
            let many = x.broadcast_as((DRAWS, 1, 2, 2))?.contiguous()?;
            let mut noise = Noise::new(5, &format!("{probe:?}{law:?}")).at(0);
            let probes = flow.probes(DRAWS, &series(law, 1), false, &mut noise)?;
            let (e, weights) = (&probes.vectors[0], &probes.weights[0]);
            let ready = block.ready()?;
            let exact = numbers(&log_det(&jacobian(&ready, &x)?)?)?[0];
            assert!(exact.abs() > 0.05, "{exact}");
            let (mean, error) = mean_and_error(&numbers(&ready.estimate(&many, e, weights)?.1)?);
            let error = error.unwrap_or(0.0);
            println!("{probe:?} {law:?}: {mean} +- {error}, exactly {exact}");
            assert!((mean - exact).abs() < 4.0 * error, "{mean} {exact} {error}");

            // The gradient along a kernel, against differences of the exact value.
            let name = "block0.conv1.weight";
            let var = w.all()[name].clone();
            let mut noise = Noise::new(9, "direction").at(0);
            let direction = noise.normal(var.shape(), DType::F64, &Device::Cpu)?;
            let at = var.copy()?.detach();
            let shifted = |by: f64| -> Result<f64> {
                var.set(&(&at + (&direction * by)?)?)?;
                let ready = block.ready()?;
                Ok(numbers(&log_det(&jacobian(&ready, &x)?)?)?[0])
            };
            let slope = (shifted(1e-5)? - shifted(-1e-5)?) / 2e-5;
            var.set(&at)?;
            // Groups of draws, each with a gradient of its own.
            let groups = 100;
            let size = DRAWS / groups;
            let mut slopes = Vec::new();
            for i in 0..groups {
                let part = |t: &Tensor| t.narrow(0, i * size, size);
                let weights: Vec<Vec<f64>> = (weights.iter())
                    .map(|w| w[i * size..(i + 1) * size].to_vec())
                    .collect();
                let ready = block.ready()?;
                let surrogate = ready.surrogate(&part(&many)?, &part(e)?, &weights)?.1;
                let grads = surrogate.mean_all()?.backward()?;
                let grad = grads.get(&var).map(|g| (g * &direction)?.sum_all());
                slopes.push(grad.transpose()?.map_or(Ok(0.0), |g| number(&g))?);
            }
            let (mean, error) = mean_and_error(&slopes);
            let error = error.unwrap_or(0.0);
            println!("  slope {mean} +- {error}, exactly {slope}");
            assert!(slope.abs() > 0.001 && (mean - slope).abs() < 4.0 * error);
        }
    }
    Ok(())
}

/// What images give is what noise gives them, back and forth, in f64 and f32.
#[test]
fn the_inverse_undoes_the_flow() -> Result<()> {
    for (dtype, tolerance, limit) in [(DType::F64, 1e-12, 1e-10), (DType::F32, 1e-6, 1e-4)] {
        let w = Weights::new(1, dtype, &Device::Cpu);
        let mut config = tiny();
        config.image = [8, 8, 3];
        config.inverse = rule(Rule::Strict, tolerance);
        let flow = ResidualFlow::new(&config, &w)?;
        flow.settle(rounds(20))?;
        let mut noise = Noise::new(0, "y").at(0);
        let y = noise.uniform((5, 8, 8, 3), dtype, &Device::Cpu)?;
        flow.start(&y)?;
        let x = logit::logit(&y, 0.05)?.0;
        let plain =
            |_: usize, block: &Block, x: &Tensor| Ok(((x + block.ready()?.g(x)?)?, no_change(x)?));
        let z = flow.forward(&x, plain)?.0;
        assert_eq!(z.dims(), [5, 8 * 8 * 3]);
        let gap = (flow.inverse(&z)? - &x)?
            .abs()?
            .max_all()?
            .to_dtype(DType::F64)?;
        assert!(number(&gap)? < limit, "{gap}");
        assert_eq!(flow.remark(), None);
    }
    Ok(())
}

/// All that is random of an image is its own: N and e of one say nothing of another.
#[test]
fn an_image_is_measured_alone() -> Result<()> {
    let (flow, _) = of_streams()?;
    flow.settle(rounds(20))?;
    let mut noise = Noise::new(0, "probes").at(0);
    let probes = flow.probes(2, &series(Law::Geometric, 2), false, &mut noise)?;
    let both = numbers(&flow.bits_of(&images()?, &probes)?)?;
    let second = Probes {
        weights: (probes.weights.iter())
            .map(|block| block.iter().map(|w| vec![w[1]]).collect())
            .collect(),
        vectors: (probes.vectors.iter())
            .map(|e| e.narrow(0, 1, 1))
            .collect::<candle_core::Result<_>>()?,
    };
    let alone = numbers(&flow.bits_of(&images()?.narrow(0, 1, 1)?, &second)?)?;
    near(&alone, &both[1..], 1e-13);
    // In training all images of a batch have the same terms.
    let alike = flow.probes(2, &series(Law::Geometric, 2), true, &mut noise)?;
    assert!(alike.weights.iter().flatten().all(|w| w.len() == 1));
    Ok(())
}

/// The norms of layers stay below one through a training, known only as well as its tolerance has them.
#[test]
fn layers_are_contractions_after_every_step() -> Result<()> {
    let w = Weights::new(2, DType::F64, &Device::Cpu);
    let mut config = tiny();
    config.image = [8, 8, 3];
    let how = How {
        augment: Augment::Flip,
        series: series(Law::Poisson, 2),
        power: Power {
            tolerance: 1e-3,
            most: 200,
        },
        init_images: 16,
        seed: 0,
    };
    let model = ResidualFlowTraining::new(&config, how, &w)?;
    let flow = ResidualFlow::new(&config, &w.frozen())?;
    let words = Noise::new(1, "pictures").at(0).words(32 * 8 * 8 * 3);
    let pixels = words.iter().map(|w| (w >> 26) as u8 + 90).collect();
    let images = Images::new([8, 8, 3], pixels, None)?;
    let set = ImageSet {
        images: &images,
        dtype: DType::F64,
        device: &Device::Cpu,
    };
    model.start(&set)?;
    let rule: Optim = serde_json::from_value(json!({
        "kind": "adam", "lr": 1e-3, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8,
        "form": "tensorflow", "halve_every": 0, "warmup_epochs": 0, "clip_norm": 1.0,
    }))?;
    let optimiser = Optimiser::new(&rule, w.trained(), 4)?;
    let held_out = |step: u64| -> Result<f64> {
        let batch = set.batch(&(0..32).collect::<Vec<_>>())?;
        number(
            &model
                .validate(&batch, &mut Noise::new(0, "valid").at(step))?
                .total,
        )
    };
    let (before, mut steep) = (held_out(0)?, 0);
    for step in 0..30 {
        let first = step as usize % 4 * 8;
        let batch = set.batch(&(first..first + 8).collect::<Vec<_>>())?;
        let loss = model.loss(&batch, &mut Noise::new(0, "train").at(step))?;
        optimiser.step(&loss.total.backward()?, step)?;
        model.moved()?;
        for conv in flow.blocks().flat_map(Block::convs) {
            let (u, v) = (conv.u().copy()?, conv.v().copy()?);
            let known = number(&conv.norm()?)?;
            conv.settle(rounds(200))?;
            let norm = number(&conv.norm()?)?;
            conv.u().set(&u)?;
            conv.v().set(&v)?;
            let used = norm / (known / 0.98).max(1.0);
            assert!(used < 1.0, "step {step}: {used}");
            steep += usize::from(known > 0.98);
        }
    }
    assert!(steep > 30, "{steep}");
    let after = held_out(0)?;
    assert!(after < before, "{before} {after}");
    Ok(())
}
