//! How much the store holds, and how to hold less.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;

use super::Store;
use crate::digest::Fingerprint;

/// Size of one thing in the store.
#[derive(Debug, Clone)]
pub struct Usage {
    pub fp: Fingerprint,
    pub bytes: u64,
}

/// Bytes of all files below a path.
pub fn size_of(path: &Path) -> u64 {
    let files = walkdir::WalkDir::new(path).into_iter().flatten();
    files
        .filter_map(|f| f.metadata().ok())
        .filter(|m| m.is_file())
        .map(|m| m.len())
        .sum()
}

impl Store {
    /// Sizes of the results, in the order of their fingerprints.
    pub fn usage(&self) -> Vec<Usage> {
        let mut all: Vec<Usage> = (self.index.results.keys())
            .map(|fp| Usage {
                fp: *fp,
                bytes: size_of(&self.result(fp)),
            })
            .collect();
        all.sort_by_key(|u| u.fp);
        all
    }

    /// Unfinished work, with its sizes.
    pub fn unfinished(&self) -> Vec<Usage> {
        let Ok(folders) = fs::read_dir(self.root.join("work")) else {
            return Vec::new();
        };
        let mut all: Vec<Usage> = folders
            .flatten()
            .filter_map(|f| {
                let fp = f.file_name().to_str()?.parse().ok()?;
                Some(Usage {
                    fp,
                    bytes: size_of(&f.path()),
                })
            })
            .collect();
        all.sort_by_key(|u| u.fp);
        all
    }

    /// Removes results and unfinished work that are not kept. Needs the lock.
    pub fn collect(&mut self, kept: &HashSet<Fingerprint>) -> io::Result<()> {
        let gone: Vec<Fingerprint> = (self.index.results.keys())
            .filter(|fp| !kept.contains(fp))
            .copied()
            .collect();
        for fp in gone {
            self.discard(&fp)?;
        }
        for work in self.unfinished() {
            if !kept.contains(&work.fp) {
                fs::remove_dir_all(self.root.join("work").join(work.fp.to_string()))?;
            }
        }
        Ok(())
    }
}
