//! Numbers of the other implementation; R1, R2, R4 and R10 are beside what they are about, and R15 is beside
//! the squeeze.

use candle_core::Var;

use super::*;
use crate::models::residual_flow::block::Sizes;

/// R3: where g is zero and actnorms change nothing.
#[test]
fn without_weights_it_is_the_logit() -> Result<()> {
    let w = Weights::new(0, DType::F64, &Device::Cpu);
    let flow = ResidualFlow::new(&tiny(), &w)?;
    for var in w.all().values() {
        var.set(&var.zeros_like()?)?;
    }
    let y = Tensor::full(0.5, (1, 4, 4, 3), &Device::Cpu)?;
    near(
        &numbers(&flow.bits_with(&y, exactly)?)?,
        &[7.47775115818],
        1e-9,
    );
    Ok(())
}

/// R5, R6: largest singular values of convolutions at their true size, and what hangs on them.
#[test]
fn norms_are_those_of_the_unrolled_matrices() -> Result<()> {
    let (flow, w) = of_streams()?;
    let norms = |flow: &ResidualFlow| -> Result<Vec<f64>> {
        let convs = flow.blocks().flat_map(Block::convs);
        convs.map(|conv| number(&conv.norm()?)).collect()
    };
    flow.settle(rounds(5))?;
    let after_five = [
        2.63171985616,
        1.99864695184,
        2.05953109316,
        2.80320644325,
        2.22424335413,
        2.09565337365,
        1.61433686468,
        2.7386903817,
        2.40562485349,
        1.66258066849,
        2.07004445537,
        6.116017204,
    ];
    near(&norms(&flow)?, &after_five, 1e-9);
    flow.settle(rounds(2000))?;
    let largest = [
        2.82771262696,
        2.09703769478,
        2.11182903294,
        2.82574865309,
        2.2301343741,
        2.26634769204,
        1.68940341353,
        2.73870674764,
        2.42832760468,
        1.6981977681,
        2.07224798038,
        6.32698427149,
    ];
    near(&norms(&flow)?, &largest, 1e-9);
    let first = flow.blocks().next().map(Block::convs);
    for (j, of_norm, of_used) in [(0, 1.49027282475, 4.03310068256), (1, 1.0, 1.97783731888)] {
        let conv = first.map(|convs| &convs[j]);
        let weight = w.all()[&format!("block0.conv{j}.weight")].clone();
        let gradient = |of: candle_core::Result<Tensor>| -> Result<f64> {
            let grads = of?.sum_all()?.backward()?;
            grads.get(&weight).map_or(Ok(0.0), size)
        };
        if let Some(conv) = conv {
            near(&[gradient(conv.norm())?], &[of_norm], 1e-8);
            near(&[gradient(conv.kernel(0.98))?], &[of_used], 1e-8);
        }
    }
    Ok(())
}

/// R7, R8: the whole flow with exact log-determinants, and its blocks.
#[test]
fn the_flow_is_that_of_the_official_code() -> Result<()> {
    let (flow, _) = converged()?;
    let (x, by_logit) = logit::logit(&images()?, 0.05)?;
    let (z, log_det) = flow.forward(&x, exactly)?;
    let all = [number(&z.sum_all()?)?, size(&z)?];
    near(&all, &[10.1850321974, 14.9830848024], 1e-9);
    near(
        &numbers(&(log_det + by_logit)?)?,
        &[84.06964582, 84.56455979],
        1e-9,
    );
    let bits = flow.bits_with(&images()?, exactly)?;
    near(&numbers(&bits)?, &[8.495829065, 8.460867361], 1e-9);

    let sums = [5.70510885452, -7.11021539601, -1.73905957934, 0.70324320354];
    let log_dets = [
        [-0.05814877737, -0.08018168064],
        [0.1159985575, 0.1633327364],
        [-0.02304110096, -0.0127702376],
        [-0.005518532768, 0.009617199938],
    ];
    for ((block, x), (sum, expected)) in
        (flow.blocks().zip(inputs(&flow)?)).zip(sums.into_iter().zip(log_dets))
    {
        let ready = block.ready()?;
        near(&[number(&ready.g(&x)?.sum_all()?)?], &[sum], 1e-9);
        let jacobian = jacobian(&ready, &x)?;
        let exact = super::log_det(&jacobian)?;
        near(&numbers(&exact)?, &expected, 1e-8);
        // The series with exact traces.
        let (mut power, mut total, d) = (jacobian.clone(), no_change(&x)?, jacobian.dim(1)?);
        let eye = Tensor::eye(d, DType::F64, &Device::Cpu)?.broadcast_as(jacobian.shape())?;
        for k in 1..=10 {
            let trace = (&power * &eye)?.flatten_from(1)?.sum(1)?;
            let sign = if k % 2 == 1 { 1.0 } else { -1.0 };
            total = (total + (trace * (sign / f64::from(k)))?)?;
            let error = number(&(&total - &exact)?.abs()?.max(0)?)?;
            assert!(k != 5 || error < 7.4e-9, "{error:e}");
            assert!(k != 10 || error < 1e-14, "{error:e}");
            power = power.matmul(&jacobian)?;
        }
    }
    Ok(())
}

