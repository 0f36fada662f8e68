//! What the runs that led to a checkpoint have read, besides what their manifest names: a checkpoint
//! is handed over only to the code that it was made by.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::Work;
use super::stat::Stamp;
use crate::base::digest::Digest;
use crate::base::read;
use crate::store::observed::{Read, What};

/// In `work/FINGERPRINT/reads.json`, as of the end of the last run without success.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ReadBefore {
    /// Relative to the project.
    pub files: BTreeMap<String, Digest>,
    /// What besides contents: names that were not there, folders that were listed, links.
    #[serde(default)]
    pub others: Vec<Read>,
    /// What a run read that began at this time, in nanoseconds since 1970, is not known: it was
    /// killed before it could tell, or the runner was.
    pub unknown_since: Option<u64>,
}

impl ReadBefore {
    /// Adds what one more run has read, or that it began and was not heard of again.
    pub fn and(mut self, reads: Option<&[Read]>, began: SystemTime) -> Self {
        match reads {
            Some(reads) => {
                for read in reads {
                    match read.what {
                        What::Content => {
                            self.files.insert(read.path.clone(), read.digest);
                        }
                        _ => {
                            let same = |r: &Read| (r.what, &r.path) == (read.what, &read.path);
                            self.others.retain(|r| !same(r));
                            self.others.push(read.clone());
                        }
                    }
                }
            }
            None => {
                let nanos = began.duration_since(UNIX_EPOCH).unwrap_or_default();
                self.unknown_since.get_or_insert(nanos.as_nanos() as u64);
            }
        }
        self
    }

    pub fn unknown_since(&self) -> Option<SystemTime> {
        let nanos = self.unknown_since?;
        Some(UNIX_EPOCH + Duration::from_nanos(nanos))
    }
}

impl Work {
    /// Nothing is known of a run that was never heard of again.
    pub fn read_before(&self) -> Option<ReadBefore> {
        let text = read::own_bytes(&self.dir.join("reads.json"), read::TOLD).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Files that the runs of this folder were seen to read, as far as was written down while they
    /// ran: what is left of one that was killed together with the runner.
    pub fn seen(&self) -> Vec<(String, Stamp)> {
        let text = read::own_bytes(&self.seen_file(), read::TOLD).unwrap_or_default();
        let lines = text.split(|b| *b == b'\n');
        // The last line may be torn.
        lines
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect()
    }

    /// See [`seen`](Self::seen).
    pub fn seen_file(&self) -> PathBuf {
        self.dir.join("seen")
    }

    pub fn note_read_before(&self, reads: &ReadBefore) -> io::Result<()> {
        fs::write(self.dir.join("reads.json"), serde_json::to_vec(reads)?)
    }

    /// When the last run in this folder began: its parameters are written first.
    pub fn began(&self) -> Option<SystemTime> {
        let meta = fs::metadata(self.dir.join("params.json")).ok()?;
        meta.modified().ok()
    }

    /// Keeps a checkpoint, and what is known of it, where no run takes it up.
    pub fn put_checkpoint_aside(&self) -> io::Result<()> {
        let aside = self.dir.join("checkpoint.aside");
        super::tree::remove(&aside)?;
        fs::rename(self.checkpoint(), aside)?;
        for note in [
            "reads.json",
            "seen",
            "reached.json",
            "spent.json",
            "depfile",
        ] {
            match fs::remove_file(self.dir.join(note)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_several_runs_read_adds_up() {
        let file = |name: &str| Read::content(name.to_owned(), Digest::of(name.as_bytes()));
        let at = |s| UNIX_EPOCH + Duration::from_secs(s);
        let first = ReadBefore::default().and(Some(&[file("a")]), at(1));
        assert_eq!(first.unknown_since(), None);
        let second = first.and(None, at(2)).and(Some(&[file("b")]), at(3));
        assert_eq!(second.files.len(), 2);
        assert_eq!(second.and(None, at(4)).unknown_since(), Some(at(2)));
    }
}
