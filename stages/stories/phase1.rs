//! Phase 1 and what is trained on its latents, at toy sizes.

use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use contract::history;
use contract::testing::Bench;
use serde_json::{Value, json};

use super::{diagonal, flow_prior, latent_flow, training};
use crate::data::images::Images;
use crate::latents::Latents;
use crate::models::prior::Prior;
use crate::models::vae::Vae as Model;
use crate::nn::noise::Noise;
use crate::nn::weights::Weights;
use crate::prior::Prior as PriorStage;
use crate::second_vae::SecondVae;
use crate::vae::{Params, Vae};

/// Bright discs on dark ground, each elsewhere.
fn discs(n: usize, side: usize, channels: usize) -> Images {
    let mut pixels = Vec::new();
    for i in 0..n {
        let (cy, cx) = ((i * 7) % side, (i * 3) % side);
        for y in 0..side {
            for x in 0..side {
                let d = y.abs_diff(cy).pow(2) + x.abs_diff(cx).pow(2);
                let v = if d < side { 200 } else { 30 };
                pixels.extend((0..channels).map(|c| v + (c * 10 + i % 9) as u8));
            }
        }
    }
    Images::new([side, side, channels], pixels, None).unwrap()
}

pub fn optim(lr: f64) -> Value {
    json!({
        "kind": "adam", "lr": lr, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8,
        "form": "tensorflow", "halve_every": 2, "warmup_epochs": 0, "clip_norm": 0.0
    })
}

pub fn resnet() -> Value {
    json!({
        "seed": 0,  "latent": 4,
        "network": {
            "kind": "resnet", "width": 4, "scales": 2, "blocks": 1, "head": "average-pool",
            "dense": 8, "max_width": 8, "norm_decay": 0.999
        },
        "covariance": diagonal(), "range": "unit", "kl": "analytic", "dequantise": true,
        "train": training(3, 9, "keep", optim(2e-3)),
        "prior": flow_prior(2, 8)
    })
}

pub fn infogan() -> Value {
    json!({
        "seed": 0,  "latent": 4,
        "network": {"kind": "infogan", "width": 4, "dense": 16, "norm_decay": 0.999},
        "covariance": { "kind": "isotropic" }, "range": "unit", "kl": "analytic", "dequantise": false,
        "train": training(3, 8, "drop", optim(2e-3)),
        "prior": {"kind": "normal"}
    })
}

struct Data {
    dir: tempfile::TempDir,
}

impl Data {
    fn new(channels: usize) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        discs(40, 8, channels).save(&dir.path().join("train"))?;
        discs(9, 8, channels).save(&dir.path().join("valid"))?;
        Ok(Self { dir })
    }

    fn bench(&self) -> Bench {
        let (train, valid) = (self.dir.path().join("train"), self.dir.path().join("valid"));
        Bench::new::<Vae>(&[("train", &train), ("valid", &valid)])
    }
}

fn falls(path: &Path) -> Result<()> {
    let history = history::load(path)?;
    let [first, .., last] = history.as_slice() else {
        panic!("too short")
    };
    assert!(last.train["loss"] < first.train["loss"], "{history:?}");
    assert!(last.valid.contains_key("loss"));
    Ok(())
}

#[test]
fn both_networks_learn() -> Result<()> {
    for (channels, params) in [(3, resnet()), (1, infogan())] {
        let data = Data::new(channels)?;
        let bench = data.bench();
        bench.run::<Vae>(&params)?;
        falls(&bench.output::<Vae>("history"))?;
        let last = history::load(&bench.output::<Vae>("history"))?.remove(2);
        assert_eq!(last.train.contains_key("bits/dim"), channels == 3);
        assert_eq!(last.train.contains_key("gamma"), channels == 1);
    }
    Ok(())
}

#[test]
fn a_last_batch_of_one_is_refused() -> Result<()> {
    let mut params = resnet();
    params["train"]["batch"] = json!(13);
    let run = |params: &Value| Data::new(3)?.bench().run::<Vae>(params);
    let error = run(&params).map_err(|e| e.to_string()).err();
    let text = "40 training images leave 1 for a last batch of 13, and batch norm needs more; hint: \
                another train.batch, or train.last_batch = \"drop\"";
    assert_eq!(error.as_deref(), Some(text));
    params["train"]["last_batch"] = json!("drop");
    run(&params)?;
    Ok(())
}

