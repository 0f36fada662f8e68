//! Inception with made-up weights, against pytorch-fid.

use super::*;
use crate::data::embedded::{self, Look};
use crate::metrics::resize::Resize;
use crate::models::extractor::Extractor;
use crate::nn::noise::Noise;

/// Every convolution: name, outputs, inputs, kernel; in the order of the network.
fn shapes() -> Vec<(String, [usize; 4])> {
    let mut all = vec![];
    let mut add = |name: &str, out, input, kh, kw| {
        all.push((name.to_string(), [out, input, kh, kw]));
    };
    add("Conv2d_1a_3x3", 32, 3, 3, 3);
    add("Conv2d_2a_3x3", 32, 32, 3, 3);
    add("Conv2d_2b_3x3", 64, 32, 3, 3);
    add("Conv2d_3b_1x1", 80, 64, 1, 1);
    add("Conv2d_4a_3x3", 192, 80, 3, 3);
    for (name, c, pool) in [("5b", 192, 32), ("5c", 256, 64), ("5d", 288, 64)] {
        let mut add = |part: &str, o, i, k| add(&format!("Mixed_{name}.{part}"), o, i, k, k);
        add("branch1x1", 64, c, 1);
        add("branch5x5_1", 48, c, 1);
        add("branch5x5_2", 64, 48, 5);
        add("branch3x3dbl_1", 64, c, 1);
        add("branch3x3dbl_2", 96, 64, 3);
        add("branch3x3dbl_3", 96, 96, 3);
        add("branch_pool", pool, c, 1);
    }
    add("Mixed_6a.branch3x3", 384, 288, 3, 3);
    add("Mixed_6a.branch3x3dbl_1", 64, 288, 1, 1);
    add("Mixed_6a.branch3x3dbl_2", 96, 64, 3, 3);
    add("Mixed_6a.branch3x3dbl_3", 96, 96, 3, 3);
    for (name, c) in [("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)] {
        let mut add = |p: &str, o, i, h, w| add(&format!("Mixed_{name}.{p}"), o, i, h, w);
        add("branch1x1", 192, 768, 1, 1);
        add("branch7x7_1", c, 768, 1, 1);
        add("branch7x7_2", c, c, 1, 7);
        add("branch7x7_3", 192, c, 7, 1);
        add("branch7x7dbl_1", c, 768, 1, 1);
        add("branch7x7dbl_2", c, c, 7, 1);
        add("branch7x7dbl_3", c, c, 1, 7);
        add("branch7x7dbl_4", c, c, 7, 1);
        add("branch7x7dbl_5", 192, c, 1, 7);
        add("branch_pool", 192, 768, 1, 1);
    }
    add("Mixed_7a.branch3x3_1", 192, 768, 1, 1);
    add("Mixed_7a.branch3x3_2", 320, 192, 3, 3);
    add("Mixed_7a.branch7x7x3_1", 192, 768, 1, 1);
    add("Mixed_7a.branch7x7x3_2", 192, 192, 1, 7);
    add("Mixed_7a.branch7x7x3_3", 192, 192, 7, 1);
    add("Mixed_7a.branch7x7x3_4", 192, 192, 3, 3);
    for (name, c) in [("7b", 1280), ("7c", 2048)] {
        let mut add = |p: &str, o, i, h, w| add(&format!("Mixed_{name}.{p}"), o, i, h, w);
        add("branch1x1", 320, c, 1, 1);
        add("branch3x3_1", 384, c, 1, 1);
        add("branch3x3_2a", 384, 384, 1, 3);
        add("branch3x3_2b", 384, 384, 3, 1);
        add("branch3x3dbl_1", 448, c, 1, 1);
        add("branch3x3dbl_2", 384, 448, 3, 3);
        add("branch3x3dbl_3a", 384, 384, 1, 3);
        add("branch3x3dbl_3b", 384, 384, 3, 1);
        add("branch_pool", 192, c, 1, 1);
    }
    all
}

/// A state whose weights follow from their names: small integers that any language can draw
/// again from Philox (`tests/golden/inception.py`).
pub fn state() -> Result<State> {
    let mut state = State::new();
    for (name, shape) in shapes() {
        let [out, input, kh, kw] = shape;
        let draw = |part: &str, n: usize| -> Vec<f32> {
            let words = Noise::new(0, &format!("{name}.{part}")).at(0).words(n);
            words
                .into_iter()
                .map(|w| (w >> 24) as f32 / 128.0 - 1.0)
                .collect()
        };
        let fan = (input * kh * kw) as f32;
        let weight = draw("conv.weight", out * input * kh * kw);
        let weight = weight.into_iter().map(|v| v * (6.0 / fan).sqrt()).collect();
        let mut put = |part: &str, values: Vec<f32>, shape: &[usize]| -> Result<()> {
            let tensor = Tensor::from_vec(values, shape, &Device::Cpu)?;
            state.insert(format!("{name}.{part}"), tensor);
            Ok(())
        };
        put("conv.weight", weight, &shape)?;
        let spread = |part: &str, base: f32| {
            draw(part, out)
                .into_iter()
                .map(|v| base + 0.1 * v)
                .collect::<Vec<f32>>()
        };
        put("bn.weight", spread("bn.weight", 1.0), &[out])?;
        put("bn.bias", spread("bn.bias", 0.0), &[out])?;
        put("bn.running_mean", spread("bn.running_mean", 0.0), &[out])?;
        put("bn.running_var", spread("bn.running_var", 1.0), &[out])?;
    }
    Ok(state)
}

#[test]
fn it_has_the_published_size() {
    // 23,885,392 floats with batch statistics, less the 1008 x 2048 + 1008 of `fc`.
    let floats: usize = shapes()
        .iter()
        .map(|(_, s)| s.iter().product::<usize>() + 4 * s[0])
        .sum();
    assert_eq!(floats, 23_885_392 - 1008 * 2049);
}

#[test]
fn what_is_missing_or_no_number_is_named() -> Result<()> {
    let mut state = State::new();
    let error = |state: &State| {
        Inception::new(state, &Device::Cpu)
            .err()
            .unwrap()
            .to_string()
    };
    let text = error(&state);
    assert!(
        text.starts_with("there is no tensor Conv2d_1a_3x3.conv.weight; hint: "),
        "{text}"
    );
    let bad = Tensor::full(f32::NAN, (32, 3, 3, 3), &Device::Cpu)?;
    state.insert("Conv2d_1a_3x3.conv.weight".into(), bad);
    let text = error(&state);
    let expected = "tensor Conv2d_1a_3x3.conv.weight holds NaN or infinity; hint: ";
    assert!(text.starts_with(expected), "{text}");
    Ok(())
}

/// Against pytorch-fid's own network with the same weights, in its resizing and in
/// TensorFlow's written out in numpy: `tests/golden/inception.py`.
#[test]
fn features_are_those_of_pytorch_fid() -> Result<()> {
    type Golden = BTreeMap<String, Vec<Vec<f32>>>;
    let golden = include_str!("../../../tests/golden/inception.json");
    let golden: Golden = serde_json::from_str(golden)?;
    let network = Extractor::inception(&state()?, "none".into(), &Device::Cpu)?;
    let (_, test) = embedded::load(Look::Grey)?;
    let images = [test.image(0), test.image(1)];
    for resize in [Resize::PytorchFid, Resize::TfLegacy] {
        let ours = network.features(&images, test.shape(), resize)?;
        let theirs = &golden[resize.name()];
        let largest = theirs.concat().into_iter().fold(0.0, f32::max);
        for (ours, theirs) in ours.chunks(2048).zip(theirs) {
            assert!(ours.iter().all(|v| *v >= 0.0));
            for (ours, theirs) in ours.iter().step_by(16).zip(theirs) {
                let gap = (ours - theirs).abs() / largest;
                assert!(gap < 1e-5, "{resize:?}: {ours} is not {theirs}");
            }
        }
    }
    Ok(())
}
