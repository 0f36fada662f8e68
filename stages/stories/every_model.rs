//! What holds for every model of images, asked of each in the same words.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use contract::testing::Bench;
use contract::{Interrupted, Stage, define};
use serde_json::{Value, json};

use super::phase2::{Setting, otherwise};
use super::{phase1, phase2};
use crate::bits_per_dim::BitsPerDim;
use crate::data::images::Images;
use crate::flow_layer::FlowLayer;
use crate::models::glow::Glow;
use crate::models::image_model::{Density, ImageModel};
use crate::models::pixelcnn::PixelCnn;
use crate::models::pixeliqn::PixelIqn;
use crate::models::residual_flow::ResidualFlow;
use crate::models::vae_with_flow::VaeWithFlow;
use crate::nn::noise::Noise;
use crate::sample::Sample;
use crate::{crps, glow, pixelcnn, pixeliqn, residual_flow, vae};

/// An input port of a model, and the output of the training that makes it.
type Made = (&'static str, &'static str);

/// Trains by kind `T` on inputs, takes what it `made` and the inputs `besides` as model `M`, and asks.
fn ask<T: Stage, M: Density>(
    inputs: &[(&str, &Path)],
    params: Value,
    made: &[Made],
    besides: &[(&str, &Path)],
) -> Result<()> {
    let whole = ask_to_draw::<T, M>(inputs, params, made, besides)?;
    let files = made
        .iter()
        .map(|(port, output)| (*port, whole.output::<T>(output)));
    let files: Vec<(&str, PathBuf)> = files.collect();
    let files = files.iter().map(|(port, path)| (*port, path.as_path()));
    let parts: Vec<(&str, &Path)> = files.chain(besides.iter().copied()).collect();
    let images = inputs.iter().find(|(port, _)| *port == "valid");
    let images = images.context("no held-out images")?.1;

    // Every image has a likelihood, and the same one each time.
    let measure = |draws: usize| -> Result<Value> {
        let given: Vec<_> = [("images", images)]
            .into_iter()
            .chain(parts.iter().copied())
            .collect();
        let bench = Bench::new::<BitsPerDim<M>>(&given);
        bench.run::<BitsPerDim<M>>(&json!({ "seed": 0, "batch": 5, "n": 0, "draws": draws }))?;
        let text = std::fs::read_to_string(bench.output::<BitsPerDim<M>>("metrics"))?;
        Ok(serde_json::from_str::<Value>(&text)?["metrics"][0].clone())
    };
    let bits = measure(1)?;
    let value = bits["value"].as_f64().context("no number")?;
    assert!(
        value.is_finite() && value > 0.0 && bits["n"] == Images::load(images)?.n,
        "{bits}"
    );
    assert_eq!(bits, measure(1)?);
    assert!(measure(0).is_err());
    Ok(())
}

/// The same of a model that may have no likelihood. Gives its training.
fn ask_to_draw<T: Stage, M: ImageModel>(
    inputs: &[(&str, &Path)],
    mut params: Value,
    made: &[Made],
    besides: &[(&str, &Path)],
) -> Result<Bench> {
    params["train"]["epochs"] = json!(2);
    let whole = Bench::new::<T>(inputs);
    whole.run::<T>(&params)?;

    // Stopped in every step, a training ends with the same bytes.
    let cut = Bench::new::<T>(inputs);
    let run = define::<T>(&[]).run;
    let mut runs = 0;
    loop {
        runs += 1;
        // Events: progress; then, resumed and progress.
        match run(&params, &mut cut.job(Some(runs.min(2))).0) {
            Ok(()) => break,
            Err(e) if e.is::<Interrupted>() && runs < 100 => {}
            Err(e) => return Err(e),
        }
    }
    assert!(runs > 4, "{runs}");
    assert!(whole.bytes::<T>() == cut.bytes::<T>(), "interrupted");

    // So does one whose epochs were raised.
    params["train"]["epochs"] = json!(1);
    let mut short = Bench::new::<T>(inputs);
    short.run::<T>(&params)?;
    params["train"]["epochs"] = json!(2);
    let mut long = Bench::new::<T>(inputs);
    long.spec().extends = Some(short.spec().state.clone());
    assert!(long.run::<T>(&params)?.contains("resumed"));
    assert!(whole.bytes::<T>() == long.bytes::<T>(), "extended");

    let files = made
        .iter()
        .map(|(port, output)| (*port, whole.output::<T>(output)));
    let files: Vec<(&str, PathBuf)> = files.collect();
    let files = files.iter().map(|(port, path)| (*port, path.as_path()));
    let parts: Vec<(&str, &Path)> = files.chain(besides.iter().copied()).collect();
    let images = inputs.iter().find(|(port, _)| *port == "valid");
    let images = images.context("no held-out images")?.1;

    // The same noise gives the same images, in batches of any size that the noise counts by.
    let draw = |seed: u64, batch: usize| -> Result<Images> {
        let bench = Bench::new::<Sample<M>>(&parts);
        let pixels = "bytes";
        bench.run::<Sample<M>>(&json!({
            "seed": seed, "n": 5, "batch": batch, "temperature": 1.0, "pixels": pixels,
        }))?;
        Images::load(&bench.output::<Sample<M>>("images"))
    };
    let bytes = |images: &Images| {
        (0..5)
            .flat_map(|i| images.image(i).to_vec())
            .collect::<Vec<u8>>()
    };
    let (one, again, other) = (draw(0, 2)?, draw(0, 2)?, draw(1, 2)?);
    assert_eq!((one.n, one.shape()), (5, Images::load(images)?.shape()));
    assert!(bytes(&one) == bytes(&again) && bytes(&one) != bytes(&other));
    Ok(whole)
}

