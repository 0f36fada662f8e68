//! Phase 2 on the artifacts of phase 1, and what is measured on both, at toy sizes.

use std::path::{Path, PathBuf};

use anyhow::Result;
use candle_core::DType;
use contract::history;
use contract::testing::Bench;
use serde_json::{Value, json};

use super::{diagonal, flow_prior, training};
use crate::data::any_images::AnyImages;
use crate::data::images::Images;
use crate::flow_layer::{FlowLayer, Params};
use crate::models::gaussian;
use crate::models::prior::Prior;
use crate::models::vae::Vae;
use crate::models::vae_training::{Kl, VaeTraining};
use crate::models::vae_with_flow::VaeWithFlow;
use crate::nn::noise::Noise;
use crate::nn::weights::Weights;
use crate::train::{Dataset, ImageSet, Trainable};
use crate::vae;

type BitsPerDim = crate::bits_per_dim::BitsPerDim<VaeWithFlow>;
type Sample = crate::sample::Sample<VaeWithFlow>;

pub fn optim() -> Value {
    json!({
        "kind": "adam", "lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8,
        "form": "torch", "halve_every": 0, "warmup_epochs": 0, "clip_norm": 0.0,
    })
}

pub fn params(start: &str) -> Value {
    json!({
        "seed": 0,  "init_images": 16,
        "flow": {
            "depth": 4, "width": 8, "start": start, "split": "condition-on-one",
            "network": "official", "inv_conv": "plain",
        },
        "z": "posterior-draw",
        "train": training(2, 8, "drop", optim()),
    })
}

/// The same parameters with the other choices of A3, A5 and A6.
pub fn otherwise(start: &str) -> Value {
    let mut params = params(start);
    params["flow"]["split"] = json!("alternate");
    params["flow"]["network"] = json!("plain");
    params["flow"]["inv_conv"] = json!("lu");
    params
}

/// A VAE and its prior as phase 1 leaves them, after one epoch, and images.
pub struct Setting {
    dir: tempfile::TempDir,
    pub phase1: Bench,
}

impl Setting {
    pub fn new() -> Result<Self> {
        Self::of(true)
    }

    /// The VAE learns with dequantisation noise or without (A13).
    pub fn of(dequantise: bool) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let words = Noise::new(1, "pictures").at(0).words(32 * 8 * 8 * 3);
        let pixels = words.iter().map(|w| (w >> 26) as u8 + 90).collect();
        let images = dir.path().join("images");
        Images::new([8, 8, 3], pixels, None)?.save(&images)?;
        let phase1 = Bench::new::<vae::Vae>(&[("train", &images), ("valid", &images)]);
        phase1.run::<vae::Vae>(&json!({
            "seed": 0,  "latent": 4,
            "covariance": diagonal(),
            "network": {
                "kind": "resnet", "width": 4, "scales": 2, "blocks": 1, "head": "average-pool",
                "dense": 8, "max_width": 8, "norm_decay": 0.999,
            },
            "prior": flow_prior(2, 8),
            "range": "unit", "kl": "analytic", "dequantise": dequantise, "train": training(1, 8, "drop", optim()),
        }))?;
        Ok(Self { dir, phase1 })
    }

    pub fn images(&self) -> PathBuf {
        self.dir.path().join("images")
    }

    pub fn vae(&self) -> PathBuf {
        self.phase1.output::<vae::Vae>("model")
    }

    pub fn prior(&self) -> PathBuf {
        self.phase1.output::<vae::Vae>("prior")
    }

    pub fn phase2(&self) -> Bench {
        let (vae, prior, images) = (self.vae(), self.prior(), self.images());
        Bench::new::<FlowLayer>(&[
            ("vae", &vae),
            ("prior", &prior),
            ("train", &images),
            ("valid", &images),
        ])
    }

    pub fn bits(&self, flow: Option<&Path>, draws: usize) -> Result<Value> {
        let (vae, prior, images) = (self.vae(), self.prior(), self.images());
        let mut inputs = vec![
            ("images", images.as_path()),
            ("vae", &vae),
            ("prior", &prior),
        ];
        inputs.extend(flow.map(|flow| ("flow", flow)));
        let bench = Bench::new::<BitsPerDim>(&inputs);
        bench.run::<BitsPerDim>(&json!({ "seed": 0, "batch": 8, "n": 0, "draws": draws }))?;
        let text = std::fs::read_to_string(bench.output::<BitsPerDim>("metrics"))?;
        Ok(serde_json::from_str::<Value>(&text)?["metrics"][0].clone())
    }
}

