//! `artifacts/`: results by fingerprint, work in progress, and what is known of both.
//!
//! ```text
//! artifacts/
//!   index                  facts, one a line (index.rs)
//!   lock                   held by the run that writes
//!   readers                held by those who read results for long; `gc` waits for them
//!   key                    for digests of secrets (secret.rs); never leaves the store
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
use facts::Home;
pub use facts::{Entry, Made, is_plain_name};
pub use gc::{Usage, size_of};
pub use index::Index;
pub use lock::{Holder, Lock};
pub use reached::Reached;
pub use spent::Spent;
use stat::{Stamp, Tree};

use crate::diag::Diagnostic;
use crate::digest::{Digest, Fingerprint};
use crate::manifest::Manifest;
use crate::plain;
use crate::read;
use crate::record::Record;
use crate::secret::Key;

#[derive(Debug)]
pub struct Store {
    pub root: PathBuf,
    pub index: Index,
    /// Under which secrets are digested.
    pub key: Key,
    /// `results/`, open.
    results: Option<File>,
    /// Folders in `results/` that are not used, and why.
    pub refused: Vec<(Fingerprint, String)>,
    /// Results of another store, and where they are.
    borrowed: HashMap<Fingerprint, PathBuf>,
}

/// What a store is made of, besides its files.
const FOLDERS: [&str; 3] = ["results", "work", "downloads"];

/// Where results come from that this store has not seen being made.
const COPIED: &str = "a store that was copied here, or that has lost its index";

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
            key: Key::of(root),
            results: File::open(root.join("results")).ok(),
            refused: Vec::new(),
            borrowed: HashMap::new(),
        };
        let folder = store.results.as_ref().and_then(|f| f.metadata().ok());
        let home = folder.as_ref().map(Home::of);
        let folder = folder.as_ref().map(Stamp::of);
        let unchanged = folder.is_some() && store.index.folder == folder;
        // Where the folder is gone there is nothing to be taken for ours.
        let ours = unchanged || home.is_none() || store.index.home == home;
        if !ours {
            // Written elsewhere, by whomever: what results there are tells their records.
            store.index.forget();
        }
        // A run that died, or a machine that went down, may have left results and no word of them.
        if !ours || !store.index.clean || !unchanged {
            store.adopt();
        }
        if !ours {
            store.index.disown(COPIED);
        }
        if let Some(home) = home {
            store.index.settle_in(home);
        }
        Ok(store)
    }

    /// Makes the folders, takes the lock, and reads what is known.
    pub fn lock(root: &Path, waiting: impl FnOnce(Option<Holder>)) -> Result<(Self, Lock)> {
        check_place(root)?;
        for folder in FOLDERS {
            let path = root.join(folder);
            make_folder(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        let lock = Lock::take(&root.join("lock"), waiting)?;
        let _ = fs::remove_dir_all(root.join("trash"));
        // Without one, on a full disk, secrets count under a key that everybody knows, until there is one.
        let _ = Key::make(root);
        let mut store = Self::open(root)?;
        store.sweep();
        if store.index.results.is_empty() {
            // From now on what is found here was made here. A disk that will not take the note now
            // will be told of by whoever writes results.
            let _ = store.index.flush();
        }
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
            // A link is never ours, and a record that does not load was torn: its stage runs again.
            let real = folder.file_type().is_ok_and(|kind| kind.is_dir());
            match checked(&folder.path(), &fp).filter(|_| real) {
                Some(Ok(entry)) => {
                    self.index.add_result(entry);
                    self.index.distrust(&fp);
                    self.index.unsynced.earlier = true;
                }
                Some(Err(why)) => self.refused.push((fp, why)),
                None => {}
            }
        }
    }

    /// Lends a result of another store, to be read here.
    pub fn borrow(&mut self, entry: Entry, place: PathBuf) {
        self.borrowed.insert(entry.fp, place);
        self.index.add_result(entry);
    }

    pub fn result(&self, fp: &Fingerprint) -> PathBuf {
        if let Some(place) = self.borrowed.get(fp) {
            return place.clone();
        }
        self.root.join("results").join(fp.to_string())
    }

    pub fn output(&self, fp: &Fingerprint, made: &Made) -> PathBuf {
        self.result(fp).join(&made.file)
    }

    pub fn manifest(&self, fp: &Fingerprint) -> Option<Manifest> {
        let text = read::own_text(&self.result(fp).join("manifest.txt"), read::TOLD).ok()?;
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
        if meta.is_symlink() || self.result(fp).is_symlink() {
            // Nobody commits a link in the place of an output.
            return Health::Changed;
        }
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
        let dir = self.results.as_ref().filter(|_| self.borrowed.is_empty())?;
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

/// The entry of a result's record, or what is wrong with it; nothing if there is none.
fn checked(folder: &Path, fp: &Fingerprint) -> Option<Result<Entry, String>> {
    let record = Record::load(&folder.join("record.json")).ok()?;
    let mut entry = record.result;
    let manifest = read::own_text(&folder.join("manifest.txt"), read::TOLD);
    let problem = entry.problem().or_else(|| match manifest {
        _ if entry.fp != *fp => Some("its record is another's".into()),
        Ok(manifest) => entry.contradiction(&manifest),
        Err(e) => Some(format!("its manifest cannot be read: {e}")),
    });
    if let Some(problem) = problem {
        return Some(Err(problem));
    }
    let origin = read::own_text(&folder.join(IMPORTED), NOTE).ok();
    entry.origin = origin.map(|text| plain::line(&text).into_owned());
    Some(Ok(entry))
}

/// Beside an imported result's outputs: where it comes from.
pub const IMPORTED: &str = "imported";
/// Bytes of such a note.
const NOTE: u64 = 4 << 10;

/// Fails where a store must not be made: in a folder that holds something else. A repository may bring
/// a link by the name of the store, which leads to a folder of the person's.
fn check_place(root: &Path) -> Result<()> {
    for folder in FOLDERS {
        let path = root.join(folder);
        if fs::symlink_metadata(&path).is_ok_and(|m| m.is_symlink()) {
            let message = format!("{} is a link, which a store never holds", path.display());
            return Err(Diagnostic::new(message)
                .hint("remove it; --store DIR names another place, --data DIR one for data")
                .into());
        }
    }
    if root.join("results").is_dir() {
        return Ok(());
    }
    let known = ["index", "lock", "readers", "fresh", "trash", "key"];
    let ours = |name: &str| known.contains(&name) || FOLDERS.contains(&name);
    let usual = |name: &str| [".gitignore", ".gitkeep", "CACHEDIR.TAG"].contains(&name);
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !ours(&name) && !usual(&name) {
            let message = format!("{} is no store: it holds {name}", root.display());
            return Err(Diagnostic::new(message)
                .hint("--store DIR names another folder, which may be new")
                .into());
        }
    }
    Ok(())
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
fn look_at(index: &Index, path: &Path, again: bool) -> io::Result<(Digest, Option<Stamp>)> {
    let meta = fs::metadata(path)?;
    read::regular(meta.file_type())?;
    let stamp = Stamp::of(&meta);
    if !again
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
