//! `artifacts/`: results by fingerprint, work in progress, and what is known of both.
//!
//! ```text
//! artifacts/
//!   index                  facts, one a line (index.rs)
//!   lock                   shared by all runs; held alone by who removes or rewrites
//!   turn                   held for a moment by who appends to the index or claims work
//!   running/ID             a file a run, whose lock it holds while it lives
//!   claims/FINGERPRINT     which run works on this now (claims.rs)
//!   readers                held by those who read results for long; `gc` waits for them
//!   key                    for digests of secrets (secret.rs); never leaves the store
//!   runs                   which runs there were, a line when each begins and ends (runs.rs)
//!   fresh                  what was looked at when all was last found fresh (memo.rs)
//!   results/FINGERPRINT/   manifest.txt record.json reads.json log, the outputs, state/ — never edited
//!   work/FINGERPRINT/      job.json log checkpoint/ reached.json spent.json seen result/ — result/ is
//!                          renamed to results/
//!   pins/NAME              results that `gc` keeps under a name (pins.rs)
//!   downloads/             shared by all stages
//!   trash/                 on its way out
//! ```

pub mod archive;
mod claims;
mod commit;
mod digests;
mod durable;
mod facts;
mod gc;
mod index;
mod lock;
pub mod observed;
pub mod pins;
pub mod places;
mod reached;
mod reads;
pub mod record;
pub mod runs;
mod seal;
mod spent;
pub mod stat;
pub mod tree;
mod writers;

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, FileType};
use tempfile::{Builder, NamedTempFile};

pub use claims::{Claimed, Running, Session, Taken, running};
pub use commit::Work;
pub use durable::Syncer;
use facts::Home;
pub use facts::{Entry, Made, is_plain_name};
pub use gc::{Usage, size_of};
pub use index::{Index, boot_id};
pub use lock::{Holder, Lock, between_turns};
pub use reached::Reached;
pub use reads::ReadBefore;
pub use seal::{climbs_first, copy_content, own_umask, stays_inside, umask, was_linked};
pub use spent::Spent;
use stat::Stamp;
use tree::What;

use crate::base::diag::Diagnostic;
use crate::base::digest::{Digest, Fingerprint};
use crate::base::plain;
use crate::base::read;
use crate::base::secret::Key;
use crate::pipeline::manifest::Manifest;
use crate::store::observed::Read;
use crate::store::record::Record;

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
    /// The same, and those whose record does not load.
    passed_over: HashSet<Fingerprint>,
    /// Results of another store, and where they are.
    borrowed: HashMap<Fingerprint, PathBuf>,
    /// Long lists of reads that were loaded.
    lists: HashMap<Fingerprint, Arc<Vec<Read>>>,
}

/// What a store is made of, besides its files.
const FOLDERS: [&str; 5] = [
    "results",
    "work",
    "downloads",
    claims::RUNNING,
    claims::CLAIMS,
];

/// Where results come from that this store has not seen being made.
const COPIED: &str = "a store that was copied here, or that has lost its index";

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

