//! How a layer's tensors start.

use candle_core::{DType, Device, Result, Shape, Tensor};

use super::noise::Draws;

/// An initialisation. Fans are of HWIO convolution and `[in, out]` dense kernels:
/// the last dimension is the output, all others the input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    Const(f64),
    /// `std` times standard normal.
    Normal {
        std: f64,
    },
    /// As [`Init::Normal`], drawn again beyond two deviations (TensorFlow's truncated normal).
    TruncatedNormal {
        std: f64,
    },
    /// Uniform within `limit` of 0.
    Uniform {
        limit: f64,
    },
    /// Uniform within sqrt(6 / (fan_in + fan_out)); TensorFlow's default for kernels.
    GlorotUniform,
    /// Normal with std sqrt(2 / fan_in), for kernels followed by a ReLU.
    HeNormal,
    /// The first `drawn` outputs `as_in` another, the rest zero.
    FirstOutputs {
        drawn: usize,
        as_in: &'static Init,
    },
    /// The identity matrix.
    Identity,
    /// A square matrix with orthonormal rows, uniform over all such.
    Orthogonal,
    /// A random order of 0..n, for a buffer.
    Permutation,
}

#[allow(non_upper_case_globals)] // read as variants
impl Init {
    pub const Zeros: Self = Self::Const(0.0);
    pub const Ones: Self = Self::Const(1.0);

    /// Uniform within `1 / sqrt(fan_in)`: PyTorch's default for kernels.
    pub fn fan_in(fan_in: usize) -> Self {
        let limit = 1.0 / (fan_in as f64).sqrt();
        Self::Uniform { limit }
    }

    /// Draws a tensor. In every dtype the same f32 numbers.
    pub fn draw(
        self,
        shape: &Shape,
        noise: &mut Draws,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let n = shape.elem_count();
        let (fan_in, fan_out) = fans(shape.dims());
        let values = match self {
            Self::Const(c) => {
                return Tensor::full(c as f32, shape.clone(), device)?.to_dtype(dtype);
            }
            Self::FirstOutputs { drawn, as_in } => {
                let all = as_in.draw(shape, noise, dtype, device)?;
                let last = shape.rank() - 1;
                let rest = shape.dims()[last].saturating_sub(drawn);
                if rest == 0 {
                    return Ok(all);
                }
                let kept = all.narrow(last, 0, drawn)?;
                let zeros = all.narrow(last, drawn, rest)?.zeros_like()?;
                return Tensor::cat(&[kept, zeros], last);
            }
            Self::Identity => return Tensor::eye(shape.dims()[0], dtype, device),
            Self::Orthogonal => {
                let rows = orthonormal(&noise.normals(n), shape.dims()[0]);
                let rows = Tensor::from_vec(rows, shape.clone(), &Device::Cpu)?;
                return rows.to_dtype(dtype)?.to_device(device);
            }
            Self::Permutation => noise.permutation(n).into_iter().map(|i| i as f32).collect(),
            Self::Normal { std } => scaled(noise.normals(n), std),
            Self::HeNormal => scaled(noise.normals(n), (2.0 / fan_in as f64).sqrt()),
            Self::GlorotUniform => {
                let limit = (6.0 / (fan_in + fan_out) as f64).sqrt();
                return Self::Uniform { limit }.draw(shape, noise, dtype, device);
            }
            Self::Uniform { limit } => {
                let u = noise.uniform(shape.clone(), DType::F32, &Device::Cpu)?;
                return ((u * (2.0 * limit))? - limit)?
                    .to_dtype(dtype)?
                    .to_device(device);
            }
            Self::TruncatedNormal { std } => {
                let mut kept = Vec::with_capacity(n + n / 16);
                while kept.len() < n {
                    let missing = n - kept.len();
                    let draws = noise.normals(missing);
                    kept.extend(draws.into_iter().filter(|v| v.abs() <= 2.0));
                }
                scaled(kept, std)
            }
        };
        Tensor::from_vec(values, shape.clone(), &Device::Cpu)?
            .to_dtype(dtype)?
            .to_device(device)
    }
}

fn scaled(mut values: Vec<f32>, std: f64) -> Vec<f32> {
    for v in &mut values {
        *v *= std as f32;
    }
    values
}

/// Gram and Schmidt on the rows of a matrix with `d` columns, in f64. Each row is cleared twice of
/// those before it, which leaves them orthogonal to rounding.
fn orthonormal(values: &[f32], d: usize) -> Vec<f64> {
    let mut rows: Vec<f64> = values.iter().map(|v| f64::from(*v)).collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for i in 0..rows.len() / d {
        let (before, row) = rows.split_at_mut(i * d);
        let row = &mut row[..d];
        for _ in 0..2 {
            for other in before.chunks_exact(d) {
                let along = dot(row, other);
                row.iter_mut().zip(other).for_each(|(v, o)| *v -= along * o);
            }
        }
        let length = dot(row, row).sqrt();
        row.iter_mut().for_each(|v| *v /= length);
    }
    rows
}

fn fans(dims: &[usize]) -> (usize, usize) {
    match dims {
        [] => (1, 1),
        [n] => (*n, *n),
        [window @ .., i, o] => {
            let window: usize = window.iter().product();
            (window * i, window * o)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::noise::Noise;
    use super::*;

    fn draw(init: Init, dims: &[usize]) -> Result<Vec<f64>> {
        let mut noise = Noise::new(0, "init").at(0);
        init.draw(&dims.into(), &mut noise, DType::F64, &Device::Cpu)?
            .flatten_all()?
            .to_vec1()
    }

    fn std(x: &[f64]) -> f64 {
        (x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64).sqrt()
    }

    #[test]
    fn spreads_are_as_named() -> Result<()> {
        let dims = [3, 3, 32, 64];
        let limit = (6.0f64 / (9.0 * 96.0)).sqrt();
        let glorot = draw(Init::GlorotUniform, &dims)?;
        assert!(glorot.iter().all(|v| v.abs() <= limit));
        assert!((std(&glorot) / (limit / 3f64.sqrt()) - 1.0).abs() < 0.02);
        assert!((std(&draw(Init::HeNormal, &dims)?) / (2.0f64 / 288.0).sqrt() - 1.0).abs() < 0.02);
        let cut = draw(Init::TruncatedNormal { std: 0.02 }, &dims)?;
        assert!(cut.iter().all(|v| v.abs() <= 0.04 + 1e-8));
        // The deviation of a normal cut at two deviations.
        assert!((std(&cut) / (0.02 * 0.879_626) - 1.0).abs() < 0.02);
        assert_eq!(draw(Init::Ones, &[2])?, [1.0, 1.0]);
        Ok(())
    }
}
