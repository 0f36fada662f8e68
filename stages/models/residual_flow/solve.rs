//! The inverse of a residual block by fixed-point iteration (Behrmann et al. 2019, algorithm 1).

use candle_core::{DType, Result, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When `x <- y - g(x)` has come close enough (D4).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Inverse {
    pub rule: Rule,
    pub tolerance: f64,
    /// Evaluations of g for an image, at most.
    pub most: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// Every value has moved by at most `tolerance (1 + |y|)`.
    Strict,
    /// The official code's: the square of what it moved by is below that, so with a tolerance of 1e-5 it
    /// may have moved by 0.003.
    Official,
}

/// What an iteration came to.
pub struct Solved {
    pub x: Tensor,
    /// Images that were left where they were after the most evaluations.
    pub cut: usize,
    /// Evaluations of g, the first of all images, the last of the slowest alone.
    #[cfg(test)]
    pub evaluations: usize,
}

/// Solves `x + g(x) = y` for each image of `y`: one that has come close enough stays as it is, so that what
/// an image becomes does not depend on those beside it.
pub fn solve(g: impl Fn(&Tensor) -> Result<Tensor>, y: &Tensor, rule: Inverse) -> Result<Solved> {
    let n = y.dim(0)?;
    let mut solved: Vec<Option<Tensor>> = vec![None; n];
    let mut open: Vec<usize> = (0..n).collect();
    let (mut y, mut old, mut cut, mut evaluations) = (y.clone(), y.clone(), 0, 0);
    while !open.is_empty() {
        let x = (&y - g(&old)?)?;
        evaluations += 1;
        let moved = moved(&x, &old, &y, rule.rule)?;
        let last = evaluations >= rule.most.max(1);
        let (mut left, mut places) = (Vec::new(), Vec::new());
        for (place, (image, moved)) in open.iter().zip(moved).enumerate() {
            let close = moved <= rule.tolerance;
            if close || last {
                solved[*image] = Some(x.narrow(0, place, 1)?);
                cut += usize::from(!close);
            } else {
                left.push(*image);
                places.push(place as u32);
            }
        }
        old = x;
        if left.len() < open.len() && !left.is_empty() {
            let places = Tensor::new(places, y.device())?;
            y = y.index_select(&places, 0)?;
            old = old.index_select(&places, 0)?;
        }
        open = left;
    }
    let solved: Vec<Tensor> = solved.into_iter().flatten().collect();
    Ok(Solved {
        x: Tensor::cat(&solved, 0)?,
        cut,
        #[cfg(test)]
        evaluations,
    })
}

/// For each image what a tolerance is compared with.
fn moved(x: &Tensor, old: &Tensor, y: &Tensor, rule: Rule) -> Result<Vec<f64>> {
    let gap = (x - old)?;
    let gap = match rule {
        Rule::Strict => gap.abs()?,
        Rule::Official => gap.sqr()?,
    };
    let gap = (gap / (y.abs()? + 1.0)?)?;
    gap.flatten_from(1)?.max(1)?.to_dtype(DType::F64)?.to_vec1()
}
