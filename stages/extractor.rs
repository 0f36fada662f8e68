//! Kind `extractor`: the network whose features the Fréchet distance compares.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use contract::metrics::{self, Better, Metric};
use contract::{Input, Job, Output, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Map;

use crate::data::embedded::{self, Look};
use crate::data::fetch;
use crate::data::images::Images;
use crate::data::source::{Source, Splits};
use crate::metrics::resize::Resize;
use crate::models::classifier::{self, Classifier, Labelled};
use crate::models::extractor::{self as models, Config, OFFICIAL_SHA256};
use crate::models::inception_weights;
use crate::nn::device;
use crate::nn::tensor_file;
use crate::nn::weights::Weights;
use crate::train::fit::{Keep, Plan, fit};
use crate::train::optim::{Form, Optim, Rule};
use crate::train::steps::LastBatch;
use crate::train::{Dataset, Training};

pub struct Extractor;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    network: Network,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
enum Network {
    /// A small network trained here on the embedded images in all their looks.
    Classifier {
        seed: u64,
        width: usize,
        features: usize,
        epochs: u64,
        batch: usize,
        lr: f64,
    },
    /// The same network trained here on the labelled images of a source, of at most ten classes.
    ClassifierOf {
        source: Source,
        seed: u64,
        width: usize,
        features: usize,
        epochs: u64,
        batch: usize,
        lr: f64,
    },
    /// The network of the Fréchet Inception distance, with the official weights.
    #[serde(rename = "inception-2015-12-05")]
    Inception {},
    /// The same network with the weights of another file: its distance is not an FID.
    InceptionFile {
        /// Below the folder of `--data`; a `.pth` of any PyTorch or a `.safetensors`.
        file: String,
        sha256: String,
    },
}

impl Stage for Extractor {
    const KIND: &'static str = "extractor";
    const ABOUT: &'static str = "The network whose features a Fréchet distance compares";
    const INPUTS: &'static [Input] = &[];
    const OUTPUTS: &'static [Output] = &[
        Output::new("network", "extractor", "network.safetensors"),
        Output::new("metrics", "metrics", "metrics.json"),
    ];
    const EXTENDS: Option<&'static str> = Some("network.epochs");
    type Params = Params;

    fn data(params: &Params, folder: &Path) -> Vec<PathBuf> {
        match &params.network {
            Network::ClassifierOf { source, .. } => source.data(folder),
            _ => vec![],
        }
    }

    fn run(params: &Params, job: &mut Job) -> Result<()> {
        let device = device::open(&job.spec().device)?;
        match &params.network {
            network @ (Network::Classifier {
                seed,
                width,
                features,
                epochs,
                batch,
                lr,
            }
            | Network::ClassifierOf {
                seed,
                width,
                features,
                epochs,
                batch,
                lr,
                ..
            }) => {
                let config = classifier::Config {
                    width: *width,
                    features: *features,
                };
                let how = training(*epochs, *batch, *lr);
                let (sets, of) = match network {
                    Network::ClassifierOf { source, .. } => {
                        let of = format!("images of {}", source.name());
                        (labelled(source, &device, job)?, of)
                    }
                    _ => (all_looks(*seed, &device)?, "embedded images".into()),
                };
                train(config, *seed, &how, sets, &of, job)
            }
            Network::Inception {} => {
                let path = inception_weights::official(job)?;
                save_inception(&path, OFFICIAL_SHA256, &device, job)
            }
            Network::InceptionFile { file, sha256 } => {
                let path = fetch::local(job, &[file])?
                    .with_context(|| format!("{file} is not in the folder of --data"))?;
                let found = fetch::sha256(&path)?;
                ensure!(
                    found == *sha256,
                    "{} has SHA-256 {found}, pipeline.toml says {sha256:?}; hint: set \
                     params.network.sha256 to it, if it is the file you mean",
                    path.display()
                );
                save_inception(&path, sha256, &device, job)
            }
        }
    }
}

fn training(epochs: u64, batch: usize, lr: f64) -> Training {
    Training {
        epochs,
        batch,
        last_batch: LastBatch::Drop,
        patience: 0,
        keep: Keep::Last {},
        optim: Optim {
            kind: Rule::Adam,
            lr,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            form: Form::Torch,
            halve_every: 0,
            warmup_epochs: 0.0,
            clip_norm: 0.0,
        },
    }
}

