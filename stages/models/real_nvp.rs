//! A flow on latent vectors: affine couplings in the manner of Real NVP (Dinh et al. 2017), as the
//! prior p(z) of the paper (section 3.2; REFERENCE 3.1).

use anyhow::Result;
use candle_core::{DType, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::gaussian;
use crate::nn::dense::Dense;
use crate::nn::init::Init;
use crate::nn::weights::Weights;

/// Sizes of the flow.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub layers: usize,
    pub width: usize,
    /// Bound of the log-scale, reached smoothly: `b tanh(s / b)`.
    pub max_log_scale: f64,
}

/// h: Z -> U, u ~ N(0, I).
pub struct RealNvp {
    layers: Vec<Layer>,
    dim: usize,
}

/// Even layers mix dimensions by a fixed random permutation and transform the second half given
/// the first; odd layers swap the halves, so that every two layers transform every dimension.
struct Layer {
    /// Where each dimension comes from, u32 `[d]`, and the inverse.
    order: Tensor,
    back: Tensor,
    net: [Dense; 3],
    half: usize,
    bound: f64,
}

impl RealNvp {
    pub fn new(config: &Config, dim: usize, w: &Weights) -> Result<Self> {
        let layer = |k| Layer::new(config, dim, k, &w.pp(format!("layer{k}")));
        let layers = (0..config.layers).map(layer).collect::<Result<_>>()?;
        Ok(Self { layers, dim })
    }

    /// `u = h(z)` and ln|det dh/dz| `[n]`.
    pub fn forward(&self, z: &Tensor) -> Result<(Tensor, Tensor)> {
        let mut u = z.clone();
        let mut log_det = Tensor::zeros(z.dim(0)?, z.dtype(), z.device())?;
        for layer in &self.layers {
            let (next, term) = layer.forward(&u)?;
            (u, log_det) = (next, (log_det + term)?);
        }
        Ok((u, log_det))
    }

    /// `z = h^-1(u)`.
    pub fn inverse(&self, u: &Tensor) -> Result<Tensor> {
        self.layers
            .iter()
            .rev()
            .try_fold(u.clone(), |z, layer| layer.inverse(&z))
    }

    /// ln p(z), `[n]`.
    pub fn log_prob(&self, z: &Tensor) -> Result<Tensor> {
        let (u, log_det) = self.forward(z)?;
        Ok((gaussian::log_standard(&u)? + log_det)?)
    }

    pub fn dim(&self) -> usize {
        self.dim
    }
}

impl Layer {
    fn new(config: &Config, dim: usize, k: usize, w: &Weights) -> Result<Self> {
        let half = dim / 2;
        let order: Vec<u32> = if k.is_multiple_of(2) {
            // A buffer, so that a file holds the whole map; drawn by name like any other tensor.
            let order = w.buffer(dim, "permutation", Init::Permutation)?;
            order
                .to_dtype(DType::F64)?
                .to_vec1::<f64>()?
                .into_iter()
                .map(|i| i as u32)
                .collect()
        } else {
            (half as u32..dim as u32).chain(0..half as u32).collect()
        };
        let mut back = vec![0u32; dim];
        for (to, from) in (0u32..).zip(&order) {
            back[*from as usize] = to;
        }
        let rest = dim - half;
        let net = [
            Dense::new(half, config.width, Init::HeNormal, &w.pp("dense0"))?,
            Dense::new(config.width, config.width, Init::HeNormal, &w.pp("dense1"))?,
            // Zero: the layer starts as a permutation, p(z) as N(0, I).
            Dense::new(config.width, 2 * rest, Init::Zeros, &w.pp("dense2"))?,
        ];
        let device = w.device();
        let (order, back) = (Tensor::new(order, device)?, Tensor::new(back, device)?);
        Ok(Self {
            order,
            back,
            net,
            half,
            bound: config.max_log_scale,
        })
    }

    /// Log-scale and shift of the second half from the first.
    fn net(&self, a: &Tensor) -> Result<(Tensor, Tensor)> {
        let [first, second, last] = &self.net;
        let h = second.forward(&first.forward(a)?.relu()?)?.relu()?;
        let out = last.forward(&h)?;
        let rest = out.dim(1)? / 2;
        let log_scale = ((out.narrow(1, 0, rest)? / self.bound)?.tanh()? * self.bound)?;
        Ok((log_scale, out.narrow(1, rest, rest)?))
    }

    fn halves(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let a = x.narrow(1, 0, self.half)?.contiguous()?;
        let b = x.narrow(1, self.half, x.dim(1)? - self.half)?;
        Ok((a, b))
    }

    fn forward(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let (a, b) = self.halves(&x.index_select(&self.order, 1)?)?;
        let (log_scale, shift) = self.net(&a)?;
        let b = ((b * log_scale.exp()?)? + shift)?;
        Ok((Tensor::cat(&[a, b], 1)?, log_scale.sum(1)?))
    }

