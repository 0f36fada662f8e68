//! What the runs that led to a checkpoint have read, besides what their manifest names: a checkpoint
//! is handed over only to the code that it was made by.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::Work;
use crate::digest::Digest;
use crate::read;

/// In `work/FINGERPRINT/reads.json`, as of the end of the last run without success.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ReadBefore {
    /// Relative to the project.
    pub files: BTreeMap<String, Digest>,
    /// What a run read that began at this time, in nanoseconds since 1970, is not known: it was
    /// killed before it could tell, or the runner was.
    pub unknown_since: Option<u64>,
}

impl ReadBefore {
    /// With what one more run has read, or began without being heard of again.
    pub fn and(mut self, files: Option<&[(String, Digest)]>, began: SystemTime) -> Self {
        match files {
            Some(files) => self.files.extend(files.iter().cloned()),
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
        for note in ["reads.json", "reached.json", "spent.json", "depfile"] {
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
        let file = |name: &str| (name.to_owned(), Digest::of(name.as_bytes()));
        let at = |s| UNIX_EPOCH + Duration::from_secs(s);
        let first = ReadBefore::default().and(Some(&[file("a")]), at(1));
        assert_eq!(first.unknown_since(), None);
        let second = first.and(None, at(2)).and(Some(&[file("b")]), at(3));
        assert_eq!(second.files.len(), 2);
        assert_eq!(second.and(None, at(4)).unknown_since(), Some(at(2)));
    }
}
