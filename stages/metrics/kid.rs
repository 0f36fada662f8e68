//! The kernel distance of Bińkowski et al. (2018), of which the KID is the one in Inception's
//! features: an unbiased estimate of the squared maximum mean discrepancy under a cubic kernel.

use anyhow::{Result, ensure};
use faer::{Accum, Mat, MatRef, Par};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::nn::noise::Noise;

/// Which parts of the two sets are compared. The usual choice is 100 subsets of 1,000.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Subsets {
    pub count: usize,
    /// Vectors of either side in a subset, drawn without replacement.
    pub size: usize,
}

/// Mean of the subsets' estimates, and its standard error.
///
/// Subsets overlap, so the error is the estimates' deviation divided by the root of how many
/// disjoint subsets the smaller set could have given; with fewer than two there is none.
///
/// Vectors of length `d` lie end to end. A thread holds two subsets and one kernel matrix in f64.
pub fn kid(
    real: &[f32],
    fake: &[f32],
    d: usize,
    subsets: Subsets,
    noise: &Noise,
) -> Result<(f64, Option<f64>)> {
    let Subsets { count, size } = subsets;
    let fewest = real.len().min(fake.len()) / d;
    ensure!(
        count > 0 && size > 1,
        "{count} subsets of {size}: there must be one at least, of two at least"
    );
    ensure!(
        size <= fewest,
        "subsets of {size} from {fewest} images; hint: smaller subsets, or more images"
    );
    let pick = |rows: &[f32], step: usize| {
        let order = noise.at(step as u64).permutation(rows.len() / d);
        Mat::from_fn(size, d, |i, j| f64::from(rows[order[i] as usize * d + j]))
    };
    let estimate = |i: usize| {
        let (x, y) = (pick(real, 2 * i), pick(fake, 2 * i + 1));
        discrepancy(x.as_ref(), y.as_ref())
    };
    let estimates: Vec<f64> = (0..count).into_par_iter().map(estimate).collect();
    let mean = estimates.iter().sum::<f64>() / count as f64;
    let square: f64 = estimates.iter().map(|e| (e - mean).powi(2)).sum();
    let apart = count.min(fewest / size);
    let error = (apart > 1).then(|| (square / (count - 1) as f64 / apart as f64).sqrt());
    Ok((mean, error))
}

/// Unbiased for samples of equal or different size; it may be negative.
fn discrepancy(x: MatRef<f64>, y: MatRef<f64>) -> f64 {
    let within = |a: MatRef<f64>| {
        let (all, own) = kernel_sums(a, a);
        (all - own) / (a.nrows() * (a.nrows() - 1)) as f64
    };
    let between = kernel_sums(x, y).0 / (x.nrows() * y.nrows()) as f64;
    within(x) + within(y) - 2.0 * between
}

/// Sums of `(a·b / d + 1)^3` over all pairs of rows, and over the diagonal.
fn kernel_sums(a: MatRef<f64>, b: MatRef<f64>) -> (f64, f64) {
    let mut products = Mat::zeros(a.nrows(), b.nrows());
    let scale = 1.0 / a.ncols() as f64;
    // One thread: no number may depend on how many there are.
    let b = b.transpose();
    faer::linalg::matmul::matmul(&mut products, Accum::Replace, a, b, scale, Par::Seq);
    let kernel = |i: usize, j: usize| (products[(i, j)] + 1.0).powi(3);
    let all = (0..products.ncols())
        .map(|j| (0..products.nrows()).map(|i| kernel(i, j)).sum::<f64>())
        .sum();
    let own = (0..products.nrows().min(products.ncols())).map(|i| kernel(i, i));
    (all, own.sum())
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Made by `tests/golden/set_metrics.py`.
    #[derive(Deserialize)]
    pub struct Golden {
        pub d: usize,
        pub real: Vec<f32>,
        pub fake: Vec<f32>,
        pub discrepancy: f64,
        pub precision: f64,
        pub recall: f64,
    }

    pub fn golden() -> Golden {
        let text = include_str!("../../tests/golden/set_metrics.json");
        serde_json::from_str(text).unwrap()
    }

    fn rows(values: &[f32], d: usize) -> Mat<f64> {
        Mat::from_fn(values.len() / d, d, |i, j| f64::from(values[i * d + j]))
    }

    #[test]
    fn it_is_what_the_definition_says() {
        let g = golden();
        let (x, y) = (rows(&g.real, g.d), rows(&g.fake, g.d));
        let value = discrepancy(x.as_ref(), y.as_ref());
        let gap = (value - g.discrepancy).abs() / g.discrepancy.abs();
        assert!(gap < 1e-12, "{value} {}", g.discrepancy);
    }

    /// Two halves of one population: nothing but noise around zero, which the biased estimate
    /// would not be. Where the means differ it is far above its error.
    #[test]
    fn equal_populations_are_at_distance_zero() -> Result<()> {
        let (d, n) = (8, 600);
        let draw = |seed| Noise::new(seed, "kid").at(0).normals(n * d);
        let subsets = Subsets {
            count: 60,
            size: 50,
        };
        let noise = Noise::new(0, "subsets");
        let (same, error) = kid(&draw(1), &draw(2), d, subsets, &noise)?;
        let error = error.unwrap();
        assert!(same.abs() < 4.0 * error, "{same} {error}");
        let shifted: Vec<f32> = draw(2).iter().map(|v| v + 1.0).collect();
        let (apart, error) = kid(&draw(1), &shifted, d, subsets, &noise)?;
        assert!(apart > 10.0 * error.unwrap(), "{apart} {error:?}");
        Ok(())
    }

    #[test]
    fn subsets_do_not_depend_on_threads_and_must_fit() -> Result<()> {
        let g = golden();
        let run = |count, size| {
            let noise = Noise::new(0, "subsets");
            kid(&g.real, &g.fake, g.d, Subsets { count, size }, &noise)
        };
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.map(|pool| pool.install(|| run(7, 10)))
        };
        assert_eq!(on(1)??, on(3)??);
        // Fewer than two disjoint subsets: the spread says nothing of the error.
        assert!(run(3, 20)?.1.is_none());
        let error = run(1, 31).unwrap_err().to_string();
        assert!(error.starts_with("subsets of 31 from 30 images"), "{error}");
        assert!(run(1, 1).is_err() && run(0, 5).is_err());
        Ok(())
    }
}
