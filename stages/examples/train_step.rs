//! Images per second and peak memory of complete training steps at the settings of pipeline.toml:
//! data, noise, forward, backward, optimiser, through the same door the runner uses. Prints one
//! line of JSON. `benches/train_step.py` compares with PyTorch; see docs/performance.md.
//!
//!     cargo run --release -p stages --example train_step -- vae|flow-layer|glow [STEPS] [BATCH]
//!     cargo run --release -p stages --example train_step -- pixelcnn|pixeliqn|residual-flow [STEPS] [BATCH] [NETWORK]
//!     cargo run --release -p stages --example train_step -- sample-pixelcnn|sample-pixeliqn [BATCHES] [BATCH] [NETWORK]
//!     cargo run --release -p stages --example train_step -- features WEIGHTS [BATCHES] [BATCH]
//!
//! NETWORK holds sizes as JSON, in place of those in pipeline.toml.
//!
//! `REPRO_DEVICE` names the device, such as `cuda:0`; without it they run on the CPU.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use contract::{CheckpointEvery, Event, Job, JobSpec};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

/// When each progress event came, and how much was done.
type Marks = Arc<Mutex<Vec<(Instant, f64)>>>;

/// A folder for one run's files.
struct Bench {
    dir: PathBuf,
}

impl Bench {
    /// Pictures of nothing: a fixed pattern of bytes.
    fn images(&self, name: &str, n: usize) -> Result<()> {
        let pixels: Vec<u8> = (0..n * 3072)
            .map(|i| ((i * 2_654_435_761) >> 13) as u8)
            .collect();
        let view = TensorView::new(Dtype::U8, vec![n, 32, 32, 3], &pixels)?;
        let about = HashMap::from([("repro".to_string(), "\"images\"".to_string())]);
        let path = self.dir.join(name);
        Ok(safetensors::serialize_to_file(
            [("images", view)],
            Some(about),
            &path,
        )?)
    }

    /// Runs a kind on files of this folder; gives the times of its progress.
    fn run(&self, kind: &str, params: &Value, inputs: &[(&str, &Path)]) -> Result<Marks> {
        let stage = stages::STAGES.iter().find(|s| s.kind == kind);
        let stage = stage.with_context(|| format!("no kind {kind}"))?;
        let at = |name: &str| self.dir.join(name);
        let inputs = inputs
            .iter()
            .map(|(port, file)| (port.to_string(), vec![self.dir.join(file)]));
        let spec = JobSpec {
            stage: "bench".into(),
            kind: kind.into(),
            params: params.clone(),
            inputs: inputs.collect(),
            outputs: ["model", "prior", "flow", "history", "gaussian", "images"]
                .map(|p| (p.to_string(), at(&format!("{kind}.{p}"))))
                .into(),
            checkpoint: at("checkpoint"),
            state: at("state"),
            extends: None,
            device: std::env::var("REPRO_DEVICE").unwrap_or_else(|_| "cpu".into()),
            threads: 2,
            data: None,
            downloads: at("downloads"),
            checkpoint_every: CheckpointEvery::default(),
        };
        let marks = Marks::default();
        let kept = marks.clone();
        let events = move |event: &Event| {
            if let (Event::Progress(progress), Ok(mut marks)) = (event, kept.lock()) {
                marks.push((Instant::now(), progress.done as f64));
            }
        };
        let mut job = Job::new(spec, Box::new(events), Arc::default());
        (stage.run)(params, &mut job)?;
        Ok(marks)
    }
}

/// A stage's parameters in pipeline.toml, with these in place of its own.
fn params(stage: &str, ours: Value) -> Result<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipeline.toml");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let mut pipeline: BTreeMap<String, Value> = toml::from_str(&text)?;
    let stages = pipeline.remove("stage").context("no stages")?;
    let mut params = stages[stage]["params"].clone();
    let (Some(all), Some(ours)) = (params.as_object_mut(), ours.as_object()) else {
        bail!("pipeline.toml: no parameters of stage {stage}");
    };
    for (key, value) in ours {
        let table = all.get_mut(key).and_then(Value::as_object_mut);
        match (table, value.as_object()) {
            (Some(table), Some(ours)) => table.extend(ours.clone()),
            _ => {
                all.insert(key.clone(), value.clone());
            }
        }
    }
    Ok(params)
}

