//! Inception-v3 as the graph of 2015-12-05 has it, up to its 2048 pooled features: the network
//! of the Fréchet Inception distance (Szegedy et al. 2016; Heusel et al. 2017).
//!
//! It differs from torchvision's network of that name: average pools do not count padding, the
//! last block pools by maximum, and the weights are others.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};

use super::pool::{self, Pool};
use crate::nn::conv::Padding;
/// Convolution, batch normalisation folded into it, ReLU.
use crate::nn::conv::frozen::FrozenConv as Conv;

/// Side of the images it sees.
pub const SIDE: usize = 299;
/// Length of a feature vector.
pub const FEATURES: usize = 2048;
/// Batch normalisation's.
const EPSILON: f64 = 1e-3;

/// Tensors in PyTorch's names and layout.
pub type State = BTreeMap<String, Tensor>;

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
        let tensor = tensor.with_context(|| {
            format!(
                "there is no tensor {name}; hint: wanted are the weights of pytorch-fid's network"
            )
        })?;
        let tensor = tensor.to_dtype(DType::F64)?;
        let sum = tensor.abs()?.sum_all()?.to_scalar::<f64>()?;
        ensure!(
            sum.is_finite(),
            "tensor {name} holds NaN or infinity; hint: it is damaged, or its training diverged"
        );
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
        Ok(Conv::new(weight, ready(bias)?, stride, padding)?)
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

    /// What its last layers see, and those: what they give is laid side by side. None: the input
    /// of the branch itself is its output.
    fn ends(&self, x: &Tensor) -> Result<(Tensor, &[Conv])> {
        let mut x = match self.pool {
            Some(pool) => pool.forward(x)?,
            None => x.clone(),
        };
        let (first, last) = match self.fork.is_empty() {
            true => self.convs.split_at(self.convs.len().saturating_sub(1)),
            false => (&self.convs[..], &self.fork[..]),
        };
        for conv in first {
            x = conv.forward(&x)?;
        }
        Ok((x, last))
    }
}

impl Block {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let ends = self.branches.iter().map(|branch| branch.ends(x));
        let ends: Vec<_> = ends.collect::<Result<_>>()?;
        if !x.device().is_cpu() {
            let mut parts = vec![];
            for (x, last) in ends {
                match last {
                    [] => parts.push(x),
                    _ => {
                        for conv in last {
                            parts.push(conv.forward(&x)?);
                        }
                    }
                }
            }
            return Ok(Tensor::cat(&parts, 3)?);
        }
        // Every end writes its channels where they belong.
        let (mut widths, mut shape) = (vec![], [0; 4]);
        for (x, last) in &ends {
            for conv in *last {
                widths.push(conv.channels()?);
                shape = conv.shape(x)?;
            }
            if last.is_empty() {
                widths.push(x.dim(3)?);
            }
        }
        shape[3] = widths.iter().sum();
        let y = Tensor::zeros(&shape, DType::F32, &Device::Cpu)?;
        let (mut first, mut widths) = (0, widths.into_iter());
        for (x, last) in &ends {
            for conv in *last {
                conv.write(x, &y, first)?;
                first += widths.next().unwrap_or_default();
            }
            if last.is_empty() {
                pool::place(x, &y, first)?;
                first += widths.next().unwrap_or_default();
            }
        }
        Ok(y)
    }
}

#[cfg(test)]
pub mod tests;