/// The stages below a VAE take its artifacts, learn, and give priors that can be sampled.
#[test]
fn latents_lead_to_both_priors() -> Result<()> {
    let data = Data::new(1)?;
    let vae = data.bench();
    vae.run::<Vae>(&infogan())?;
    let model = vae.output::<Vae>("model");
    let (train, valid) = (data.dir.path().join("train"), data.dir.path().join("valid"));
    let codes = Bench::new::<Latents>(&[("vae", &model), ("train", &train), ("valid", &valid)]);
    codes.run::<Latents>(&json!({"batch": 7}))?;
    let (train, valid) = (
        codes.output::<Latents>("train"),
        codes.output::<Latents>("valid"),
    );
    let inputs: [(&str, &Path); 2] = [("train", &train), ("valid", &valid)];

    let mut train = training(6, 9, "keep", optim(5e-3));
    train["patience"] = json!(3);
    train["keep"] = json!({ "kind": "best" });
    let flow = Bench::new::<PriorStage>(&inputs);
    flow.run::<PriorStage>(&json!({
        "seed": 0, "start": "fresh",
        "train": train,
        "flow": latent_flow(4, 16)
    }))?;
    falls(&flow.output::<PriorStage>("history"))?;
    let second = Bench::new::<SecondVae>(&inputs);
    second.run::<SecondVae>(&json!({
        "seed": 0,  "width": 16, "depth": 2,
        "train": training(6, 8, "drop", optim(5e-3))}))?;
    falls(&second.output::<SecondVae>("history"))?;

    let frozen = Model::load(&model, DType::F32, &Device::Cpu)?;
    for path in [
        vae.output::<Vae>("prior"),
        flow.output::<PriorStage>("model"),
        second.output::<SecondVae>("model"),
    ] {
        let prior = Prior::load(&path, DType::F32, &Device::Cpu)?;
        let z = prior.sample(5, &mut Noise::new(0, "z").at(0))?;
        assert_eq!(z.dims(), [5, 4]);
        let (mean, log_sigma) = frozen.decode(&z)?;
        assert_eq!(
            (mean.dims(), log_sigma.dims()),
            ([5, 8, 8, 1].as_slice(), [5, 8, 8, 1].as_slice())
        );
        let inside = mean
            .ge(0f32)?
            .mul(&mean.le(1f32)?)?
            .min_all()?
            .to_scalar::<u8>()?;
        assert_eq!(inside, 1);
    }
    Ok(())
}

/// A16: a prior that goes on from phase 1's is at its start that one; `epochs = 0` leaves it so.
#[test]
fn a_prior_can_go_on_from_phase_1() -> Result<()> {
    let data = Data::new(3)?;
    let vae = data.bench();
    vae.run::<Vae>(&resnet())?;
    let (model, joint) = (vae.output::<Vae>("model"), vae.output::<Vae>("prior"));
    let images = data.dir.path().join("train");
    let codes = Bench::new::<Latents>(&[("vae", &model), ("train", &images), ("valid", &images)]);
    codes.run::<Latents>(&json!({"batch": 7}))?;
    let train = codes.output::<Latents>("train");
    let mut params = json!({
        "seed": 1, "start": "phase-1", "train": training(0, 9, "keep", optim(5e-3)),
        "flow": latent_flow(2, 8),
    });
    let given = [
        ("train", train.as_path()),
        ("valid", &train),
        ("prior", &joint),
    ];
    let run = |inputs: &[(&str, &Path)], params: &Value| {
        let bench = Bench::new::<PriorStage>(inputs);
        bench.run::<PriorStage>(params)?;
        Ok(std::fs::read(bench.output::<PriorStage>("model"))?)
    };
    assert!(run(&given, &params)? == std::fs::read(&joint)?);
    params["start"] = json!("fresh");
    assert!(run(&given, &params)? != std::fs::read(&joint)?);

    params["start"] = json!("phase-1");
    let error = |found: Result<Vec<u8>>| found.err().map(|e| e.to_string()).unwrap_or_default();
    let text = error(run(&given[..2], &params));
    assert!(
        text.contains("wants an input prior; hint: in.prior = "),
        "{text}"
    );
    params["flow"]["width"] = json!(4);
    let text = error(run(&given, &params));
    assert!(
        text.contains("prior.safetensors: a prior {\"kind\":\"flow\",")
            && text.contains("; hint: start = "),
        "{text}"
    );
    Ok(())
}

#[test]
fn a_wrong_image_size_is_explained() -> Result<()> {
    let w = Weights::new(0, DType::F32, &Device::Cpu);
    let params: Params = serde_json::from_value(resnet())?;
    let error = params
        .build([28, 28, 1], &w)
        .err()
        .context("accepted")?
        .to_string();
    assert!(
        error.starts_with("the ResNet decoder wants a power of two"),
        "{error}"
    );
    let w = Weights::new(0, DType::F32, &Device::Cpu);
    let x = Tensor::zeros((1, 8, 8, 3), DType::F32, &Device::Cpu)?;
    let model = params.build([8, 8, 3], &w)?;
    assert!(model.vae.encode(&x)?.0.dims() == [1, 4]);
    Ok(())
}
