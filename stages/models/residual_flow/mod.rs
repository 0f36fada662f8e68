//! Residual Flow (Chen et al. 2019; official code rtqichen/residual-flows).

use std::f64::consts::LN_2;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor, Var};
use contract::{Input, Job};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::gaussian;
use super::image_model::{Density, ImageModel, Kinds, Latent};
use crate::metrics::bits::bits_per_dim;
use crate::nn::bijector::{Bijector, no_change};
use crate::nn::noise::Draws;
use crate::nn::spectral_conv::Power;
use crate::nn::squeeze::Squeeze;
use crate::nn::weights::Weights;
use block::{Block, Sizes};
use norm::ActNorm;
pub use series::{Probe, Series};
pub use solve::Inverse;

mod block;
mod logit;
mod norm;
mod series;
mod solve;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Blocks of convolutions at each scale; between scales images are squeezed.
    pub blocks: Vec<usize>,
    /// Channels inside them.
    pub width: usize,
    /// Fully connected blocks after the last scale.
    pub dense_blocks: usize,
    /// Channels inside those.
    pub dense_width: usize,
    /// What the norm of a layer stays below, so that blocks can be inverted.
    pub coefficient: f64,
    /// How far images are drawn in from 0 and 1 before the logit.
    pub alpha: f64,
}

/// What a file of weights says of its model. How it is to be evaluated and inverted stands here and not in
/// the kinds that do so, whose parameters are those of all models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    pub network: Network,
    /// Terms of log-determinants when bits per dimension are measured.
    pub evaluation: Series,
    pub probe: Probe,
    pub inverse: Inverse,
    /// Height, width, channels of the images.
    pub image: [usize; 3],
}

/// A bijection between images `[n, h, w, c]` and standard normal noise `[n, h w c]`.
pub struct ResidualFlow {
    layers: Vec<Layer>,
    config: Config,
    dtype: DType,
    device: Device,
    /// Inverses of blocks that were not found in as many evaluations as are allowed.
    cut: AtomicUsize,
}

enum Layer {
    Block(Box<Block>),
    /// One whose log-determinant is exact.
    Other(Box<dyn Exact>),
}

impl Layer {
    fn trained(&self) -> Vec<&Tensor> {
        match self {
            Self::Block(block) => block.trained().collect(),
            Self::Other(layer) => layer.trained(),
        }
    }
}

/// A bijection and what is trained of it.
trait Exact: Bijector + Send + Sync {
    fn trained(&self) -> Vec<&Tensor>;
}

impl Exact for ActNorm {
    fn trained(&self) -> Vec<&Tensor> {
        self.trained().into()
    }
}

impl Exact for Squeeze {
    fn trained(&self) -> Vec<&Tensor> {
        Vec::new()
    }
}

/// Images of this height, width and channels to images of one pixel.
struct Flatten([usize; 3]);

impl Bijector for Flatten {
    fn forward(&self, x: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        let channels = self.0.iter().product::<usize>();
        Ok((x.reshape((x.dim(0)?, 1, 1, channels))?, no_change(x)?))
    }

    fn inverse(&self, y: &Tensor) -> candle_core::Result<Tensor> {
        let [h, w, c] = self.0;
        y.reshape((y.dim(0)?, h, w, c))
    }
}

impl Exact for Flatten {
    fn trained(&self) -> Vec<&Tensor> {
        Vec::new()
    }
}

/// Values inside blocks above which a training step does not keep all of them for its gradient: some 4 GiB
/// of f32 with their tangents and what is made of both.
const MOST_KEPT: usize = 1 << 28;

/// Terms of the series of every block, and the vectors that traces are estimated with.
pub struct Probes {
    /// For each block, each term, each image or all.
    pub weights: Vec<Vec<Vec<f64>>>,
    /// For each block, of its images' shape.
    pub vectors: Vec<Tensor>,
}

