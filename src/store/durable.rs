//! Brings files to the disk, and for results of short stages does so while others are being made.
//!
//! File by file, so that it costs what our own files cost: a `syncfs` waits for whatever others have
//! written to the same file system. Only where many files have gathered is one `syncfs` cheaper.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use super::Store;
use super::claims;
use super::stat::Stamp;

/// Files and folders up to which each is synced by itself: some 20 ms of a solid-state disk.
const FEW: usize = 128;

/// How long results gather before they are synced together.
const GATHER: Duration = Duration::from_millis(500);

/// Every file below the paths, then its folders from the innermost out. What has been removed
/// meanwhile needs no sync.
pub fn sync(paths: &[&Path]) -> io::Result<()> {
    let mut all = Vec::new();
    for path in paths {
        for entry in walkdir::WalkDir::new(path).contents_first(true) {
            match entry {
                // A link of a result is part of its folder; one that was named stands for its file.
                // And a named pipe that somebody has put there would be waited for.
                Ok(entry)
                    if entry.depth() > 0
                        && !entry.file_type().is_file()
                        && !entry.file_type().is_dir() => {}
                Ok(entry) => all.push(entry.into_path()),
                Err(e) => gone(Err(e.into()))?,
            }
        }
        if all.len() > FEW {
            return sync_all(paths);
        }
    }
    all.iter().try_for_each(|path| gone(sync_one(path)))
}

/// All file systems that the paths lie on.
fn sync_all(paths: &[&Path]) -> io::Result<()> {
    let mut seen = HashSet::new();
    for path in paths {
        let Ok(meta) = fs::metadata(path) else {
            continue;
        };
        if seen.insert(meta.dev()) {
            rustix::fs::syncfs(File::open(path)?)?;
        }
    }
    Ok(())
}

/// The names in a folder.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn sync_one(path: &Path) -> io::Result<()> {
    match File::open(path)?.sync_all() {
        // What lies where nothing can be written is as durable as it gets.
        Err(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => Ok(()),
        done => done,
    }
}

fn gone(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

enum Task {
    /// A result or a file.
    Sync(PathBuf),
    /// Tell when all before is on the disk.
    Tell(Sender<io::Result<()>>),
}

/// A thread that syncs what it is given.
#[derive(Debug)]
pub struct Syncer(Sender<Task>);

impl Syncer {
    pub fn start() -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel();
        let thread = std::thread::Builder::new().name("sync".into());
        thread.spawn(move || work(&receiver))?;
        Ok(Self(sender))
    }

    pub fn add(&self, path: PathBuf) {
        // The thread ends only when this is dropped.
        let _ = self.0.send(Task::Sync(path));
    }

    /// Returns when all that was added is on the disk.
    pub fn wait(&self) -> io::Result<()> {
        let (sender, receiver) = mpsc::channel();
        let _ = self.0.send(Task::Tell(sender));
        let lost = |_| Err(io::Error::other("the thread that syncs has ended"));
        receiver.recv().unwrap_or_else(lost)
    }
}

fn work(tasks: &Receiver<Task>) {
    let mut failed = None;
    while let Ok(first) = tasks.recv() {
        // Syncing each as it comes would slow down those that are being made.
        let until = Instant::now() + GATHER;
        let (mut batch, mut tell) = (Vec::new(), Vec::new());
        let mut next = Some(first);
        while let Some(task) = next {
            match task {
                Task::Sync(path) => batch.push(path),
                Task::Tell(sender) => tell.push(sender),
            }
            let left = until.saturating_duration_since(Instant::now());
            next = match tell.is_empty() {
                true => tasks.recv_timeout(left).ok(),
                false => tasks.try_recv().ok(),
            };
        }
        let paths: Vec<&Path> = batch.iter().map(PathBuf::as_path).collect();
        if let Err(e) = sync(&paths) {
            failed = Some(e);
        }
        for sender in tell {
            // Whoever asked may have ended.
            let _ = sender.send(failed.take().map_or(Ok(()), Err));
        }
    }
}

impl Store {
    /// Lets the index vouch for all that it tells of, after that has come to the disk; but not for what
    /// other runs do, who see to it themselves. What was committed must have been synced, or be among
    /// `paths`.
    pub fn settle(&mut self, paths: &[PathBuf]) -> io::Result<()> {
        self.index.flush()?;
        let mut left = self.index.others();
        left.retain(|writer| !claims::is_live(&self.root, writer));
        let mut all: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
        if self.index.unsynced || !left.is_empty() {
            all.push(&self.root);
            sync_all(&all)?;
        } else {
            sync(&all)?;
        }
        let results = self.root.join("results");
        sync_folder(&results)?;
        sync_folder(&self.root)?;
        let folder = Stamp::of(&fs::metadata(&results)?);
        self.index.catch_up()?;
        // What another run has just committed, and may be killed before it tells of it, is looked for next time.
        let told = self.untold().is_empty();
        self.index.synced(told.then_some(folder), &left)
    }
}