/// Phase 2 starts at the VAE's own bound: bit for bit from the identity, to rounding from
/// pairs of rotations.
#[test]
fn the_first_bound_is_that_of_the_vae() -> Result<()> {
    let setting = Setting::new()?;
    let device = candle_core::Device::Cpu;
    let load = || -> Result<(Vae, Prior)> {
        let vae = Vae::load(&setting.vae(), DType::F32, &device)?;
        Ok((vae, Prior::load(&setting.prior(), DType::F32, &device)?))
    };
    let images = Images::load(&setting.images())?;
    let set = ImageSet {
        images: &images,
        dtype: DType::F32,
        device: &device,
    };
    let batch = set.batch(&[3, 1, 4, 15, 9])?;
    let bits = |model: &dyn Trainable<_>| -> Result<f32> {
        let loss = model.validate(&batch, &mut Noise::new(0, "test").at(0))?;
        let (_, bits) = loss.parts.iter().find(|(n, _)| *n == "bits/dim").unwrap();
        Ok(bits.to_scalar()?)
    };
    let (vae, prior) = load()?;
    let before = bits(&VaeTraining {
        vae,
        prior,
        kl: Kl::Analytic,
    })?;
    for (params, limit) in [
        (params("identity"), 0.0),
        (params("paired"), 1e-5),
        (otherwise("identity"), 0.0),
        (otherwise("paired"), 1e-5),
    ] {
        let (vae, prior) = load()?;
        let w = Weights::new(0, DType::F32, &device);
        let p: Params = serde_json::from_value(params)?;
        let phase2 = p.build(vae, prior, 3, &w)?;
        phase2.start(&set)?;
        let after = bits(&phase2)?;
        let flow = p.flow;
        assert!(
            (before - after).abs() <= limit,
            "{flow:?}: {before} {after}"
        );
    }
    Ok(())
}

/// On the posterior's mean the training loss is that of one known z; the held-out bound, with a
/// draw, is the same as ever.
#[test]
fn the_mean_of_the_posterior_can_stand_for_its_draws() -> Result<()> {
    let setting = Setting::new()?;
    let device = candle_core::Device::Cpu;
    let images = Images::load(&setting.images())?;
    let batch = images.batch(&[3, 1, 4, 15, 9], DType::F64, &device)?;
    let noise = Noise::new(0, "test").at(0);
    let mut held_out = Vec::new();
    for z in ["posterior-draw", "posterior-mean"] {
        let vae = Vae::load(&setting.vae(), DType::F64, &device)?;
        let y = vae.prepare(&batch, &mut noise.clone())?;
        let (mean, _) = vae.encode(&y)?;
        let (mu, log_sigma) = vae.decode(&mean)?;
        let at_the_mean = gaussian::log_density(&y, &mu, &log_sigma)?.neg()?;
        let prior = Prior::load(&setting.prior(), DType::F64, &device)?;
        let w = Weights::new(0, DType::F64, &device);
        let mut p = params("identity");
        p["z"] = json!(z);
        let p: Params = serde_json::from_value(p)?;
        let phase2 = p.build(vae, prior, 3, &w)?;
        let loss = phase2.loss(&batch, &mut noise.clone())?;
        let gap = (loss.total - at_the_mean.mean_all()?)?.to_scalar::<f64>()?;
        let of_the_mean = z == "posterior-mean";
        assert_eq!(gap.abs() < 1e-9, of_the_mean, "{z}: {gap}");
        // What does not change is not computed in every step.
        let names: Vec<_> = loss.parts.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["reconstruction"]);
        let validated = phase2.validate(&batch, &mut noise.clone())?;
        held_out.push(validated.total.to_scalar::<f64>()?);
        assert_eq!(validated.parts[2].0, "bits/dim");
    }
    assert_eq!(held_out[0], held_out[1]);
    Ok(())
}

