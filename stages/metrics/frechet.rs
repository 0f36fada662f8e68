//! The Fréchet distance between two Gaussians (Dowson and Landau 1982; Heusel et al. 2017).

use anyhow::{Result, ensure};
use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::{Mat, MatRef, Par, Spec};
use half::bf16;

/// Mean and covariance, row by row.
pub type Moments<'a> = (&'a [f64], &'a [f64]);

/// Two Gaussians and what their distance is found from.
///
/// `C1 C2` is not symmetric, so other tools take a general matrix root and repair what rounding
/// did to it. With `C1 = V L V'`, the matrix `L^(1/2) V' C2 V L^(1/2)` is symmetric and has the
/// same eigenvalues: their roots sum to the trace, and rank-deficient covariances need no care.
pub struct Pair<'a> {
    first: Moments<'a>,
    second: Moments<'a>,
    /// `V L^(1/2)` of the first.
    root: Mat<f64>,
    /// The symmetric product.
    inner: Mat<f64>,
}

impl<'a> Pair<'a> {
    pub fn new(first: Moments<'a>, second: Moments<'a>) -> Result<Self> {
        let ((m1, c1), (m2, c2)) = (first, second);
        let d = m1.len();
        ensure!(
            m2.len() == d && c1.len() == d * d && c2.len() == d * d,
            "features of {d} and {} numbers cannot be compared",
            m2.len()
        );
        let all = [m1, c1, m2, c2];
        ensure!(
            all.iter().all(|x| x.iter().all(|v| v.is_finite())),
            "a moment is not a finite number"
        );
        let c1 = MatRef::from_row_major_slice(c1, d, d);
        let c2 = MatRef::from_row_major_slice(c2, d, d);
        let (values, vectors) = eigen(c1, true)?;
        let root = Mat::from_fn(d, d, |i, j| vectors[(i, j)] * values[j].max(0.0).sqrt());
        // Halves of the product stay on one thread: no number may depend on how many there are.
        let inner = product(product(root.transpose(), c2).as_ref(), root.as_ref());
        Ok(Self {
            first,
            second,
            root,
            inner,
        })
    }

    /// `|m1 - m2|^2 + tr C1 + tr C2 - 2 tr (C1 C2)^(1/2)`.
    pub fn distance(&self) -> Result<f64> {
        let ((m1, c1), (m2, c2)) = (self.first, self.second);
        // Rounding would leave something of a set's distance to itself.
        if self.first == self.second {
            return Ok(0.0);
        }
        let (products, _) = eigen(self.inner.as_ref(), false)?;
        let cross: f64 = products.iter().map(|v| v.max(0.0).sqrt()).sum();
        let means: f64 = m1.iter().zip(m2).map(|(a, b)| (a - b) * (a - b)).sum();
        let d = m1.len();
        let traces: f64 = (0..d).map(|i| c1[i * d + i] + c2[i * d + i]).sum();
        // And of two that are nearly one, it may leave less than nothing.
        Ok((means + traces - 2.0 * cross).max(0.0))
    }

    /// Standard error of the distance over the examples that the second Gaussian was estimated from,
    /// whose features are `rows` (`n * d`, row by row), with the first Gaussian as it is: the
    /// infinitesimal jackknife (Jaeckel 1972; Efron 1982, chapter 6).
    ///
    /// What one example x does to the distance is, to first order and with `z = x - m2`,
    /// `2 (m2 - m1)'z + z'z - z'Az` and a constant, where `A = C1^(1/2) (C1^(1/2) C2 C1^(1/2))^(-1/2)
    /// C1^(1/2)` takes the second Gaussian to the first. With the symmetric product `U M U'`,
    /// `z'Az` is the sum of `y_j^2 / M_j^(1/2)` over `y = U' L^(1/2) V' z`; directions in which one
    /// of the two has no variance add nothing.
    pub fn std_error(&self, rows: &[bf16]) -> Result<f64> {
        let ((m1, _), (m2, _)) = (self.first, self.second);
        let d = m1.len();
        let n = rows.len() / d.max(1);
        ensure!(
            n > 1 && rows.len() == n * d,
            "BUG: {} numbers are no rows of {d}",
            rows.len()
        );
        let (values, vectors) = eigen(self.inner.as_ref(), true)?;
        let largest = values.iter().fold(0.0, |most: f64, v| most.max(*v));
        let weights: Vec<f64> = (values.iter())
            .map(|v| {
                if *v > NOTHING * largest {
                    v.powf(-0.5)
                } else {
                    0.0
                }
            })
            .collect();
        let turn = product(self.root.as_ref(), vectors.as_ref());
        let mut influences = Vec::with_capacity(n);
        for block in rows.chunks(BLOCK * d) {
            let z = Mat::from_fn(block.len() / d, d, |i, j| {
                f64::from(block[i * d + j]) - m2[j]
            });
            let y = product(z.as_ref(), turn.as_ref());
            for i in 0..z.nrows() {
                let each = (0..d).map(|j| {
                    let (z, y) = (z[(i, j)], y[(i, j)]);
                    (2.0 * (m2[j] - m1[j]) + z) * z - y * y * weights[j]
                });
                influences.push(each.sum::<f64>());
            }
        }
        let n = n as f64;
        let mean = influences.iter().sum::<f64>() / n;
        let squares: f64 = influences.iter().map(|v| (v - mean) * (v - mean)).sum();
        Ok((squares / (n - 1.0) / n).sqrt())
    }
}