/// R9: single terms and a roulette's estimate.
#[test]
fn terms_are_those_of_the_official_estimator() -> Result<()> {
    let (flow, _) = converged()?;
    let Some((block, x)) = flow.blocks().zip(inputs(&flow)?).nth(1) else {
        panic!("no second block");
    };
    let (ready, e) = (block.ready()?, vector(9102, block)?);
    let terms = [
        0.3481969018,
        -0.0008332982462,
        6.929254694e-5,
        -5.042974294e-7,
        -6.15285641e-9,
        -2.003526025e-10,
    ];
    for (k, expected) in terms.into_iter().enumerate() {
        let mut weights = vec![vec![0.0]; k];
        weights.push(vec![1.0]);
        let found = ready.estimate(&x, &e, &weights)?.1;
        near(&numbers(&found)?[..1], &[expected], 1e-8);
    }
    let weights = series(Law::Poisson, 2).weights(&[3]);
    let found = ready.estimate(&x, &e, &weights)?.1;
    near(&numbers(&found)?, &[0.3474428736, -0.02899338711], 1e-9);
    // One N for each image: what one image weighs says nothing of the other.
    let weights = series(Law::Poisson, 2).weights(&[3, 0]);
    let mixed = numbers(&ready.estimate(&x, &e, &weights)?.1)?;
    assert!((mixed[0] / 0.3474428736 - 1.0).abs() < 1e-9 && mixed[1] != -0.02899338711);
    Ok(())
}

/// Gradients of the trained tensors of block 1, in name order.
fn gradients(w: &Weights, of: &Tensor) -> Result<Vec<Tensor>> {
    let grads = of.sum_all()?.backward()?;
    let mine = w.trained().into_iter();
    mine.filter(|(name, _)| name.starts_with("block1."))
        .map(|(_, var)| {
            let none = || var.zeros_like();
            Ok(grads.get(&var).cloned().map_or_else(none, Ok)?)
        })
        .collect()
}

fn joint(all: &[Tensor]) -> Result<f64> {
    let squares: Vec<f64> = all
        .iter()
        .map(|t| Ok(size(t)?.powi(2)))
        .collect::<Result<_>>()?;
    Ok(squares.iter().sum::<f64>().sqrt())
}

/// R11: the gradient of the surrogate is that of the log-determinant; its value is not.
#[test]
fn the_surrogate_has_the_gradient_of_the_log_determinant() -> Result<()> {
    let (flow, w) = converged()?;
    let Some((block, x)) = flow.blocks().zip(inputs(&flow)?).nth(1) else {
        panic!("no second block");
    };
    let (ready, e) = (block.ready()?, vector(9102, block)?);
    // With exact traces: the sum over a basis.
    let exact = |terms: usize| -> Result<Vec<Tensor>> {
        let mut total: Option<Vec<Tensor>> = None;
        for i in 0..48 {
            let mut e = vec![0.0; 96];
            (e[i], e[48 + i]) = (1.0, 1.0);
            let e = Tensor::from_vec(e, x.shape(), &Device::Cpu)?;
            let of_one = gradients(&w, &ready.surrogate(&x, &e, &vec![vec![1.0]; terms])?.1)?;
            total = Some(match total {
                None => of_one,
                Some(total) => (total.iter().zip(&of_one))
                    .map(|(a, b)| Ok((a + b)?))
                    .collect::<Result<_>>()?,
            });
        }
        total.ok_or_else(|| anyhow::anyhow!("no basis"))
    };
    let all = exact(60)?;
    near(&[joint(&all)?], &[1.14907680037], 1e-9);
    for (terms, expected, limit) in [(0, 0.0151716196238, 1e-9), (2, 1.24536590001e-5, 1e-8)] {
        let gap = all.iter().zip(exact(terms)?).map(|(a, b)| Ok((b - a)?));
        let gap = joint(&gap.collect::<Result<Vec<_>>>()?)? / joint(&all)?;
        near(&[gap], &[expected], limit);
    }
    let weights = series(Law::Poisson, 2).weights(&[3]);
    let (_, surrogate) = ready.surrogate(&x, &e, &weights)?;
    near(&numbers(&surrogate)?, &[0.3467357945, -0.02771531234], 1e-9);
    let found = gradients(&w, &surrogate)?;
    near(&[joint(&found)?], &[2.34011168642], 1e-9);
    // The last bias moves everything alike.
    let names = w.trained().into_iter().map(|(name, _)| name);
    let mine: Vec<String> = names.filter(|n| n.starts_with("block1.")).collect();
    let last = mine.iter().position(|n| n == "block1.conv2.bias");
    assert_eq!(last.map(|i| size(&found[i])).transpose()?, Some(0.0));
    Ok(())
}

