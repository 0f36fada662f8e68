//! Mean and covariance of feature vectors, in f64, one block at a time.

use std::path::Path;

use anyhow::{Result, bail, ensure};
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, Mat, MatRef, Par};

use crate::data::tensors::{self, Entry, Number, TensorFile};

/// Moments of the rows seen so far. Two halves of a set, accumulated apart, can be merged.
#[derive(Clone)]
pub struct Moments {
    n: usize,
    mean: Vec<f64>,
    /// Sum of outer products of deviations from `mean`; only the lower triangle is kept.
    scatter: Mat<f64>,
}

impl Moments {
    /// No vectors yet, each to be of length `d`.
    pub fn new(d: usize) -> Self {
        Self {
            n: 0,
            mean: vec![0.0; d],
            scatter: Mat::zeros(d, d),
        }
    }

    /// Adds rows of length d, laid end to end.
    ///
    /// Chan, Golub and LeVeque (1979): deviations are taken from the block's own mean, which
    /// keeps the digits that a running sum of squares loses. The correction for the two means is
    /// one more row of the same product.
    pub fn push(&mut self, rows: &[f32]) -> Result<()> {
        let d = self.mean.len();
        ensure!(
            rows.len().is_multiple_of(d),
            "BUG: {} is no multiple of {d}",
            rows.len()
        );
        let b = rows.len() / d;
        if b == 0 {
            return Ok(());
        }
        if let Some(i) = rows.iter().position(|v| !v.is_finite()) {
            bail!(
                "feature {} of image {} is {}",
                i % d,
                self.n + i / d,
                rows[i]
            );
        }
        let mut mean = vec![0.0; d];
        for row in rows.chunks_exact(d) {
            mean.iter_mut()
                .zip(row)
                .for_each(|(m, &v)| *m += f64::from(v));
        }
        mean.iter_mut().for_each(|m| *m /= b as f64);
        let weight = self.weight(b);
        let deviations = Mat::from_fn(b + 1, d, |i, j| match i < b {
            true => f64::from(rows[i * d + j]) - mean[j],
            false => weight.sqrt() * (mean[j] - self.mean[j]),
        });
        self.add_products(&deviations);
        self.shift(b, &mean);
        Ok(())
    }

    /// As if the rows of `other` had been pushed here.
    #[cfg(test)]
    pub fn merge(&mut self, other: &Self) {
        if other.n == 0 {
            return;
        }
        let weight = self.weight(other.n).sqrt();
        let d = self.mean.len();
        let deviation = Mat::from_fn(1, d, |_, j| weight * (other.mean[j] - self.mean[j]));
        self.scatter += &other.scatter;
        self.add_products(&deviation);
        self.shift(other.n, &other.mean);
    }

    /// Everything, to go on from later.
    pub fn save(&self, path: &Path) -> Result<()> {
        let d = self.mean.len();
        let scatter: Vec<f64> = (0..d * d).map(|k| self.scatter[(k / d, k % d)]).collect();
        let (mean, scatter) = (f64::to_bytes(&self.mean), f64::to_bytes(&scatter));
        let entry = |name, shape, bytes| Entry {
            name,
            dtype: f64::DTYPE,
            shape,
            bytes,
        };
        let entries = [
            entry("mean", vec![d], &mean),
            entry("scatter", vec![d, d], &scatter),
        ];
        tensors::save(path, &entries, &self.n)
    }

    pub fn load(path: &Path) -> Result<Self> {
        let file = TensorFile::open(path)?;
        let (_, mean) = file.numbers::<f64>("mean", 1)?;
        let (shape, scatter) = file.numbers::<f64>("scatter", 2)?;
        let d = mean.len();
        ensure!(
            shape == [d, d],
            "{}: mean and scatter differ in size",
            path.display()
        );
        let scatter = MatRef::from_row_major_slice(&scatter, d, d).to_owned();
        Ok(Self {
            n: file.about()?,
            mean,
            scatter,
        })
    }

    pub fn n(&self) -> usize {
        self.n
    }

