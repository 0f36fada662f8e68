//! The power series of a log-determinant, cut at random and weighted so that nothing is missing on average
//! (Chen et al. 2019, section 3.1: the Russian roulette estimator).

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Shape, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::nn::noise::Draws;

/// Which terms of `sum over k of (-1)^(k+1) / k tr J^k` are taken (D1): the first `exact`, and a random
/// number N of those after them, each divided by how likely it is to be reached.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Series {
    /// Of N.
    pub law: Law,
    /// Mean of N; 0: there are no further terms, and what they would add is missing.
    pub mean: f64,
    pub exact: usize,
}

/// A law of whole numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Law {
    /// The official code's. Its tail falls faster than any power, so that the variance of the estimate is
    /// infinite in theory.
    Poisson,
    /// 1, 2, ..., each `1 - 1/mean` times as likely as the one before: the paper's. The variance is finite
    /// while the squared norm of J is below that ratio.
    Geometric,
}

/// What a trace is estimated with: a vector of independent entries of mean 0 and variance 1 (D5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Probe {
    Gaussian,
    /// 1 or -1: the diagonal of a matrix adds no variance.
    Rademacher,
}

impl Probe {
    pub fn draw<S: Into<Shape>>(
        self,
        shape: S,
        noise: &mut Draws,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        match self {
            Self::Gaussian => noise.normal(shape, dtype, device),
            Self::Rademacher => {
                let high = noise.uniform(shape, dtype, device)?.ge(0.5)?;
                high.to_dtype(dtype)?.affine(2.0, -1.0)
            }
        }
    }
}

impl Series {
    /// An error that names the parameter's table.
    pub fn check(&self, table: &str) -> Result<()> {
        let least = match self.law {
            Law::Poisson => 0.0,
            Law::Geometric => 1.0,
        };
        ensure!(
            self.mean == 0.0 || (self.mean.is_finite() && self.mean >= least),
            "{table}.mean = {} is no mean of the law {:?}; hint: 2.0",
            self.mean,
            self.law
        );
        ensure!(
            self.exact > 0,
            "{table}.exact = 0: the first term, at least, must be exact; hint: exact = 2"
        );
        Ok(())
    }

    /// How likely N is to be at least k.
    fn reached(&self, k: usize) -> f64 {
        match (self.mean, self.law, k) {
            (_, _, 0) => 1.0,
            (0.0, ..) => 0.0,
            (mean, Law::Geometric, k) => (1.0 - 1.0 / mean).powi(k as i32 - 1),
            (mean, Law::Poisson, k) => {
                let first = (1..=k).fold((-mean).exp(), |p, j| p * mean / j as f64);
                // From the far end, where terms are smallest.
                let terms = k + 50 + (4.0 * mean) as usize;
                let all: Vec<f64> = (k + 1..terms)
                    .scan(first, |p, j| {
                        *p *= mean / j as f64;
                        Some(*p)
                    })
                    .collect();
                all.iter().rev().sum::<f64>() + first
            }
        }
    }

    /// `n` draws of N.
    pub fn draw(&self, n: usize, noise: &mut Draws) -> Vec<usize> {
        let longest = |word: u32| {
            let u = (f64::from(word) + 0.5) / 4_294_967_296.0;
            (1..).take_while(|k| u < self.reached(*k)).count()
        };
        noise.words(n).into_iter().map(longest).collect()
    }

    /// Weights of terms 1, 2, ...: for each of the given N, one after the other; 0 beyond its end.
    pub fn weights(&self, more: &[usize]) -> Vec<Vec<f64>> {
        let longest = more.iter().copied().max().unwrap_or(0);
        let weight = |k: usize, more: usize| match k.checked_sub(self.exact) {
            None => 1.0,
            Some(over) if over <= more => 1.0 / self.reached(over),
            Some(_) => 0.0,
        };
        (1..=self.exact + longest)
            .map(|k| more.iter().map(|more| weight(k, *more)).collect())
            .collect()
    }