impl ResidualFlow {
    pub fn new(config: &Config, w: &Weights) -> Result<Self> {
        let (network, mut image) = (&config.network, config.image);
        let side = 1 << network.blocks.len().saturating_sub(1);
        ensure!(
            !network.blocks.is_empty() && image[0] % side == 0 && image[1] % side == 0,
            "{} scales need image sides that are multiples of {side}, the images are {}x{}",
            network.blocks.len(),
            image[0],
            image[1]
        );
        ensure!(
            network.coefficient > 0.0 && network.coefficient < 1.0,
            "network.coefficient = {} must be above 0 and below 1; hint: 0.98",
            network.coefficient
        );
        ensure!(
            (0.0..0.5).contains(&network.alpha),
            "network.alpha = {} must be at least 0 and below 0.5; hint: 0.05",
            network.alpha
        );
        config.evaluation.check("evaluation")?;
        let mut layers = Vec::new();
        let (mut blocks, mut norms) = (0, 0);
        let mut norm = |layers: &mut Vec<Layer>, channels: usize| -> Result<()> {
            let w = w.pp(format!("norm{norms}"));
            layers.push(Layer::Other(Box::new(ActNorm::new(channels, &w)?)));
            norms += 1;
            Ok(())
        };
        let mut block = |layers: &mut Vec<Layer>, image, width, kernel| -> Result<()> {
            let sizes = Sizes {
                image,
                width,
                kernel,
                leading: blocks > 0,
            };
            let block = Block::new(sizes, network.coefficient, &w.pp(format!("block{blocks}")))?;
            layers.push(Layer::Block(Box::new(block)));
            blocks += 1;
            Ok(())
        };
        norm(&mut layers, image[2])?;
        for (scale, count) in network.blocks.iter().enumerate() {
            if scale > 0 {
                layers.push(Layer::Other(Box::new(Squeeze)));
                image = [image[0] / 2, image[1] / 2, image[2] * 4];
            }
            for _ in 0..*count {
                block(&mut layers, image, network.width, 3)?;
                norm(&mut layers, image[2])?;
            }
        }
        if network.dense_blocks > 0 {
            layers.push(Layer::Other(Box::new(Flatten(image))));
            let image = [1, 1, image.iter().product()];
            for _ in 0..network.dense_blocks {
                block(&mut layers, image, network.dense_width, 1)?;
                norm(&mut layers, image[2])?;
            }
        }
        Ok(Self {
            layers,
            config: config.clone(),
            dtype: w.dtype(),
            device: w.device().clone(),
            cut: AtomicUsize::new(0),
        })
    }

    /// Sub-pixels of an image.
    pub fn dims(&self) -> usize {
        self.config.image.iter().product()
    }

    fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.layers.iter().filter_map(|layer| match layer {
            Layer::Block(block) => Some(&**block),
            _ => None,
        })
    }

    /// Brings the singular vectors of all layers up to date with their weights.
    pub fn settle(&self, power: Power) -> candle_core::Result<()> {
        let blocks: Vec<&Block> = self.blocks().collect();
        match self.device {
            // One block does not fill all cores.
            Device::Cpu => blocks.par_iter().try_for_each(|block| block.settle(power)),
            _ => blocks.iter().try_for_each(|block| block.settle(power)),
        }
    }

    /// Terms and vectors for a pass: all that is random about it. `alike`: one N for all images of a batch
    /// and block, as training has it; else one for each, so that estimates of images are independent.
    pub fn probes(
        &self,
        n: usize,
        series: &Series,
        alike: bool,
        noise: &mut Draws,
    ) -> candle_core::Result<Probes> {
        let (blocks, each) = (self.blocks().count(), if alike { 1 } else { n });
        let more = series.draw(blocks * each, noise);
        let weights = more.chunks(each).map(|more| series.weights(more)).collect();
        let vector = |block: &Block| {
            let [h, w, c] = block.image();
            let probe = self.config.probe;
            probe.draw((n, h, w, c), noise, self.dtype, &self.device)
        };
        let vectors = self
            .blocks()
            .map(vector)
            .collect::<candle_core::Result<_>>()?;
        Ok(Probes { weights, vectors })
    }

    /// Noise `[n, dims]` and log-determinants `[n]` of images as [`logit::logit`] gives them. Of a block `i`,
    /// `pass` gives result and log-determinant.
    fn forward(
        &self,
        x: &Tensor,
        mut pass: impl FnMut(usize, &Block, &Tensor) -> candle_core::Result<(Tensor, Tensor)>,
    ) -> candle_core::Result<(Tensor, Tensor)> {
        let (mut x, mut log_det, mut i) = (x.clone(), no_change(x)?, 0);
        for layer in &self.layers {
            let (y, change) = match layer {
                Layer::Block(block) => {
                    i += 1;
                    pass(i - 1, block, &x)?
                }
                Layer::Other(other) => other.forward(&x)?,
            };
            (x, log_det) = (y, (log_det + change)?);
        }
        Ok((x.flatten_from(1)?, log_det))
    }

    /// Bits per dimension of images `y` in [0, 1], `[n]`, where `pass` goes through a block.
    fn bits_with(
        &self,
        y: &Tensor,
        pass: impl FnMut(usize, &Block, &Tensor) -> candle_core::Result<(Tensor, Tensor)>,
    ) -> candle_core::Result<Tensor> {
        let (x, by_logit) = logit::logit(y, self.config.network.alpha)?;
        let (noise, log_det) = self.forward(&x, pass)?;
        let log_density = ((gaussian::log_standard(&noise)? + log_det)? + by_logit)?;
        bits_per_dim(&log_density, self.dims(), 1.0 / 256.0)
    }

    /// Unbiased estimates of the bits per dimension of images `y` in [0, 1], `[n]`. No gradient.
    pub fn bits_of(&self, y: &Tensor, probes: &Probes) -> candle_core::Result<Tensor> {
        self.bits_with(y, |i, block, x| {
            let (e, weights) = (&probes.vectors[i], &probes.weights[i]);
            block.ready()?.estimate(x, e, weights)
        })
    }

    /// A scalar that has an unbiased estimate of the gradient of their mean. Its value is not that.
    pub fn objective(&self, y: &Tensor, probes: &Probes) -> candle_core::Result<Tensor> {
        let inside: usize = self.blocks().map(Block::inside).sum();
        if inside * y.dim(0)? > MOST_KEPT {
            return self.objective_by_layers(y, probes);
        }
        self.objective_at_once(y, probes)
    }

    fn objective_at_once(&self, y: &Tensor, probes: &Probes) -> candle_core::Result<Tensor> {
        let bits = self.bits_with(y, |i, block, x| {
            let (e, weights) = (&probes.vectors[i], &probes.weights[i]);
            block.ready()?.surrogate(x, e, weights)
        })?;
        bits.mean_all()
    }

    /// The same with the memory of one block: forward without a gradient, then back layer by layer, each
    /// with a graph of its own. What comes out is linear in the weights, with the gradients so found.
    fn objective_by_layers(&self, y: &Tensor, probes: &Probes) -> candle_core::Result<Tensor> {
        let (mut x, by_logit) = logit::logit(y, self.config.network.alpha)?;
        let (mut inputs, mut fixed) = (Vec::new(), Vec::new());
        for layer in &self.layers {
            inputs.push(x.clone());
            x = match layer {
                Layer::Block(block) => {
                    let i = fixed.len();
                    let (e, weights) = (&probes.vectors[i], &probes.weights[i]);
                    let (next, of_block) = block.ready()?.fixed(&x, e, weights)?;
                    fixed.push(of_block);
                    next
                }
                Layer::Other(other) => other.forward(&x)?.0.detach(),
            };
        }
        let log_density = (gaussian::log_standard(&x.flatten_from(1)?)? + by_logit)?;
        let bits = bits_per_dim(&log_density, self.dims(), 1.0 / 256.0)?;
        let mut total = bits.mean_all()?.detach();
        // Of the mean of bits by a log-determinant; ln N(z; 0, I) by z is -z.
        let share = -1.0 / (LN_2 * x.elem_count() as f64);
        let mut slope = (x * -share)?;
        for (layer, x) in self.layers.iter().zip(inputs).rev() {
            let x = Var::from_tensor(&x)?;
            let (y, log_det) = match (layer, fixed.len().checked_sub(1)) {
                (Layer::Block(block), Some(i)) => {
                    let of_block = fixed.split_off(i);
                    let ready = block.ready()?;
                    ready.surrogate_of(&x, &probes.vectors[i], &of_block[0])?
                }
                (Layer::Other(other), _) => other.forward(&x)?,
                _ => candle_core::bail!("BUG: more blocks back than forth"),
            };
            let log_det = (log_det.sum_all()? * share)?;
            total = (total + log_det.detach())?;
            let along = (&y * slope.reshape(y.shape())?)?.sum_all()?;
            let grads = (along + log_det)?.backward()?;
            for tensor in layer.trained() {
                if let Some(grad) = grads.get(tensor) {
                    let linear = (tensor * grad.detach())?.sum_all()?;
                    total = (total + (&linear - linear.detach())?)?;
                }
            }
            slope = match grads.get(&x) {
                Some(grad) => grad.detach(),
                None => x.zeros_like()?,
            };
        }
        Ok(total)
    }

    /// Images in [0, 1] with noise in them, from images 0 to 255.
    pub fn dequantise(images: &Tensor, noise: &mut Draws) -> candle_core::Result<Tensor> {
        logit::dequantise(images, noise)
    }

    /// Sets actnorms so that they fit a first batch `y` in [0, 1].
    pub fn start(&self, y: &Tensor) -> candle_core::Result<()> {
        let mut x = logit::logit(y, self.config.network.alpha)?.0;
        for layer in &self.layers {
            x = match layer {
                Layer::Block(block) => (&x + block.ready()?.g(&x)?)?,
                Layer::Other(other) => other.start(&x)?.detach(),
            };
        }
        Ok(())
    }

    /// Images as [`logit::logit`] gives them, from noise `[n, dims]`.
    pub fn inverse(&self, noise: &Tensor) -> candle_core::Result<Tensor> {
        self.inverse_by(noise, |block, y| {
            let solved = block.ready()?.inverse(y, self.config.inverse)?;
            self.cut.fetch_add(solved.cut, Ordering::Relaxed);
            Ok(solved.x)
        })
    }

    /// The same, where `back` inverts a block.
    fn inverse_by(
        &self,
        noise: &Tensor,
        mut back: impl FnMut(&Block, &Tensor) -> candle_core::Result<Tensor>,
    ) -> candle_core::Result<Tensor> {
        let n = noise.dim(0)?;
        let [mut h, mut w, mut c] = self.config.image;
        let scales = self.config.network.blocks.len().saturating_sub(1);
        (h, w, c) = (h >> scales, w >> scales, c << (2 * scales));
        let mut x = match self.config.network.dense_blocks {
            0 => noise.reshape((n, h, w, c))?,
            _ => noise.reshape((n, 1, 1, h * w * c))?,
        };
        for layer in self.layers.iter().rev() {
            x = match layer {
                Layer::Block(block) => back(block, &x)?,
                Layer::Other(other) => other.inverse(&x)?,
            };
        }
        Ok(x)
    }
}

