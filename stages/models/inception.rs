//! Inception-v3 as the graph of 2015-12-05 has it, up to its 2048 pooled features: the network
//! of the Fréchet Inception distance (Szegedy et al. 2016; Heusel et al. 2017).
//!
//! It differs from torchvision's network of that name: average pools do not count padding, the
//! last block pools by maximum, and the weights are others.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};

use super::pool::{BiasRelu, Pool};
use crate::nn::conv::{Padding, conv2d};

/// Side of the images it sees.
pub const SIDE: usize = 299;
/// Batch normalisation's.
const EPSILON: f64 = 1e-3;

/// Tensors in PyTorch's names and layout.
pub type State = BTreeMap<String, Tensor>;

/// Convolution, batch normalisation folded into it, ReLU.
struct Conv {
    weight: Tensor,
    bias: Tensor,
    stride: usize,
    padding: Padding,
}

/// Where branches end: their channels are laid side by side in this order.
struct Block {
    branches: Vec<Branch>,
}

/// Steps one after the other; then, in two branches of the last blocks, two convolutions side
/// by side.
struct Branch {
    pool: Option<Pool>,
    convs: Vec<Conv>,
    fork: Vec<Conv>,
}

pub struct Inception {
    stem: Vec<Conv>,
    blocks: Vec<Block>,
}

/// Reads convolutions out of a state by name.
struct Reader<'a> {
    state: &'a State,
    device: &'a Device,
}

impl Inception {
    /// Of a state with the names of pytorch-fid's network; others in it (`fc`) are ignored.
    pub fn new(state: &State, device: &Device) -> Result<Self> {
        let r = Reader { state, device };
        let stem = vec![
            r.conv("Conv2d_1a_3x3", 2, false)?,
            r.conv("Conv2d_2a_3x3", 1, false)?,
            r.conv("Conv2d_2b_3x3", 1, true)?,
            r.conv("Conv2d_3b_1x1", 1, false)?,
            r.conv("Conv2d_4a_3x3", 1, false)?,
        ];
        let mut blocks = vec![];
        for name in ["Mixed_5b", "Mixed_5c", "Mixed_5d"] {
            blocks.push(Block {
                branches: vec![
                    r.branch(name, &["branch1x1"])?,
                    r.branch(name, &["branch5x5_1", "branch5x5_2"])?,
                    r.branch(
                        name,
                        &["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"],
                    )?,
                    r.pooled(name, Pool::Mean)?,
                ],
            });
        }
        blocks.push(Block {
            branches: vec![
                r.halving("Mixed_6a", &["branch3x3"])?,
                r.halving(
                    "Mixed_6a",
                    &["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"],
                )?,
                Branch::pool(Pool::HalvingMax),
            ],
        });
        for name in ["Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"] {
            let double = [1, 2, 3, 4, 5].map(|i| format!("branch7x7dbl_{i}"));
            blocks.push(Block {
                branches: vec![
                    r.branch(name, &["branch1x1"])?,
                    r.branch(name, &["branch7x7_1", "branch7x7_2", "branch7x7_3"])?,
                    r.branch(name, &double.each_ref().map(String::as_str))?,
                    r.pooled(name, Pool::Mean)?,
                ],
            });
        }
        let long = [1, 2, 3, 4].map(|i| format!("branch7x7x3_{i}"));
        blocks.push(Block {
            branches: vec![
                r.halving("Mixed_7a", &["branch3x3_1", "branch3x3_2"])?,
                r.halving("Mixed_7a", &long.each_ref().map(String::as_str))?,
                Branch::pool(Pool::HalvingMax),
            ],
        });
        for (name, pool) in [("Mixed_7b", Pool::Mean), ("Mixed_7c", Pool::Max)] {
            let fork = ["branch3x3_2a", "branch3x3_2b"];
            let double = ["branch3x3dbl_3a", "branch3x3dbl_3b"];
            blocks.push(Block {
                branches: vec![
                    r.branch(name, &["branch1x1"])?,
                    r.branch(name, &["branch3x3_1"])?
                        .fork(r.convs(name, &fork)?),
                    r.branch(name, &["branch3x3dbl_1", "branch3x3dbl_2"])?
                        .fork(r.convs(name, &double)?),
                    r.pooled(name, pool)?,
                ],
            });
        }
        Ok(Self { stem, blocks })
    }

    /// Features `[n, 2048]`, none negative, of images `[n, 299, 299, 3]` in about -1 to 1.
    pub fn features(&self, images: &Tensor) -> Result<Tensor> {
        let [a, b, c, d, e] = &self.stem[..] else {
            anyhow::bail!("BUG: the stem has five convolutions")
        };
        let x = c.forward(&b.forward(&a.forward(images)?)?)?;
        let x = e.forward(&d.forward(&Pool::HalvingMax.forward(&x)?)?)?;
        let mut x = Pool::HalvingMax.forward(&x)?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        Ok(x.mean((1, 2))?)
    }
}

