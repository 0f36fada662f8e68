//! The distance between two sets, each a folder of pictures, an array file, statistics that
//! another tool saved, or an artifact of ours.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail, ensure};
use contract::metrics::Metric;
use contract::{CheckpointEvery, Job, JobSpec, Listener};
use serde_json::Value;

use super::measure::{Side, Way, measure};
use super::sets::{self, Set, UNKNOWN, open};
use crate::data::fetch::sha256;
use crate::data::protocol::Protocol;
use crate::data::tensors::TensorFile;
use crate::data::vectors::Vectors;
use crate::fid::distance;
use crate::kid;
use crate::metrics::kid::Subsets;
use crate::metrics::resize::Resize;
use crate::models::extractor::Extractor;
use crate::models::inception_weights;
use crate::nn::device;
use crate::precision_recall::{self, overlap};

/// What is to be compared, and how.
pub struct Request {
    pub real: PathBuf,
    pub fake: PathBuf,
    /// A `.pth` or `.safetensors` file instead of the official weights, or an `extractor`
    /// artifact: what is measured then is not called FID.
    pub weights: Option<PathBuf>,
    /// `tf-legacy`, `pytorch-fid` or `clean`.
    pub resize: String,
    /// Images at a time.
    pub batch: usize,
    pub device: String,
    /// Where official files may lie, and where they are downloaded to.
    pub data: Option<PathBuf>,
    pub downloads: PathBuf,
    /// `.npz` to write the statistics of the first set to.
    pub save: Option<PathBuf>,
    /// Images in each of the kernel distance's subsets, where that is wanted too.
    pub kid: Option<usize>,
    /// Formats of pictures that are not to count, by ending.
    pub leave_out: Vec<String>,
    /// Neighbours that balls reach to, where precision and recall are wanted too.
    pub neighbours: Option<usize>,
}

/// Subsets that a kernel distance is the mean of.
const SUBSETS: usize = 100;

/// The metric as JSON: value, label, n, protocol; others that were asked for below `others`.
pub fn fid(request: &Request, events: Listener, stop: Arc<AtomicBool>) -> Result<Value> {
    let resize = serde_json::from_value(Value::from(request.resize.as_str()));
    let resize: Resize = resize.context("--resize")?;
    ensure!(request.batch > 0, "--batch is 0");
    let mut job = Job::new(job_spec(request), events, stop);
    let mut network = None;
    let mut sides = vec![];
    for path in [&request.real, &request.fake] {
        let opened = open(path, &request.leave_out)?;
        if let Some(remark) = opened.remark {
            job.note(remark);
        }
        sides.push(match opened.set {
            Set::Statistics(gaussian) => Side {
                gaussian: *gaussian,
                vectors: None,
            },
            Set::Pictures(pictures) => {
                if network.is_none() {
                    network = Some(extractor(request, &mut job)?);
                }
                let way = Way {
                    network: network.as_ref().context("BUG: no network")?,
                    resize,
                    batch: request.batch,
                    keep_vectors: request.kid.is_some() || request.neighbours.is_some(),
                };
                measure(&pictures, path, &way, &mut job)?
            }
        });
    }
    let [real, fake] = &mut sides[..] else {
        bail!("BUG: two sides")
    };
    let others = others(request, real, fake)?;
    if let Some(path) = &request.save {
        sets::save(path, &real.gaussian)?;
    }
    let unknown = trust(request, real, fake, &mut job);
    let mut metric = distance(&real.gaussian, &fake.gaussian)?;
    if let Some(side) = unknown {
        metric
            .protocol
            .insert(format!("{side}_protocol"), "unknown".into());
    }
    let mut answer = serde_json::to_value(metric)?;
    if !others.is_empty() {
        answer["others"] = serde_json::to_value(others)?;
    }
    Ok(answer)
}

/// Statistics of other tools say nothing of how they were made. They are compared, but the distance is called after
/// nothing that it may not be. The side that is unknown, if only one is.
fn trust(
    request: &Request,
    real: &mut Side,
    fake: &mut Side,
    job: &mut Job,
) -> Option<&'static str> {
    let sides = [(&request.real, &*real), (&request.fake, &*fake)];
    for (path, _) in sides.iter().filter(|(_, side)| side.is_unknown()) {
        job.note(format!(
            "{}: statistics that do not say which network, resizing and images they are of; hint: \
             `repro fid --save` writes ones that do",
            path.display()
        ));
    }
    let (side, known) = match (real.is_unknown(), fake.is_unknown()) {
        (true, false) => ("reference", &fake.gaussian.protocol),
        (false, true) => ("fake", &real.gaussian.protocol),
        _ => return None,
    };
    let whose = if side == "reference" {
        &request.real
    } else {
        &request.fake
    };
    let protocol = Protocol {
        label: format!("Fréchet distance (protocol of {} unknown)", whose.display()),
        ..known.clone()
    };
    real.gaussian.protocol = protocol.clone();
    fake.gaussian.protocol = protocol;
    Some(side)
}