    fn inverse(&self, y: &Tensor) -> Result<Tensor> {
        let (a, b) = self.halves(y)?;
        let (log_scale, shift) = self.net(&a)?;
        let b = ((b - shift)? * log_scale.neg()?.exp()?)?;
        Ok(Tensor::cat(&[a, b], 1)?.index_select(&self.back, 1)?)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::nn::noise::Noise;

    const CPU: Device = Device::Cpu;

    /// A flow whose layers all do something: the zero output layers are drawn again.
    fn flow(layers: usize, dim: usize, std: f64, dtype: DType) -> Result<RealNvp> {
        let w = Weights::new(3, dtype, &CPU);
        let config = Config {
            layers,
            width: 8,
            max_log_scale: 2.0,
        };
        let flow = RealNvp::new(&config, dim, &w)?;
        for (i, (name, var)) in w.trained().into_iter().enumerate() {
            if name.contains("dense2") {
                let e = Noise::new(8, "perturb")
                    .at(i as u64)
                    .normal(var.shape(), dtype, &CPU)?;
                var.set(&(e * std)?)?;
            }
        }
        Ok(flow)
    }

    fn draw(n: usize, dim: usize) -> Result<Tensor> {
        Ok(Noise::new(1, "z")
            .at(0)
            .normal((n, dim), DType::F64, &CPU)?)
    }

    fn far(a: &Tensor, b: &Tensor) -> Result<f64> {
        Ok((a - b)?.abs()?.max_all()?.to_scalar()?)
    }

    /// REFERENCE 3.1.
    #[test]
    fn the_paper_size_has_the_known_number_of_parameters() -> Result<()> {
        for (dim, expect) in [(64, 18_383_872), (128, 19_957_760)] {
            let w = Weights::new(0, DType::F32, &CPU);
            RealNvp::new(
                &Config {
                    layers: 16,
                    width: 1024,
                    max_log_scale: 2.0,
                },
                dim,
                &w,
            )?;
            assert_eq!(w.count(), expect);
        }
        Ok(())
    }

    /// Oracle 1: back and forth, at an even and an odd size. Sixteen layers let rounding grow, so in f32
    /// they are gentler.
    #[test]
    fn the_inverse_undoes_the_flow() -> Result<()> {
        for (dtype, std, limit) in [(DType::F64, 0.1, 1e-10), (DType::F32, 0.02, 1e-4)] {
            for dim in [6, 5] {
                let flow = flow(16, dim, std, dtype)?;
                let z = draw(20, dim)?.to_dtype(dtype)?;
                let (u, _) = flow.forward(&z)?;
                let wide = |t: &Tensor| t.to_dtype(DType::F64);
                assert!(far(&wide(&z)?, &wide(&u)?)? > 0.1, "the flow does nothing");
                assert!(far(&wide(&flow.inverse(&u)?)?, &wide(&z)?)? < limit);
            }
        }
        Ok(())
    }

    /// `ln |det|` of the Jacobian of a map at `z`, by autodiff row for row.
    fn log_det(map: impl Fn(&Tensor) -> Result<Tensor>, z: &Tensor) -> Result<f64> {
        let z = Var::from_tensor(z)?;
        let (y, dim) = (map(&z)?, z.dim(1)?);
        let mut rows = Vec::new();
        for i in 0..dim {
            let grads = y.get(0)?.get(i)?.backward()?;
            let row = grads
                .get(&z)
                .map_or_else(|| z.zeros_like(), |g| Ok(g.clone()))?;
            rows.extend(row.flatten_all()?.to_vec1::<f64>()?);
        }
        let jacobian = faer::Mat::from_fn(dim, dim, |i, j| rows[i * dim + j]);
        Ok(jacobian.determinant().abs().ln())
    }

    /// Oracles 2 and 3: the log-determinant is the Jacobian's, and cancels that of the inverse.
    #[test]
    fn log_det_is_that_of_the_jacobian() -> Result<()> {
        for dim in [6, 5] {
            let flow = flow(4, dim, 0.3, DType::F64)?;
            let z = draw(1, dim)?;
            let (u, claimed) = flow.forward(&z)?;
            let claimed = claimed.to_vec1::<f64>()?[0];
            assert!((claimed - log_det(|z| Ok(flow.forward(z)?.0), &z)?).abs() < 1e-8);
            assert!((claimed + log_det(|u| flow.inverse(u), &u)?).abs() < 1e-8);
        }
        Ok(())
    }

    /// Oracle 9: the density over the plane sums to one.
    #[test]
    fn the_density_is_normalised() -> Result<()> {
        // Gentle enough that next to nothing lies beyond the grid.
        let flow = flow(4, 2, 0.1, DType::F64)?;
        let (n, reach) = (600usize, 9.0);
        let step = 2.0 * reach / n as f64;
        let at = |i: usize| (i as f64 + 0.5) * step - reach;
        let grid: Vec<f64> = (0..n * n).flat_map(|i| [at(i / n), at(i % n)]).collect();
        let z = Tensor::from_vec(grid, (n * n, 2), &CPU)?;
        let mass = flow.log_prob(&z)?.exp()?.sum_all()?.to_scalar::<f64>()? * step * step;
        assert!((mass - 1.0).abs() < 1e-3, "{mass}");
        Ok(())
    }

    /// Oracle 11: at the start p(z) is N(0, I).
    #[test]
    fn a_new_flow_is_standard_normal() -> Result<()> {
        let w = Weights::new(0, DType::F64, &CPU);
        let flow = RealNvp::new(
            &Config {
                layers: 16,
                width: 8,
                max_log_scale: 2.0,
            },
            64,
            &w,
        )?;
        let z = draw(10, 64)?;
        assert!(far(&flow.log_prob(&z)?, &gaussian::log_standard(&z)?)? < 1e-12);
        Ok(())
    }
}
