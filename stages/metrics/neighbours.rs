//! Improved precision and recall of Kynkäänniemi et al. (2019): how much of one set lies within
//! the other, where a set is the union of balls around its vectors.

use anyhow::{Result, ensure};
use faer::{Accum, Mat, MatRef, Par};
use rayon::prelude::*;

/// Rows of a distance matrix at a time.
const BLOCK: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Overlap {
    /// Share of the fakes that lie in a ball around a real vector.
    pub precision: f64,
    /// Share of the real vectors that lie in a ball around a fake.
    pub recall: f64,
}

/// A ball reaches to its vector's `k`-th nearest neighbour in the same set; the usual `k` is 3.
///
/// Vectors of length `d` lie end to end. Both sets are held in f64, and each thread a block of
/// 256 rows of distances.
pub fn precision_and_recall(real: &[f32], fake: &[f32], d: usize, k: usize) -> Result<Overlap> {
    let fewest = real.len().min(fake.len()) / d;
    ensure!(
        k > 0 && k < fewest,
        "{k} nearest neighbours among {fewest} images; hint: more images"
    );
    let (real, fake) = (Set::new(real, d), Set::new(fake, d));
    Ok(Overlap {
        precision: fake.share_within(&real, &real.radii(k)),
        recall: real.share_within(&fake, &fake.radii(k)),
    })
}

struct Set {
    rows: Mat<f64>,
    /// Squared length of each row.
    lengths: Vec<f64>,
}

impl Set {
    fn new(values: &[f32], d: usize) -> Self {
        let rows = Mat::from_fn(values.len() / d, d, |i, j| f64::from(values[i * d + j]));
        let length = |row: &[f32]| row.iter().map(|&v| f64::from(v).powi(2)).sum();
        Self {
            rows,
            lengths: values.chunks_exact(d).map(length).collect(),
        }
    }

    fn n(&self) -> usize {
        self.lengths.len()
    }

    /// `of` each row's squared distances to all of `other`, block by block.
    fn each<T: Send>(&self, other: &Self, of: impl Fn(&mut [f64]) -> T + Sync) -> Vec<T> {
        let blocks: Vec<usize> = (0..self.n()).step_by(BLOCK).collect();
        let of_block = |&start: &usize| -> Vec<T> {
            let rows = self.rows.subrows(start, BLOCK.min(self.n() - start));
            let products = products(other.rows.as_ref(), rows);
            let row = |i: usize| {
                let square = |j: usize| {
                    let apart = self.lengths[start + i] + other.lengths[j];
                    (apart - 2.0 * products[(j, i)]).max(0.0)
                };
                of(&mut (0..other.n()).map(square).collect::<Vec<f64>>())
            };
            (0..rows.nrows()).map(row).collect()
        };
        // A block is one thread's, so that no number depends on how many there are.
        blocks.par_iter().flat_map_iter(of_block).collect()
    }

    /// Squared distance of each row to its k-th neighbour; itself, at zero, does not count.
    fn radii(&self, k: usize) -> Vec<f64> {
        self.each(self, |squares| {
            *squares.select_nth_unstable_by(k, f64::total_cmp).1
        })
    }

    fn share_within(&self, other: &Self, radii: &[f64]) -> f64 {
        let inside = self.each(other, |squares| {
            squares.iter().zip(radii).any(|(s, radius)| s <= radius)
        });
        inside.iter().filter(|i| **i).count() as f64 / self.n() as f64
    }
}

/// `a b'`.
fn products(a: MatRef<f64>, b: MatRef<f64>) -> Mat<f64> {
    let mut out = Mat::zeros(a.nrows(), b.nrows());
    let b = b.transpose();
    faer::linalg::matmul::matmul(&mut out, Accum::Replace, a, b, 1.0, Par::Seq);
    out
}

#[cfg(test)]
mod tests {
    use super::super::kid::tests::golden;
    use super::*;
    use crate::nn::noise::Noise;

    #[test]
    fn shares_are_those_of_the_definition() -> Result<()> {
        let g = golden();
        let found = precision_and_recall(&g.real, &g.fake, g.d, 3)?;
        let expected = Overlap {
            precision: g.precision,
            recall: g.recall,
        };
        assert_eq!(found, expected);
        Ok(())
    }

    #[test]
    fn known_pictures() -> Result<()> {
        // On a line: every vector of a set finds itself in the other copy.
        let line: Vec<f32> = (0..600).map(|i| i as f32).collect();
        let same = precision_and_recall(&line, &line, 1, 3)?;
        assert_eq!((same.precision, same.recall), (1.0, 1.0));
        // Far away: nothing overlaps.
        let away: Vec<f32> = line.iter().map(|v| v + 1e4).collect();
        let apart = precision_and_recall(&line, &away, 1, 3)?;
        assert_eq!((apart.precision, apart.recall), (0.0, 0.0));
        // Fakes all in the first tenth: precise, and they recall that tenth and the next vector,
        // which their outermost ball reaches.
        let few: Vec<f32> = (0..600).map(|i| i as f32 / 10.0).collect();
        let narrow = precision_and_recall(&line, &few, 1, 3)?;
        assert_eq!((narrow.precision, narrow.recall), (1.0, 61.0 / 600.0));
        Ok(())
    }

    #[test]
    fn it_does_not_depend_on_threads_and_wants_enough_images() -> Result<()> {
        let draw = |seed| Noise::new(seed, "neighbours").at(0).normals(700 * 4);
        let (a, b) = (draw(1), draw(2));
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.map(|pool| pool.install(|| precision_and_recall(&a, &b, 4, 3)))
        };
        assert_eq!(on(1)??, on(3)??);
        let error = precision_and_recall(&a[..12], &b, 4, 3).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("3 nearest neighbours among 3 images")
        );
        Ok(())
    }
}
