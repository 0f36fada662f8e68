//! The trunk of the Gated PixelCNN (van den Oord et al. 2016; TABLE2 2.2): two stacks of masked
//! convolutions, so that what is said of a sub-pixel depends on those before it only, in the order row,
//! column, colour.

use anyhow::{Result, ensure};
use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::nn::conv::{Padding, conv2d, conv2d_bias};
use crate::nn::gate::gate;
use crate::nn::init::Init;
use crate::nn::weights::Weights;

/// Sizes of the network, and where the published descriptions leave a choice (B1 to B6).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Blocks after the first one, whose mask hides the pixel itself (B2).
    pub layers: usize,
    /// Maps of each stack.
    pub width: usize,
    /// Side of the blocks' kernels; odd.
    pub kernel: usize,
    /// Side of the first block's kernel; odd.
    pub first_kernel: usize,
    /// Maps that every block adds for the head; 0: the head reads the last block (B4).
    pub skip: usize,
    /// Maps inside the head.
    pub head: usize,
    pub colours: Colours,
    /// Whether the vertical stack has residual connections as the horizontal one has (B3).
    pub vertical_residual: bool,
}

/// Which maps belong to which colour (B6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Colours {
    /// A third of the maps each, one after the other; the first are one larger where three does not divide.
    Contiguous,
    /// Map m belongs to colour m mod 3.
    Interleaved,
}

impl Colours {
    /// The colour of each of `maps` maps, of `colours` in all.
    pub fn of(self, maps: usize, colours: usize) -> Vec<usize> {
        let colour = |m: usize| match self {
            Self::Interleaved => m % colours,
            Self::Contiguous => {
                let (each, larger) = (maps / colours, maps % colours);
                let ends = (0..colours).map(|c| (c + 1) * each + larger.min(c + 1));
                ends.take_while(|end| *end <= m).count()
            }
        };
        (0..maps).map(colour).collect()
    }
}

impl Network {
    pub fn check(&self) -> Result<()> {
        for (name, side) in [("kernel", self.kernel), ("first_kernel", self.first_kernel)] {
            ensure!(
                side % 2 == 1,
                "network.{name} = {side}: the side of a kernel must be odd"
            );
        }
        ensure!(
            self.width > 0 && self.head > 0,
            "network.width and network.head must be at least 1"
        );
        Ok(())
    }

    /// Maps that the head reads.
    pub fn read(&self) -> usize {
        if self.skip > 0 { self.skip } else { self.width }
    }

    /// The colours of the maps of a gate's input: both halves as one.
    pub fn halves(&self, colours: usize) -> Vec<usize> {
        [
            self.colours.of(self.width, colours),
            self.colours.of(self.width, colours),
        ]
        .concat()
    }
}

/// Which of its own pixel's colours a map sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// Those before its own: of the first block.
    Before,
    /// Those before its own, and its own: of what follows.
    UpToOwn,
}

impl Mask {
    pub fn passes(self, from: usize, to: usize) -> bool {
        match self {
            Self::Before => from < to,
            Self::UpToOwn => from <= to,
        }
    }
}

/// A convolution of which some taps are held at zero.
pub struct Masked {
    pub weight: Tensor,
    pub bias: Option<Tensor>,
    /// 0 and 1 in the shape of the weight.
    mask: Option<Tensor>,
    padding: Padding,
}

impl Masked {
    /// A kernel `[kh, kw, in, out]` in whose last tap a map sees what its colour may.
    pub fn new(
        [kh, kw]: [usize; 2],
        (from, to): (&[usize], &[usize]),
        mask: Mask,
        padding: Padding,
        w: &Weights,
    ) -> Result<Self> {
        let (inputs, outputs) = (from.len(), to.len());
        let free = (kh * kw - 1) * inputs * outputs;
        let last = from
            .iter()
            .flat_map(|from| to.iter().map(|to| mask.passes(*from, *to)));
        let passes: Vec<f32> = std::iter::repeat_n(true, free)
            .chain(last)
            .map(|pass| if pass { 1.0 } else { 0.0 })
            .collect();
        let all = passes.iter().all(|v| *v == 1.0);
        let shape = (kh, kw, inputs, outputs);
        let mask = Tensor::from_vec(passes, shape, &candle_core::Device::Cpu)?;
        let mask = mask.to_dtype(w.dtype())?.to_device(w.device())?;
        let mask = (!all).then_some(mask);
        let plain = Self::plain([kh, kw], [inputs, outputs], padding, w)?;
        Ok(Self { mask, ..plain })
    }

