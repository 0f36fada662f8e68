//! How far a number moves from seed to seed, and how far it may before that is no chance.

use serde::{Deserialize, Serialize};
use special::Beta;

/// The share of runs, of a pipeline that is as it was, in which chance alone puts any number out of
/// tolerance: at most this, for all numbers with a spread together.
pub const FALSE_ALARMS: f64 = 0.05;

/// Runs that differed in their seeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    pub runs: u64,
    /// The mean; a geometric one on a logarithmic scale.
    pub mean: f64,
    /// The standard deviation, of logarithms on a logarithmic scale.
    pub deviation: f64,
    pub scale: Scale,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scale {
    /// Ratios count: distances, errors, times, whatever is above zero.
    Log,
    /// Differences count.
    Linear,
}

impl Scale {
    fn put(self, value: f64) -> f64 {
        match self {
            Self::Log => value.ln(),
            Self::Linear => value,
        }
    }

    fn back(self, value: f64) -> f64 {
        match self {
            Self::Log => value.exp(),
            Self::Linear => value,
        }
    }
}

impl Spread {
    /// The spread of at least two runs that differ; otherwise there is none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let scale = match values.iter().all(|v| *v > 0.0) {
            true => Scale::Log,
            false => Scale::Linear,
        };
        let n = values.len() as f64;
        let put: Vec<f64> = values.iter().map(|v| scale.put(*v)).collect();
        let mean = put.iter().sum::<f64>() / n;
        let square = put.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
        let deviation = (square / (n - 1.0)).sqrt();
        // A number that no run moved, such as that of a network all of them share, was not measured.
        (values.len() > 1 && deviation > 0.0 && deviation.is_finite()).then(|| Self {
            runs: values.len() as u64,
            mean: scale.back(mean),
            deviation,
            scale,
        })
    }

    /// How far one more run may be from the mean, on the scale, where `numbers` are judged together: the
    /// prediction interval of Student's t for [`FALSE_ALARMS`], shared among them (Bonferroni).
    fn reach(&self, numbers: usize) -> f64 {
        let runs = self.runs as f64;
        let level = FALSE_ALARMS / numbers.max(1) as f64;
        self.deviation * quantile(level / 2.0, runs - 1.0) * (1.0 + 1.0 / runs).sqrt()
    }

    /// False for what is no number, too.
    pub fn holds(&self, value: f64, numbers: usize) -> bool {
        (self.scale.put(value) - self.scale.put(self.mean)).abs() <= self.reach(numbers)
    }

    /// The reach on the side of `value`, in the metric's unit.
    pub fn tolerance(&self, value: f64, numbers: usize) -> f64 {
        let side = if value < self.mean { -1.0 } else { 1.0 };
        let end = self.scale.put(self.mean) + side * self.reach(numbers);
        (self.scale.back(end) - self.mean).abs()
    }
}

/// What Student's t with so many degrees of freedom exceeds with probability `p`, below one half.
fn quantile(p: f64, freedom: f64) -> f64 {
    let (a, b) = (freedom / 2.0, 0.5);
    // P(|t| > q) is the regularised incomplete beta function at freedom / (freedom + q^2).
    let x = (2.0 * p).inv_inc_beta(a, b, a.ln_beta(b));
    (freedom * (1.0 - x) / x).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tables of Student's t; 3.7469 and 8.6103 are the one-sided 1 % and 0.05 % points of 4 degrees.
    #[test]
    fn quantiles_are_those_of_tables() {
        for (p, freedom, expected) in [
            (0.025, 1.0, 12.7062),
            (0.025, 4.0, 2.7764),
            (0.01, 4.0, 3.7469),
            (0.0005, 4.0, 8.6103),
            (0.025, 9.0, 2.2622),
            (0.025, 1000.0, 1.9623),
        ] {
            let found = quantile(p, freedom);
            assert!((found - expected).abs() < 1e-4, "{p} {freedom}: {found}");
        }
    }

    /// Standard normal numbers, for simulations.
    struct Normals(u64);

    impl Normals {
        fn uniform(&mut self) -> f64 {
            // SplitMix64.
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
        }

        fn next(&mut self) -> f64 {
            let (u, v) = (1.0 - self.uniform(), self.uniform());
            (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
        }
    }

    /// Runs with any number out of tolerance: at most 5 % of those of an unchanged pipeline, whatever
    /// its numbers are and however few seeds measured their spread.
    #[test]
    fn chance_alone_fails_at_most_one_run_in_twenty() {
        let mut normals = Normals(1);
        for (numbers, runs) in [(1, 2), (5, 3), (27, 5), (27, 10), (100, 5)] {
            let times = 4000;
            let mut alarms = 0;
            for _ in 0..times {
                let mut out = false;
                for i in 0..numbers {
                    let (scale, level) = (0.01 * (1 + i % 30) as f64, (i + 1) as f64);
                    let mut run = || level * (scale * normals.next()).exp();
                    let values: Vec<f64> = (0..runs).map(|_| run()).collect();
                    let spread = Spread::of(&values).unwrap();
                    out |= !spread.holds(run(), numbers);
                }
                alarms += usize::from(out);
            }
            let share = alarms as f64 / times as f64;
            // Three standard errors of the simulation itself.
            assert!(
                share < 0.05 + 3.0 * (0.05f64 * 0.95 / times as f64).sqrt(),
                "{share}"
            );
            // Bonferroni gives little away where numbers are independent.
            assert!(share > 0.03, "{numbers} {runs}: {share}");
        }
    }

    #[test]
    fn what_did_not_move_or_is_no_number_has_no_spread() {
        assert_eq!(Spread::of(&[1.0]), None);
        assert_eq!(Spread::of(&[2.0, 2.0]), None);
        assert_eq!(Spread::of(&[2.0, f64::NAN]), None);
        let spread = Spread::of(&[-1.0, 1.0, 0.0]).unwrap();
        assert_eq!((spread.mean, spread.scale), (0.0, Scale::Linear));
        assert!(!spread.holds(f64::NAN, 1) && spread.holds(0.5, 1));
        let ratio = Spread::of(&[1.9, 2.0, 4.0 / 1.9]).unwrap();
        assert!((ratio.mean - 2.0).abs() < 1e-12);
        assert!(!ratio.holds(-1.0, 1) && !ratio.holds(0.0, 1));
        // As far up as down by ratio.
        let (up, down) = (ratio.tolerance(3.0, 1), ratio.tolerance(1.0, 1));
        assert!(((2.0 + up) / 2.0 - 2.0 / (2.0 - down)).abs() < 1e-6);
    }
}
