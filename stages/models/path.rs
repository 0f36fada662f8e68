//! Ways from one latent code to another (Figure 5 of the paper, A32).

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::prior::Prior;
use crate::nn::noise::Noise;

/// Between two draws of the prior (A32).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Path {
    /// A straight line in z.
    Linear,
    /// An arc between the base draws u of N(0, I), which the prior maps to z: directions turn at
    /// a constant rate, norms go in a straight line.
    Spherical,
}

impl Path {
    /// Codes `[n, d]` at each of `steps` (at least 2) evenly spaced places, the draws of
    /// `noise.at(0)` first and those of `noise.at(1)` last.
    pub fn codes(
        self,
        prior: &Prior,
        n: usize,
        steps: usize,
        noise: &Noise,
    ) -> Result<Vec<Tensor>> {
        let places = (0..steps).map(|i| i as f64 / (steps - 1) as f64);
        match self {
            Self::Linear => {
                let from = prior.sample(n, &mut noise.at(0))?;
                let to = prior.sample(n, &mut noise.at(1))?;
                places
                    .map(|t| Ok(((&from * (1.0 - t))? + (&to * t)?)?))
                    .collect()
            }
            Self::Spherical => {
                let from = prior.base(n, &mut noise.at(0))?;
                let to = prior.base(n, &mut noise.at(1))?;
                places
                    .map(|t| prior.code(&slerp(&from, &to, t)?, &mut noise.at(3)))
                    .collect()
            }
        }
    }
}

/// Spherical linear interpolation (Shoemake 1985) of each row of `[n, d]`, with a norm that goes
/// linearly from the one to the other, since draws of N(0, I) differ in length. Rows that lie
/// on one line have no arc between them and are interpolated linearly.
pub fn slerp(from: &Tensor, to: &Tensor, t: f64) -> candle_core::Result<Tensor> {
    let host = |x: &Tensor| {
        x.to_device(&Device::Cpu)?
            .to_dtype(DType::F64)?
            .to_vec2::<f64>()
    };
    let mut all = Vec::new();
    for (a, b) in host(from)?.iter().zip(&host(to)?) {
        let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
        let (norm_a, norm_b) = (dot(a, a).sqrt(), dot(b, b).sqrt());
        let angle = (dot(a, b) / (norm_a * norm_b)).clamp(-1.0, 1.0).acos();
        // False for a row of zeros too, whose angle is NaN.
        let [share_a, share_b] = if angle.sin() > 1e-6 {
            let norm = (1.0 - t) * norm_a + t * norm_b;
            let arc = |t: f64, own: f64| (t * angle).sin() / angle.sin() * norm / own;
            [arc(1.0 - t, norm_a), arc(t, norm_b)]
        } else {
            [1.0 - t, t]
        };
        all.extend(a.iter().zip(b).map(|(a, b)| share_a * a + share_b * b));
    }
    Tensor::from_vec(all, from.shape(), &Device::Cpu)?
        .to_dtype(from.dtype())?
        .to_device(from.device())
}

#[cfg(test)]
mod tests {
    use super::super::{gaussian, prior, real_nvp};
    use super::*;
    use crate::nn::weights::Weights;

    const CPU: Device = Device::Cpu;

    fn rows(x: &Tensor) -> Result<Vec<Vec<f64>>> {
        Ok(x.to_vec2::<f64>()?)
    }

    fn norms(x: &Tensor) -> Result<Vec<f64>> {
        Ok(gaussian::per_example(&x.sqr()?)?.sqrt()?.to_vec1()?)
    }

    #[test]
    fn an_arc_ends_at_the_draws_and_its_norm_goes_linearly() -> Result<()> {
        let noise = Noise::new(0, "slerp");
        let draw = |i| noise.at(i).normal((5, 8), DType::F64, &CPU);
        let (from, to) = (draw(0)?, draw(1)?);
        let apart = |a: &Tensor, b: &Tensor| -> Result<f64> {
            Ok((a - b)?.abs()?.max_all()?.to_scalar::<f64>()?)
        };
        assert!(apart(&slerp(&from, &to, 0.0)?, &from)? < 1e-12);
        assert!(apart(&slerp(&from, &to, 1.0)?, &to)? < 1e-12);
        for t in [0.2, 0.5, 0.9] {
            let expected = norms(&from)?.into_iter().zip(norms(&to)?);
            for (found, (a, b)) in norms(&slerp(&from, &to, t)?)?.iter().zip(expected) {
                assert!((found - ((1.0 - t) * a + t * b)).abs() < 1e-12);
            }
        }
        // A third of a right angle; then lines, where there is no arc.
        let pair = |x: &[[f64; 2]; 4]| Tensor::new(x, &CPU);
        let from = pair(&[[2.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])?;
        let to = pair(&[[0.0, 2.0], [3.0, 0.0], [-1.0, 0.0], [2.0, 0.0]])?;
        let found = rows(&slerp(&from, &to, 1.0 / 3.0)?)?;
        let third = [3f64.sqrt(), 1.0];
        assert!((found[0][0] - third[0]).abs() < 1e-12 && (found[0][1] - third[1]).abs() < 1e-12);
        for (row, x) in [(1, 5.0 / 3.0), (2, 1.0 / 3.0), (3, 2.0 / 3.0)] {
            assert!((found[row][0] - x).abs() < 1e-12 && found[row][1] == 0.0);
        }
        Ok(())
    }

    /// Both paths join the same two draws of a flow; between them the arc stays where N(0, I) has
    /// its mass.
    #[test]
    fn both_paths_join_two_draws_of_the_prior() -> Result<()> {
        let w = Weights::new(0, DType::F64, &CPU);
        let flow = real_nvp::Config::of(3, 8);
        let prior = Prior::new(&prior::Config::Flow { dim: 6, flow }, &w)?;
        crate::nn::bijector::check::disturb(&w, 0.1)?;
        let noise = Noise::new(4, "path");
        let linear = Path::Linear.codes(&prior, 3, 5, &noise)?;
        let arc = Path::Spherical.codes(&prior, 3, 5, &noise)?;
        assert_eq!((linear.len(), arc.len()), (5, 5));
        for (i, equal) in [(0, true), (2, false), (4, true)] {
            let gap = (&linear[i] - &arc[i])?
                .abs()?
                .max_all()?
                .to_scalar::<f64>()?;
            assert_eq!(gap < 1e-12, equal, "{gap} at {i}");
        }
        for (row, draw) in rows(&linear[0])?
            .iter()
            .zip(rows(&prior.sample(3, &mut noise.at(0))?)?)
        {
            assert_eq!(row, &draw);
        }
        Ok(())
    }
}
