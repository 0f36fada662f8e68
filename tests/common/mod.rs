//! A folder of its own for each test, and the real binary in it.

#![allow(dead_code, reason = "each test program uses a part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A temporary folder with a pipeline.
pub struct Space {
    dir: tempfile::TempDir,
}

/// What a command said, and how it ended.
pub struct Said {
    pub out: String,
    pub err: String,
    pub code: i32,
}

impl Space {
    pub fn new(pipeline: &str) -> Self {
        let space = Self {
            dir: tempfile::tempdir().expect("a temporary folder"),
        };
        space.write("pipeline.toml", pipeline);
        space
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a file has a folder")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }

    pub fn read(&self, name: &str) -> String {
        let path = self.path(name);
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    pub fn edit(&self, name: &str, from: &str, to: &str) {
        let text = self.read(name);
        assert!(text.contains(from), "{name} has no {from}");
        self.write(name, &text.replacen(from, to, 1));
    }

    /// `repro` with these words, in this folder.
    pub fn repro(&self, words: &str) -> Said {
        self.program(Path::new(env!("CARGO_BIN_EXE_repro")), words)
    }

    /// A line of shell in this folder, with the binary on its path.
    pub fn shell(&self, line: &str) -> Said {
        let bin = Path::new(env!("CARGO_BIN_EXE_repro"))
            .parent()
            .expect("a folder");
        let path = std::env::var("PATH").unwrap_or_default();
        let output = Command::new("sh")
            .args(["-c", line])
            .current_dir(self.dir.path())
            .env("PATH", format!("{}:{path}", bin.display()))
            .env_remove("REPRO_PROFILE")
            .env_remove("REPRO_STORE")
            .env_remove("REPRO_DEVICE")
            .output()
            .unwrap_or_else(|e| panic!("sh cannot be started: {e}"));
        Said::new(output)
    }

    pub fn program(&self, program: &Path, words: &str) -> Said {
        let output = Command::new(program)
            .args(words.split_whitespace())
            .current_dir(self.dir.path())
            .env_remove("REPRO_PROFILE")
            .env_remove("REPRO_STORE")
            .env_remove("REPRO_DEVICE")
            .output()
            .unwrap_or_else(|e| panic!("{} cannot be started: {e}", program.display()));
        Said::new(output)
    }
}

impl Said {
    fn new(output: Output) -> Self {
        Self {
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code().unwrap_or(-1),
        }
    }

    /// Fails the test unless the command ended so.
    #[track_caller]
    pub fn ends(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "stdout:\n{}\nstderr:\n{}",
            self.out, self.err
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