/// R12: the gradient of a training step, and the exact one.
#[test]
fn a_training_step_has_the_official_gradient() -> Result<()> {
    let (flow, w) = converged()?;
    let all = w.all();
    let measure = |bits: &Tensor| -> Result<Vec<f64>> {
        let grads = bits.backward()?;
        let of = |name: &str| grads.get(&all[name]).map_or(Ok(0.0), size);
        let mut found = Vec::new();
        for name in ["block0.conv0", "block1.conv1", "block3.conv2"] {
            found.push(of(&format!("{name}.weight"))?);
        }
        let trained = w.trained().into_iter();
        let squares = trained.map(|(_, var)| Ok(grads.get(&var).map_or(Ok(0.0), size)?.powi(2)));
        found.push(squares.sum::<Result<f64>>()?.sqrt());
        found.push(of("norm0.bias")?);
        found.push(of("norm0.log_scale")?);
        Ok(found)
    };
    let vectors = flow.blocks().enumerate();
    let vectors = vectors.map(|(i, block)| vector(9200 + i as u64, block));
    let probes = Probes {
        weights: vec![series(Law::Poisson, 2).weights(&[3]); 4],
        vectors: vectors.collect::<Result<_>>()?,
    };
    let expected = [
        0.0559276982018,
        0.0145853290587,
        0.0163270999229,
        2.21516576495,
        0.106208478756,
        1.13918456988,
    ];
    for objective in [
        flow.objective_at_once(&images()?, &probes)?,
        flow.objective_by_layers(&images()?, &probes)?,
    ] {
        near(&[number(&objective)?], &[8.48985852692], 1e-9);
        near(&measure(&objective)?, &expected, 1e-9);
    }

    let exact = flow.bits_with(&images()?, |_, block, x| {
        let (ready, d) = (block.ready()?, x.elem_count() / 2);
        let (mut y, mut total) = (x.clone(), no_change(x)?);
        for i in 0..d {
            let mut e = vec![0.0; 2 * d];
            (e[i], e[d + i]) = (1.0, 1.0);
            let e = Tensor::from_vec(e, x.shape(), &Device::Cpu)?;
            let (next, of_one) = ready.surrogate(x, &e, &vec![vec![1.0]; 30])?;
            (y, total) = (next, (total + of_one)?);
        }
        Ok((y, total))
    })?;
    let exact = measure(&exact.mean_all()?)?;
    let expected = [
        0.0522988763829,
        0.014684278621,
        0.0159801395341,
        2.21459269602,
    ];
    near(&exact[..4], &expected, 1e-9);
    Ok(())
}

/// R13: the inverse, by each rule, and how often g is evaluated for it.
#[test]
fn the_inverse_is_as_near_as_its_rule_says() -> Result<()> {
    let (flow, _) = converged()?;
    let x = logit::logit(&images()?, 0.05)?.0;
    let z = flow.forward(&x, exactly)?.0;
    for (rule, error, evaluations) in [
        (rule(Rule::Official, 1e-5), 1.40563378302e-5, 10),
        (rule(Rule::Strict, 1e-5), 5.67508527394e-8, 17),
        (rule(Rule::Strict, 1e-12), 4.77395900589e-15, 34),
    ] {
        let mut all = 0;
        let found = flow.inverse_by(&z, |block, y| {
            let (ready, by_rule) = (block.ready()?, block.ready()?.inverse(y, rule)?);
            all += by_rule.evaluations;
            Ok(ready.inverse(y, all_alike(by_rule.evaluations))?.x)
        })?;
        assert_eq!(all, evaluations);
        // Of images in [0, 1].
        let gap = (logit::pixels(&found, 0.05)? - logit::pixels(&x, 0.05)?)?;
        let gap = number(&(gap / 256.0)?.abs()?.max_all()?)?;
        assert!(
            (gap - error).abs() < 1e-8 * error + 1e-14,
            "{rule:?}: {gap:e}"
        );
    }
    Ok(())
}