impl ImageModel for ResidualFlow {
    const KINDS: Kinds = Kinds {
        sample: "sample-residual-flow",
        bits_per_dim: "bits-per-dim-residual-flow",
        sample_about: "Draws images from a Residual Flow.",
        bits_about: "Bits per dimension of images under a Residual Flow, estimated without bias.",
    };
    const PARTS: &'static [Input] = &[Input::one("flow", "residual-flow")];

    fn load(job: &Job, device: &Device) -> Result<Self> {
        let (weights, config) = Weights::load(job.input("flow")?, DType::F32, device)?;
        Self::new(&config, &weights)
    }

    fn shape(&self) -> [usize; 3] {
        self.config.image
    }

    /// The temperature multiplies the noise that images are made from.
    fn sample(&self, n: usize, temperature: f64, noise: &mut Draws) -> Result<Tensor> {
        let noise = noise.normal((n, self.dims()), self.dtype, &self.device)?;
        let x = self.inverse(&(noise * temperature)?)?;
        Ok(logit::pixels(&x, self.config.network.alpha)?)
    }

    fn remark(&self) -> Option<String> {
        let (cut, most) = (self.cut.load(Ordering::Relaxed), self.config.inverse.most);
        (cut > 0).then(|| {
            format!("{cut} inverses of blocks were left as they were after {most} evaluations")
        })
    }
}

impl Density for ResidualFlow {
    const LATENT: Latent = Latent::None;

    fn bits(&self, x: &Tensor, _draws: usize, noise: &mut Draws) -> Result<Tensor> {
        let y = logit::dequantise(x, noise)?;
        let probes = self.probes(x.dim(0)?, &self.config.evaluation, false, noise)?;
        Ok(self.bits_of(&y, &probes)?)
    }

    fn protocol(&self) -> Value {
        json!({ "log_det": format!("unbiased, {}", self.config.evaluation.name()) })
    }
}

#[cfg(test)]
mod tests;
