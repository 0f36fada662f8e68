//! A small classifier whose penultimate features serve the Fréchet distance of the profiles `quick` and
//! `laptop`. A distance in these features is not an FID and is never called one.

use anyhow::Result;
use candle_core::{D, Tensor};
use candle_nn::loss::cross_entropy;
use serde::{Deserialize, Serialize};

use crate::nn::conv::{Padding, conv2d};
use crate::nn::dense::Dense;
use crate::nn::init::Init;
use crate::nn::noise::Draws;
use crate::nn::weights::Weights;
use crate::train::{Loss, Trainable};

/// Side of the images it sees.
pub const SIDE: usize = 32;
/// Classes it tells apart.
pub const CLASSES: usize = 10;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Config {
    /// Channels of the first convolution; each of the next two has twice as many.
    pub width: usize,
    /// Length of the feature vector.
    pub features: usize,
}

/// Three convolutions that halve the image, a dense layer of features, a dense layer of classes.
pub struct Classifier {
    convs: Vec<Conv>,
    features: Dense,
    classes: Dense,
}

struct Conv {
    weight: Tensor,
    bias: Tensor,
}

/// Every convolution halves the image.
const STRIDE: usize = 2;

impl Classifier {
    pub fn new(config: &Config, w: &Weights) -> Result<Self> {
        let width = config.width;
        let sizes = [
            (5, 3, width),
            (3, width, 2 * width),
            (3, 2 * width, 4 * width),
        ];
        let convs = sizes
            .iter()
            .enumerate()
            .map(|(i, &(kernel, input, output))| {
                let w = w.pp(format!("conv{i}"));
                let weight = w.get((kernel, kernel, input, output), "weight", Init::HeNormal)?;
                let bias = w.get(output, "bias", Init::Zeros)?;
                Ok(Conv { weight, bias })
            });
        let side = SIDE / STRIDE.pow(sizes.len() as u32);
        let flat = side * side * 4 * width;
        Ok(Self {
            convs: convs.collect::<Result<_>>()?,
            features: Dense::new(flat, config.features, Init::HeNormal, &w.pp("features"))?,
            classes: Dense::new(
                config.features,
                CLASSES,
                Init::GlorotUniform,
                &w.pp("classes"),
            )?,
        })
    }

    /// Features, none negative, of images `[n, 32, 32, 3]` with values 0 to 255.
    pub fn features(&self, images: &Tensor) -> Result<Tensor> {
        let mut x = images.affine(2.0 / 255.0, -1.0)?;
        for conv in &self.convs {
            let padding = Padding::tensorflow((x.dim(1)?, x.dim(2)?), conv.weight.dim(0)?, STRIDE);
            x = conv2d(&x, &conv.weight, STRIDE, padding)?;
            x = x.broadcast_add(&conv.bias)?.relu()?;
        }
        Ok(self.features.forward(&x.flatten_from(1)?)?.relu()?)
    }

    fn logits(&self, images: &Tensor) -> Result<Tensor> {
        Ok(self.classes.forward(&self.features(images)?)?)
    }
}

/// Images `[b, 32, 32, 3]` and their classes.
pub type Labelled = (Tensor, Tensor);

impl Trainable<Labelled> for Classifier {
    fn loss(&self, (images, labels): &Labelled, _: &mut Draws) -> Result<Loss> {
        let logits = self.logits(images)?;
        let right = logits
            .argmax(D::Minus1)?
            .eq(labels)?
            .to_dtype(logits.dtype())?;
        Ok(Loss {
            total: cross_entropy(&logits, labels)?,
            parts: vec![("accuracy", right.mean_all()?)],
        })
    }

    fn validate(&self, batch: &Labelled, noise: &mut Draws) -> Result<Loss> {
        self.loss(batch, noise)
    }
}
