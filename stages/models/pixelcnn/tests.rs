//! Oracles P of TABLE2.md: numbers of an independent implementation, which fills its tensors from the
//! same streams.

use anyhow::Context;
use candle_core::Var;

use super::*;
use crate::models::pixelcnn::network::{Colours, Mask, Masked};
use crate::oracles::stream;

pub fn tiny(layers: usize, first_kernel: usize, kernel: usize) -> Network {
    Network {
        layers,
        width: 7,
        kernel,
        first_kernel,
        skip: 10,
        head: 8,
        colours: Colours::Contiguous,
        vertical_residual: false,
    }
}

pub fn weights() -> Weights {
    Weights::new(0, DType::F64, &Device::Cpu)
}

/// Streams to a tensor of the other side's order: numbers of `[o, i, kh, kw]` as `[kh, kw, i, o]`.
pub fn kernel(values: Vec<f64>, [kh, kw, i, o]: [usize; 4]) -> Result<Tensor> {
    let t = Tensor::from_vec(values, (o, i, kh, kw), &Device::Cpu)?;
    Ok(t.permute((2, 3, 1, 0))?.contiguous()?)
}

/// Images of the other side, `[n, c, h, w]`, as ours.
pub fn images(values: Vec<f64>, [n, c, h, w]: [usize; 4]) -> Result<Tensor> {
    let t = Tensor::from_vec(values, (n, c, h, w), &Device::Cpu)?;
    Ok(t.permute((0, 2, 3, 1))?.contiguous()?)
}

pub fn image() -> Result<Tensor> {
    let bytes = stream::bytes(9000, 2 * 3 * 4 * 5);
    images(bytes.into_iter().map(f64::from).collect(), [2, 3, 4, 5])
}

fn set(t: &Tensor, values: &Tensor) -> Result<()> {
    Ok(Var::from_tensor(t)?.set(&values.reshape(t.shape())?)?)
}

/// How a layer's kernel and bias come from streams `2 t` and `2 t + 1`.
#[derive(Clone, Copy)]
pub enum Fill {
    /// Signed, as in the tiny trunk.
    Signed,
    /// Their absolute values: kernels halved, so that every path adds.
    Positive,
}

fn fill(conv: &Masked, t: u64, how: Fill) -> Result<()> {
    let (kh, kw, i, o) = conv.weight.dims4()?;
    let scale = (3.0 / (kh * kw * i) as f64).sqrt();
    let turn = |v: Vec<f64>, by: f64| -> Vec<f64> {
        match how {
            Fill::Signed => v,
            Fill::Positive => v.into_iter().map(|v| v.abs() * by).collect(),
        }
    };
    let values = turn(stream::signed(2 * t, kh * kw * i * o, scale), 0.5);
    set(&conv.weight, &kernel(values, [kh, kw, i, o])?)?;
    if let Some(bias) = &conv.bias {
        let values = turn(stream::signed(2 * t + 1, o, 0.1), 1.0);
        set(bias, &Tensor::from_vec(values, o, &Device::Cpu)?)?;
    }
    Ok(())
}

/// Fills a trunk in the other side's order of tensors. Gives the number of the last one, after `before_head`
/// more that stand before the head.
pub fn fill_trunk(trunk: &Trunk, how: Fill, before_head: u64) -> Result<()> {
    let mut t = 0;
    for block in &trunk.blocks {
        let layers = [
            Some(&block.vertical),
            Some(&block.down),
            Some(&block.horizontal),
            block.out.as_ref(),
            block.skip.as_ref(),
        ];
        for layer in layers.into_iter().flatten() {
            fill(layer, t, how)?;
            t += 1;
        }
        if let Some(told) = &block.told {
            // [2 width, features] there, without a bias.
            let (features, maps) = told.weight.dims2()?;
            let scale = (3.0 / features as f64).sqrt();
            let values = stream::signed(2 * t, features * maps, scale);
            let by = |v: f64| match how {
                Fill::Signed => v,
                Fill::Positive => v.abs() * 0.5,
            };
            let values = values.into_iter().map(by).collect();
            let values = Tensor::from_vec(values, (maps, features), &Device::Cpu)?;
            set(&told.weight, &values.t()?.contiguous()?)?;
            t += 1;
        }
    }
    t += before_head;
    for head in &trunk.head {
        fill(head, t, how)?;
        t += 1;
    }
    Ok(())
}