    /// A convolution without a mask.
    pub fn plain(
        [kh, kw]: [usize; 2],
        [inputs, outputs]: [usize; 2],
        padding: Padding,
        w: &Weights,
    ) -> Result<Self> {
        let init = Init::fan_in(kh * kw * inputs);
        Ok(Self {
            weight: w.get((kh, kw, inputs, outputs), "weight", init)?,
            bias: Some(w.get(outputs, "bias", Init::Zeros)?),
            mask: None,
            padding,
        })
    }

    /// The kernel with its masked taps at zero, whatever the weights hold there.
    pub fn kernel(&self) -> candle_core::Result<Tensor> {
        match &self.mask {
            Some(mask) => &self.weight * mask,
            None => Ok(self.weight.clone()),
        }
    }

    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        match &self.bias {
            Some(bias) => conv2d_bias(x, &self.kernel()?, bias, 1, self.padding),
            None => conv2d(x, &self.kernel()?, 1, self.padding),
        }
    }
}

/// What is told to every sub-pixel besides the image: numbers of its own, which go into its own
/// colour's maps of the horizontal stack.
pub struct Told {
    /// `[features, 2 width]`.
    pub weight: Tensor,
    /// 1 where a map has the colour: `[colours features, 2 width]`.
    mask: Tensor,
    colours: usize,
}

impl Told {
    pub fn new(features: usize, maps: &[usize], colours: usize, w: &Weights) -> Result<Self> {
        let (rows, init) = (colours * features, Init::fan_in(features));
        let own = |row: usize| maps.iter().map(move |c| f32::from(*c == row / features));
        let mask: Vec<f32> = (0..rows).flat_map(own).collect();
        let mask = Tensor::from_vec(mask, (rows, maps.len()), &candle_core::Device::Cpu)?;
        Ok(Self {
            weight: w.get((features, maps.len()), "weight", init)?,
            mask: mask.to_dtype(w.dtype())?.to_device(w.device())?,
            colours,
        })
    }

    /// Of features `[n, h, w, colours features]`.
    pub fn forward(&self, features: &Tensor) -> candle_core::Result<Tensor> {
        let tiled = self.weight.repeat((self.colours, 1))?;
        let kernel = (tiled * &self.mask)?.unsqueeze(0)?.unsqueeze(0)?;
        conv2d(features, &kernel, 1, Padding::default())
    }
}

/// One block: both stacks, and what it adds for the head.
pub struct Block {
    pub vertical: Masked,
    pub down: Masked,
    pub horizontal: Masked,
    pub out: Option<Masked>,
    pub skip: Option<Masked>,
    pub told: Option<Told>,
    /// The first block's input is the image, so that nothing can be added to it.
    pub residual: bool,
}

/// The trunk and its head of two 1x1 convolutions.
pub struct Trunk {
    pub network: Network,
    pub colours: usize,
    pub blocks: Vec<Block>,
    pub head: [Masked; 2],
}

