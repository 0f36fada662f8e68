//! How much the store holds, and how to hold less.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;

use super::lock::{Lock, new_id};
use super::{Store, Work, claims, tree};
use crate::base::digest::Fingerprint;

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
        let mut all: Vec<Usage> = (self.working().into_iter())
            .map(|fp| Usage {
                fp,
                bytes: size_of(&Work::of(&self.root, &fp).dir),
            })
            .collect();
        all.sort_by_key(|u| u.fp);
        all
    }

    /// What has a folder in `work/`.
    fn working(&self) -> Vec<Fingerprint> {
        let folders = fs::read_dir(self.root.join("work"));
        let names = folders.into_iter().flatten().flatten();
        names
            .filter_map(|f| f.file_name().to_str()?.parse().ok())
            .collect()
    }

    /// Removes what is left of work that was committed, by a run that was killed before it could
    /// do so itself: its `result/` has become the result. Needs the lock, which others may share.
    pub fn sweep(&self) {
        for fp in self.working() {
            let work = Work::of(&self.root, &fp);
            let over = || !work.result().exists() && self.result(&fp).exists();
            if !over() {
                continue;
            }
            let place = self.root.join("trash").join(format!("{fp}.{}", new_id()));
            let moved = Lock::turn(&self.root).is_ok_and(|_turn| {
                // A run may have claimed it just now.
                let free = over() && !claims::is_claimed(&self.root, &fp, "");
                let trash = fs::create_dir_all(self.root.join("trash"));
                free && trash.and_then(|()| fs::rename(&work.dir, &place)).is_ok()
            });
            if moved {
                // What cannot be removed is only in the way.
                let _ = tree::remove(&place);
            }
        }
    }

    /// Removes results and unfinished work that are not kept. Needs the lock alone. Tells what cannot be
    /// removed, such as what a container has written as another user, and goes on with the rest.
    pub fn collect(&mut self, kept: &HashSet<Fingerprint>) -> Vec<String> {
        let gone: Vec<Fingerprint> = (self.index.results.keys())
            .filter(|fp| !kept.contains(fp))
            .copied()
            .collect();
        let mut left = Vec::new();
        let mut note = |path: &Path, removed: io::Result<()>| {
            if let Err(e) = removed {
                left.push(format!("cannot remove {}: {e}", path.display()));
            }
        };
        for fp in gone {
            note(&self.result(&fp), self.discard(&fp));
        }
        for fp in self.working() {
            if !kept.contains(&fp) {
                let dir = Work::of(&self.root, &fp).dir;
                note(&dir, tree::remove(&dir));
            }
        }
        left
    }
}