/// Trains a classifier on the first set; its accuracy is that on the second, of `images`.
fn train(
    config: classifier::Config,
    seed: u64,
    training: &Training,
    (images, test): (Looks, Looks),
    of: &str,
    job: &mut Job,
) -> Result<()> {
    let weights = Weights::new(seed, DType::F32, &images.device);
    let model = Classifier::new(&config, &weights)?;
    let plan = Plan {
        seed,
        purpose: "classifier",
        training,
    };
    let fitted = fit(&plan, &weights, &model, &images, &test, job)?;
    weights.save(job.output("network")?, &Config::Classifier(config))?;
    let last = fitted.history.last();
    let accuracy = last.and_then(|epoch| epoch.valid.get("accuracy").copied());
    let measured = accuracy.map(|value| accuracy_metric(value, test.len(), of));
    metrics::save(job.output("metrics")?, measured.as_slice())
}

/// Training and test images of a source, all with a class that the network has.
fn labelled(source: &Source, device: &Device, job: &mut Job) -> Result<(Looks, Looks)> {
    let Splits { train, test, .. } = source.load(job)?;
    have_classes(&train, &format!("the training images of {}", source.name()))?;
    have_classes(&test, &format!("the test images of {}", source.name()))?;
    let looks = |set| Looks {
        sets: vec![set],
        device: device.clone(),
    };
    Ok((looks(train), looks(test)))
}

fn have_classes(images: &Images, which: &str) -> Result<()> {
    let labels = images.labels.as_deref().unwrap_or_default();
    ensure!(
        images.n > 0 && labels.len() == images.n,
        "{which} have no classes; hint: a classifier's `source` is cifar10, fashion-mnist or embedded"
    );
    let most = usize::from(labels.iter().max().copied().unwrap_or_default());
    ensure!(
        most < classifier::CLASSES,
        "{which} have class {most}, and a classifier has {}, from 0 on",
        classifier::CLASSES
    );
    Ok(())
}

/// Checks the weights by building the network, and keeps them as published (not folded), so that
/// other tools can read the artifact too.
fn save_inception(path: &Path, sha256: &str, device: &Device, job: &mut Job) -> Result<()> {
    let weights = inception_weights::read(path)?;
    if let Some(note) = weights.note(path) {
        job.note(note);
    }
    models::Extractor::inception(&weights.state, sha256.into(), device)
        .with_context(|| weights.about(path))?;
    let config = Config::Inception {
        sha256: sha256.into(),
    };
    let header = serde_json::to_string(&config)?;
    tensor_file::write(job.output("network")?, &weights.state, Some(&header))?;
    metrics::save(job.output("metrics")?, &[])
}

fn accuracy_metric(value: f64, n: usize, of: &str) -> Metric {
    Metric {
        name: "accuracy".into(),
        label: format!("accuracy on held-out {of}"),
        value,
        std_error: Some((value * (1.0 - value) / n as f64).sqrt()),
        n: Some(n as u64),
        better: Better::Higher,
        unit: String::new(),
        protocol: Map::new(),
    }
}

/// Sets of images as the features stage would show them to the network, with classes.
struct Looks {
    sets: Vec<Images>,
    device: Device,
}

/// Training and test images in every look, so that one network serves all data sets. The
/// colours are drawn from the classifier's own seed: it meets those of a data set as it will
/// meet those of a model, for the first time.
fn all_looks(seed: u64, device: &Device) -> Result<(Looks, Looks)> {
    let looks = [Look::Grey, Look::TwoTone { seed }, Look::Gradient { seed }];
    let mut sets = (vec![], vec![]);
    for look in looks {
        let (train, test) = embedded::load(look)?;
        sets.0.push(train);
        sets.1.push(test);
    }
    let looks = |sets| Looks {
        sets,
        device: device.clone(),
    };
    Ok((looks(sets.0), looks(sets.1)))
}

impl Dataset<Labelled> for Looks {
    fn len(&self) -> usize {
        self.sets.iter().map(|set| set.n).sum()
    }

