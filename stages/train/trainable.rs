//! What the training loop asks of a model and of a data set.

use anyhow::Result;
use candle_core::{DType, Device, Tensor};

use crate::data::images::Images;
use crate::nn::noise::Draws;

/// What to descend on, and the parts worth logging; all scalars, means over the batch.
pub struct Loss {
    pub total: Tensor,
    pub parts: Vec<(&'static str, Tensor)>,
}

/// A model with a loss. Randomness comes in as an argument.
pub trait Trainable<B> {
    /// Before the first step of a new run: data-dependent initialisation.
    fn start(&self, _train: &dyn Dataset<B>) -> Result<()> {
        Ok(())
    }

    /// The training loss; may update running statistics.
    fn loss(&self, batch: &B, noise: &mut Draws) -> Result<Loss>;

    /// The same on held-out data, changing nothing.
    fn validate(&self, batch: &B, noise: &mut Draws) -> Result<Loss>;

    /// After trained tensors were set, by a step of the optimiser or to their average: brings up to date
    /// what is kept beside them.
    fn moved(&self) -> Result<()> {
        Ok(())
    }
}

/// Examples by number.
pub trait Dataset<B> {
    fn len(&self) -> usize;
    fn batch(&self, indices: &[usize]) -> Result<B>;
}

/// Images as batches `[b, h, w, c]` of whole numbers 0 to 255.
pub struct ImageSet<'a> {
    pub images: &'a Images,
    pub dtype: DType,
    pub device: &'a Device,
}

impl Dataset<Tensor> for ImageSet<'_> {
    fn len(&self) -> usize {
        self.images.n
    }

    fn batch(&self, indices: &[usize]) -> Result<Tensor> {
        Ok(self.images.batch(indices, self.dtype, self.device)?)
    }
}
