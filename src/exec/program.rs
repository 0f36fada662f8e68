//! The process of one execution: program, arguments, environment, and the files it is told of.

#![expect(
    unsafe_code,
    reason = "asking the kernel for the name this program was started by"
)]

use std::collections::BTreeMap;
use std::ffi::{CStr, OsStr, OsString};
use std::fs;
use std::io::PipeReader;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use contract::JobSpec;
use serde_json::Value;

use super::launch::{Grant, Launch};
use super::python;
use super::spawn::Program;
use crate::exec::observe::Observer;
use crate::pipeline::command::{Command, Fill, Run, Variable};
use crate::pipeline::graph::{Kind, Stage};
use crate::store;

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

/// This very program, also when a build has replaced its file since the run began. Without /proc (a
/// chroot) the name by which it was started has to do.
pub fn this_program() -> PathBuf {
    let link = Path::new("/proc/self/exe");
    match link.exists() {
        true => link.into(),
        false => started_as().unwrap_or_else(|| link.into()),
    }
}

fn started_as() -> Option<PathBuf> {
    // SAFETY: a plain query; the kernel leaves a text that ends with a zero byte for as long as the
    // process lives, or nothing.
    let name = unsafe {
        let at = libc::getauxval(libc::AT_EXECFN) as *const libc::c_char;
        (!at.is_null()).then(|| CStr::from_ptr(at))
    }?;
    std::path::absolute(OsStr::from_bytes(name.to_bytes())).ok()
}

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
        name: this_program().into(),
        arguments: Vec::new(),
        env: Vec::new(),
        dir: dir.into(),
        held: None,
        umask: store::own_umask(),
        stdout: log.try_clone()?.into(),
        stderr: log.into(),
        observer: None,
        refused: Default::default(),
    };
    let threads = grant.threads.to_string();
    for name in ["RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"] {
        program.env(name, &threads);
    }
    // Empty for who has none: a GPU is had by asking for it.
    program.env("CUDA_VISIBLE_DEVICES", grant.gpus.join(","));
    let mut events = None;
    match &stage.kind {
        Kind::Library(_) => {
            let job = worker(stage, inputs, outputs, dir, grant, launch)?;
            program.arguments = vec!["worker".into(), job.into()];
            for (name, value) in WORKER {
                program.env(name, value);
            }
            // candle's errors carry a backtrace where this is set for others; a panic still does.
            program.env("RUST_LIB_BACKTRACE", "0");
            let (reader, writer) = std::io::pipe()?;
            program.stdout = writer.into();
            // It writes only in the store.
            program.umask = store::umask();
            program.held = grant.held.as_ref().map(OwnedFd::try_clone).transpose()?;
            events = Some(reader);
        }
        Kind::Command(declared) => {
            command(
                declared,
                stage,
                &inputs,
                &outputs,
                grant,
                launch,
                &mut program,
            )?;
        }
    }
    Ok((program, events))
}

/// What a command declares of its environment comes last: it is what counts, so it is what the
/// program gets.
fn declared(variables: &[Variable], fill: &Fill, program: &mut Program) {
    for variable in variables {
        let value = match &variable.value {
            Some(value) => Some(fill.text(value)),
            None => variable.inherited(),
        };
        match value {
            // The folder that lists imports stays in front of it.
            Some(own) if variable.name == "PYTHONPATH" => python::also(program, own),
            Some(value) => program.env(&variable.name, value),
            None => {}
        }
    }
}

/// The job file of a stage of the library.
fn worker(
    stage: &Stage,
    inputs: Inputs,
    outputs: BTreeMap<String, PathBuf>,
    dir: &Path,
    grant: &Grant,
    launch: &Launch,
) -> Result<PathBuf> {
    let checkpoint = launch.work.checkpoint();
    fs::create_dir_all(&checkpoint)?;
    let state = launch.work.result().join("state");
    fs::create_dir_all(&state)?;
    let told = |path: PathBuf| told(&path, dir);
    let inputs =
        (inputs.into_iter()).map(|(port, paths)| (port, paths.into_iter().map(told).collect()));
    let outputs = outputs.into_iter().map(|(port, path)| (port, told(path)));
    let job = JobSpec {
        stage: stage.name.clone(),
        kind: stage.kind.name().into(),
        params: stage.params.clone(),
        inputs: inputs.collect(),
        outputs: outputs.collect(),
        checkpoint: told(checkpoint),
        state: told(state),
        extends: grant.extends.clone().map(told),
        device: match grant.gpus.is_empty() {
            false => "cuda:0".into(),
            true => "cpu".into(),
        },
        threads: grant.threads,
        data: grant.data.clone(),
        downloads: told(launch.root.join("downloads")),
        checkpoint_every: grant.checkpoint_every,
    };
    let path = launch.work.dir.join("job.json");
    write_json(&path, &serde_json::to_value(&job)?)?;
    Ok(path)
}

