//! A residual block `y = x + g(x)` whose g is a contraction.
//!
//! With J the Jacobian of g, `ln det(I + J) = sum over k of (-1)^(k+1) / k tr J^k`, and `tr J^k` is
//! estimated by `e' J^k e` (Chen et al. 2019, section 3.1). Products `s' J` are written out by hand: back
//! through g with the slopes of its activations, tracking nothing.

use anyhow::Result;
use candle_core::{Device, Tensor};

use super::solve::{Inverse, Rule, Solved, solve};
use crate::nn::chain;
use crate::nn::cpu::fixed_point::Until;
use crate::nn::init::Init;
use crate::nn::lip_swish::{lip_swish, product, softplus, with_slope, with_tangent};
use crate::nn::spectral_conv::{Power, Size, SpectralConv};
use crate::nn::weights::Weights;

/// Sizes of a block.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Height, width, channels of its images.
    pub image: [usize; 3],
    /// Channels inside.
    pub width: usize,
    /// Side of the outer kernels; the inner one has side 1.
    pub kernel: usize,
    /// Whether g begins with an activation: in all blocks but the first of a flow.
    pub leading: bool,
}

/// `g = [LipSwish] conv LipSwish conv 1x1 LipSwish conv`, each convolution of norm below `coefficient`.
pub struct Block {
    image: [usize; 3],
    convs: [SpectralConv; 3],
    /// What [`softplus`] makes the `b` of each activation of; the leading one may not be there.
    raw: [Option<Tensor>; 3],
    coefficient: f64,
}

impl Block {
    pub fn new(sizes: Sizes, coefficient: f64, w: &Weights) -> Result<Self> {
        let [height, width, channels] = sizes.image;
        let conv = |i: usize, kernel, input, output| {
            let image = (height, width);
            let size = Size {
                kernel,
                input,
                output,
                image,
            };
            SpectralConv::new(size, &w.pp(format!("conv{i}")))
        };
        let raw = |i: usize| w.get(1, &format!("beta{i}"), Init::Const(0.5));
        let leading = sizes.leading.then(|| raw(0)).transpose()?;
        Ok(Self {
            image: sizes.image,
            convs: [
                conv(0, sizes.kernel, channels, sizes.width)?,
                conv(1, 1, sizes.width, sizes.width)?,
                conv(2, sizes.kernel, sizes.width, channels)?,
            ],
            raw: [leading, Some(raw(1)?), Some(raw(2)?)],
            coefficient,
        })
    }

    /// Height, width, channels of its images.
    pub fn image(&self) -> [usize; 3] {
        self.image
    }

    /// All that is trained.
    pub fn trained(&self) -> impl Iterator<Item = &Tensor> {
        let of_convs = self.convs.iter().flat_map(SpectralConv::trained);
        of_convs.chain(self.raw.iter().flatten())
    }

    /// Values of an image inside the block.
    pub fn inside(&self) -> usize {
        let [h, w, _] = self.image;
        let width = self.convs[0].bias().elem_count();
        2 * h * w * width
    }

    #[cfg(test)]
    pub fn convs(&self) -> &[SpectralConv; 3] {
        &self.convs
    }

    /// Brings the singular vectors of all layers up to date.
    pub fn settle(&self, power: Power) -> candle_core::Result<()> {
        self.convs.iter().try_for_each(|conv| {
            conv.settle(power)?;
            Ok(())
        })
    }

    /// The block with its weights as they are now, normalised once for as many passes as are made.
    pub fn ready(&self) -> candle_core::Result<Ready<'_>> {
        let kernel = |i: usize| self.convs[i].kernel(self.coefficient);
        let mut swishes = [None, None, None];
        for (i, raw) in self.raw.iter().enumerate() {
            if let Some(raw) = raw {
                // The bias of the convolution before it is the activation's to add.
                let bias = match i.checked_sub(1) {
                    Some(before) => self.convs[before].bias().clone(),
                    None => Tensor::zeros(self.image[2], raw.dtype(), raw.device())?,
                };
                swishes[i] = Some((bias, softplus(raw)?));
            }
        }
        let kernels = [kernel(0)?, kernel(1)?, kernel(2)?];
        Ok(Ready {
            block: self,
            fixed: kernels.each_ref().map(Tensor::detach),
            kernels,
            swishes,
        })
    }
}