    fn batch(&self, indices: &[usize]) -> Result<Labelled> {
        let side = classifier::SIDE;
        let (mut pixels, mut labels) = (vec![], vec![]);
        for &index in indices {
            let mut i = index;
            for set in &self.sets {
                if i < set.n {
                    let image = set.image(i);
                    pixels.extend(Resize::TfLegacy.apply(&[image], set.shape(), side));
                    labels.extend(set.labels.as_ref().map(|labels| u32::from(labels[i])));
                    break;
                }
                i -= set.n;
            }
        }
        let pixels = Tensor::from_vec(pixels, (indices.len(), side, side, 3), &self.device)?;
        let n = labels.len();
        Ok((pixels, Tensor::from_vec(labels, n, &self.device)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::Features;
    use crate::fid::Fid;
    use crate::models::{inception, pth};
    use contract::testing::Bench;
    use serde_json::json;

    #[test]
    fn a_trained_classifier_is_better_than_chance_and_loads() -> Result<()> {
        let bench = Bench::new::<Extractor>(&[]);
        let network = json!({"kind": "classifier", "seed": 1, "width": 2, "features": 8,
                             "epochs": 1, "batch": 100, "lr": 0.01});
        bench.run::<Extractor>(&json!({ "network": network }))?;
        check_classifier(&bench)?;
        let mut network = network;
        network["kind"] = "classifier-of".into();
        network["source"] = json!({"kind": "embedded", "look": {"kind": "grey"}});
        let bench = Bench::new::<Extractor>(&[]);
        bench.run::<Extractor>(&json!({ "network": network }))?;
        check_classifier(&bench)
    }

    fn check_classifier(bench: &Bench) -> Result<()> {
        let text = std::fs::read_to_string(bench.output::<Extractor>("metrics"))?;
        let metrics: serde_json::Value = serde_json::from_str(&text)?;
        assert!(
            metrics["metrics"][0]["value"].as_f64() > Some(0.3),
            "{text}"
        );

        let path = bench.output::<Extractor>("network");
        let network = models::Extractor::load(&path, &Device::Cpu)?;
        let (images, _) = embedded::load(Look::Grey)?;
        let two = [images.image(0), images.image(1)];
        let features = network.features(&two, images.shape(), Resize::TfLegacy)?;
        assert_eq!(features.len(), 16);
        assert!(features.iter().all(|v| *v >= 0.0) && features.iter().any(|v| *v > 0.0));
        Ok(())
    }

    #[test]
    fn images_to_classify_have_a_class_that_there_is() -> Result<()> {
        let images = |labels| Images::new([1, 1, 1], vec![0, 0], labels);
        assert!(have_classes(&images(Some(vec![0, 9]))?, "these").is_ok());
        let said = |labels| -> Result<String> {
            let wrong = have_classes(&images(labels)?, "these").unwrap_err();
            Ok(wrong.to_string())
        };
        assert!(said(None)?.contains("these have no classes; hint:"));
        assert!(said(Some(vec![3, 10]))?.contains("these have class 10"));
        Ok(())
    }

    /// The old layout of PyTorch, that of today and safetensors hold the same network.
    #[test]
    fn weights_in_any_form_give_the_same_digits() -> Result<()> {
        let state = inception::tests::state()?;
        let dir = tempfile::tempdir()?;
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("old.pth"), pth::testing::old(&state))?;
        std::fs::write(at("new.pth"), pth::testing::zipped(&state))?;
        tensor_file::write(&at("a.safetensors"), &state, None)?;
        let (train, test) = embedded::load(Look::TwoTone { seed: 1 })?;
        train.select(0..3).save(&at("real"))?;
        test.select(0..3).save(&at("fake"))?;

        let gaussian = |images: &str, network: &Path| -> Result<Bench> {
            let features =
                Bench::new::<Features>(&[("images", &at(images)), ("extractor", network)]);
            let params =
                json!({"batch": 3, "n": 0, "seed": 0, "resize": "tf-legacy", "stretch": "none"});
            features.run::<Features>(&params)?;
            Ok(features)
        };
        let mut values = vec![];
        for file in ["old.pth", "new.pth", "a.safetensors"] {
            let mut bench = Bench::new::<Extractor>(&[]);
            bench.spec().data = Some(dir.path().to_path_buf());
            let sha256 = fetch::sha256(&at(file))?;
            let network = json!({"kind": "inception-file", "file": file, "sha256": sha256});
            bench.run::<Extractor>(&json!({ "network": network }))?;
            let network = bench.output::<Extractor>("network");
            let (real, fake) = (gaussian("real", &network)?, gaussian("fake", &network)?);
            let [real, fake] =
                [real, fake].map(|bench| (bench.output::<Features>("gaussian"), bench));
            let fid = Bench::new::<Fid>(&[("real", &real.0), ("fake", &fake.0)]);
            fid.run::<Fid>(&json!({}))?;
            let text = std::fs::read_to_string(fid.output::<Fid>("metrics"))?;
            let metrics: serde_json::Value = serde_json::from_str(&text)?;
            values.push(metrics["metrics"][0]["value"].clone());
        }
        assert!(values[0].as_f64() > Some(0.0), "{values:?}");
        assert!(values.iter().all(|value| *value == values[0]), "{values:?}");
        Ok(())
    }
}