/// Pictures to learn from, in a folder.
fn pictures(folder: &Path, channels: usize) -> Result<[PathBuf; 2]> {
    let path = |name: &str| folder.join(name);
    for (name, n) in [("train", 33), ("valid", 9)] {
        let words = Noise::new(1, name).at(0).words(n * 8 * 8 * channels);
        let pixels = words.iter().map(|w| (w >> 26) as u8 + 90).collect();
        Images::new([8, 8, channels], pixels, None)?.save(&path(name))?;
    }
    Ok([path("train"), path("valid")])
}

#[test]
fn vaes() -> Result<()> {
    for (channels, params) in [(3, phase1::resnet()), (1, phase1::infogan())] {
        let dir = tempfile::tempdir()?;
        let [train, valid] = pictures(dir.path(), channels)?;
        let inputs = [("train", train.as_path()), ("valid", &valid)];
        let made = [("vae", "model"), ("prior", "prior")];
        ask::<vae::Vae, VaeWithFlow>(&inputs, params, &made, &[])?;
    }
    Ok(())
}

#[test]
fn flow_layers() -> Result<()> {
    let setting = Setting::new()?;
    let (vae, prior, images) = (setting.vae(), setting.prior(), setting.images());
    let below = [("vae", vae.as_path()), ("prior", &prior)];
    let inputs = [&below[..], &[("train", &images), ("valid", &images)]].concat();
    for params in [phase2::params("data"), otherwise("data")] {
        ask::<FlowLayer, VaeWithFlow>(&inputs, params, &[("flow", "flow")], &below)?;
    }
    Ok(())
}

#[test]
fn glows() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let [train, valid] = pictures(dir.path(), 3)?;
    let inputs = [("train", train.as_path()), ("valid", &valid)];
    ask::<glow::Glow, Glow>(&inputs, glow::tests::params(), &[("glow", "model")], &[])
}

#[test]
fn pixelcnns() -> Result<()> {
    for channels in [3, 1] {
        let dir = tempfile::tempdir()?;
        let [train, valid] = pictures(dir.path(), channels)?;
        let inputs = [("train", train.as_path()), ("valid", &valid)];
        let mut params = pixelcnn::tests::params();
        params["images"] = json!(32);
        ask::<pixelcnn::PixelCnn, PixelCnn>(&inputs, params, &[("pixelcnn", "model")], &[])?;
    }
    Ok(())
}

#[test]
fn pixeliqns() -> Result<()> {
    for tau in [
        json!({ "kind": "linear" }),
        json!({ "kind": "head", "features": 4 }),
    ] {
        let dir = tempfile::tempdir()?;
        let [train, valid] = pictures(dir.path(), 3)?;
        let inputs = [("train", train.as_path()), ("valid", &valid)];
        let (mut params, made) = (pixeliqn::tests::params(), [("pixeliqn", "model")]);
        params["tau"] = tau;
        // It starts with all quantiles at one half, where all images are alike.
        params["train"]["optim"]["lr"] = json!(0.02);
        let trained = ask_to_draw::<pixeliqn::PixelIqn, PixelIqn>(&inputs, params, &made, &[])?;

        // Held-out images have the score that training last saw, within errors.
        let model = trained.output::<pixeliqn::PixelIqn>("model");
        let measured = Bench::new::<crps::Crps>(&[("images", &valid), ("pixeliqn", &model)]);
        measured.run::<crps::Crps>(&json!({ "seed": 0, "batch": 4, "n": 0 }))?;
        let text = std::fs::read_to_string(measured.output::<crps::Crps>("metrics"))?;
        let score = serde_json::from_str::<Value>(&text)?["metrics"][0].clone();
        let history = trained.output::<pixeliqn::PixelIqn>("history");
        let seen = contract::history::load(&history)?[1].valid["CRPS"];
        let number = |field: &str| score[field].as_f64().context("no number");
        let gap = (number("value")? - seen).abs();
        assert!(gap < 6.0 * number("std_error")?, "{score} {seen}");
    }
    Ok(())
}

#[test]
fn residual_flows() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let [train, valid] = pictures(dir.path(), 3)?;
    let inputs = [("train", train.as_path()), ("valid", &valid)];
    let (params, made) = (residual_flow::tests::params(), [("flow", "model")]);
    ask::<residual_flow::ResidualFlow, ResidualFlow>(&inputs, params, &made, &[])
}
