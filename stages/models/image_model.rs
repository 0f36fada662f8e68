//! What the kinds that sample and measure ask of a trained model of images. A new model implements this,
//! and `lib.rs` names its kinds.

use anyhow::Result;
use candle_core::{Device, Tensor};
use contract::{Input, Job};
use serde_json::Value;

use crate::nn::noise::Draws;

/// A trained model that images can be drawn from.
pub trait ImageModel: Sized {
    /// Names of its kinds. Noise is named after them too.
    const KINDS: Kinds;
    /// The artifacts that it is read from.
    const PARTS: &'static [Input];

    /// Reads the job's inputs that [`Self::PARTS`] names, frozen, in f32.
    fn load(job: &Job, device: &Device) -> Result<Self>;

    /// Height, width and channels of its images.
    fn shape(&self) -> [usize; 3];

    /// `n` images `[n, h, w, c]`, floats on the scale of bytes.
    fn sample(&self, n: usize, temperature: f64, noise: &mut Draws) -> Result<Tensor>;

    /// What is worth saying of the images drawn so far.
    fn remark(&self) -> Option<String> {
        None
    }
}

/// A model whose likelihood of an image is known, exactly or by a bound.
pub trait Density: ImageModel {
    /// How many draws of a latent variable make an estimate.
    const LATENT: Latent;

    /// What is done to whole numbers before their density is taken, as the number's protocol has it:
    /// `uniform` noise, or `none` for a distribution of whole numbers (its density is constant between
    /// them, so that its bits compare).
    const DEQUANTISATION: &'static str = "uniform";

    /// Bits per dimension of images 0 to 255, `[n, h, w, c]` to `[n]`.
    fn bits(&self, x: &Tensor, draws: usize, noise: &mut Draws) -> Result<Tensor>;

    /// A table of what else belongs to the number's protocol, such as how its parts are estimated.
    fn protocol(&self) -> Value {
        Value::Null
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Kinds {
    pub sample: &'static str,
    /// Empty where there is no likelihood.
    pub bits_per_dim: &'static str,
    /// One sentence on each.
    pub sample_about: &'static str,
    pub bits_about: &'static str,
}

/// Whether a likelihood is exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Latent {
    /// There is no latent variable to draw, and the likelihood is exact but for dequantisation.
    None,
    /// A bound, which draws of z make tighter.
    Drawn,
}

/// A kind's own inputs and those of its model, as a constant.
pub struct Ports {
    all: [Input; Self::MOST],
    count: usize,
}

impl Ports {
    const MOST: usize = 8;

    /// Both, one after the other; more than eight do not compile.
    pub const fn of(own: &[Input], parts: &[Input]) -> Self {
        let mut all = [Input::NONE; Self::MOST];
        let mut count = 0;
        while count < own.len() + parts.len() {
            all[count] = match count < own.len() {
                true => own[count],
                false => parts[count - own.len()],
            };
            count += 1;
        }
        Self { all, count }
    }

    pub const fn inputs(&self) -> &[Input] {
        self.all.split_at(self.count).0
    }
}