impl Reader<'_> {
    fn get(&self, name: &str) -> Result<Tensor> {
        let tensor = self.state.get(name);
        let tensor = tensor.with_context(|| format!("there is no tensor {name}"))?;
        let tensor = tensor.to_dtype(DType::F64)?;
        let sum = tensor.abs()?.sum_all()?.to_scalar::<f64>()?;
        ensure!(sum.is_finite(), "tensor {name} holds NaN or infinity");
        Ok(tensor)
    }

    /// `relu(gamma (W x - mean) / sqrt(var + epsilon) + beta)` as one convolution with a bias;
    /// folded in f64, from `[out, in, kh, kw]`.
    fn conv(&self, name: &str, stride: usize, padded: bool) -> Result<Conv> {
        let weight = self.get(&format!("{name}.conv.weight"))?;
        let bn = |part| self.get(&format!("{name}.bn.{part}"));
        let scale = (bn("weight")? / (bn("running_var")? + EPSILON)?.sqrt()?)?;
        let (out, _, kh, kw) = weight
            .dims4()
            .with_context(|| format!("{name}.conv.weight"))?;
        ensure!(
            scale.dims() == [out],
            "{name}: {out} channels, normalised as {:?}",
            scale.dims()
        );
        let weight = weight.broadcast_mul(&scale.reshape((out, 1, 1, 1))?)?;
        let bias = (bn("bias")? - (bn("running_mean")? * scale)?)?;
        let padding = match padded {
            true => Padding::new(kh / 2, kh / 2, kw / 2, kw / 2),
            false => Padding::default(),
        };
        let ready = |t: Tensor| t.to_dtype(DType::F32)?.contiguous()?.to_device(self.device);
        let weight = ready(weight.permute((2, 3, 1, 0))?)?;
        Ok(Conv {
            weight,
            bias: ready(bias)?,
            stride,
            padding,
        })
    }

    /// Convolutions of stride 1 that keep the size.
    fn convs(&self, block: &str, names: &[&str]) -> Result<Vec<Conv>> {
        names
            .iter()
            .map(|name| self.conv(&format!("{block}.{name}"), 1, true))
            .collect()
    }

    fn branch(&self, block: &str, names: &[&str]) -> Result<Branch> {
        Ok(Branch {
            pool: None,
            convs: self.convs(block, names)?,
            fork: vec![],
        })
    }

    /// The last convolution halves the image, without padding.
    fn halving(&self, block: &str, names: &[&str]) -> Result<Branch> {
        let (last, first) = names
            .split_last()
            .context("BUG: a branch without convolutions")?;
        let mut branch = self.branch(block, first)?;
        branch
            .convs
            .push(self.conv(&format!("{block}.{last}"), 2, false)?);
        Ok(branch)
    }

    fn pooled(&self, block: &str, pool: Pool) -> Result<Branch> {
        Ok(Branch {
            pool: Some(pool),
            ..self.branch(block, &["branch_pool"])?
        })
    }
}

impl Branch {
    fn pool(pool: Pool) -> Self {
        Self {
            pool: Some(pool),
            convs: vec![],
            fork: vec![],
        }
    }

    fn fork(self, fork: Vec<Conv>) -> Self {
        Self { fork, ..self }
    }

    /// The outputs to be laid side by side.
    fn forward(&self, x: &Tensor) -> Result<Vec<Tensor>> {
        let mut x = match self.pool {
            Some(pool) => pool.forward(x)?,
            None => x.clone(),
        };
        for conv in &self.convs {
            x = conv.forward(&x)?;
        }
        match self.fork.is_empty() {
            true => Ok(vec![x]),
            false => self.fork.iter().map(|conv| conv.forward(&x)).collect(),
        }
    }
}

impl Block {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut parts = vec![];
        for branch in &self.branches {
            parts.extend(branch.forward(x)?);
        }
        Ok(Tensor::cat(&parts, 3)?)
    }
}

impl Conv {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = conv2d(x, &self.weight, self.stride, self.padding)?;
        Ok(BiasRelu::apply(y, &self.bias)?)
    }
}

#[cfg(test)]
mod tests {
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
    fn state() -> Result<State> {
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
        assert_eq!(
            error(&state),
            "there is no tensor Conv2d_1a_3x3.conv.weight"
        );
        let bad = Tensor::full(f32::NAN, (32, 3, 3, 3), &Device::Cpu)?;
        state.insert("Conv2d_1a_3x3.conv.weight".into(), bad);
        assert_eq!(
            error(&state),
            "tensor Conv2d_1a_3x3.conv.weight holds NaN or infinity"
        );
        Ok(())
    }

    /// Against pytorch-fid's own network with the same weights, in its resizing and in
    /// TensorFlow's written out in numpy: `tests/golden/inception.py`.
    #[test]
    fn features_are_those_of_pytorch_fid() -> Result<()> {
        type Golden = BTreeMap<String, Vec<Vec<f32>>>;
        let golden = include_str!("../../tests/golden/inception.json");
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
}
