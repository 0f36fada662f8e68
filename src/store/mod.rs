//! `artifacts/`: results by fingerprint, work in progress, and what is known of both.
//!
//! ```text
//! artifacts/
//!   index                  facts, one a line (index.rs)
//!   lock                   held by the run that writes
//!   readers                held by those who read results for long; `gc` waits for them
//!   fresh                  what was looked at when all was last found fresh (memo.rs)
//!   results/FINGERPRINT/   manifest.txt record.json reads.json log, the outputs, state/ — never edited
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
mod reads;
mod seal;
mod spent;
pub mod stat;
pub mod tree;
mod writers;

use std::collections::HashMap;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result};
use rayon::prelude::*;
use rustix::fs::{AtFlags, FileType};
use tempfile::{Builder, NamedTempFile};

pub use commit::Work;
pub use durable::Syncer;
pub use facts::{Entry, Made};
pub use gc::{Usage, size_of};
pub use index::Index;
pub use lock::{Holder, Lock};
pub use reached::Reached;
pub use reads::ReadBefore;
pub use seal::{copy_content, stays_inside, umask, was_linked};
pub use spent::Spent;
use stat::Stamp;
use tree::What;

use crate::digest::{Digest, Fingerprint};
use crate::files;
use crate::manifest::Manifest;
use crate::reads::Read;
use crate::record::Record;

#[derive(Debug)]
pub struct Store {
    pub root: PathBuf,
    pub index: Index,
    /// `results/`, open.
    results: Option<File>,
    /// Long lists of reads that were loaded.
    lists: HashMap<Fingerprint, Arc<Vec<Read>>>,
}

/// Beside a result, what its run was found to read, where that is too much for the index.
pub const READS: &str = "reads.json";

/// Reads that fit into a line of the index.
pub const FEW_READS: usize = 200;

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
            lists: HashMap::new(),
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
        let _ = tree::remove(&root.join("trash"));
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

    /// What a result's run was found to depend on; nothing if the list is damaged.
    pub fn reads(&mut self, fp: &Fingerprint) -> Option<Arc<Vec<Read>>> {
        let entry = self.index.results.get(fp)?;
        let Some(digest) = entry.more else {
            return Some(Arc::new(entry.reads.clone()));
        };
        if let Some(known) = self.lists.get(fp) {
            return Some(Arc::clone(known));
        }
        let text = fs::read(self.result(fp).join(READS)).ok()?;
        let list: Vec<Read> = (Digest::of(&text) == digest)
            .then(|| serde_json::from_slice(&text).ok())
            .flatten()?;
        let list = Arc::new(list);
        self.lists.insert(*fp, Arc::clone(&list));
        Some(list)
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
        let (digest, stamp) = match self.look_at_output(&path, &made, read) {
            Ok(Some(known)) => known,
            Ok(None) => return Health::Good,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Health::Missing,
            Err(e) => return Health::Unreadable(e.to_string()),
        };
        if digest != made.digest {
            return Health::Changed;
        }
        if stamp != made.stamp
            && let Some(entry) = self.index.results.get_mut(fp)
        {
            entry.out[number].stamp = stamp;
            let entry = entry.clone();
            self.index.add_result(entry);
        }
        Health::Good
    }

    /// Digest of an output, with its stamp where that may stand for it next time; nothing if the
    /// stamp says that it is what it was.
    fn look_at_output(
        &self,
        path: &Path,
        made: &Made,
        read: bool,
    ) -> io::Result<Option<(Digest, Option<Stamp>)>> {
        let started = SystemTime::now();
        let nodes = tree::walk(path)?;
        let stamp = tree::stamp_of(&fs::symlink_metadata(path)?, &nodes);
        if !read && made.stamp == Some(stamp) {
            return Ok(None);
        }
        let digest = tree::read(path, &nodes)?;
        let trusted = tree::settled(&nodes, started) && tree::stamp(path)? == stamp;
        Ok(Some((digest, trusted.then_some(stamp))))
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
        if !fs::metadata(path)?.is_dir() {
            return self.digest_of_file(path, read);
        }
        let nodes = tree::walk(path)?;
        let files: Vec<PathBuf> = (nodes.iter())
            .filter(|node| matches!(node.what, What::File { .. }))
            .map(|node| path.join(&node.name))
            .collect();
        let digests = self.digests_of(&files, read);
        let digests = digests.into_iter().collect::<io::Result<Vec<_>>>()?;
        Ok(tree::digest(&nodes, digests))
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
                    self.index.add_file(&files::text(path), stamp, digest);
                }
                Ok(digest)
            });
        noted.collect()
    }

    fn digest_of_file(&mut self, path: &Path, read: bool) -> io::Result<Digest> {
        let (digest, stamp) = look_at(&self.index, path, read)?;
        if let Some(stamp) = stamp {
            self.index.add_file(&files::text(path), stamp, digest);
        }
        Ok(digest)
    }

    /// Moves a result out of the way and forgets it.
    pub fn discard(&mut self, fp: &Fingerprint) -> io::Result<()> {
        let trash = self.root.join("trash");
        fs::create_dir_all(&trash)?;
        let place = trash.join(format!("{fp}.{}", std::process::id()));
        match fs::rename(self.result(fp), &place) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => self.index.add_gone(*fp),
        }
        tree::remove(&place)
    }
}

/// A file without a name of its own yet, to be written and then put in its place whole. Others may
/// read it as the umask has it.
pub fn new_file(folder: &Path) -> io::Result<NamedTempFile> {
    let all = Permissions::from_mode(0o666);
    Builder::new().permissions(all).tempfile_in(folder)
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
            match fs::create_dir(path) {
                // Another first run was quicker.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
                made => made?,
            }
        }
        made => made?,
    }
    path.parent().map_or(Ok(()), durable::sync_folder)
}

/// Digest of a file, known or read; with its stamp if it was read and may be trusted next time.
fn look_at(index: &Index, path: &Path, read: bool) -> io::Result<(Digest, Option<Stamp>)> {
    let meta = fs::metadata(path)?;
    if let Some(kind) = files::special(meta.file_type()) {
        // Opening a pipe would wait for whoever writes to it.
        return Err(io::Error::other(format!("it is {kind}")));
    }
    let stamp = Stamp::of(&meta);
    if !read
        && let Some((known, digest)) = index.files.get(files::text(path).as_ref())
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
