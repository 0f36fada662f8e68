//! Gaussians fitted to parts of images, and what they say of other images.

use std::f64::consts::{LN_2, TAU};

use anyhow::Result;
use faer::linalg::solvers::Solve;
use faer::{Mat, Side};

/// Mean and second moment (about zero) of vectors that are the `groups` of an image's values.
pub struct Fit {
    mean: Vec<f64>,
    square: Mat<f64>,
}

impl Fit {
    pub fn new((mean, cov): &(Vec<f64>, Vec<f64>), groups: &[Vec<usize>]) -> Self {
        let (d, share) = (groups[0].len(), 1.0 / groups.len() as f64);
        let pooled = |i: usize| groups.iter().map(|g| mean[g[i]]).sum::<f64>() * share;
        let square = |i: usize, j: usize| {
            let at = |g: &Vec<usize>| cov[g[i] * mean.len() + g[j]] + mean[g[i]] * mean[g[j]];
            groups.iter().map(at).sum::<f64>() * share
        };
        Self {
            mean: (0..d).map(pooled).collect(),
            square: Mat::from_fn(d, d, square),
        }
    }

    /// Bits per dimension of `test` under the Gaussian with this mean and covariance, or with its
    /// variances alone.
    pub fn bits(&self, test: &Self, diagonal: bool) -> Result<f64> {
        let (d, m) = (self.mean.len(), &self.mean);
        let about = |of: &Self| {
            Mat::from_fn(d, d, |i, j| match diagonal && i != j {
                true => 0.0,
                false => of.square[(i, j)] - of.mean[i] * m[j] - m[i] * of.mean[j] + m[i] * m[j],
            })
        };
        let root = about(self).llt(Side::Lower);
        let root = root.map_err(|e| anyhow::anyhow!("covariance: {e:?}"))?;
        let log_det: f64 = (0..d).map(|i| 2.0 * root.L()[(i, i)].ln()).sum();
        let spread = root.solve(&about(test));
        let distance: f64 = (0..d).map(|i| spread[(i, i)]).sum();
        let nats = 0.5 * (d as f64 * TAU.ln() + log_det + distance);
        Ok(nats / (d as f64 * LN_2) + 8.0)
    }
}