pub fn near(found: f64, expected: f64, tolerance: f64) {
    let gap = (found - expected).abs() / expected.abs().max(1e-300);
    assert!(gap < tolerance, "{found} is not {expected}: {gap:e}");
}

pub fn scalar(t: &Tensor) -> Result<f64> {
    Ok(t.to_dtype(DType::F64)?.to_scalar::<f64>()?)
}

/// Euclidean norm of a gradient.
pub fn norm(t: &Tensor) -> Result<f64> {
    Ok(scalar(&t.sqr()?.sum_all()?)?.sqrt())
}

fn model() -> Result<(PixelCnn, Weights)> {
    let w = weights();
    let config = Config {
        network: tiny(2, 5, 3),
        input: Range::Centred,
        image: [4, 5, 3],
    };
    let model = PixelCnn::new(&config, &w)?;
    fill_trunk(&model.trunk, Fill::Signed, 0)?;
    Ok((model, w))
}

/// P1.
#[test]
fn maps_fall_into_groups_and_masks_keep_so_many_taps() -> Result<()> {
    let sizes = |maps| {
        let of = Colours::Contiguous.of(maps, 3);
        [0, 1, 2].map(|c| of.iter().filter(|o| **o == c).count())
    };
    assert_eq!(sizes(7), [3, 2, 2]);
    assert_eq!(sizes(8), [3, 3, 2]);
    assert_eq!(sizes(10), [4, 3, 3]);
    assert_eq!(sizes(128), [43, 43, 42]);
    assert_eq!(Colours::Interleaved.of(5, 3), [0, 1, 2, 0, 1]);

    let (model, _) = model()?;
    let kept = |conv: &Masked| -> Result<[usize; 2]> {
        let kernel = conv.kernel()?.flatten_all()?.to_vec1::<f64>()?;
        Ok([kernel.iter().filter(|v| **v != 0.0).count(), kernel.len()])
    };
    let blocks = &model.trunk.blocks;
    assert_eq!(kept(&blocks[0].horizontal)?, [96, 126]);
    assert_eq!(kept(&blocks[1].horizontal)?, [164, 196]);
    assert_eq!(kept(blocks[0].out.as_ref().context("out")?)?, [33, 49]);
    assert_eq!(kept(blocks[1].skip.as_ref().context("skip")?)?, [48, 70]);
    assert_eq!(kept(&model.trunk.head[0])?, [53, 80]);
    assert_eq!(kept(&model.trunk.head[1])?, [4352, 6144]);
    assert!(blocks[2].out.is_none());
    assert!(Mask::UpToOwn.passes(1, 1) && !Mask::Before.passes(1, 1));
    Ok(())
}

/// Non-zero entries of a Jacobian: below, on and above the diagonal, of outputs and inputs in the order
/// row, column, colour.
pub fn entries(x: &Var, y: &Tensor) -> Result<[usize; 3]> {
    let y = y.flatten_all()?;
    let mut found = [0; 3];
    for i in 0..y.elem_count() {
        let grads = y.get(i)?.backward()?;
        let Some(row) = grads.get(x.as_tensor()) else {
            continue;
        };
        for (j, v) in row.flatten_all()?.to_vec1::<f64>()?.iter().enumerate() {
            if *v != 0.0 {
                found[if j < i {
                    0
                } else if j == i {
                    1
                } else {
                    2
                }] += 1;
            }
        }
    }
    Ok(found)
}