pub struct Ready<'a> {
    block: &'a Block,
    kernels: [Tensor; 3],
    /// The same without gradients.
    fixed: [Tensor; 3],
    /// Bias and `b` of each activation.
    swishes: [Option<(Tensor, Tensor)>; 3],
}

/// The slopes of a block's activations at some images, where there are activations.
pub type Slopes = [Option<Tensor>; 3];

impl Ready<'_> {
    /// `g(x)`. No gradient.
    pub fn g(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let mut h = x.clone();
        for (i, conv) in self.block.convs.iter().enumerate() {
            if let Some((bias, b)) = &self.swishes[i] {
                h = lip_swish(&h, bias, b)?;
            }
            h = conv.apply(&h, &self.fixed[i])?;
        }
        h.broadcast_add(&self.block.convs[2].bias().detach())
    }

    /// `g(x)` and the slopes there. No gradient.
    pub fn g_and_slopes(&self, x: &Tensor) -> candle_core::Result<(Tensor, Slopes)> {
        let (mut h, mut slopes) = (x.clone(), [None, None, None]);
        for (i, conv) in self.block.convs.iter().enumerate() {
            if let Some((bias, b)) = &self.swishes[i] {
                let (y, slope) = with_slope(&h, bias, b)?;
                (h, slopes[i]) = (y, Some(slope));
            }
            h = conv.apply(&h, &self.fixed[i])?;
        }
        Ok((
            h.broadcast_add(&self.block.convs[2].bias().detach())?,
            slopes,
        ))
    }

    /// `s' J` where the slopes are. No gradient.
    pub fn vjp(&self, s: &Tensor, slopes: &Slopes) -> candle_core::Result<Tensor> {
        let mut s = s.clone();
        for (i, conv) in self.block.convs.iter().enumerate().rev() {
            s = conv.transposed(&s, &self.fixed[i])?;
            if let Some(slope) = &slopes[i] {
                s = product(&s, slope)?;
            }
        }
        Ok(s)
    }

    /// `x + g(x)`, and an estimate of `ln det(I + J)` of each image, `[n]`: `weights` of the terms from the
    /// first on, for each image or for all. No gradient.
    pub fn estimate(
        &self,
        x: &Tensor,
        e: &Tensor,
        weights: &[Vec<f64>],
    ) -> candle_core::Result<(Tensor, Tensor)> {
        let (g, slopes) = self.g_and_slopes(x)?;
        let factors = signed(weights);
        let traces = self.powers(e, &slopes, &factors)?.1;
        let terms = factors.len();
        let shared = factors.iter().all(|f| f.len() == 1);
        let images = if shared { 1 } else { x.dim(0)? };
        // Of term k: -f_k / k.
        let each = (0..images).flat_map(|i| {
            let of_term = move |(k, f): (f64, &Vec<f64>)| -f[i.min(f.len() - 1)] / k;
            let counted = (1..).map(f64::from).zip(&factors);
            counted.map(of_term)
        });
        let shares = Tensor::from_iter(each, &Device::Cpu)?.reshape((images, terms))?;
        let shares = shares.to_dtype(x.dtype())?.to_device(x.device())?;
        Ok(((x + g)?, traces.broadcast_mul(&shares)?.sum(1)?))
    }

    /// For training: `x + g(x)`, and what has the gradient of such an estimate (equation 8), `[n]`.
    ///
    /// That is `S J e` with `S = e' + sum over k of (-1)^k w_k e' J^k` held fixed. Its value is not
    /// `ln det(I + J)`. J e goes forward beside the activations as a tangent, so that its gradient is a
    /// gradient of the first order.
    pub fn surrogate(
        &self,
        x: &Tensor,
        e: &Tensor,
        weights: &[Vec<f64>],
    ) -> candle_core::Result<(Tensor, Tensor)> {
        let mut slopes = [None, None, None];
        let both = self.with_tangent(x, e, |i, h, (bias, b)| {
            slopes[i] = Some(with_slope(h, bias, b)?.1);
            Ok(())
        })?;
        let fixed = self.neumann(e, &slopes, weights)?;
        self.finish(x, &both, &fixed)
    }

    /// `x + g(x)` and S of [`Ready::surrogate`]. No gradient.
    pub fn fixed(
        &self,
        x: &Tensor,
        e: &Tensor,
        weights: &[Vec<f64>],
    ) -> candle_core::Result<(Tensor, Tensor)> {
        let (g, slopes) = self.g_and_slopes(x)?;
        Ok(((x + g)?, self.neumann(e, &slopes, weights)?))
    }

    /// [`Ready::surrogate`] where S is known.
    pub fn surrogate_of(
        &self,
        x: &Tensor,
        e: &Tensor,
        fixed: &Tensor,
    ) -> candle_core::Result<(Tensor, Tensor)> {
        let both = self.with_tangent(x, e, |_, _, _| Ok(()))?;
        self.finish(x, &both, fixed)
    }

    /// g without its last bias, and J e, one half after the other. `see` is shown what goes into each
    /// activation.
    fn with_tangent(
        &self,
        x: &Tensor,
        e: &Tensor,
        mut see: impl FnMut(usize, &Tensor, &(Tensor, Tensor)) -> candle_core::Result<()>,
    ) -> candle_core::Result<Tensor> {
        let (n, mut h) = (x.dim(0)?, Tensor::cat(&[x, e], 0)?);
        for (i, conv) in self.block.convs.iter().enumerate() {
            if let Some(swish) = &self.swishes[i] {
                see(i, &h.narrow(0, 0, n)?, swish)?;
                h = with_tangent(&h, &swish.0, &swish.1)?;
            }
            h = conv.apply(&h, &self.kernels[i])?;
        }
        Ok(h)
    }

    fn neumann(
        &self,
        e: &Tensor,
        slopes: &Slopes,
        weights: &[Vec<f64>],
    ) -> candle_core::Result<Tensor> {
        Ok(self.powers(e, slopes, &signed(weights))?.0)
    }

    /// `e + sum over k of f_k e' J^k`, and `e' J^k e` `[n, terms]`, which may be 0 where f is. No gradient.
    fn powers(
        &self,
        e: &Tensor,
        slopes: &Slopes,
        factors: &[Vec<f64>],
    ) -> candle_core::Result<(Tensor, Tensor)> {
        if e.device().is_cpu() {
            return chain::powers(&self.fixed, slopes, e, factors);
        }
        self.powers_term_by_term(e, slopes, factors)
    }

    fn powers_term_by_term(
        &self,
        e: &Tensor,
        slopes: &Slopes,
        factors: &[Vec<f64>],
    ) -> candle_core::Result<(Tensor, Tensor)> {
        let (mut s, mut sum) = (e.clone(), e.clone());
        let mut traces = Vec::with_capacity(factors.len());
        for factors in factors {
            s = self.vjp(&s, slopes)?;
            traces.push(product(&s, e)?.flatten_from(1)?.sum(1)?);
            let factors = Tensor::from_slice(factors, (factors.len(), 1, 1, 1), &Device::Cpu)?;
            let factors = factors.to_dtype(s.dtype())?.to_device(s.device())?;
            sum = (sum + s.broadcast_mul(&factors)?)?;
        }
        Ok((sum, Tensor::stack(&traces, 1)?))
    }

    fn finish(
        &self,
        x: &Tensor,
        both: &Tensor,
        fixed: &Tensor,
    ) -> candle_core::Result<(Tensor, Tensor)> {
        let n = x.dim(0)?;
        let g = both
            .narrow(0, 0, n)?
            .broadcast_add(self.block.convs[2].bias())?;
        let along = (both.narrow(0, n, n)? * fixed)?;
        Ok(((x + g)?, along.flatten_from(1)?.sum(1)?))
    }

    /// The x with `x + g(x) = y`.
    pub fn inverse(&self, y: &Tensor, rule: Inverse) -> candle_core::Result<Solved> {
        if !y.device().is_cpu() {
            return solve(|x| self.g(x), y, rule);
        }
        let bias = self.block.convs[2].bias();
        let until = Until {
            tolerance: rule.tolerance,
            squared: rule.rule == Rule::Official,
            most: rule.most,
        };
        let (x, rounds) = chain::inverse(&self.fixed, &self.swishes, bias, y, until)?;
        Ok(Solved {
            x,
            cut: rounds.iter().filter(|image| image.cut).count(),
            #[cfg(test)]
            evaluations: rounds.iter().map(|image| image.done).max().unwrap_or(0),
        })
    }
}