impl Trunk {
    /// For images of `colours` channels, `outputs` numbers for each sub-pixel, and `features` told to
    /// each; 0: none.
    pub fn new(
        network: &Network,
        colours: usize,
        outputs: usize,
        features: usize,
        w: &Weights,
    ) -> Result<Self> {
        network.check()?;
        ensure!(colours > 0, "images must have at least one channel");
        let maps = network.colours.of(network.width, colours);
        let both = network.halves(colours);
        let read = network.colours.of(network.read(), colours);
        let none = Padding::default();
        let block = |i: usize| -> Result<Block> {
            let w = w.pp(format!("block{i}"));
            let (first, last) = (i == 0, i == network.layers);
            let side = if first {
                network.first_kernel
            } else {
                network.kernel
            };
            let (seen, reach) = (side.div_ceil(2), side / 2);
            let image: Vec<usize> = (0..colours).collect();
            let (from, mask) = match first {
                true => (&image, Mask::Before),
                false => (&maps, Mask::UpToOwn),
            };
            let above = Padding::new(reach, 0, reach, reach);
            let left = Padding::new(0, 0, reach, 0);
            let point = |to: &[usize], name: &str| {
                Masked::new([1, 1], (&maps, to), Mask::UpToOwn, none, &w.pp(name))
            };
            let (inputs, outputs) = (from.len(), both.len());
            Ok(Block {
                vertical: Masked::plain([seen, side], [inputs, outputs], above, &w.pp("vertical"))?,
                down: Masked::plain([1, 1], [outputs, outputs], none, &w.pp("down"))?,
                horizontal: Masked::new([1, seen], (from, &both), mask, left, &w.pp("horizontal"))?,
                out: match last && network.skip > 0 {
                    true => None,
                    false => Some(point(&maps, "out")?),
                },
                skip: match network.skip > 0 {
                    true => Some(point(&read, "skip")?),
                    false => None,
                },
                told: match features > 0 {
                    true => Some(Told::new(features, &both, colours, &w.pp("told"))?),
                    false => None,
                },
                residual: !first,
            })
        };
        let inner = network.colours.of(network.head, colours);
        let given: Vec<usize> = (0..colours * outputs).map(|i| i / outputs).collect();
        let head = |(from, to): (&[usize], &[usize]), name: &str| {
            Masked::new([1, 1], (from, to), Mask::UpToOwn, none, &w.pp(name))
        };
        Ok(Self {
            network: network.clone(),
            colours,
            blocks: (0..=network.layers).map(block).collect::<Result<_>>()?,
            head: [
                head((&read, &inner), "head1")?,
                head((&inner, &given), "head2")?,
            ],
        })
    }

    /// What the head reads, after its first ReLU, of images `[n, h, w, colours]` on the network's scale:
    /// `[n, h, w, maps]`.
    pub fn maps(&self, x: &Tensor, told: Option<&Tensor>) -> candle_core::Result<Tensor> {
        let (mut v, mut h) = (x.clone(), x.clone());
        let mut gates = Vec::with_capacity(self.blocks.len());
        for (i, block) in self.blocks.iter().enumerate() {
            let a = block.vertical.forward(&v)?;
            let b = (block.horizontal.forward(&h)? + block.down.forward(&one_row_down(&a)?)?)?;
            let b = match (&block.told, told) {
                (Some(weights), Some(told)) => (b + weights.forward(told)?)?,
                _ => b,
            };
            let g = gate(&b)?;
            if let Some(out) = &block.out {
                let y = out.forward(&g)?;
                h = if block.residual { (y + h)? } else { y };
            }
            if block.skip.is_some() {
                gates.push(g);
            }
            // Nobody reads the last block's vertical stack.
            if i < self.network.layers {
                let z = gate(&a)?;
                let residual = self.network.vertical_residual && block.residual;
                v = if residual { (z + v)? } else { z };
            }
        }
        match gates.is_empty() {
            true => h.relu(),
            false => self.skipped(&gates)?.relu(),
        }
    }

    /// What all blocks add for the head, of what their gates gave. One convolution of all of them: the maps
    /// of each block alone, and their partial sums, would be most of what a training step keeps.
    fn skipped(&self, gates: &[Tensor]) -> candle_core::Result<Tensor> {
        let skips = || self.blocks.iter().filter_map(|block| block.skip.as_ref());
        let kernels = skips().map(Masked::kernel);
        let kernel = Tensor::cat(&kernels.collect::<candle_core::Result<Vec<_>>>()?, 2)?;
        let biases: Vec<&Tensor> = skips().filter_map(|skip| skip.bias.as_ref()).collect();
        let bias = Tensor::stack(&biases, 0)?.sum(0)?;
        conv2d_bias(
            &Tensor::cat(gates, 3)?,
            &kernel,
            &bias,
            1,
            Padding::default(),
        )
    }

    /// The head, of what [`Trunk::maps`] gives.
    pub fn read(&self, maps: &Tensor) -> candle_core::Result<Tensor> {
        self.head[1].forward(&self.head[0].forward(maps)?.relu()?)
    }
}

/// Every row where the one below it was; zeros in the first.
fn one_row_down(x: &Tensor) -> candle_core::Result<Tensor> {
    let (n, h, w, c) = x.dims4()?;
    let zeros = Tensor::zeros((n, 1, w, c), x.dtype(), x.device())?;
    if h == 1 {
        return Ok(zeros);
    }
    Tensor::cat(&[&zeros, &x.narrow(1, 0, h - 1)?], 1)
}