/// Any program, its placeholders filled; what it prints goes to the log.
fn command(
    command: &Command,
    stage: &Stage,
    inputs: &Inputs,
    outputs: &BTreeMap<String, PathBuf>,
    grant: &Grant,
    launch: &mut Launch,
    program: &mut Program,
) -> Result<()> {
    let file = |name: &str| launch.work.dir.join(name);
    let (params_file, inputs_file) = (file("params.json"), file("inputs.json"));
    write_json(&params_file, &stage.params)?;
    if command.tells_inputs(&stage.inputs) {
        write_json(&inputs_file, &launch.told)?;
        program.env("REPRO_INPUTS", &inputs_file);
    }
    let fill = Fill {
        inputs,
        outputs,
        params: &stage.params,
        params_file: &params_file,
        inputs_file: &inputs_file,
        depfile: &launch.depfile,
        threads: grant.threads,
    };
    let arguments = command.arguments(&fill);
    for (port, path) in outputs {
        program.env(variable("OUT", port), path);
    }
    for (port, paths) in inputs {
        // What one variable cannot hold is in REPRO_INPUTS.
        if let Some(value) = joined(paths) {
            program.env(variable("IN", port), value);
        }
    }
    let checkpoint = launch.work.checkpoint();
    fs::create_dir_all(&checkpoint)?;
    program.env("REPRO_PARAMS", &params_file);
    program.env("REPRO_DEPFILE", &launch.depfile);
    program.env("REPRO_CHECKPOINT", checkpoint);
    if command.python {
        let list = launch.work.dir.join("imports");
        python::watch(program, &launch.root, &list)?;
        launch.imports = Some(list);
    }
    if command.watch {
        // Without a thread to listen the program runs unwatched, and its record says so.
        let seen = launch.work.seen_file();
        if let Ok((observer, socket)) = Observer::start(Arc::clone(&launch.places), Some(seen)) {
            launch.observer = Some(observer);
            program.observer = Some(socket);
        }
    }
    declared(&command.env, &fill, program);
    match (&command.run, &arguments[..]) {
        (Run::Shell(_), [lines]) => shell(lines, &launch.work.dir, program)?,
        (_, arguments) => {
            program.name.clone_from(&arguments[0]);
            program.arguments = arguments[1..].to_vec();
        }
    }
    let all = std::iter::once(&program.name).chain(&program.arguments);
    launch.record.command = all.map(|a| a.to_string_lossy().into_owned()).collect();
    Ok(())
}

/// `REPRO_OUT_MODEL`: where a program finds a port.
pub fn variable(what: &str, port: &str) -> String {
    format!("REPRO_{what}_{}", port.to_uppercase().replace('-', "_"))
}

/// Paths for one variable, with a colon between them; nothing if that could not be taken apart again,
/// or would be longer than what the kernel lets a program be told.
fn joined(paths: &[PathBuf]) -> Option<OsString> {
    if let [path] = paths {
        return Some(path.into());
    }
    std::env::join_paths(paths)
        .ok()
        .filter(|all| all.len() < LONG)
}

/// The kernel passes on no argument and no variable of 128 KiB.
const LONG: usize = 100 << 10;

/// Lines for a shell, which stops at the first command that fails, also within a pipe. Long ones go
/// through a file.
fn shell(lines: &OsStr, work: &Path, program: &mut Program) -> Result<()> {
    program.name = "bash".into();
    let mut arguments: Vec<OsString> = ["-e", "-o", "pipefail"].map(Into::into).to_vec();
    let mut lines = lines.to_owned();
    if program.file().is_err() {
        program.name = "sh".into();
        arguments = vec!["-e".into()];
        // Not every `sh` has this.
        let mut first = OsString::from("(set -o pipefail) 2>/dev/null && set -o pipefail; ");
        first.push(lines);
        lines = first;
    }
    if lines.len() < LONG {
        arguments.extend(["-c".into(), lines]);
    } else {
        let script = work.join("script.sh");
        fs::write(&script, lines.as_bytes())
            .with_context(|| format!("cannot write {}", script.display()))?;
        arguments.push(script.into());
    }
    program.arguments = arguments;
    Ok(())
}

/// A path as JSON can hold it: where a folder above the project has a name that is no text, relative
/// to the project, where programs start.
pub fn told(path: &Path, dir: &Path) -> PathBuf {
    match (path.to_str(), path.strip_prefix(dir)) {
        (None, Ok(inside)) => inside.into(),
        _ => path.into(),
    }
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    fs::write(path, serde_json::to_vec_pretty(value)?)
        .with_context(|| format!("cannot write {}", path.display()))
}