/// The most memory this process has held, in MB: of the GPU if it computes on one.
fn peak_memory() -> Option<u64> {
    if let Some(bytes) = stages::tools::device::peak_memory() {
        return Some(bytes >> 20);
    }
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes / 1024)
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let model = args.next().unwrap_or_else(|| "vae".into());
    let weights = match model.as_str() {
        "features" => Some(std::fs::canonicalize(
            args.next().context("features: which weights?")?,
        )?),
        _ => None,
    };
    let mut number = |default: usize| args.next().map_or(Ok(default), |a| a.parse());
    let default = if model == "vae" { 64 } else { 16 };
    let (steps, batch) = (number(8)?, number(default)?);
    ensure!(steps > 1, "the first step is not measured");
    let network: Value = args
        .next()
        .map_or(Ok(json!({})), |a| serde_json::from_str(&a))
        .context("the network is no JSON")?;
    let dir = tempfile::tempdir()?;
    let bench = Bench {
        dir: dir.path().to_path_buf(),
    };
    bench.images("train", steps * batch)?;
    bench.images("valid", 1)?;
    let of = |name: &'static str| (name, Path::new(name));
    let images = [of("train"), of("valid")];
    let short = json!({ "train": { "epochs": 1, "batch": batch } });
    let sized = json!({ "train": { "epochs": 1, "batch": batch }, "network": network });
    let started = json!({ "train": { "epochs": 1, "batch": batch }, "init_images": batch });
    let marks = match model.as_str() {
        "vae" => bench.run("vae", &params("vae", short)?, &images)?,
        "glow" => bench.run("glow", &params("glow-baseline", started)?, &images)?,
        "pixelcnn" | "pixeliqn" | "residual-flow" => {
            bench.run(&model, &params(&model, sized)?, &images)?
        }
        "sample-pixelcnn" | "sample-pixeliqn" => {
            bench.images("few", 2)?;
            let few = json!({ "train": { "epochs": 1, "batch": 1 }, "network": network });
            let inputs = [("train", Path::new("few")), of("valid")];
            let kind = model.trim_start_matches("sample-");
            bench.run(kind, &params(kind, few)?, &inputs)?;
            let size = json!({ "n": steps * batch, "batch": batch });
            let file = format!("{kind}.model");
            let inputs = [(kind, Path::new(&file))];
            bench.run(&model, &params(&model, size)?, &inputs)?
        }
        "flow-layer" => {
            bench.images("few", 4)?;
            let few = json!({ "train": { "epochs": 1, "batch": 4 } });
            let inputs = [("train", Path::new("few")), of("valid")];
            bench.run("vae", &params("vae", few)?, &inputs)?;
            let phase1 = [
                ("vae", Path::new("vae.model")),
                ("prior", Path::new("vae.prior")),
            ];
            let inputs = [&images[..], &phase1[..]].concat();
            bench.run("flow-layer", &params("glow", started)?, &inputs)?
        }
        "features" => {
            let all = json!({ "batch": batch, "n": 0, "resize": "pytorch-fid" });
            let inputs = [
                ("images", Path::new("train")),
                ("extractor", weights.as_deref().context("no weights")?),
            ];
            bench.run("features", &params("reference", all)?, &inputs)?
        }
        other => bail!(
            "{other}: vae, flow-layer, glow, pixelcnn, pixeliqn, residual-flow, sample-pixelcnn, sample-pixeliqn or features"
        ),
    };
    let marks = marks.lock().map_err(|_| anyhow::anyhow!("BUG: poisoned"))?;
    let (Some(first), Some(last)) = (marks.first(), marks.last()) else {
        bail!("no progress was reported");
    };
    let each = if model == "features" || model.starts_with("sample-") {
        1.0
    } else {
        batch as f64
    };
    let seconds = last.0.duration_since(first.0).as_secs_f64();
    let rate = (last.1 - first.1) * each / seconds;
    println!(
        "{}",
        json!({ "images_per_second": rate, "peak_mb": peak_memory() })
    );
    Ok(())
}
