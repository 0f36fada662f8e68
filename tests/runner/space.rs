//! A temporary folder with a pipeline, and the real binary to run in it.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The clock of files stands still for up to so long. A stage that starts so shortly after a change
/// of what it is found to read runs twice, to be sure.
const TICK: Duration = Duration::from_millis(12);

pub struct Space {
    dir: tempfile::TempDir,
    written: Cell<Instant>,
}

/// What one invocation said and how it ended.
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Space {
    pub fn new(pipeline: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let written = Cell::new(Instant::now());
        let space = Self { dir, written };
        space.write("pipeline.toml", pipeline);
        space
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("below the folder")).expect("a folder");
        fs::write(path, text).expect("a file");
        self.written.set(Instant::now());
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Replaces text in the pipeline, which must be there.
    pub fn edit(&self, old: &str, new: &str) {
        let text = self.read("pipeline.toml");
        assert!(text.contains(old), "no {old:?} in\n{text}");
        self.write("pipeline.toml", &text.replace(old, new));
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_repro"));
        command
            .args(arguments)
            .current_dir(self.dir())
            .stdin(Stdio::null());
        for name in ["REPRO_PROFILE", "REPRO_DEVICE", "REPRO_STORE", "REPRO_DATA"] {
            command.env_remove(name);
        }
        command
    }

    pub fn repro(&self, arguments: &[&str]) -> Said {
        said(self.command(arguments).output().expect("repro starts"))
    }

    /// Starts without waiting.
    pub fn start(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("repro starts")
    }

    /// The names of the stages that a successful `repro run` ran, sorted.
    pub fn run(&self) -> Vec<String> {
        self.ran(&["run", "--json"])
    }

    pub fn ran(&self, arguments: &[&str]) -> Vec<String> {
        std::thread::sleep(TICK.saturating_sub(self.written.get().elapsed()));
        let said = self.repro(arguments);
        assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
        said.stages("done")
    }

    pub fn status(&self) -> String {
        self.repro(&["status"]).out
    }

    /// Every result's outputs by stage: names of files and their bytes.
    pub fn output(&self, stage: &str, file: &str) -> Vec<u8> {
        fs::read(self.result(stage).join(file)).expect("the output is there")
    }

    /// The folder of a fresh stage's result.
    pub fn result(&self, stage: &str) -> PathBuf {
        let said = self.repro(&["status", "--json", stage]);
        self.path("artifacts/results")
            .join(fingerprint(&said.out, stage))
    }

    /// Where an output of a fresh stage is, under a value of the variable MODE.
    pub fn output_of(&self, stage: &str, file: &str, mode: &str) -> PathBuf {
        let mut command = self.command(&["status", "--json", stage]);
        let said = said(command.env("MODE", mode).output().expect("repro starts"));
        self.path("artifacts/results")
            .join(fingerprint(&said.out, stage))
            .join(file)
    }

    /// Makes a committed file writable and changes it.
    pub fn spoil(&self, path: &Path, bytes: &[u8]) {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("ours");
        fs::write(path, bytes).expect("writable");
    }
}

/// Of a fresh stage, as `status --json` tells it.
fn fingerprint(status: &str, stage: &str) -> String {
    let all: serde_json::Value = serde_json::from_str(status).expect("JSON");
    let stages = all["stages"].as_array().expect("a list");
    let found = stages.iter().find(|s| s["stage"] == stage);
    let fingerprint = found.expect("the stage")["fingerprint"].as_str();
    fingerprint.expect("it is fresh").into()
}

impl Said {
    /// Stages with a given event in the JSON lines.
    pub fn stages(&self, event: &str) -> Vec<String> {
        let lines = self
            .out
            .lines()
            .filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok());
        let mut names: Vec<String> = lines
            .filter(|l| l["event"] == event)
            .filter_map(|l| Some(l["stage"].as_str()?.to_owned()))
            .collect();
        names.sort();
        names
    }
}

pub fn said(output: Output) -> Said {
    Said {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Waits for something to become true, or fails.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what}: not within half a minute");
}
