//! Which dimensions a layer's network reads, and which it transforms.

use anyhow::Result;
use candle_core::{DType, Tensor};

use super::{Config, Permutation, Split};
use crate::nn::init::Init;
use crate::nn::weights::Weights;

pub enum Roles {
    /// Dimensions are put in order, so that the first `half` is read and the rest transformed.
    Ordered {
        /// Where each dimension comes from, u32 `[d]`, and the inverse.
        order: Tensor,
        back: Tensor,
        half: usize,
    },
    /// 1 where a dimension is read, and 1 where it is transformed, `[1, d]`.
    Masked { read: Tensor, moved: Tensor },
}

impl Roles {
    /// Of layer `k`, whose permutation and that of its neighbour is below `w`.
    pub fn new(config: &Config, dim: usize, k: usize, w: &Weights) -> Result<Self> {
        let even = k.is_multiple_of(2);
        match config.split {
            // An odd layer finds the dimensions as the one before it has put them.
            Split::Halves if even => ordered(permutation(config, dim, k, w)?, w),
            Split::Halves => ordered(swapped(dim), w),
            Split::Masks => {
                let order = permutation(config, dim, k - k % 2, w)?;
                masked(&order, even, w)
            }
        }
    }

    /// Numbers that the network reads, and those of each sort that it gives.
    pub fn sizes(&self) -> (usize, usize) {
        match self {
            Self::Ordered { order, half, .. } => (*half, order.elem_count() - half),
            Self::Masked { read, .. } => (read.elem_count(), read.elem_count()),
        }
    }
}

fn permutation(config: &Config, dim: usize, k: usize, w: &Weights) -> Result<Vec<u32>> {
    if config.permutation == Permutation::None {
        return Ok((0..dim as u32).collect());
    }
    // A buffer, so that a file holds the whole map; drawn by name like any other tensor.
    let w = w.pp(format!("layer{k}"));
    let order = w.buffer(dim, "permutation", Init::Permutation)?;
    let order = order.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    Ok(order.into_iter().map(|i| i as u32).collect())
}

fn swapped(dim: usize) -> Vec<u32> {
    let half = dim as u32 / 2;
    (half..dim as u32).chain(0..half).collect()
}

fn ordered(order: Vec<u32>, w: &Weights) -> Result<Roles> {
    let half = order.len() / 2;
    let mut back = vec![0u32; order.len()];
    for (to, from) in (0u32..).zip(&order) {
        back[*from as usize] = to;
    }
    let (order, back) = (
        Tensor::new(order, w.device())?,
        Tensor::new(back, w.device())?,
    );
    Ok(Roles::Ordered { order, back, half })
}

/// The first half of `order` is read in an even layer, the rest in an odd one.
fn masked(order: &[u32], even: bool, w: &Weights) -> Result<Roles> {
    let mut first = vec![0f64; order.len()];
    for i in &order[..order.len() / 2] {
        first[*i as usize] = 1.0;
    }
    let first = Tensor::from_vec(first, (1, order.len()), w.device())?.to_dtype(w.dtype())?;
    let rest = (1.0 - &first)?;
    let (read, moved) = if even { (first, rest) } else { (rest, first) };
    Ok(Roles::Masked { read, moved })
}