/// P2: what is said of a sub-pixel depends on those before it, on all of them where the layers reach, and
/// on no other.
#[test]
fn no_sub_pixel_sees_itself_or_what_follows() -> Result<()> {
    let below = |network: Network, [c, h, w]: [usize; 3]| -> Result<usize> {
        let weights = weights();
        let trunk = Trunk::new(&network, c, 4, 0, &weights)?;
        fill_trunk(&trunk, Fill::Positive, 0)?;
        let x = images(stream::uniform(9002, c * h * w), [1, c, h, w])?;
        let x = Var::from_tensor(&x)?;
        let y = trunk.read(&trunk.maps(x.as_tensor(), None)?)?;
        let y = y.reshape((1, h, w, c, 4))?.sum(4)?;
        let [below, on, above] = entries(&x, &y)?;
        assert_eq!([on, above], [0, 0], "{network:?}");
        Ok(below)
    };
    let small = [3, 4, 5];
    for (layers, expected) in [1338, 1626, 1770, 1770].into_iter().enumerate() {
        assert_eq!(below(tiny(layers, 5, 3), small)?, expected);
    }
    for (layers, expected) in [789, 1338, 1626, 1770, 1770].into_iter().enumerate() {
        assert_eq!(below(tiny(layers, 3, 3), small)?, expected);
    }
    for (layers, expected) in [1626, 1770].into_iter().enumerate() {
        assert_eq!(below(tiny(layers, 7, 5), small)?, expected);
    }
    for (layers, expected) in [174, 342, 492, 594, 630].into_iter().enumerate() {
        assert_eq!(below(tiny(layers, 3, 3), [1, 6, 6])?, expected);
    }
    // The other choices hide as much.
    let other = Network {
        skip: 0,
        colours: Colours::Interleaved,
        vertical_residual: true,
        ..tiny(2, 5, 3)
    };
    assert_eq!(below(other, small)?, 1770);
    Ok(())
}

/// P3, P4, P6.
#[test]
fn bits_and_logits_are_those_of_the_other_side() -> Result<()> {
    let (model, w) = model()?;
    let x = image()?;
    near(
        scalar(&model.bits_of(&x)?.mean_all()?)?,
        8.00993891033,
        1e-10,
    );
    let logits = model.logits(&x)?;
    near(scalar(&logits.sum_all()?)?, 16.0536766235, 1e-9);
    let at = |n: usize, y: usize, x: usize, c: usize, v: usize| -> Result<f64> {
        scalar(&logits.get(n)?.get(y)?.get(x)?.get(c)?.get(v)?)
    };
    let expected = [
        [0.1002332773, -0.02527130097, -0.0426149095],
        [0.05513788026, -0.1023231393, -0.05788492459],
        [0.02577580539, 0.121068462, -0.1112916803],
    ];
    for (c, row) in expected.iter().enumerate() {
        for (v, expected) in row.iter().enumerate() {
            near(at(0, 2, 3, c, v)?, *expected, 1e-9);
        }
    }
    near(at(1, 3, 4, 2, 255)?, 0.00168283350283, 1e-9);
    // Of the first sub-pixel nothing is known: the same in every image.
    for n in [0, 1] {
        for (v, expected) in [0.1174569903, -0.02113088889, -0.02330359819]
            .iter()
            .enumerate()
        {
            near(at(n, 0, 0, 0, v)?, *expected, 1e-9);
        }
    }

    let all = w.all();
    for name in ["head2.weight", "head2.bias"] {
        all[name].set(&all[name].zeros_like()?)?;
    }
    near(scalar(&model.bits_of(&x)?.mean_all()?)?, 8.0, 1e-14);
    Ok(())
}

