//! `artifacts/`: results by fingerprint, work in progress, and what is known of both.
//!
//! ```text
//! artifacts/
//!   index                  facts, one a line (index.rs)
//!   lock                   held by the run that writes
//!   readers                held by those who read results for long; `gc` waits for them
//!   fresh                  what was looked at when all was last found fresh (memo.rs)
//!   results/FINGERPRINT/   manifest.txt record.json log, the outputs, state/ — never edited
//!   work/FINGERPRINT/      job.json log checkpoint/ reached.json spent.json result/ — result/ is
//!                          renamed to results/
//!   downloads/             shared by all stages
//!   trash/                 on its way out
//! ```

mod commit;
mod durable;
mod facts;
mod gc;
mod index;
mod lock;
mod reached;
mod spent;
pub mod stat;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};
use rayon::prelude::*;
use rustix::fs::{AtFlags, FileType};

pub use commit::Work;
pub use durable::Syncer;
pub use facts::{Entry, Made};
pub use gc::{Usage, size_of};
pub use index::Index;
pub use lock::{Holder, Lock};
pub use reached::Reached;
pub use spent::Spent;
use stat::{Stamp, Tree};

use crate::digest::{Digest, Fingerprint};
use crate::manifest::Manifest;
use crate::record::Record;

#[derive(Debug)]
pub struct Store {
    pub root: PathBuf,
    pub index: Index,
    /// `results/`, open.
    results: Option<File>,
}

/// How an output is found.
#[derive(Debug, Clone, PartialEq)]
pub enum Health {
    Good,
    Missing,
    /// Its content is not what was committed.
    Changed,
    Unreadable(String),
}

