//! The flow layer of the paper (section 3.3): a single-level additive Glow between images and the
//! VAE's base density, and its training on the frozen VAE (phase 2).

use std::path::Path;

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::baseline::start_images;
use super::full::Full;
use super::prior::Prior;
use super::step::Step;
use super::vae::Vae;
use crate::nn::act_norm::Start;
use crate::nn::bijector::Bijector;
use crate::nn::coupling::CouplingKind;
use crate::nn::init::Init;
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
        let Flow {
            depth,
            width,
            start,
        } = config.flow;
        ensure!(
            start != FlowStart::Paired || depth % 2 == 0,
            "flow.start = \"paired\" wants an even flow.depth, not {depth}"
        );
        let (norm, mix) = match start {
            FlowStart::Identity => (Start::Identity, Init::Identity),
            FlowStart::Paired => (Start::Identity, Init::Orthogonal),
            FlowStart::Data => (Start::Data, Init::Orthogonal),
        };
        let step = |k| {
            let w = w.pp(format!("step{k}"));
            Step::new(
                CouplingKind::Additive,
                config.channels,
                width,
                norm,
                mix,
                &w,
            )
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
                pair[1].mix().set(&pair[0].mix().weight().t()?)?;
            }
        }
        self.steps.start(x)
    }
}

/// Phase 2: the flow layer learns `-ln p(y|z)` of fresh posterior samples z; VAE and prior are
/// frozen, the prior serves only to report the whole bound.
pub struct Phase2 {
    model: Full,
    /// The flow layer's weights without gradients.
    frozen: FlowLayer,
    /// Images on which actnorms start.
    init_images: usize,
    seed: u64,
}

impl Phase2 {
    /// `vae` and `prior` must be frozen.
    pub fn new(
        vae: Vae,
        prior: Prior,
        config: &Config,
        init_images: usize,
        seed: u64,
        w: &Weights,
    ) -> Result<Self> {
        let flow = Some(FlowLayer::new(config, w)?);
        Ok(Self {
            model: Full { vae, prior, flow },
            frozen: FlowLayer::new(config, &w.frozen())?,
            init_images,
            seed,
        })
    }

    fn loss_of(&self, flow: Option<&FlowLayer>, x: &Tensor, noise: &mut Draws) -> Result<Loss> {
        let terms = self.model.terms(flow, x, noise)?;
        let total = terms.reconstruction.mean_all()?;
        let kl = terms.kl.mean_all()?;
        let bits = self.model.bits(&(&total + &kl)?)?;
        let parts = vec![
            ("reconstruction", total.clone()),
            ("kl", kl),
            ("bits/dim", bits),
        ];
        Ok(Loss { total, parts })
    }
}

impl Trainable<Tensor> for Phase2 {
    fn start(&self, train: &dyn Dataset<Tensor>) -> Result<()> {
        let noise = Noise::new(self.seed, "flow-layer.start");
        let images = start_images(train, self.init_images, &noise)?;
        let y = self.model.vae.prepare(&images, &mut noise.at(1))?;
        if let Some(flow) = &self.model.flow {
            flow.start(&y)?;
        }
        Ok(())
    }

    fn loss(&self, x: &Tensor, noise: &mut Draws) -> Result<Loss> {
        self.loss_of(self.model.flow.as_ref(), x, noise)
    }

    fn validate(&self, x: &Tensor, noise: &mut Draws) -> Result<Loss> {
        self.loss_of(Some(&self.frozen), x, noise)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::bijector::check;

    fn layer(depth: usize, width: usize, start: FlowStart, w: &Weights) -> Result<FlowLayer> {
        let flow = Flow {
            depth,
            width,
            start,
        };
        FlowLayer::new(&Config { flow, channels: 3 }, w)
    }

    fn images(n: usize, side: usize, dtype: DType) -> Result<Tensor> {
        let noise = &mut Noise::new(2, "x").at(0);
        Ok(noise.uniform((n, side, side, 3), dtype, &Device::Cpu)?)
    }

    #[test]
    fn parameters_are_as_many_as_they_should() -> Result<()> {
        for (width, count) in [(256, 2_426_016), (512, 9_045_152)] {
            let w = Weights::new(0, DType::F32, &Device::Cpu);
            layer(32, width, FlowStart::Identity, &w)?;
            assert_eq!(w.count(), count);
        }
        Ok(())
    }

    #[test]
    fn is_a_bijection_of_constant_volume_change() -> Result<()> {
        let w = Weights::new(0, DType::F64, &Device::Cpu);
        let flow = layer(3, 6, FlowStart::Data, &w)?;
        let x = images(3, 4, DType::F64)?;
        flow.start(&x)?;
        check::disturb(&w, 0.05)?;
        check::round_trip("flow layer", &flow, &x, 1e-10)?;
        check::log_det("flow layer", &flow, &x)?;
        // h w sum_k (sum_c 3 log_scale + ln|det W|), for every image.
        let mut expected = 0.0;
        for (name, var) in w.all() {
            if name.ends_with(".norm.log_scale") {
                expected += 3.0 * var.sum_all()?.to_scalar::<f64>()?;
            } else if name.ends_with(".mix.weight") {
                expected += crate::nn::inv_conv::log_abs_det(&var)?.to_scalar::<f64>()?;
            }
        }
        for claimed in flow.forward(&x)?.1.to_vec1::<f64>()? {
            assert!((claimed - 16.0 * expected).abs() < 1e-10);
        }
        Ok(())
    }

    #[test]
    fn thirty_two_steps_are_inverted() -> Result<()> {
        for (dtype, limit) in [(DType::F64, 1e-10), (DType::F32, 1e-4)] {
            let w = Weights::new(0, dtype, &Device::Cpu);
            let flow = layer(32, 16, FlowStart::Paired, &w)?;
            let x = images(2, 8, dtype)?;
            flow.start(&x)?;
            check::disturb(&w, 0.01)?;
            check::round_trip("32 steps", &flow, &x, limit)?;
        }
        Ok(())
    }

    #[test]
    fn pairs_want_an_even_depth() {
        let w = Weights::new(0, DType::F32, &Device::Cpu);
        let error = layer(3, 4, FlowStart::Paired, &w).err();
        assert!(error.is_some_and(|e| e.to_string().contains("wants an even flow.depth")));
    }
}