/// The official code goes on with all images of a batch until the last has come close.
fn all_alike(most: usize) -> Inverse {
    Inverse {
        most,
        ..rule(Rule::Strict, 0.0)
    }
}

/// R16: a block that is far from the identity.
#[test]
fn a_stiff_block_is_inverted_too() -> Result<()> {
    let w = Weights::new(0, DType::F64, &Device::Cpu);
    let sizes = Sizes {
        image: [1, 1, 6],
        width: 4,
        kernel: 1,
        leading: true,
    };
    let block = Block::new(sizes, 0.98, &w)?;
    for (t, (input, output)) in [(6, 4), (4, 4), (4, 6)].into_iter().enumerate() {
        let weights = stream::uniform(9300 + 2 * t as u64, input * output);
        let weights = Tensor::from_vec(weights, (output, input), &Device::Cpu)?.t()?;
        let all = w.all();
        let weights = weights.contiguous()?.reshape((1, 1, input, output))?;
        all[&format!("conv{t}.weight")].set(&weights)?;
        let bias: &Var = &all[&format!("conv{t}.bias")];
        bias.set(&(bias.ones_like()? * 2.0)?)?;
    }
    block.settle(rounds(500))?;
    let norms = block.convs().each_ref().map(|c| c.norm()).into_iter();
    let norms: Vec<f64> = norms.map(|s| number(&s?)).collect::<Result<_>>()?;
    near(&norms, &[2.24798182343, 1.35773948428, 2.51819608105], 1e-9);
    let x = stream::uniform(9310, 12).into_iter().map(|u| 2.0 * u);
    let x = Tensor::from_iter(x, &Device::Cpu)?.reshape((2, 1, 1, 6))?;
    let ready = block.ready()?;
    let g = ready.g(&x)?;
    let expected = [
        4.793699119,
        4.083922542,
        5.859828695,
        4.01595436,
        5.252851908,
        5.127150501,
    ];
    near(&numbers(&g)?[..6], &expected, 1e-9);
    let jacobian = jacobian(&ready, &x)?;
    let exact = log_det(&jacobian)?;
    near(&numbers(&exact)?, &[0.4445297054, 0.4357855736], 1e-9);
    let y = (&x + &g)?;
    // The last of the other side is by a limit of 1e-10 alone, which 42 evaluations reach.
    for (rule, error, there, here) in [
        (rule(Rule::Official, 1e-5), 0.00194692064419, 12, 12),
        (rule(Rule::Strict, 1e-5), 1.42676650474e-5, 20, 20),
        (rule(Rule::Strict, 1e-10), 1.91817672857e-11, 42, 38),
    ] {
        let official = ready.inverse(&y, all_alike(there))?.x;
        let gap = number(&(official - &x)?.abs()?.max_all()?)?;
        near(&[gap], &[error], 1e-3);
        // That an image stops by itself leaves it as near as its rule says.
        let solved = ready.inverse(&y, rule)?;
        assert_eq!((solved.evaluations, solved.cut), (here, 0));
        let gap = number(&(&solved.x - &x)?.abs()?.max_all()?)?;
        let later = 0.55f64.powi(there as i32 - here as i32);
        assert!(gap < 2.0 * error / later, "{rule:?}: {gap:e}");
        // An image becomes what it becomes alone.
        let alone = ready.inverse(&y.narrow(0, 1, 1)?, rule)?.x;
        assert_eq!(numbers(&alone)?, numbers(&solved.x.narrow(0, 1, 1)?)?);
    }
    let short = Inverse {
        most: 3,
        ..rule(Rule::Strict, 1e-5)
    };
    let solved = ready.inverse(&y, short)?;
    assert_eq!((solved.evaluations, solved.cut), (3, 2));
    Ok(())
}

/// R14: the model of the paper.
#[test]
fn the_paper_has_25_million_parameters() -> Result<()> {
    let w = Weights::new(0, DType::F32, &Device::Cpu);
    let config = Config {
        network: Network {
            blocks: vec![16; 3],
            width: 512,
            dense_blocks: 4,
            dense_width: 128,
            coefficient: 0.98,
            alpha: 0.05,
        },
        image: [32, 32, 3],
        ..tiny()
    };
    let flow = ResidualFlow::new(&config, &w)?;
    assert_eq!(w.count(), 25_174_129);
    let betas = w
        .trained()
        .into_iter()
        .filter(|(name, _)| name.contains("beta"));
    assert_eq!(betas.count(), 155);
    assert_eq!(flow.blocks().count() * 3, 156);
    Ok(())
}