/// P5.
#[test]
fn gradients_are_those_of_the_other_side() -> Result<()> {
    let (model, w) = model()?;
    let grads = model.bits_of(&image()?)?.mean_all()?.backward()?;
    let all = w.all();
    let of = |name: &str| -> Result<f64> {
        let grad = grads.get(all[name].as_tensor());
        norm(grad.with_context(|| format!("no gradient of {name}"))?)
    };
    for (name, expected) in [
        ("block0.vertical.weight", 0.03223312344),
        ("block0.horizontal.weight", 0.01424414038),
        ("block1.vertical.weight", 0.01743437728),
        ("block1.down.weight", 0.0115142953),
        ("block2.horizontal.weight", 0.01286519763),
        ("block1.out.weight", 0.003862620374),
        ("block0.skip.weight", 0.01786804663),
        ("head2.weight", 0.02818285102),
        ("block0.vertical.bias", 0.006816075679),
        ("block2.horizontal.bias", 0.008520576215),
        ("head2.bias", 0.1325121472),
    ] {
        near(of(name)?, expected, 1e-9);
    }
    let mut squares = 0.0;
    for name in all.keys() {
        squares += of(name)?.powi(2);
    }
    near(squares.sqrt(), 0.179505335639, 1e-10);
    // Masked taps get none.
    let first = &model.trunk.blocks[0].horizontal;
    let hidden = first.kernel()?.ne(0.0)?.to_dtype(DType::F64)?;
    let grad = grads.get(&first.weight).context("no gradient")?;
    let kept = (grad * &hidden)?;
    assert_eq!(norm(&kept)?, norm(grad)?);
    Ok(())
}

/// P7, P8: drawing sub-pixel by sub-pixel says what one pass over the result says, and inversion gives
/// the other side's values.
#[test]
fn drawing_in_order_is_one_pass_over_the_result() -> Result<()> {
    let other = Network {
        skip: 0,
        colours: Colours::Interleaved,
        vertical_residual: true,
        ..tiny(2, 5, 3)
    };
    for network in [tiny(2, 5, 3), other, tiny(0, 3, 3), tiny(1, 7, 5)] {
        let w = weights();
        let config = Config {
            network,
            input: Range::Centred,
            image: [4, 5, 3],
        };
        let model = PixelCnn::new(&config, &w)?;
        fill_trunk(&model.trunk, Fill::Signed, 0)?;
        let sampler = Sampler::<f64>::new(&model.trunk, Range::Centred.scale(), None)?;
        let mut u = stream::uniform(9004, 2 * 4 * 5 * 3);
        let said = std::sync::Mutex::new(Vec::new());
        sampler.fill([4, 5], &mut u, |logits, u| {
            let value = drawn(logits, u, 1.0);
            said.lock().unwrap().push((value, logits.to_vec()));
            f64::from(value)
        });
        let values = u.clone();
        let drawn = Tensor::from_vec(u, (2, 4, 5, 3), &Device::Cpu)?;
        let logits = model
            .logits(&drawn)?
            .reshape((120, 256))?
            .to_vec2::<f64>()?;
        // Every one of them was said at its turn, whichever thread drew it.
        let said = said.into_inner().unwrap();
        for row in &logits {
            let gap = |other: &[f64]| {
                let gaps = row.iter().zip(other).map(|(a, b)| (a - b).abs());
                gaps.fold(0.0, f64::max)
            };
            let least = said.iter().map(|(_, o)| gap(o)).fold(1.0, f64::min);
            assert!(least < 1e-14, "{:?}: {least:e}", config.network);
        }
        if config.network == tiny(2, 5, 3) {
            assert_eq!(
                values[..9],
                [18.0, 224.0, 101.0, 209.0, 184.0, 245.0, 111.0, 172.0, 214.0]
            );
            assert_eq!(values.iter().sum::<f64>(), 16512.0);
        }
    }
    Ok(())
}

/// Bits of all images of two values, 2 x 2 pixels of three colours.
fn bits_of_all(trunk: &Trunk) -> Result<Vec<f64>> {
    let all = (0..4096).flat_map(|i| (0..12).map(move |b| f64::from(i >> b & 1)));
    let values = Tensor::from_iter(all, &Device::Cpu)?.reshape((4096, 2, 2, 3))?;
    // 2 x - 1, as for the two ends of a byte's range.
    let x = values.affine(2.0, -1.0)?;
    let logits = trunk.read(&trunk.maps(&x, None)?)?;
    let bits = categorical::bits(&logits.reshape((4096, 2, 2, 3, 2))?, &values)?;
    Ok(bits.flatten_from(1)?.sum(1)?.to_vec1::<f64>()?)
}