impl Side {
    fn is_unknown(&self) -> bool {
        self.gaussian.protocol.digest == UNKNOWN
    }
}

/// The numbers that need every vector.
fn others(request: &Request, real: &Side, fake: &Side) -> Result<Vec<Metric>> {
    let mut all = vec![];
    if request.kid.is_none() && request.neighbours.is_none() {
        return Ok(all);
    }
    let (real, fake) = (vectors(real, &request.real)?, vectors(fake, &request.fake)?);
    if let Some(size) = request.kid {
        let subsets = Subsets {
            count: SUBSETS,
            size,
        };
        all.push(kid::distance(
            real,
            fake,
            &kid::Params { seed: 0, subsets },
        )?);
    }
    if let Some(neighbours) = request.neighbours {
        let params = precision_recall::Params { neighbours };
        all.extend(overlap(real, fake, &params)?);
    }
    Ok(all)
}

fn vectors<'a>(side: &'a Side, path: &Path) -> Result<&'a Vectors> {
    side.vectors.as_ref().with_context(|| {
        format!(
            "{} holds statistics alone, and the kernel distance, precision and recall compare \
             images; hint: name the images",
            path.display()
        )
    })
}

fn job_spec(request: &Request) -> JobSpec {
    JobSpec {
        stage: "fid".into(),
        kind: "fid".into(),
        params: Value::Null,
        inputs: BTreeMap::new(),
        outputs: BTreeMap::new(),
        checkpoint: PathBuf::new(),
        state: PathBuf::new(),
        extends: None,
        device: request.device.clone(),
        threads: rayon::current_num_threads(),
        data: request.data.clone(),
        downloads: request.downloads.clone(),
        checkpoint_every: CheckpointEvery::default(),
    }
}

