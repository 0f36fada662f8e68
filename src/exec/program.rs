//! The process of one execution: program, arguments, environment, and the files it is told of.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::PipeReader;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;
use stages::contract::JobSpec;

use super::launch::{Grant, Launch};
use super::spawn::Program;
use crate::command::{Command, Fill};
use crate::graph::{Kind, Stage};

/// Files per input port.
pub type Inputs = BTreeMap<String, Vec<PathBuf>>;

/// A training step frees and allocates the same large tensors again and again. glibc hands each
/// back to the kernel, which zeroes it anew: a third of the flow layer's time on two cores.
/// And candle's own threads for small operations would spin beside those of our kernels.
const WORKER: [(&str, &str); 3] = [
    ("MALLOC_MMAP_MAX_", "0"),
    ("MALLOC_TRIM_THRESHOLD_", "100000000000"),
    ("CANDLE_NUM_THREADS", "1"),
];

/// This very program, also when a build has replaced its file since the run began.
const PROGRAM: &str = "/proc/self/exe";

/// Writes what the process will read, and describes the process; nothing is started. A stage of
/// the library says its events where they can be read.
pub fn prepare(
    stage: &Stage,
    inputs: Inputs,
    dir: &Path,
    grant: &Grant,
    launch: &mut Launch,
) -> Result<(Program, Option<PipeReader>)> {
    let result = launch.work.result();
    let outputs: BTreeMap<String, PathBuf> = launch
        .outputs
        .iter()
        .map(|(port, file)| (port.clone(), result.join(file)))
        .collect();
    let log = launch.work.open_log()?;
    let mut program = Program {
        name: PROGRAM.into(),
        arguments: Vec::new(),
        env: Vec::new(),
        dir: dir.into(),
        stdout: log.try_clone()?.into(),
        stderr: log.into(),
    };
    let mut events = None;
    match &stage.kind {
        Kind::Library(_) => {
            let job = worker(stage, inputs, outputs, grant, launch)?;
            program.arguments = vec!["worker".into(), job.into()];
            for (name, value) in WORKER {
                program.env(name, value);
            }
            let (reader, writer) = std::io::pipe()?;
            program.stdout = writer.into();
            events = Some(reader);
        }
        Kind::Command(declared) => {
            let params = &stage.params;
            command(
                declared,
                params,
                &inputs,
                &outputs,
                grant,
                launch,
                &mut program,
            )?;
        }
    }
    let threads = grant.threads.to_string();
    for name in ["RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"] {
        program.env(name, &threads);
    }
    // Empty for who has none: a GPU is had by asking for it.
    program.env("CUDA_VISIBLE_DEVICES", grant.gpus.join(","));
    Ok((program, events))
}

/// The job file of a stage of the library.
fn worker(
    stage: &Stage,
    inputs: Inputs,
    outputs: BTreeMap<String, PathBuf>,
    grant: &Grant,
    launch: &Launch,
) -> Result<PathBuf> {
    let checkpoint = launch.work.checkpoint();
    fs::create_dir_all(&checkpoint)?;
    let state = launch.work.result().join("state");
    fs::create_dir_all(&state)?;
    let job = JobSpec {
        stage: stage.name.clone(),
        kind: stage.kind.name().into(),
        params: stage.params.clone(),
        inputs,
        outputs,
        checkpoint,
        state,
        extends: grant.extends.clone(),
        device: match grant.gpus.is_empty() {
            false => "cuda:0".into(),
            true => "cpu".into(),
        },
        threads: grant.threads,
        data: grant.data.clone(),
        downloads: launch.root.join("downloads"),
        checkpoint_every: grant.checkpoint_every,
    };
    let path = launch.work.dir.join("job.json");
    write_json(&path, &serde_json::to_value(&job)?)?;
    Ok(path)
}

/// Any program, its placeholders filled; what it prints goes to the log.
fn command(
    command: &Command,
    params: &Value,
    inputs: &Inputs,
    outputs: &BTreeMap<String, PathBuf>,
    grant: &Grant,
    launch: &mut Launch,
    program: &mut Program,
) -> Result<()> {
    let params_file = launch.work.dir.join("params.json");
    write_json(&params_file, params)?;
    let fill = Fill {
        inputs,
        outputs,
        params,
        params_file: &params_file,
        depfile: &launch.depfile,
        threads: grant.threads,
    };
    let arguments = command.arguments(&fill);
    program.name = OsString::from(&arguments[0]);
    program.arguments = arguments[1..].iter().map(OsString::from).collect();
    for variable in &command.env {
        if let Some((name, value)) = variable.split_once('=') {
            program.env(name, value);
        }
    }
    for (port, path) in outputs {
        program.env(variable("OUT", port), path);
    }
    for (port, paths) in inputs {
        program.env(variable("IN", port), std::env::join_paths(paths)?);
    }
    let checkpoint = launch.work.checkpoint();
    fs::create_dir_all(&checkpoint)?;
    program.env("REPRO_PARAMS", &params_file);
    program.env("REPRO_DEPFILE", &launch.depfile);
    program.env("REPRO_CHECKPOINT", checkpoint);
    if command.python {
        launch.imports = Some(super::python::watch(program, &launch.work.dir)?);
    }
    launch.record.command = arguments;
    Ok(())
}

/// `REPRO_OUT_MODEL`: where a program finds a port.
pub fn variable(what: &str, port: &str) -> String {
    format!("REPRO_{what}_{}", port.to_uppercase().replace('-', "_"))
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    fs::write(path, serde_json::to_vec_pretty(value)?)
        .with_context(|| format!("cannot write {}", path.display()))
}
