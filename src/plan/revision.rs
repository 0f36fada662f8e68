//! A project as a revision of git has it: its tracked files in a folder of their own, and links to what
//! git does not hold.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::base::diag::Diagnostic;

/// Removed when dropped.
#[derive(Debug)]
pub struct Revision {
    folder: tempfile::TempDir,
    /// Where the pipeline's folder is below the repository's.
    below: PathBuf,
    /// What git does not hold and is taken as it is now, below the repository's folder.
    pub now: Vec<String>,
}

/// The commit that a text means to git; nothing where it means none, or there is no repository.
pub fn commit(dir: &Path, text: &str) -> Option<String> {
    if text.starts_with('-') {
        return None;
    }
    let wanted = format!("{text}^{{commit}}");
    let said = git(dir, &["rev-parse", "--verify", "--quiet", &wanted]).ok()?;
    Some(said.trim().to_owned()).filter(|commit| !commit.is_empty())
}

/// The nearest branches and tags are what may have been meant.
pub fn names(dir: &Path) -> Vec<String> {
    let told = git(
        dir,
        &[
            "for-each-ref",
            "--format=%(refname:short)",
            "refs/heads",
            "refs/tags",
        ],
    );
    told.unwrap_or_default()
        .lines()
        .map(str::to_owned)
        .collect()
}

impl Revision {
    /// `store` is no part of the project.
    pub fn check_out(dir: &Path, commit: &str, store: &Path) -> Result<Self> {
        let top =
            PathBuf::from(git(dir, &["rev-parse", "--show-toplevel"])?.trim_end_matches('\n'));
        let below =
            PathBuf::from(git(dir, &["rev-parse", "--show-prefix"])?.trim_end_matches('\n'));
        let store = &store.canonicalize().unwrap_or_else(|_| store.to_path_buf());
        let folder = tempfile::Builder::new().prefix("repro-").tempdir()?;
        let tree = folder.path().join("tree");
        std::fs::create_dir(&tree)?;
        // An index of its own: the user's is not touched, nor are files of the work tree.
        let index = folder.path().join("index");
        let with_index = |arguments: &[&str]| {
            let mut command = command(&top, arguments);
            ask(command.env("GIT_INDEX_FILE", &index))
        };
        with_index(&["read-tree", commit])?;
        let prefix = format!("--prefix={}/", tree.display());
        with_index(&["checkout-index", "--all", &prefix])?;
        // Of a folder that holds nothing tracked the folder alone is told.
        let others = ["ls-files", "--others", "--directory", "-z"];
        let mut now = Vec::new();
        for name in bytes(command(&top, &others).output()?)?.split(|b| *b == 0) {
            let name = Path::new(std::ffi::OsStr::from_bytes(name));
            let (here, there) = (top.join(name), tree.join(name));
            let ours = store.starts_with(&here) || here.starts_with(store);
            if name.as_os_str().is_empty() || ours || there.symlink_metadata().is_ok() {
                continue;
            }
            if let Some(above) = there.parent() {
                std::fs::create_dir_all(above)?;
            }
            let target = here.components().collect::<PathBuf>();
            std::os::unix::fs::symlink(&target, there.components().collect::<PathBuf>())
                .with_context(|| format!("cannot link {}", target.display()))?;
            now.push(name.to_string_lossy().into_owned());
        }
        Ok(Self { folder, below, now })
    }

    /// The folder that stands for the pipeline's.
    pub fn dir(&self) -> Result<PathBuf> {
        Ok(self
            .folder
            .path()
            .join("tree")
            .join(&self.below)
            .canonicalize()?)
    }
}

fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("git");
    command
        .args(["-c", "core.fsmonitor=false", "-C"])
        .arg(dir)
        .args(arguments);
    command
        .env("GIT_OPTIONAL_LOCKS", "0")
        .stdin(std::process::Stdio::null());
    command
}

fn git(dir: &Path, arguments: &[&str]) -> Result<String> {
    ask(&mut command(dir, arguments))
}

fn ask(command: &mut Command) -> Result<String> {
    let said = command.output().context("cannot start git")?;
    Ok(String::from_utf8_lossy(&bytes(said)?).into_owned())
}

fn bytes(said: std::process::Output) -> Result<Vec<u8>> {
    if said.status.success() {
        return Ok(said.stdout);
    }
    let why = String::from_utf8_lossy(&said.stderr);
    let why = why
        .lines()
        .next()
        .unwrap_or("it did not say why")
        .to_owned();
    Err(Diagnostic::new(format!("git: {why}")).into())
}