/// Rows at a time; bounds the memory.
const BLOCK: usize = 256;

/// An eigenvalue below this share of the largest is zero but for rounding.
const NOTHING: f64 = 1e-12;

/// See [`Pair::distance`].
#[cfg(test)]
pub fn frechet(m1: &[f64], c1: &[f64], m2: &[f64], c2: &[f64]) -> Result<f64> {
    Pair::new((m1, c1), (m2, c2))?.distance()
}

/// That numbers, row by row, are a covariance: symmetric and without negative variances, in any direction. What rounding
/// does to one is let pass, up to `slack` of its size.
pub fn covariance(c: &[f64], d: usize, slack: f64) -> Result<()> {
    let largest = c.iter().fold(0.0, |most: f64, v| most.max(v.abs()));
    for i in 0..d {
        for j in 0..i {
            let (a, b) = (c[i * d + j], c[j * d + i]);
            let scale = (c[i * d + i] * c[j * d + j]).abs().sqrt();
            ensure!(
                (a - b).abs() <= slack * scale + 1e-7 * largest,
                "sigma is no covariance: it is not symmetric, {a} in row {i} and column {j} and {b} in row {j} and \
                 column {i}; hint: numpy.cov(features, rowvar=False)"
            );
        }
    }
    let (values, _) = eigen(MatRef::from_row_major_slice(c, d, d), false)?;
    let (least, most) = values.iter().fold((0f64, 0f64), |(least, most), &v| {
        (least.min(v), most.max(v))
    });
    ensure!(
        least >= -slack * most,
        "sigma is no covariance: its eigenvalues go from {least:.3e} to {most:.3e}, and none is negative; hint: \
         numpy.cov(features, rowvar=False)"
    );
    Ok(())
}

fn product(a: MatRef<f64>, b: MatRef<f64>) -> Mat<f64> {
    let mut out = Mat::zeros(a.nrows(), b.ncols());
    faer::linalg::matmul::matmul(&mut out, faer::Accum::Replace, a, b, 1.0, Par::Seq);
    out
}

