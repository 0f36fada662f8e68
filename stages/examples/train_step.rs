//! Images per second of complete training steps of the VAE at the paper's CIFAR-10 settings: data,
//! noise, forward, backward, optimiser, through the same door the runner uses. See
//! docs/performance.md.
//!
//!     cargo run --release -p stages --example train_step -- [STEPS] [BATCH]

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use stages::contract::{Job, JobSpec};

/// Remembers the rate of the last progress event.
struct Rate(Arc<Mutex<f64>>);

impl Write for Rate {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if let Ok(event) = serde_json::from_slice::<Value>(bytes)
            && let Some(rate) = event["values"]["images/s"].as_f64()
            && let Ok(mut last) = self.0.lock()
        {
            *last = rate;
        }
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Pictures of nothing: a fixed pattern of bytes.
fn images(path: &Path, n: usize) -> Result<()> {
    let pixels: Vec<u8> = (0..n * 3072)
        .map(|i| ((i * 2_654_435_761) >> 13) as u8)
        .collect();
    let view = TensorView::new(Dtype::U8, vec![n, 32, 32, 3], &pixels)?;
    let about = HashMap::from([("repro".to_string(), "\"images\"".to_string())]);
    Ok(safetensors::serialize_to_file(
        [("images", view)],
        Some(about),
        path,
    )?)
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1).map(|a| a.parse::<usize>());
    let steps = args.next().transpose()?.unwrap_or(20);
    let batch = args.next().transpose()?.unwrap_or(64);
    let dir = std::env::temp_dir().join(format!("repro-train-step-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    images(&dir.join("train"), steps * batch)?;
    images(&dir.join("valid"), 1)?;
    let params = json!({
        "seed": 0, "epochs": 1, "batch": batch, "latent": 64,
        "network": {"kind": "resnet", "width": 32, "scales": 3, "blocks": 1, "dense": 512, "max_width": 1024, "norm_decay": 0.999},
        "covariance": "diagonal", "dequantise": true,
        "prior": {"kind": "flow", "layers": 16, "width": 1024, "max_log_scale": 2.0},
        "optim": {"kind": "adam", "lr": 1e-4, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8,
                  "form": "torch", "halve_every": 250, "warmup_epochs": 0, "clip_norm": 0.0}
    });
    let at = |name: &str| dir.join(name);
    let spec = JobSpec {
        stage: "bench".into(),
        kind: "vae".into(),
        params: params.clone(),
        inputs: ["train", "valid"]
            .map(|p| (p.to_string(), vec![at(p)]))
            .into(),
        outputs: ["model", "prior", "history"]
            .map(|p| (p.to_string(), at(p)))
            .into(),
        checkpoint: at("checkpoint"),
        state: at("state"),
        extends: None,
        device: "cpu".into(),
        threads: 2,
        data: None,
        downloads: at("downloads"),
        checkpoint_seconds: 1e9,
    };
    let rate = Arc::new(Mutex::new(0.0));
    let mut job = Job::new(spec, Box::new(Rate(Arc::clone(&rate))), Arc::default());
    let kind = stages::STAGES
        .iter()
        .find(|s| s.kind == "vae")
        .context("no kind vae")?;
    let result = (kind.run)(&params, &mut job);
    std::fs::remove_dir_all(&dir)?;
    result?;
    println!("{:.1}", rate.lock().map_or(0.0, |r| *r));
    Ok(())
}