impl Store {
    /// Reads what is known; writes nothing.
    pub fn open(root: &Path) -> Result<Self> {
        let path = root.join("index");
        let index =
            Index::load(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut store = Self {
            root: root.into(),
            index,
            results: File::open(root.join("results")).ok(),
        };
        let folder = store.results.as_ref().and_then(|f| f.metadata().ok());
        let folder = folder.as_ref().map(Stamp::of);
        // A run that died, or a machine that went down, may have left results and no word of them.
        if !store.index.clean || store.index.folder.is_none() || store.index.folder != folder {
            store.adopt();
        }
        Ok(store)
    }

    /// Makes the folders, takes the lock, and reads what is known.
    pub fn lock(root: &Path, waiting: impl FnOnce(Option<Holder>)) -> Result<(Self, Lock)> {
        for folder in ["results", "work", "downloads"] {
            let path = root.join(folder);
            make_folder(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        let lock = Lock::take(&root.join("lock"), waiting)?;
        let _ = fs::remove_dir_all(root.join("trash"));
        let store = Self::open(root)?;
        store.sweep();
        Ok((store, lock))
    }

    /// Results are not removed while this is held.
    pub fn reading(&self) -> Option<Lock> {
        Lock::share(&self.root.join("readers"))
    }

    /// Finds results that were committed just before a crash, so that the index lacks them.
    /// Ten thousand names take some milliseconds.
    fn adopt(&mut self) {
        let Ok(folders) = fs::read_dir(self.root.join("results")) else {
            return;
        };
        for folder in folders.flatten() {
            let name = folder.file_name();
            let Some(fp) = name.to_str().and_then(|n| n.parse::<Fingerprint>().ok()) else {
                continue;
            };
            if self.index.results.contains_key(&fp) {
                continue;
            }
            // A record that does not load was torn; its stage runs again.
            if let Ok(record) = Record::load(&folder.path().join("record.json"))
                && record.result.fp == fp
            {
                self.index.add_result(record.result);
                self.index.distrust(&fp);
                self.index.unsynced.earlier = true;
            }
        }
    }

    pub fn result(&self, fp: &Fingerprint) -> PathBuf {
        self.root.join("results").join(fp.to_string())
    }

    pub fn output(&self, fp: &Fingerprint, made: &Made) -> PathBuf {
        self.result(fp).join(&made.file)
    }

    pub fn manifest(&self, fp: &Fingerprint) -> Option<Manifest> {
        let text = fs::read_to_string(self.result(fp).join("manifest.txt")).ok()?;
        Some(Manifest::parse(&text))
    }

    pub fn record(&self, fp: &Fingerprint) -> Result<Record> {
        Record::load(&self.result(fp).join("record.json"))
    }

    /// Whether an output is there with the content that was committed. Reads it only if its
    /// stamp says that it may have changed, or if `read` demands it.
    pub fn health(&mut self, fp: &Fingerprint, number: usize, read: bool) -> Health {
        let Some(made) = self.index.results.get(fp).and_then(|e| e.out.get(number)) else {
            return Health::Missing;
        };
        if !read && made.stamp.is_some() && self.stamp_below(fp, &made.file) == made.stamp {
            return Health::Good;
        }
        let (made, path) = (made.clone(), self.output(fp, made));
        let meta = match fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Health::Missing,
            Err(e) => return Health::Unreadable(e.to_string()),
        };
        let stamp = Stamp::of(&meta);
        match self.digest_of(&path, read) {
            Ok(digest) if digest == made.digest => {
                if let Some(entry) = self.index.results.get_mut(fp) {
                    entry.out[number].stamp = meta.is_file().then_some(stamp);
                    let entry = entry.clone();
                    self.index.add_result(entry);
                }
                Health::Good
            }
            Ok(_) => Health::Changed,
            Err(e) => Health::Unreadable(e.to_string()),
        }
    }

    /// What the file system says of a regular file in a result.
    fn stamp_below(&self, fp: &Fingerprint, file: &str) -> Option<Stamp> {
        let dir = self.results.as_ref()?;
        let path = format!("{fp}/{file}");
        let stat = rustix::fs::statat(dir, path, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        regular.then(|| Stamp::of_stat(&stat))
    }

    /// Digest of a file or directory; unchanged files are not read again unless `read` says so.
    pub fn digest_of(&mut self, path: &Path, read: bool) -> io::Result<Digest> {
        let meta = fs::metadata(path)?;
        if meta.is_file() {
            return self.digest_of_file(path, read);
        }
        let names = stat::walk(path)?;
        let inside: Vec<PathBuf> = names.iter().map(|name| path.join(name)).collect();
        let (links, files): (Vec<_>, Vec<_>) = inside.iter().partition(|p| p.is_symlink());
        let files: Vec<PathBuf> = files.into_iter().cloned().collect();
        let mut digests = HashMap::with_capacity(inside.len());
        for link in links {
            let target = fs::read_link(link)?;
            let digest = Digest::of(target.as_os_str().as_encoded_bytes());
            digests.insert(link, digest);
        }
        for (file, digest) in files.iter().zip(self.digests_of(&files, read)) {
            digests.insert(file, digest?);
        }
        let mut tree = Tree::default();
        for (name, path) in names.iter().zip(&inside) {
            tree.add(name, &digests[path]);
        }
        Ok(tree.digest())
    }

    /// Digest of the names and contents of many files of one folder. The index keeps one line for all of them: data sets
    /// have hundreds of thousands.
    pub fn digest_of_all(&mut self, files: &[PathBuf]) -> io::Result<Digest> {
        let stamps = || -> io::Result<Vec<Stamp>> {
            let stamp = |path: &PathBuf| Ok(Stamp::of(&fs::metadata(path)?));
            files.par_iter().map(stamp).collect()
        };
        let before = stamps()?;
        let all = Stamp::of_all(&before);
        // No file has this name, so that the line stands for no other, and nothing is synced for it.
        let folder = files
            .first()
            .and_then(|file| file.parent())
            .unwrap_or(Path::new(""));
        let key = format!("{}/# {} files", folder.display(), files.len());
        if let Some((known, digest)) = self.index.files.get(&key)
            && *known == all
        {
            return Ok(*digest);
        }
        let started = SystemTime::now();
        let digests: io::Result<Vec<Digest>> = (files.par_iter().zip(&before))
            .map(|(path, stamp)| stat::hash_file(path, stamp.size()))
            .collect();
        let mut tree = Tree::default();
        for (path, digest) in files.iter().zip(digests?) {
            tree.add(
                &path.file_name().unwrap_or_default().to_string_lossy(),
                &digest,
            );
        }
        let digest = tree.digest();
        if stamps()? == before && before.iter().all(|stamp| stamp.settled(started)) {
            self.index.add_file(&key, all, digest);
        }
        Ok(digest)
    }

    /// Digests of many files, read side by side.
    pub fn digests_of(&mut self, paths: &[PathBuf], read: bool) -> Vec<io::Result<Digest>> {
        let index = &self.index;
        let seen: Vec<_> = (paths.par_iter())
            .map(|path| look_at(index, path, read))
            .collect();
        let noted = paths
            .iter()
            .zip(seen)
            .map(|(path, seen)| -> io::Result<Digest> {
                let (digest, stamp) = seen?;
                if let Some(stamp) = stamp {
                    self.index.add_file(&path.to_string_lossy(), stamp, digest);
                }
                Ok(digest)
            });
        noted.collect()
    }

    fn digest_of_file(&mut self, path: &Path, read: bool) -> io::Result<Digest> {
        let (digest, stamp) = look_at(&self.index, path, read)?;
        if let Some(stamp) = stamp {
            self.index.add_file(&path.to_string_lossy(), stamp, digest);
        }
        Ok(digest)
    }

    /// Moves a result out of the way and forgets it.
    pub fn discard(&mut self, fp: &Fingerprint) -> io::Result<()> {
        self.index.add_gone(*fp);
        let trash = self.root.join("trash");
        fs::create_dir_all(&trash)?;
        let place = trash.join(format!("{fp}.{}", std::process::id()));
        match fs::rename(self.result(fp), &place) {
            Ok(()) => fs::remove_dir_all(place),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }
}

/// A folder whose name is on the disk, with those above it.
fn make_folder(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
        Err(e)
            if e.kind() == io::ErrorKind::NotFound
                && let Some(above) = path.parent() =>
        {
            make_folder(above)?;
            fs::create_dir(path)?;
        }
        made => made?,
    }
    path.parent().map_or(Ok(()), durable::sync_folder)
}

/// Digest of a file, known or read; with its stamp if it was read and may be trusted next time.
fn look_at(index: &Index, path: &Path, read: bool) -> io::Result<(Digest, Option<Stamp>)> {
    let stamp = Stamp::of(&fs::metadata(path)?);
    if !read
        && let Some((known, digest)) = index.files.get(path.to_string_lossy().as_ref())
        && *known == stamp
    {
        return Ok((*digest, None));
    }
    let started = SystemTime::now();
    let digest = stat::hash_file(path, stamp.size())?;
    let after = Stamp::of(&fs::metadata(path)?);
    let trusted = after == stamp && stamp.settled(started);
    Ok((digest, trusted.then_some(stamp)))
}