    /// In words, for a number's protocol.
    pub fn name(&self) -> String {
        let Self { law, mean, exact } = self;
        match (mean, law) {
            (0.0, _) => format!("{exact} terms"),
            (_, Law::Poisson) => format!("{exact} terms + Poisson({mean})"),
            (_, Law::Geometric) => format!("{exact} terms + geometric, mean {mean}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::noise::Noise;

    fn series(law: Law) -> Series {
        Series {
            law,
            mean: 2.0,
            exact: 2,
        }
    }

    fn column(series: &Series, more: usize) -> Vec<f64> {
        series.weights(&[more]).into_iter().map(|w| w[0]).collect()
    }

    /// Oracle R10.
    #[test]
    fn weights_are_those_of_the_laws() {
        let poisson = [
            1.0, 1.0, 1.15651764, 1.68351826, 3.09287677, 6.99904969, 18.9922639, 60.3733179,
        ];
        let found = column(&series(Law::Poisson), 6);
        let near = |(a, b): (&f64, &f64)| (a / b - 1.0).abs() < 5e-9;
        assert!(found.iter().zip(&poisson).all(near), "{found:?}");
        assert_eq!(found.len(), 8);
        let geometric = [1.0, 1.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0];
        assert_eq!(column(&series(Law::Geometric), 6), geometric);
        // Beyond its own end a term of an image weighs nothing.
        let both = series(Law::Geometric).weights(&[1, 3]);
        assert_eq!(both[3..], [[0.0, 2.0], [0.0, 4.0]]);
        let none = Series {
            mean: 0.0,
            ..series(Law::Poisson)
        };
        assert_eq!(column(&none, 0), [1.0, 1.0]);
        assert_eq!(none.draw(3, &mut Noise::new(0, "n").at(0)), [0, 0, 0]);
    }

    /// What makes the estimate unbiased: on average every term weighs one. Four terms are expected.
    #[test]
    fn on_average_every_term_weighs_one() {
        for law in [Law::Poisson, Law::Geometric] {
            let series = series(law);
            let likely = |n: usize| series.reached(n) - series.reached(n + 1);
            for term in [3, 5, 9] {
                let all = (0..60).map(|n| {
                    let weight = series.weights(&[n]).get(term - 1).map_or(0.0, |w| w[0]);
                    likely(n) * weight
                });
                assert!((all.sum::<f64>() - 1.0).abs() < 1e-9, "{law:?} {term}");
            }
            let mean: f64 = (0..60).map(|n| likely(n) * (2 + n) as f64).sum();
            assert!((mean - 4.0).abs() < 1e-9);
            let draws = series.draw(20_000, &mut Noise::new(1, "draws").at(0));
            for k in 1..8 {
                let share = draws.iter().filter(|n| **n >= k).count() as f64 / 20_000.0;
                let p = series.reached(k);
                let error = (p * (1.0 - p) / 20_000.0).sqrt();
                assert!((share - p).abs() <= 4.0 * error, "{law:?} {k}: {share} {p}");
            }
        }
    }

    #[test]
    fn what_is_no_law_is_said() {
        let wrong = Series {
            mean: 0.5,
            ..series(Law::Geometric)
        };
        let said = wrong.check("params.series").map_err(|e| e.to_string());
        let text = "params.series.mean = 0.5 is no mean of the law Geometric; hint: 2.0";
        assert_eq!(said.err().as_deref(), Some(text));
    }

    #[test]
    fn probes_have_mean_0_and_variance_1() -> Result<()> {
        for probe in [Probe::Gaussian, Probe::Rademacher] {
            let mut noise = Noise::new(0, "probe").at(0);
            let e = probe.draw(100_000, &mut noise, DType::F64, &Device::Cpu)?;
            let of = |t: Tensor| -> Result<f64> { Ok(t.mean_all()?.to_scalar()?) };
            assert!(of(e.clone())?.abs() < 4.0 / 316.0);
            assert!((of(e.sqr()?)? - 1.0).abs() < 4.0 * (2f64).sqrt() / 316.0);
        }
        Ok(())
    }
}