/// Eigenvalues, and the vectors where they are wanted, of a symmetric matrix.
fn eigen(a: MatRef<f64>, want_vectors: bool) -> Result<(Vec<f64>, Mat<f64>)> {
    let d = a.nrows();
    let mut values = Diag::zeros(d);
    let mut vectors = Mat::zeros(d, d);
    let compute = match want_vectors {
        true => ComputeEigenvectors::Yes,
        false => ComputeEigenvectors::No,
    };
    let scratch = self_adjoint_evd_scratch::<f64>(d, compute, Par::Seq, Spec::default());
    let done = self_adjoint_evd(
        a,
        values.as_mut(),
        want_vectors.then_some(vectors.as_mut()),
        Par::Seq,
        MemStack::new(&mut MemBuffer::new(scratch)),
        Spec::default(),
    );
    ensure!(
        done.is_ok(),
        "the eigenvalues of a {d}x{d} covariance did not converge"
    );
    Ok(((0..d).map(|i| values.column_vector()[i]).collect(), vectors))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::moments::Moments;
    use crate::nn::noise::Noise;

    fn close(value: f64, expected: f64) {
        assert!(
            (value - expected).abs() <= 1e-9 * (1.0 + expected.abs()),
            "{value} {expected}"
        );
    }

    /// A full-rank covariance.
    fn cov(d: usize, seed: u64) -> Mat<f64> {
        let values = Noise::new(seed, "cov").at(0).normals(3 * d * d);
        let a = Mat::from_fn(d, 3 * d, |i, j| f64::from(values[i * 3 * d + j]));
        &a * a.transpose()
    }

    fn flat(a: &Mat<f64>) -> Vec<f64> {
        (0..a.nrows())
            .flat_map(|i| (0..a.ncols()).map(move |j| a[(i, j)]))
            .collect()
    }

    #[test]
    fn closed_forms() -> Result<()> {
        let c = flat(&cov(4, 1));
        let zero = [0.0; 4];
        // Equal covariances: the squared distance of the means.
        close(frechet(&zero, &c, &zero, &c)?, 0.0);
        close(frechet(&zero, &c, &[3.0, 0.0, 4.0, 0.0], &c)?, 25.0);
        // One dimension: (m1 - m2)^2 + (s1 - s2)^2.
        close(frechet(&[1.0], &[4.0], &[3.0], &[9.0])?, 4.0 + 1.0);
        // Diagonal: deviations (1, 2) against (2, 4).
        let diag = |a, b| [a, 0.0, 0.0, b];
        close(
            frechet(&[0.0; 2], &diag(1.0, 4.0), &[0.0; 2], &diag(4.0, 16.0))?,
            1.0 + 4.0,
        );
        // C2 = c^2 C1: (1 - c)^2 tr C1.
        let scaled: Vec<f64> = c.iter().map(|v| 9.0 * v).collect();
        let trace: f64 = (0..4).map(|i| c[i * 4 + i]).sum();
        close(frechet(&zero, &c, &zero, &scaled)?, 4.0 * trace);
        Ok(())
    }

    #[test]
    fn it_is_symmetric_and_does_not_see_a_common_rotation() -> Result<()> {
        let d = 6;
        let (a, b) = (cov(d, 1), cov(d, 2));
        let means = Noise::new(3, "means").at(0).normals(2 * d);
        let means: Vec<f64> = means.into_iter().map(f64::from).collect();
        let (m1, m2) = means.split_at(d);
        let distance = frechet(m1, &flat(&a), m2, &flat(&b))?;
        close(frechet(m2, &flat(&b), m1, &flat(&a))?, distance);

        let (_, q) = eigen(cov(d, 4).as_ref(), true)?;
        let turn = |c: &Mat<f64>| flat(&(&q * c * q.transpose()));
        let turned = |m: &[f64]| -> Vec<f64> {
            (0..d)
                .map(|i| (0..d).map(|j| q[(i, j)] * m[j]).sum())
                .collect()
        };
        close(
            frechet(&turned(m1), &turn(&a), &turned(m2), &turn(&b))?,
            distance,
        );
        Ok(())
    }

    #[test]
    fn fewer_images_than_features_give_a_finite_distance() -> Result<()> {
        let d = 40;
        let of = |seed| -> Result<(Vec<f64>, Vec<f64>)> {
            let mut moments = Moments::new(d);
            moments.push(&Noise::new(seed, "few").at(0).normals(10 * d))?;
            moments.finish()
        };
        let (a, b) = (of(1)?, of(2)?);
        let distance = frechet(&a.0, &a.1, &b.0, &b.1)?;
        assert!(distance.is_finite() && distance > 0.0, "{distance}");
        let itself = frechet(&a.0, &a.1, &a.0, &a.1)?;
        assert_eq!(itself, 0.0);
        // In another order, the same images give moments that differ in their last digits.
        let near: Vec<f64> = a.1.iter().map(|v| v * (1.0 + 1e-15)).collect();
        let near = frechet(&a.0, &a.1, &a.0, &near)?;
        assert!((0.0..1e-3).contains(&near), "{near}");
        Ok(())
    }

    /// Moments of rows that are no Gaussian's.
    fn skewed(n: usize, d: usize, seed: u64, shift: f32) -> Result<(Vec<f32>, Vec<f64>, Vec<f64>)> {
        let noise = Noise::new(seed, "skewed").at(0).normals(n * d);
        let mix = |row: &[f32], j: usize| (row[j] + 0.5 * row[(j + 1) % d] + shift).max(0.0);
        let rows: Vec<f32> = (noise.chunks_exact(d))
            .flat_map(|row| (0..d).map(|j| bf16::from_f32(mix(row, j)).to_f32()))
            .collect();
        let (mean, cov) = of_rows(&rows, d)?;
        Ok((rows, mean, cov))
    }

    fn of_rows(rows: &[f32], d: usize) -> Result<(Vec<f64>, Vec<f64>)> {
        let mut moments = Moments::new(d);
        moments.push(rows)?;
        moments.finish()
    }

    fn error(first: super::Moments, rows: &[f32], second: super::Moments) -> Result<f64> {
        let rows: Vec<bf16> = rows.iter().copied().map(bf16::from_f32).collect();
        Pair::new(first, second)?.std_error(&rows)
    }

    #[test]
    fn the_error_is_that_of_a_bootstrap() -> Result<()> {
        let (n, d, times) = (600, 5, 600);
        let (_, m1, c1) = skewed(n, d, 1, 0.3)?;
        let (rows, m2, c2) = skewed(n, d, 2, 0.1)?;
        let claimed = error((&m1, &c1), &rows, (&m2, &c2))?;
        let mut distances = Vec::new();
        for time in 0..times {
            let drawn = Noise::new(3, "bootstrap").at(time).words(n);
            let again: Vec<f32> = drawn
                .iter()
                .flat_map(|word| {
                    let i = *word as usize % n;
                    rows[i * d..(i + 1) * d].iter().copied()
                })
                .collect();
            let (mean, cov) = of_rows(&again, d)?;
            distances.push(frechet(&m1, &c1, &mean, &cov)?);
        }
        let mean = distances.iter().sum::<f64>() / times as f64;
        let squares: f64 = distances.iter().map(|v| (v - mean) * (v - mean)).sum();
        let found = (squares / (times - 1) as f64).sqrt();
        assert!((claimed / found - 1.0).abs() < 0.15, "{claimed} {found}");
        Ok(())
    }

    /// In one dimension the distance is `(m1 - m2)^2 + (s1 - s2)^2`, and what x does to it is
    /// `2 (m2 - m1) z + (1 - s1 / s2) z^2`.
    #[test]
    fn the_error_of_one_feature_is_the_closed_form() -> Result<()> {
        let (rows, m, c) = skewed(500, 1, 4, 0.2)?;
        let (m1, s1) = (1.5, 0.7);
        let s2 = c[0].sqrt();
        let influence = |x: &f32| {
            let z = f64::from(*x) - m[0];
            2.0 * (m[0] - m1) * z + (1.0 - s1 / s2) * z * z
        };
        let all: Vec<f64> = rows.iter().map(influence).collect();
        let mean = all.iter().sum::<f64>() / 500.0;
        let squares: f64 = all.iter().map(|v| (v - mean) * (v - mean)).sum();
        let expected = (squares / 499.0 / 500.0).sqrt();
        close(error((&[m1], &[s1 * s1]), &rows, (&m, &c))?, expected);
        Ok(())
    }

    #[test]
    fn fewer_images_than_features_give_a_finite_error() -> Result<()> {
        let (_, m1, c1) = skewed(20, 40, 1, 0.3)?;
        let (rows, m2, c2) = skewed(20, 40, 2, 0.1)?;
        let claimed = error((&m1, &c1), &rows, (&m2, &c2))?;
        assert!(claimed.is_finite() && claimed > 0.0, "{claimed}");
        Ok(())
    }

    #[test]
    fn what_is_no_covariance_is_told_from_what_rounding_made() -> Result<()> {
        let d = 12;
        let good = flat(&cov(d, 1));
        let check = |c: &[f64]| covariance(c, d, 1e-4);
        check(&good)?;
        // Few images: most eigenvalues are zero, and some are less by rounding.
        let few = Noise::new(5, "few").at(0).normals(3 * d);
        let a = Mat::from_fn(d, 3, |i, j| f64::from(few[i * 3 + j]));
        check(&flat(&(&a * a.transpose())))?;
        let rounded: Vec<f64> = good.iter().map(|&v| f64::from(v as f32)).collect();
        check(&rounded)?;
        let negative: Vec<f64> = good.iter().map(|v| -v).collect();
        assert!(
            check(&negative)
                .unwrap_err()
                .to_string()
                .contains("none is negative; hint")
        );
        let mut one = good.clone();
        one[13 * 4] = -0.5;
        assert!(check(&one).is_err());
        let mut lower = good.clone();
        (0..d).for_each(|i| (i + 1..d).for_each(|j| lower[i * d + j] = 0.0));
        assert!(
            check(&lower)
                .unwrap_err()
                .to_string()
                .contains("it is not symmetric")
        );
        // A root of it is symmetric too, and nobody can tell; its negative is not.
        let mut indefinite = good;
        (0..d).for_each(|i| indefinite[i * d + i] -= 40.0);
        assert!(check(&indefinite).is_err());
        Ok(())
    }

    #[test]
    fn it_refuses_what_it_cannot_compare() {
        let error = frechet(&[0.0], &[1.0], &[0.0; 2], &[1.0; 4])
            .unwrap_err()
            .to_string();
        assert_eq!(error, "features of 1 and 2 numbers cannot be compared");
        assert!(frechet(&[f64::NAN], &[1.0], &[0.0], &[1.0]).is_err());
    }
}