#[test]
fn phase_2_learns_and_leaves_vae_and_prior_alone() -> Result<()> {
    let setting = Setting::new()?;
    let phase1 = setting.phase1.bytes::<vae::Vae>();
    for params in [params("identity"), otherwise("identity")] {
        let bench = setting.phase2();
        bench.run::<FlowLayer>(&params)?;
        assert!(phase1 == setting.phase1.bytes::<vae::Vae>());
        let epochs = history::load(&bench.output::<FlowLayer>("history"))?;
        assert!(epochs[1].valid["reconstruction"] < epochs[0].valid["reconstruction"]);
        // Nothing that is learned reaches the KL term, which has the same noise every epoch.
        assert_eq!(epochs[1].valid["kl"], epochs[0].valid["kl"]);
    }
    Ok(())
}

/// The same images, bounded with and without the flow layer and with more draws.
#[test]
fn bounds_are_labelled_and_ordered() -> Result<()> {
    let setting = Setting::new()?;
    let bench = setting.phase2();
    bench.run::<FlowLayer>(&params("identity"))?;
    let flow = bench.output::<FlowLayer>("flow");
    let alone = setting.bits(None, 1)?;
    let one = setting.bits(Some(&flow), 1)?;
    let many = setting.bits(Some(&flow), 16)?;
    let value = |m: &Value| m["value"].as_f64().unwrap();
    assert!(
        value(&one) < value(&alone),
        "the flow layer was trained on these"
    );
    assert!(
        value(&many) < value(&one),
        "{} {}",
        value(&many),
        value(&one)
    );
    assert_eq!(one["label"], "bits/dim (bound)");
    assert_eq!(many["label"], "bits/dim (bound, 16 draws)");
    assert!(one["std_error"].as_f64().unwrap() > 0.0 && one["n"] == 32);
    Ok(())
}

/// Temperature 0 is one image per code; through an untrained flow layer it is the VAE's mean.
#[test]
fn samples_come_with_and_without_the_flow_layer() -> Result<()> {
    let setting = Setting::new()?;
    let bench = setting.phase2();
    let mut start = params("identity");
    start["train"]["epochs"] = json!(0);
    bench.run::<FlowLayer>(&start)?;
    let (vae, prior) = (setting.vae(), setting.prior());
    let flow = bench.output::<FlowLayer>("flow");
    let drawn = |inputs: &[(&str, &Path)], temperature: f64, pixels: &str| -> Result<AnyImages> {
        let bench = Bench::new::<Sample>(inputs);
        bench.run::<Sample>(&json!({
            "seed": 0, "n": 5, "batch": 2, "temperature": temperature, "pixels": pixels,
        }))?;
        let images = AnyImages::load(&bench.output::<Sample>("images"))?;
        assert_eq!((images.n(), images.shape()), (5, [8, 8, 3]));
        Ok(images)
    };
    let bytes = |drawn: AnyImages| (0..5).flat_map(|i| drawn.bytes(i)).collect::<Vec<u8>>();
    let draw =
        |inputs: &[(&str, &Path)], temperature| drawn(inputs, temperature, "bytes").map(bytes);
    let without = [("vae", vae.as_path()), ("prior", &prior)];
    let with = [("vae", vae.as_path()), ("prior", &prior), ("flow", &flow)];
    assert_eq!(draw(&without, 0.0)?, draw(&with, 0.0)?);
    assert_ne!(draw(&with, 0.0)?, draw(&with, 0.5)?);

    // Floats are the same images, before they are clipped and rounded.
    let floats = drawn(&with, 0.5, "floats")?;
    let of = |i| floats.floats(i);
    assert!((0..5).flat_map(of).any(|v| v.fract() != 0.0));
    assert_eq!(bytes(floats), draw(&with, 0.5)?);
    Ok(())
}