/// What tells git and backups that all here can be made again.
const NOTES: [(&str, &str); 2] = [
    (".gitignore", "*\n"),
    (
        "CACHEDIR.TAG",
        "Signature: 8a477f597d28d172789f06886806bc55\n# Results of repro, which can be made again.\n",
    ),
];

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
            passed_over: HashSet::new(),
            borrowed: HashMap::new(),
            lists: HashMap::new(),
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
        if !ours || !store.index.clean() || !unchanged {
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

    /// Makes the folders and takes the lock alone, so that no run is there; reads what is known.
    pub fn lock(root: &Path, waiting: impl FnOnce(Option<Holder>)) -> Result<(Self, Lock)> {
        let (lock, new) = Self::enter(root, true, waiting)?;
        Ok((Self::enter_new(root, new, None)?, lock))
    }

    /// The same for a run: beside others, or `alone` if it is to rewrite results.
    pub fn join(
        root: &Path,
        alone: bool,
        waiting: impl FnOnce(Option<Holder>),
    ) -> Result<(Self, Session)> {
        let (lock, new) = Self::enter(root, alone, waiting)?;
        let id = lock::new_id();
        let session = Session::begin(root, id.clone(), lock)
            .with_context(|| format!("cannot write in {}", root.display()))?;
        Ok((Self::enter_new(root, new, Some(&id))?, session))
    }

    fn enter(
        root: &Path,
        alone: bool,
        waiting: impl FnOnce(Option<Holder>),
    ) -> Result<(Lock, bool)> {
        check_place(root)?;
        let new = !root.join("results").exists();
        make_folder(root).with_context(|| format!("cannot make {}", root.display()))?;
        seal::allow_as(root);
        for folder in FOLDERS {
            let path = root.join(folder);
            make_folder(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        let runs = running(root);
        if let Some(run) = runs.iter().find(|run| run.holder.waits_for_us()) {
            let message = format!(
                "{} is held by `{}` (process {}), which waits for the stage that this was started by",
                root.join("lock").display(),
                run.holder.command,
                run.holder.pid
            );
            return Err(Diagnostic::new(message)
                .hint("--store DIR names a store of its own; or make it a stage of the pipeline")
                .into());
        }
        let oldest = runs.into_iter().next().map(|run| run.holder);
        let lock = Lock::take(&root.join("lock"), alone, |holder| {
            // Runs that share the lock do not sign it.
            waiting(oldest.filter(|_| alone).or(holder));
        })?;
        Ok((lock, new))
    }

    /// Under the lock.
    fn enter_new(root: &Path, new: bool, run: Option<&str>) -> Result<Self> {
        clear(&root.join("trash"));
        if new {
            // Whoever takes them away wants it so: they are not written again.
            for (name, text) in NOTES {
                let _ = fs::write(root.join(name), text);
            }
        }
        // Without one, on a full disk, secrets count under a key that everybody knows, until there is one.
        if let Ok(_turn) = Lock::turn(root) {
            let _ = Key::make(root);
        }
        let mut store = Self::open(root)?;
        if let Some(run) = run {
            store.index.write_as(run);
        }
        store.sweep();
        if store.index.results.is_empty() {
            // From now on what is found here was made here. A disk that will not take the note now
            // will be told of by whoever writes results.
            let _ = store.index.flush();
        }
        Ok(store)
    }

    /// Results are not removed while this is held.
    pub fn reading(&self) -> Option<Lock> {
        Lock::share(&self.root.join("readers"))
    }

    /// Finds results that were committed just before a crash, so that the index lacks them.
    /// Ten thousand names take some milliseconds.
    pub fn adopt(&mut self) {
        for (fp, folder) in self.untold_of() {
            // A link is never ours, and a record that does not load was torn: its stage runs again.
            let real = fs::symlink_metadata(&folder).is_ok_and(|meta| meta.is_dir());
            match checked(&folder, &fp).filter(|_| real) {
                Some(Ok(entry)) => {
                    self.index.add_result(entry);
                    self.index.distrust(&fp);
                    self.index.unsynced = true;
                }
                bad => {
                    let new = self.passed_over.insert(fp);
                    if let (Some(Err(why)), true) = (bad, new) {
                        self.refused.push((fp, why));
                    }
                }
            }
        }
    }

    /// Folders in `results/` that the index does not tell of.
    fn untold_of(&self) -> Vec<(Fingerprint, PathBuf)> {
        let folders = fs::read_dir(self.root.join("results"));
        let folders = folders.into_iter().flatten().flatten();
        let named = folders.filter_map(|folder| {
            let fp = folder.file_name().to_str()?.parse().ok()?;
            (!self.index.results.contains_key(&fp)).then(|| (fp, folder.path()))
        });
        named.collect()
    }

    /// The same, but for those that were looked at in vain.
    fn untold(&self) -> Vec<Fingerprint> {
        let untold = self.untold_of().into_iter().map(|(fp, _)| fp);
        untold.filter(|fp| !self.passed_over.contains(fp)).collect()
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

    /// What a result's run was found to depend on; nothing if the list is damaged.
    pub fn reads(&mut self, fp: &Fingerprint) -> Option<Arc<Vec<Read>>> {
        let entry = self.index.results.get(fp)?;
        let Some(digest) = entry.more else {
            return Some(Arc::new(entry.reads.clone()));
        };
        if let Some(known) = self.lists.get(fp) {
            return Some(Arc::clone(known));
        }
        let list = Arc::new(read_list(&self.result(fp), digest)?);
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
        if path.is_symlink() || self.result(fp).is_symlink() {
            // Nobody commits a link in the place of an output.
            return Health::Changed;
        }
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
        if nodes.iter().any(leaves) {
            return Err(io::Error::other("a link in it leads out of it"));
        }
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
        let dir = self.results.as_ref().filter(|_| self.borrowed.is_empty())?;
        let path = format!("{fp}/{file}");
        let stat = rustix::fs::statat(dir, path, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        regular.then(|| Stamp::of_stat(&stat))
    }

    /// Moves a result out of the way and forgets it.
    pub fn discard(&mut self, fp: &Fingerprint) -> io::Result<()> {
        let trash = self.root.join("trash");
        fs::create_dir_all(&trash)?;
        let place = trash.join(format!("{fp}.{}", lock::new_id()));
        match fs::rename(self.result(fp), &place) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => self.index.add_gone(*fp),
        }
        tree::remove(&place)
    }
}

/// Removes what is in a folder. The folder stays: another may be about to put something there.
fn clear(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        // What cannot be removed is tried again next time.
        let _ = tree::remove(&entry.path());
    }
}

/// A link that we would not have kept: it came with a copy, or was put there.
fn leaves(node: &tree::Node) -> bool {
    let depth = node.name.components().count().saturating_sub(1);
    matches!(&node.what, What::Link(to, _) if !stays_inside(depth, Path::new(to)))
}

/// The list of reads beside a result, if it is the one with this digest and can be believed.
pub fn read_list(folder: &Path, digest: Digest) -> Option<Vec<Read>> {
    let text = read::own_bytes(&folder.join(READS), read::TOLD).ok()?;
    if Digest::of(&text) != digest {
        return None;
    }
    let list: Vec<Read> = serde_json::from_slice(&text).ok()?;
    list.iter()
        .all(|read| facts::read_problem(read).is_none())
        .then_some(list)
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
    let known = [
        "index",
        "lock",
        "turn",
        "readers",
        "runs",
        "fresh",
        "trash",
        "key",
        "python",
        pins::PINS,
    ];
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
