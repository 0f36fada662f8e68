//! `repro doctor`: what this machine offers, and what stands in the way.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;
use serde_json::json;
use stages::tools::device::{self, Cuda};
use stages::tools::found::{self, Official};

use super::{Ended, print};
use crate::device::{Device, Seen};
use crate::disk::Disk;
use crate::human;
use crate::project::{self, PipelineArgs};
use crate::provenance;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Local copies of public data sets and weights, in their official layouts
    #[arg(long, value_name = "DIR", env = "REPRO_DATA")]
    data: Option<PathBuf>,
    /// For scripts
    #[arg(long)]
    json: bool,
}

/// All that was found.
#[derive(Serialize)]
struct Report {
    version: &'static str,
    system: String,
    processor: String,
    /// That this process may use at once.
    threads: usize,
    memory_bytes: Option<u64>,
    nvidia_driver: Option<String>,
    cuda: Cuda,
    /// What `--device` comes to.
    device: String,
    store: PathBuf,
    disk: Option<Disk>,
    data: Option<PathBuf>,
    data_sets: Vec<Official>,
    weights: Vec<Official>,
    /// What would keep a run from working; empty when all is well.
    problems: Vec<String>,
}

/// Ends with 1 if there is a problem.
pub fn run(pipeline: &PipelineArgs, args: &Args) -> Result<Ended> {
    let report = examine(pipeline, args)?;
    match args.json {
        true => print(&format!("{:#}\n", json!(report)))?,
        false => print(&text(&report))?,
    }
    Ok(match report.problems.is_empty() {
        true => Ended::Done,
        false => Ended::Failed,
    })
}

fn examine(pipeline: &PipelineArgs, args: &Args) -> Result<Report> {
    let seen = Seen::here();
    let cuda = device::cuda();
    let mut problems = Vec::new();
    // A GPU that is there, or was asked for, should work.
    let wants_gpu = pipeline.device.starts_with("cuda");
    if let Some(trouble) = &cuda.trouble
        && (wants_gpu || !seen.files.is_empty())
    {
        problems.push(trouble.clone());
    }
    problems.extend(cuda.gpus.iter().filter_map(|gpu| gpu.trouble.clone()));
    let device = match Device::choose(&pipeline.device) {
        Ok(device) => device.name,
        Err(e) => {
            problems.push(e.to_string().replace('\n', "; "));
            "none".into()
        }
    };
    let store = project::store(pipeline)?;
    let disk = Disk::of(&store);
    if let Some(disk) = &disk {
        problems.extend(disk.problem(&store));
    }
    if let Some(data) = args.data.as_ref().filter(|data| !data.is_dir()) {
        problems.push(format!(
            "--data {}: there is no such folder",
            data.display()
        ));
    }
    let downloads = store.join("downloads");
    let folders: Vec<&Path> = args
        .data
        .iter()
        .map(PathBuf::as_path)
        .chain([&*downloads])
        .collect();
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        system: provenance::system(),
        processor: provenance::processor(),
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: memory(),
        nvidia_driver: seen.driver,
        device,
        disk,
        data: args.data.clone(),
        data_sets: found::data_sets(&folders),
        weights: found::weights(&folders),
        cuda,
        store,
        problems,
    })
}

fn memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| text += &format!("{name:<10}{value}\n");
    line("repro", format!("{} on {}", report.version, report.system));
    let memory = report.memory_bytes.map(human::bytes).unwrap_or("?".into());
    let threads = human::count(report.threads, "thread");
    line(
        "cpu",
        format!("{}, {threads}, {memory} of memory", report.processor),
    );
    let driver = report.nvidia_driver.as_deref().unwrap_or("none");
    line("driver", format!("NVIDIA {driver}"));
    for (i, gpu) in report.cuda.gpus.iter().enumerate() {
        let free = gpu.free_bytes.map_or("?".into(), human::bytes);
        let all = human::bytes(gpu.memory_bytes);
        let capability = &gpu.compute_capability;
        line(
            &format!("cuda:{i}"),
            format!(
                "{}, {free} of {all} free, compute capability {capability}",
                gpu.name
            ),
        );
    }
    match (&report.cuda.trouble, report.cuda.built) {
        (_, false) => line(
            "cuda",
            "not in this build; hint: cargo build --release --features cuda".into(),
        ),
        (Some(trouble), true) => line("cuda", format!("not usable: {trouble}")),
        (None, true) => {}
    }
    for library in &report.cuda.libraries {
        let file = library.file.as_deref().unwrap_or("not loaded");
        line("", format!("{} {} ({file})", library.name, library.version));
    }
    line(
        "device",
        format!("{}: where stages would run now", report.device),
    );
    let store = report.store.display();
    line(
        "store",
        match &report.disk {
            Some(disk) => {
                let remark = disk.remark().map(|r| format!(" ({r})")).unwrap_or_default();
                format!(
                    "{store}: {}{remark}, {} free",
                    disk.kind,
                    human::bytes(disk.free_bytes)
                )
            }
            None => format!("{store}: its disk cannot be read"),
        },
    );
    match &report.data {
        Some(data) => line("data", data.display().to_string()),
        None => line(
            "data",
            "no folder named; --data DIR or REPRO_DATA names one".into(),
        ),
    }
    for official in report.data_sets.iter().chain(&report.weights) {
        let place = match &official.path {
            Some(path) => path.display().to_string(),
            None => {
                let ways = official.ways.as_ref().map(|ways| format!("; {ways}"));
                format!(
                    "not here: will be downloaded when a stage wants it{}",
                    ways.unwrap_or_default()
                )
            }
        };
        line(
            "",
            format!("{} ({}): {place}", official.name, official.what),
        );
    }
    for problem in &report.problems {
        line("problem", problem.clone());
    }
    if report.problems.is_empty() {
        text += "no problem found\n";
    }
    text
}
