//! `repro doctor`: what this machine offers, and what stands in the way.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;
use serde_json::json;

use self::kinds::Kinds;
use super::{Ended, print};
use crate::base::device::{Device, Seen};
use crate::base::disk::Disk;
use crate::base::human;
use crate::base::provenance;
use crate::plan::project::{self, PipelineArgs};

#[cfg_attr(not(feature = "kinds"), path = "no_kinds.rs")]
mod kinds;

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
    /// What `--device` comes to.
    device: String,
    store: PathBuf,
    disk: Option<Disk>,
    data: Option<PathBuf>,
    #[serde(flatten)]
    kinds: Kinds,
    /// What would keep a run from working; empty when all is well.
    problems: Vec<String>,
    /// Why what programs read cannot be seen here, if it cannot.
    unwatched: Option<String>,
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
    let store = project::store(pipeline)?;
    let downloads = store.join("downloads");
    let data = args.data.iter().map(PathBuf::as_path);
    let folders: Vec<&Path> = data.chain([&*downloads]).collect();
    let kinds = Kinds::look(&folders);
    // A GPU that is there, or was asked for, should work.
    let wants_gpu = pipeline.device.starts_with("cuda") || !seen.files.is_empty();
    let mut problems = kinds.problems(wants_gpu);
    let device = match Device::choose(&pipeline.device) {
        Ok(device) => device.name,
        Err(e) => {
            problems.push(e.to_string().replace('\n', "; "));
            "none".into()
        }
    };
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
        kinds,
        store,
        problems,
        unwatched: crate::exec::can_watch().err(),
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
    for (name, value) in report.kinds.computes_with() {
        line(&name, value);
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
    line(
        "watch",
        match &report.unwatched {
            None => "what programs read is seen".into(),
            Some(why) => format!(
                "what programs read cannot be seen here ({why}): \
                 only what stages declare or report counts"
            ),
        },
    );
    match &report.data {
        Some(data) => line("data", data.display().to_string()),
        None => line(
            "data",
            "no folder named; --data DIR or REPRO_DATA names one".into(),
        ),
    }
    for official in report.kinds.files() {
        line("", official);
    }
    for problem in &report.problems {
        line("problem", problem.clone());
    }
    if report.problems.is_empty() {
        text += "no problem found\n";
    }
    text
}
