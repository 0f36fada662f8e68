//! Which device a run computes on, as far as one can tell without a driver library.

use std::fs;

use crate::diag::Diagnostic;
use crate::provenance;

#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    /// Ids of the GPUs that may be used, one stage on each; empty for the CPU.
    pub gpus: Vec<String>,
    /// Such as `NVIDIA H100 80GB HBM3`.
    pub name: String,
}

impl Device {
    /// From `auto`, `cpu`, `cuda` or `cuda:N`.
    pub fn choose(asked: &str) -> Result<Self, Diagnostic> {
        let cpu = || Self {
            gpus: Vec::new(),
            name: provenance::processor(),
        };
        let gpus = match cfg!(feature = "cuda") {
            true => visible(),
            false => Vec::new(),
        };
        let chosen = match asked.split_once(':') {
            _ if asked == "cpu" => return Ok(cpu()),
            _ if asked == "auto" => gpus.clone(),
            _ if asked == "cuda" => gpus.clone(),
            Some(("cuda", n)) => gpus.iter().filter(|g| *g == n).cloned().collect(),
            _ => {
                return Err(Diagnostic::new(format!("`{asked}` is no device"))
                    .hint("one of auto, cpu, cuda, cuda:N"));
            }
        };
        if !chosen.is_empty() {
            let name = name(&chosen[0]);
            return Ok(Self { gpus: chosen, name });
        }
        match asked {
            "auto" => Ok(cpu()),
            _ if !cfg!(feature = "cuda") => Err(Diagnostic::new("this build of repro has no CUDA")
                .hint(
                    "build it with `cargo build --release --features cuda`, or use --device cpu",
                )),
            _ => Err(
                Diagnostic::new(format!("there is no GPU for --device {asked}"))
                    .hint("`repro doctor` lists what was found; --device cpu computes without"),
            ),
        }
    }

    pub fn is_gpu(&self) -> bool {
        !self.gpus.is_empty()
    }
}

/// Ids of the GPUs this process may see.
fn visible() -> Vec<String> {
    let mut ids: Vec<u32> = fs::read_dir("/dev")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|f| f.file_name().to_str()?.strip_prefix("nvidia")?.parse().ok())
        .collect();
    ids.sort_unstable();
    if ids.is_empty() {
        return Vec::new();
    }
    match std::env::var("CUDA_VISIBLE_DEVICES") {
        Ok(list) => list
            .split(',')
            .map(|id| id.trim().to_owned())
            .filter(|id| !id.is_empty())
            .collect(),
        Err(_) => ids.iter().map(u32::to_string).collect(),
    }
}

/// The model as the driver calls it.
fn name(id: &str) -> String {
    let query = ["--query-gpu=name", "--format=csv,noheader", "-i", id];
    let output = std::process::Command::new("nvidia-smi")
        .args(query)
        .output();
    let text = output.ok().and_then(|o| String::from_utf8(o.stdout).ok());
    match text.as_deref().map(str::trim) {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => "CUDA device".into(),
    }
}