/// `(-1)^k w_k`, k from 1 on.
fn signed(weights: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let signs = [-1.0, 1.0].into_iter().cycle();
    let term = |(weights, sign): (&Vec<f64>, f64)| weights.iter().map(|w| w * sign).collect();
    weights.iter().zip(signs).map(term).collect()
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::nn::noise::Noise;

    /// Of convolutions, and of a dense block.
    const IMAGES: [[usize; 3]; 2] = [[5, 4, 3], [1, 1, 40]];

    fn settled(image: [usize; 3], dtype: DType) -> Result<Block> {
        let dense = image[0] == 1;
        let sizes = Sizes {
            image,
            width: 6,
            kernel: if dense { 1 } else { 3 },
            leading: dense,
        };
        let block = Block::new(sizes, 0.98, &Weights::new(8, dtype, &Device::Cpu))?;
        block.settle(Power {
            tolerance: 1e-3,
            most: 50,
        })?;
        Ok(block)
    }

    /// All powers of a few images at a time, against one power of all after the other.
    #[test]
    fn powers_are_those_of_one_product_after_the_other() -> Result<()> {
        for (dtype, limit) in [(DType::F64, 1e-12), (DType::F32, 1e-4)] {
            for image in IMAGES {
                let block = settled(image, dtype)?;
                let (ready, n, [h, wide, c]) = (block.ready()?, 27, image);
                let draw = |step| {
                    let mut noise = Noise::new(3, "powers").at(step);
                    noise.normal((n, h, wide, c), dtype, &Device::Cpu)
                };
                let (x, e) = (draw(0)?, draw(1)?);
                let slopes = ready.g_and_slopes(&x)?.1;
                // The second half of the images has fewer terms.
                let short = |f: f64| (0..n).map(|i| if i < 14 { f } else { 0.0 }).collect();
                let factors = [vec![-1.0], vec![0.5], short(-1.3), short(2.0)];
                let (sum, traces) = ready.powers(&e, &slopes, &factors)?;
                let (by_term, of_term) = ready.powers_term_by_term(&e, &slopes, &factors)?;
                let far = |a: &Tensor, b: &Tensor| -> Result<f64> {
                    let gap = ((a - b)?.abs()? / (b.abs()? + 1.0)?)?;
                    Ok(gap.max_all()?.to_dtype(DType::F64)?.to_scalar()?)
                };
                assert!(far(&sum, &by_term)? < limit);
                assert!(far(&traces.narrow(0, 0, 14)?, &of_term.narrow(0, 0, 14)?)? < limit);
                let [ours, theirs] = [&traces, &of_term].map(|t| t.narrow(0, 14, 13));
                let [ours, theirs] = [ours?.narrow(1, 0, 2)?, theirs?.narrow(1, 0, 2)?];
                assert!(far(&ours, &theirs)? < limit);
            }
        }
        Ok(())
    }

    /// An image at a time, against all images in rounds, one of them without a number.
    #[test]
    fn inverses_are_those_of_whole_tensors() -> Result<()> {
        for (dtype, limit) in [(DType::F64, 1e-9), (DType::F32, 1e-4)] {
            for image in IMAGES {
                let block = settled(image, dtype)?;
                let (ready, [h, wide, c]) = (block.ready()?, image);
                let mut noise = Noise::new(3, "inverses").at(0);
                let y = noise.normal((27, h, wide, c), dtype, &Device::Cpu)?;
                for rule in [Rule::Strict, Rule::Official] {
                    for most in [2, 200] {
                        let rule = Inverse {
                            rule,
                            tolerance: 1e-5,
                            most,
                        };
                        let ours = ready.inverse(&y, rule)?;
                        let theirs = solve(|x| ready.g(x), &y, rule)?;
                        assert_eq!(ours.cut, theirs.cut);
                        assert!(ours.evaluations.abs_diff(theirs.evaluations) < 2);
                        let gap = (&ours.x - &theirs.x)?.abs()?.max_all()?;
                        let gap: f64 = gap.to_dtype(DType::F64)?.to_scalar()?;
                        assert!(gap < limit, "{gap:e}");
                    }
                }
                let mut values = y.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
                values[0] = f64::NAN;
                let bad = Tensor::from_vec(values, y.shape(), &Device::Cpu)?.to_dtype(dtype)?;
                let rule = Inverse {
                    rule: Rule::Strict,
                    tolerance: 1e-5,
                    most: 100,
                };
                assert_eq!(ready.inverse(&bad, rule)?.cut, 1);
            }
        }
        Ok(())
    }
}
