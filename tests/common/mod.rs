//! A temporary folder with a pipeline, and the real binary to run in it.

#![allow(dead_code, reason = "each test program uses a part")]

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The clock of files stands still for up to so long. A stage that starts so shortly after a change
/// of what it is found to read runs twice, to be sure.
const TICK: Duration = Duration::from_millis(12);

/// Variables by which a user chooses for all commands.
const CHOICES: [&str; 4] = ["REPRO_PROFILE", "REPRO_DEVICE", "REPRO_STORE", "REPRO_DATA"];

pub struct Space {
    dir: tempfile::TempDir,
    written: Cell<Instant>,
}

/// What one invocation said and how it ended.
pub struct Said {
    /// Nothing if a signal has ended it.
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Arguments: a list, or a text with spaces between them.
pub trait Words {
    fn words(&self) -> Vec<&str>;
}

impl Words for &str {
    fn words(&self) -> Vec<&str> {
        self.split_whitespace().collect()
    }
}

impl Words for &String {
    fn words(&self) -> Vec<&str> {
        self.split_whitespace().collect()
    }
}

impl Words for &[&str] {
    fn words(&self) -> Vec<&str> {
        self.to_vec()
    }
}

impl Words for &Vec<&str> {
    fn words(&self) -> Vec<&str> {
        self.to_vec()
    }
}

impl<const N: usize> Words for &[&str; N] {
    fn words(&self) -> Vec<&str> {
        self.to_vec()
    }
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

    #[track_caller]
    pub fn read(&self, name: &str) -> String {
        let path = self.path(name);
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// Replaces text in the pipeline, which must be there.
    #[track_caller]
    pub fn edit(&self, old: &str, new: &str) {
        self.edit_file("pipeline.toml", old, new);
    }

    #[track_caller]
    pub fn edit_file(&self, name: &str, old: &str, new: &str) {
        let text = self.read(name);
        assert!(text.contains(old), "no {old:?} in\n{text}");
        self.write(name, &text.replace(old, new));
    }

    pub fn command(&self, arguments: impl Words) -> Command {
        let mut command = self.program(Path::new(env!("CARGO_BIN_EXE_repro")));
        command.args(arguments.words());
        command
    }

    /// Another program in this folder.
    pub fn program(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.dir()).stdin(Stdio::null());
        CHOICES.iter().for_each(|name| {
            command.env_remove(name);
        });
        command
    }

    /// `repro` with these words, in this folder.
    pub fn repro(&self, arguments: impl Words) -> Said {
        said(self.command(arguments).output().expect("repro starts"))
    }

    /// A line of shell in this folder, with the binary on its path.
    pub fn shell(&self, line: &str) -> Said {
        let repro = Path::new(env!("CARGO_BIN_EXE_repro"));
        let path = std::env::var("PATH").unwrap_or_default();
        let bin = repro.parent().expect("a folder").display();
        let mut shell = self.program(Path::new("sh"));
        shell
            .args(["-c", line])
            .env("PATH", format!("{bin}:{path}"));
        said(shell.output().expect("sh starts"))
    }

    /// Starts without waiting.
    pub fn start(&self, arguments: impl Words) -> Child {
        let mut command = self.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("repro starts")
    }

    /// The names of the stages that a successful `repro run` ran, sorted.
    pub fn run(&self) -> Vec<String> {
        self.ran(&["run", "--json"])
    }

    pub fn ran(&self, arguments: impl Words) -> Vec<String> {
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

    /// Fails the test unless the command ended so.
    #[track_caller]
    pub fn ends(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "stdout:\n{}\nstderr:\n{}",
            self.out,
            self.err
        );
        self
    }

    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(
            self.out.contains(text),
            "`{text}` is not in:\n{}\n{}",
            self.out,
            self.err
        );
        self
    }

    #[track_caller]
    pub fn says_not(self, text: &str) -> Self {
        assert!(!self.out.contains(text), "`{text}` is in:\n{}", self.out);
        self
    }

    #[track_caller]
    pub fn complains(self, text: &str) -> Self {
        assert!(self.err.contains(text), "`{text}` is not in:\n{}", self.err);
        self
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

/// A program on this machine, or a loud word that the test did not happen.
pub fn installed(program: &str, test: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|p| p.is_file());
    if found.is_none() {
        eprintln!("SKIPPED {test}: {program} is not installed");
    }
    found
}