fn extractor(request: &Request, job: &mut Job) -> Result<Extractor> {
    let device = device::open(&request.device)?;
    let path = match &request.weights {
        Some(path) => path.clone(),
        None => inception_weights::official(job)?,
    };
    // Only our own safetensors files say what they are.
    if TensorFile::open(&path)
        .and_then(|f| f.about::<Value>())
        .is_ok()
    {
        return Extractor::load(&path, &device);
    }
    let weights = inception_weights::read(&path)?;
    if let Some(note) = weights.note(&path) {
        job.note(note);
    }
    Extractor::inception(&weights.state, sha256(&path)?, &device)
        .with_context(|| weights.about(&path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::embedded::{self, Look};
    use crate::data::npy::{self, Array, Arrays, Entry, Values};
    use crate::models::classifier::{self, Classifier};
    use crate::models::extractor::Config;
    use crate::nn::weights::Weights;
    use candle_core::{DType, Device, Tensor};

    fn request(dir: &Path, real: &str, fake: &str) -> Request {
        Request {
            real: dir.join(real),
            fake: dir.join(fake),
            weights: Some(dir.join("network.safetensors")),
            resize: "tf-legacy".into(),
            batch: 16,
            device: "cpu".into(),
            data: None,
            downloads: dir.join("downloads"),
            save: None,
            kid: None,
            neighbours: None,
            leave_out: vec![],
        }
    }

    fn run(request: &Request) -> Result<Value> {
        fid(request, Box::new(|_| {}), Arc::default())
    }

    #[test]
    fn folders_arrays_and_statistics_are_the_same_set() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let dir = dir.path();
        let weights = Weights::new(1, DType::F32, &Device::Cpu);
        let config = classifier::Config {
            width: 2,
            features: 6,
        };
        Classifier::new(&config, &weights)?;
        weights.save(
            &dir.join("network.safetensors"),
            &Config::Classifier(config),
        )?;

        let (train, test) = embedded::load(Look::TwoTone { seed: 1 })?;
        let (a, b) = (train.select(0..60), test.select(0..50));
        b.save(&dir.join("b.safetensors"))?;
        std::fs::create_dir(dir.join("a"))?;
        for i in 0..a.n {
            let picture = image::RgbImage::from_raw(32, 32, a.image(i).to_vec()).unwrap();
            picture.save(dir.join(format!("a/{i:03}.png")))?;
        }
        let tensor = Tensor::from_slice(a.pixels(), (60, 32, 32, 3), &Device::Cpu)?;
        tensor.write_npy(dir.join("a.npy"))?;

        let value = |real, fake| run(&request(dir, real, fake));
        let expected = value("a", "b.safetensors")?;
        assert_eq!(expected["n"], 50);
        assert_eq!(expected["label"], "Fréchet distance (classifier features)");
        assert!(expected["value"].as_f64() > Some(0.0), "{expected}");
        assert_eq!(value("a.npy", "b.safetensors")?["value"], expected["value"]);

        let saving = Request {
            save: Some(dir.join("a.npz")),
            ..request(dir, "a", "a.npy")
        };
        assert_eq!(run(&saving)?["value"], 0.0);
        let more = Request {
            kid: Some(20),
            neighbours: Some(3),
            ..request(dir, "a", "b.safetensors")
        };
        let more = run(&more)?;
        assert_eq!(more["value"], expected["value"]);
        let labels = more["others"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| &m["label"]);
        let names = ["Kernel distance", "precision", "recall"];
        let names = names.map(|name| Value::from(format!("{name} (classifier features)")));
        assert!(labels.eq(&names), "{more}");
        let statistics = Request {
            kid: Some(20),
            ..request(dir, "a.npz", "b.safetensors")
        };
        let error = run(&statistics).unwrap_err().to_string();
        assert!(error.contains("a.npz holds statistics alone"), "{error}");
        let from_statistics = value("a.npz", "b.safetensors")?;
        assert_eq!(from_statistics["value"], expected["value"]);
        assert_eq!(from_statistics["label"], expected["label"]);
        assert_eq!(from_statistics["protocol"]["n_reference"], 60);

        // They say how they were made, and others that do not are told apart.
        let clean = Request {
            resize: "clean".into(),
            ..request(dir, "a.npz", "b.safetensors")
        };
        let error = run(&clean).unwrap_err().to_string();
        assert!(
            error.contains("resize is \"tf-legacy\" and \"clean\""),
            "{error}"
        );
        let mut saved = Arrays::open(&dir.join("a.npz"))?;
        let told = saved.text("protocol").unwrap_or_default();
        let told: Value = serde_json::from_str(&told)?;
        assert_eq!(
            (&told["n"], &told["extractor"]),
            (&60.into(), &"classifier".into())
        );
        assert_eq!(
            (&told["resize"], &told["pixels"]),
            (&"tf-legacy".into(), &"uint8".into())
        );
        let [mu, sigma] = ["mu", "sigma"].map(|name| match saved.get(name) {
            Ok(Array {
                values: Values::Floats(values),
                ..
            }) => values,
            _ => vec![],
        });
        let (mu, sigma) = (Entry::Floats(&mu, &[6]), Entry::Floats(&sigma, &[6, 6]));
        npy::save_all(&dir.join("other.npz"), &[("mu", mu), ("sigma", sigma)])?;
        for (real, fake, side) in [
            ("other.npz", "b.safetensors", "reference_protocol"),
            ("b.safetensors", "other.npz", "fake_protocol"),
        ] {
            let compared = value(real, fake)?;
            let near = compared["value"].as_f64().unwrap() - expected["value"].as_f64().unwrap();
            assert!(near.abs() < 1e-9, "{compared}");
            let label = compared["label"].as_str().unwrap();
            assert!(
                label.starts_with("Fréchet distance (protocol of "),
                "{label}"
            );
            assert!(label.ends_with("other.npz unknown)"), "{label}");
            assert_eq!(compared["protocol"][side], "unknown");
        }
        let both = value("other.npz", "other.npz")?;
        assert_eq!(
            both["label"],
            "Fréchet distance (statistics without a protocol)"
        );
        assert_eq!(both["value"], 0.0);
        Ok(())
    }

    #[test]
    fn what_cannot_be_read_is_named() -> Result<()> {
        let dir = tempfile::tempdir()?;
        std::fs::create_dir(dir.path().join("empty"))?;
        std::fs::write(dir.path().join("a.txt"), "")?;
        std::fs::write(dir.path().join("a.npz"), "not a zip")?;
        let floats = Tensor::zeros((2, 4, 4, 3), DType::F32, &Device::Cpu)?;
        floats.write_npy(dir.path().join("f.npy"))?;
        let error = |name| format!("{:#}", run(&request(dir.path(), name, name)).unwrap_err());
        assert!(error("empty").contains("empty holds no pictures; hint"));
        assert!(error("a.txt").contains("a.txt cannot be compared: it is empty; hint: copy"));
        assert!(
            error("a.npz").contains("a.npz could not be read"),
            "{}",
            error("a.npz")
        );
        assert!(error("f.npy").contains("f.npy is float [2, 4, 4, 3]; hint: uint8"));
        Ok(())
    }
}
