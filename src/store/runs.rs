//! What was run here: a line of JSON when a run begins and one when it ends, so that one that was killed
//! shows too. For people only: no verdict depends on it.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::index::open_append;
use super::lock::Lock;
use crate::base::human;
use crate::base::provenance::{self, Git};
use crate::base::read;

/// The file's name in the store.
const NAME: &str = "runs";

/// Bytes beyond which the older half is forgotten.
const LONG: u64 = 4 << 20;

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    pub profile: String,
    /// As they were named; everything if there are none.
    #[serde(default)]
    pub stages: Vec<String>,
    #[serde(default)]
    pub set: Vec<String>,
    #[serde(default)]
    pub force: bool,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Came {
    pub exit: i32,
    /// Stages that ran, and those that were fresh or became so under another name.
    pub ran: usize,
    pub fresh: usize,
    #[serde(default)]
    pub failed: Vec<String>,
    /// Stages that were not run.
    #[serde(default)]
    pub left: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<Git>,
}

/// One run, newest first in [`all`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Run {
    pub id: String,
    /// When it began.
    pub began: String,
    pub host: String,
    pub pid: u32,
    #[serde(flatten)]
    pub asked: Asked,
    /// Nothing of one that is running or was killed.
    pub seconds: Option<f64>,
    pub came: Option<Came>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    Began {
        id: String,
        at: String,
        host: String,
        pid: u32,
        asked: Asked,
    },
    Ended {
        id: String,
        seconds: f64,
        came: Came,
    },
}

/// A run that goes on.
#[derive(Debug)]
pub struct Running {
    root: PathBuf,
    id: String,
    since: Instant,
}

/// Notes that a run begins, under the name it has in the store. What cannot be written is not worth
/// failing for.
pub fn begin(root: &Path, id: &str, asked: Asked) -> Running {
    let running = Running {
        root: root.into(),
        id: id.into(),
        since: Instant::now(),
    };
    let line = Line::Began {
        id: id.into(),
        at: human::now(),
        host: provenance::host(),
        pid: std::process::id(),
        asked,
    };
    let _ = append(root, &line);
    running
}

impl Running {
    /// Notes how it ended.
    pub fn ended(self, came: Came) {
        let line = Line::Ended {
            id: self.id,
            seconds: self.since.elapsed().as_secs_f64(),
            came,
        };
        let _ = append(&self.root, &line);
    }
}

fn append(root: &Path, line: &Line) -> io::Result<()> {
    let _turn = Lock::turn(root)?;
    let path = root.join(NAME);
    shorten(&path)?;
    let text = serde_json::to_string(line)? + "\n";
    open_append(&path)?.write_all(text.as_bytes())
}

/// Forgets the older half of a long file.
fn shorten(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok_and(|meta| meta.len() > LONG) {
        let bytes = read::own_bytes(path, read::INDEX)?;
        let half = &bytes[bytes.len() / 2..];
        let start = half.iter().position(|b| *b == b'\n').map_or(0, |at| at + 1);
        let mut file = super::new_file(path.parent().unwrap_or(Path::new(".")))?;
        file.write_all(&half[start..])?;
        file.persist(path).map_err(|e| e.error)?;
    }
    Ok(())
}

/// All runs that are known of, newest first. Lines that were torn are passed over.
pub fn all(root: &Path) -> io::Result<Vec<Run>> {
    let bytes = match read::own_bytes(&root.join(NAME), read::INDEX) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut runs: Vec<Run> = Vec::new();
    let mut known = HashMap::new();
    for line in bytes.split(|b| *b == b'\n') {
        match serde_json::from_slice(line) {
            Ok(Line::Began {
                id,
                at,
                host,
                pid,
                asked,
            }) => {
                known.insert(id.clone(), runs.len());
                runs.push(Run {
                    id,
                    began: at,
                    host,
                    pid,
                    asked,
                    seconds: None,
                    came: None,
                });
            }
            Ok(Line::Ended { id, seconds, came }) => {
                if let Some(run) = known.get(&id).and_then(|at| runs.get_mut(*at)) {
                    run.seconds = Some(seconds);
                    run.came = Some(came);
                }
            }
            Err(_) => {}
        }
    }
    runs.reverse();
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(stage: &str) -> Asked {
        Asked {
            profile: "quick".into(),
            stages: vec![stage.into()],
            set: Vec::new(),
            force: false,
        }
    }

    #[test]
    fn runs_come_newest_first_and_one_that_was_killed_has_no_end() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        assert_eq!(all(dir.path())?, []);
        let came = Came {
            exit: 1,
            failed: vec!["a".into()],
            ..Came::default()
        };
        begin(dir.path(), "1", asked("a")).ended(came.clone());
        drop(begin(dir.path(), "2", asked("b")));
        // A line that was torn by a crash.
        fs::OpenOptions::new()
            .append(true)
            .open(dir.path().join(NAME))?
            .write_all(b"{\"began\":{\"id\"")?;
        begin(dir.path(), "3", asked("c")).ended(Came::default());
        let runs = all(dir.path())?;
        let stages: Vec<&str> = runs.iter().map(|r| r.asked.stages[0].as_str()).collect();
        assert_eq!(stages, ["c", "b", "a"]);
        assert_eq!((&runs[1].came, &runs[2].came), (&None, &Some(came)));
        Ok(())
    }

    #[test]
    fn a_long_file_loses_its_older_half() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        begin(dir.path(), "1", asked("old")).ended(Came::default());
        let path = dir.path().join(NAME);
        let text = fs::read_to_string(&path)?;
        fs::write(&path, text.repeat(LONG as usize / text.len() + 2))?;
        begin(dir.path(), "2", asked("new")).ended(Came::default());
        assert!(fs::metadata(&path)?.len() < LONG / 2 + 2000);
        assert_eq!(all(dir.path())?[0].asked.stages, ["new"]);
        Ok(())
    }
}