    /// Mean, and covariance (divided by n - 1) row by row.
    pub fn finish(&self) -> Result<(Vec<f64>, Vec<f64>)> {
        ensure!(
            self.n > 1,
            "{} images are too few for a covariance; hint: two at least, and more than features",
            self.n
        );
        let d = self.mean.len();
        let mut cov = vec![0.0; d * d];
        for i in 0..d {
            for j in 0..=i {
                cov[i * d + j] = self.scatter[(i, j)] / (self.n - 1) as f64;
                cov[j * d + i] = cov[i * d + j];
            }
        }
        Ok((self.mean.clone(), cov))
    }

    /// What the squared difference of two means weighs when `b` rows join.
    fn weight(&self, b: usize) -> f64 {
        self.n as f64 * b as f64 / (self.n + b) as f64
    }

    fn shift(&mut self, b: usize, mean: &[f64]) {
        let share = b as f64 / (self.n + b) as f64;
        self.mean
            .iter_mut()
            .zip(mean)
            .for_each(|(m, v)| *m += share * (v - *m));
        self.n += b;
    }

    /// One thread, so that no number depends on how many there are.
    fn add_products(&mut self, rows: &Mat<f64>) {
        triangular::matmul(
            self.scatter.as_mut(),
            BlockStructure::TriangularLower,
            Accum::Add,
            rows.transpose(),
            BlockStructure::Rectangular,
            rows.as_ref(),
            BlockStructure::Rectangular,
            1.0,
            Par::Seq,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::noise::Noise;

    /// Two passes over all rows at once, in the textbook order.
    fn textbook(rows: &[f32], d: usize) -> (Vec<f64>, Vec<f64>) {
        let n = rows.len() / d;
        let at = |i: usize, j: usize| f64::from(rows[i * d + j]);
        let mean: Vec<f64> = (0..d)
            .map(|j| (0..n).map(|i| at(i, j)).sum::<f64>() / n as f64)
            .collect();
        let mut cov = vec![0.0; d * d];
        for a in 0..d {
            for b in 0..d {
                let products = (0..n).map(|i| (at(i, a) - mean[a]) * (at(i, b) - mean[b]));
                cov[a * d + b] = products.sum::<f64>() / (n - 1) as f64;
            }
        }
        (mean, cov)
    }

    fn close(a: &(Vec<f64>, Vec<f64>), b: &(Vec<f64>, Vec<f64>), tolerance: f64) {
        let pairs = a.0.iter().chain(&a.1).zip(b.0.iter().chain(&b.1));
        for (x, y) in pairs {
            assert!(
                (x - y).abs() <= tolerance * (1.0 + y.abs()),
                "{x} is not {y}"
            );
        }
    }

    #[test]
    fn blocks_and_merged_halves_give_the_textbook_moments() -> Result<()> {
        let d = 5;
        // A large common offset, which a running sum of squares would drown in.
        let noise = Noise::new(1, "test").at(0).normals(40 * d);
        let rows: Vec<f32> = noise.iter().map(|v| v + 1000.0).collect();
        let expected = textbook(&rows, d);

        let mut blocks = Moments::new(d);
        for block in rows.chunks(7 * d) {
            blocks.push(block)?;
        }
        close(&blocks.finish()?, &expected, 1e-12);

        let (mut left, mut right) = (Moments::new(d), Moments::new(d));
        left.push(&rows[..11 * d])?;
        right.push(&rows[11 * d..])?;
        left.merge(&right);
        left.merge(&Moments::new(d));
        assert_eq!(left.n(), 40);
        close(&left.finish()?, &expected, 1e-12);
        Ok(())
    }

    #[test]
    fn bad_features_are_named() -> Result<()> {
        let mut moments = Moments::new(2);
        moments.push(&[1.0, 2.0])?;
        let error = moments.finish().unwrap_err().to_string();
        assert!(error.starts_with("1 images are too few for a covariance; hint"));
        let error = moments
            .push(&[0.0, 0.0, 0.0, f32::NAN])
            .unwrap_err()
            .to_string();
        assert_eq!(error, "feature 1 of image 2 is NaN");
        Ok(())
    }
}