fn total(bits: &[f64]) -> f64 {
    bits.iter().map(|b| (-b).exp2()).sum()
}

/// P9: probabilities of all images of two values sum to 1.
#[test]
fn probabilities_sum_to_one() -> Result<()> {
    let trunk = Trunk::new(&tiny(2, 5, 3), 3, 2, 0, &weights())?;
    fill_trunk(&trunk, Fill::Signed, 0)?;
    let bits = bits_of_all(&trunk)?;
    near(total(&bits), 1.0, 1e-13);
    let most = bits.iter().copied().fold(0.0, f64::max) / 12.0;
    let least = bits.iter().copied().fold(f64::INFINITY, f64::min) / 12.0;
    near(most, 1.09649489578, 1e-10);
    near(least, 0.894724095277, 1e-10);
    Ok(())
}

/// P10: colours in groups over both halves of a gate at once let a colour see itself. What tests P2 and P9
/// look at shows it.
#[test]
fn wrong_groups_are_noticed() -> Result<()> {
    let wrong = |layers: usize, outputs: usize, how: Fill| -> Result<Trunk> {
        let w = weights();
        let network = tiny(layers, 5, 3);
        let mut trunk = Trunk::new(&network, 3, outputs, 0, &w)?;
        let both = Colours::Contiguous.of(2 * network.width, 3);
        for (i, block) in trunk.blocks.iter_mut().enumerate() {
            let (seen, from, mask) = match i {
                0 => (3, vec![0, 1, 2], Mask::Before),
                _ => (2, network.colours.of(network.width, 3), Mask::UpToOwn),
            };
            let left = crate::nn::conv::Padding::new(0, 0, seen - 1, 0);
            let w = w.pp(format!("block{i}")).pp("horizontal");
            block.horizontal = Masked::new([1, seen], (&from, &both), mask, left, &w)?;
        }
        fill_trunk(&trunk, how, 0)?;
        Ok(trunk)
    };
    near(
        total(&bits_of_all(&wrong(0, 2, Fill::Signed)?)?),
        1.00222885373,
        1e-10,
    );
    let trunk = wrong(1, 4, Fill::Positive)?;
    let x = Var::from_tensor(&images(stream::uniform(9002, 60), [1, 3, 4, 5])?)?;
    let y = trunk.read(&trunk.maps(x.as_tensor(), None)?)?;
    let [below, on, above] = entries(&x, &y.reshape((1, 4, 5, 3, 4))?.sum(4)?)?;
    assert_eq!([below, on + above, on], [1626, 60, 40]);
    Ok(())
}

/// P11, P12.
#[test]
fn sizes_are_those_of_the_published_network() -> Result<()> {
    for (layers, width, kernel, skip, expected) in [
        (15, 128, 5, 1024, 14_130_816),
        (15, 128, 5, 0, 11_116_288),
        (15, 128, 5, 128, 11_363_968),
        (15, 128, 3, 1024, 9_215_616),
    ] {
        let w = Weights::new(0, DType::F32, &Device::Cpu);
        let network = Network {
            layers,
            width,
            kernel,
            first_kernel: 7,
            skip,
            head: 1024,
            colours: Colours::Contiguous,
            vertical_residual: false,
        };
        Trunk::new(&network, 3, 256, 0, &w)?;
        assert_eq!(w.count(), expected);
    }
    let x = Tensor::new(&[0.0, 1.0, 128.0, 255.0], &Device::Cpu)?;
    let shown = Range::Centred.apply(&x)?.to_vec1::<f64>()?;
    for (a, b) in shown.iter().zip([-1.0, -0.9921568627, 0.003921568627, 1.0]) {
        near(*a, b, 1e-9);
    }
    Ok(())
}

#[test]
fn even_kernels_are_an_error() {
    let w = weights();
    let error = Trunk::new(&tiny(1, 4, 3), 3, 2, 0, &w)
        .err()
        .map(|e| e.to_string());
    let text = "network.first_kernel = 4: the side of a kernel must be odd";
    assert_eq!(error.as_deref(), Some(text));
}
