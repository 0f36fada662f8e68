//! The flow layer of the paper (section 3.3): a single-level additive Glow between images and the
//! VAE's base density, and its training on the frozen VAE (phase 2).

use std::path::Path;

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::glow_training::start_images;
use super::prior::Prior;
use super::step::{self, Step};
use super::vae::Vae;
use super::vae_with_flow::VaeWithFlow;
use crate::nn::act_norm::Start;
use crate::nn::bijector::Bijector;
use crate::nn::coupling::{self, ChannelSplit, CouplingKind, CouplingNetwork};
use crate::nn::init::Init;
use crate::nn::inv_conv::InvConvForm;
use crate::nn::noise::{Draws, Noise};
use crate::nn::weights::Weights;
use crate::train::{Dataset, Loss, Trainable};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Flow {
    /// Steps of actnorm, 1x1 convolution, coupling.
    pub depth: usize,
    /// Channels inside the coupling networks (A1).
    pub width: usize,
    pub start: FlowStart,
    pub split: ChannelSplit,
    pub network: CouplingNetwork,
    pub inv_conv: InvConvForm,
}

#[cfg(test)]
impl Flow {
    /// With the choices of pipeline.toml.
    pub fn of(depth: usize, width: usize, start: FlowStart) -> Self {
        Self {
            depth,
            width,
            start,
            split: ChannelSplit::ConditionOnOne,
            network: CouplingNetwork::Official,
            inv_conv: InvConvForm::Plain,
        }
    }
}

/// How the flow layer starts (A4). The actnorms inside coupling networks start from data in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FlowStart {
    /// Every step is the identity: phase 2 starts at the VAE's likelihood, bit for bit.
    Identity,
    /// Random rotations that undo each other in pairs of steps: the identity as a whole, to
    /// rounding, with channels that mix from the start. Wants an even depth.
    Paired,
    /// The official Glow's: outer actnorms from data, random rotations.
    Data,
}

/// On which z of an image the flow layer learns (A19).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Codes {
    /// A fresh draw of q(z|y) in every step.
    PosteriorDraw,
    /// The mean of q(z|y). That gives no bound on the likelihood; the bound of the held-out
    /// images, which the history reports, is with a draw all the same.
    PosteriorMean,
}

/// What a file of weights says of its model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub flow: Flow,
    /// Channels of the images.
    pub channels: usize,
}

/// f: images to base space. Its log-determinant is the same for all images.
pub struct FlowLayer {
    steps: Vec<Step>,
    start: FlowStart,
}

impl FlowLayer {
    pub fn new(config: &Config, w: &Weights) -> Result<Self> {
        let Flow { depth, start, .. } = config.flow;
        ensure!(
            start != FlowStart::Paired || depth % 2 == 0,
            "flow.start = \"paired\" wants an even flow.depth, not {depth}"
        );
        let (norm, mix) = match start {
            FlowStart::Identity => (Start::Identity, Init::Identity),
            FlowStart::Paired => (Start::Identity, Init::Orthogonal),
            FlowStart::Data => (Start::Data, Init::Orthogonal),
        };
        let of_step = step::Config {
            norm,
            mix,
            inv_conv: config.flow.inv_conv,
            coupling: coupling::Config {
                kind: CouplingKind::Additive,
                network: config.flow.network,
                width: config.flow.width,
            },
        };
        let step = |k| {
            let roles = config.flow.split.roles(config.channels, k)?;
            Step::new(of_step, roles, &w.pp(format!("step{k}")))
        };
        let steps = (0..depth).map(step).collect::<Result<_>>()?;
        Ok(Self { steps, start })
    }

    /// Reads a `flow` artifact, frozen.
    pub fn load(path: &Path, dtype: DType, device: &Device) -> Result<(Self, Config)> {
        let (weights, config): (_, Config) = Weights::load(path, dtype, device)?;
        Ok((Self::new(&config, &weights)?, config))
    }
}

impl Bijector for FlowLayer {
    fn forward(&self, x: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        self.steps.forward(x)
    }

    fn inverse(&self, y: &Tensor) -> candle_core::Result<Tensor> {
        self.steps.inverse(y)
    }

    fn start(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        if self.start == FlowStart::Paired {
            for pair in self.steps.chunks_exact(2) {
                pair[1].mix().set(&pair[0].mix().matrix()?.t()?)?;
            }
        }
        self.steps.start(x)
    }
}

/// Phase 2: the flow layer learns `-ln p(y|z)` with z from the posterior; VAE and prior are
/// frozen, the prior serves only to report the whole bound on held-out images.
pub struct FlowLayerTraining {
    model: VaeWithFlow,
    /// The flow layer's weights without gradients.
    frozen: FlowLayer,
    z: Codes,
    /// Images on which actnorms start.
    init_images: usize,
    seed: u64,
}

impl FlowLayerTraining {
    /// `vae` and `prior` must be frozen.
    pub fn new(
        vae: Vae,
        prior: Prior,
        config: &Config,
        z: Codes,
        init_images: usize,
        seed: u64,
        w: &Weights,
    ) -> Result<Self> {
        let flow = Some(FlowLayer::new(config, w)?);
        Ok(Self {
            model: VaeWithFlow { vae, prior, flow },
            frozen: FlowLayer::new(config, &w.frozen())?,
            z,
            init_images,
            seed,
        })
    }
}

impl Trainable<Tensor> for FlowLayerTraining {
    fn start(&self, train: &dyn Dataset<Tensor>) -> Result<()> {
        let noise = Noise::new(self.seed, "flow-layer.start");
        let images = start_images(train, self.init_images, &noise)?;
        let y = self.model.vae.dequantise(&images, &mut noise.at(1))?;
        if let Some(flow) = &self.model.flow {
            flow.start(&y)?;
        }
        Ok(())
    }

    /// The divergence from the prior is left out: it is the same whatever the flow layer learns.
    fn loss(&self, x: &Tensor, noise: &mut Draws) -> Result<Loss> {
        let y = self.model.vae.dequantise(x, noise)?;
        let (mean, log_std) = self.model.vae.encode(&y)?;
        let z = match self.z {
            Codes::PosteriorDraw => {
                let e = noise.normal(mean.shape(), y.dtype(), y.device())?;
                (mean + (log_std.exp()? * e)?)?
            }
            Codes::PosteriorMean => mean,
        };
        let flow = self.model.flow.as_ref();
        let total = self.model.reconstruction(flow, &y, &z)?.mean_all()?;
        let parts = vec![("reconstruction", total.clone())];
        Ok(Loss { total, parts })
    }

    /// The whole bound.
    fn validate(&self, x: &Tensor, noise: &mut Draws) -> Result<Loss> {
        let terms = self.model.terms(Some(&self.frozen), x, noise)?;
        let total = terms.reconstruction.mean_all()?;
        let kl = terms.kl.mean_all()?;
        let bits = self.model.in_bits(&(&total + &kl)?)?;
        let parts = vec![
            ("reconstruction", total.clone()),
            ("kl", kl),
            ("bits/dim", bits),
        ];
        Ok(Loss { total, parts })
    }
}

#[cfg(test)]
mod tests;
