//! Locks of a store. The kernel holds them, so a killed process leaves none.
//!
//! `lock` is shared by all runs and taken alone by whoever removes or rewrites; `turn` is held for a moment
//! by whoever appends to the index or claims work; `readers` by those who read results for long.

use std::collections::hash_map::RandomState;
use std::fs::{File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::base::read;

/// Held until dropped.
#[derive(Debug)]
pub struct Lock(File);

/// Who holds the lock; for people only.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Holder {
    pub pid: u32,
    pub host: String,
    pub since: String,
    pub command: String,
}

impl Holder {
    fn me() -> Self {
        Self {
            pid: std::process::id(),
            host: crate::base::provenance::host(),
            since: crate::base::human::now(),
            command: std::env::args_os()
                .map(|a| a.to_string_lossy().into_owned())
                .collect::<Vec<_>>()
                .join(" "),
        }
    }

    /// True if this process was started by it, by way of however many others: to wait for it would
    /// be to wait for ever.
    pub(super) fn waits_for_us(&self) -> bool {
        let above = |pid: &u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The name, in brackets, may contain anything.
            let (_, rest) = stat.rsplit_once(')')?;
            rest.split_whitespace().nth(1)?.parse().ok()
        };
        let mut line = std::iter::successors(Some(std::process::id()), above);
        self.host == crate::base::provenance::host() && line.any(|pid| pid == self.pid)
    }

    /// The process that holds the lock alone, if there is one.
    pub fn of(path: &Path) -> Option<Self> {
        let mut file = read::open_own(OpenOptions::new().read(true), path).ok()?;
        match file.try_lock_shared() {
            Ok(()) => None,
            Err(_) => holder(&mut file),
        }
    }

    /// What the run of this name says of itself. On a full disk it could write nothing.
    pub(super) fn load(path: &Path, id: &str) -> Self {
        let file = read::open_own(OpenOptions::new().read(true), path);
        let told = file.ok().and_then(|mut file| holder(&mut file));
        told.unwrap_or_else(|| Self {
            pid: id
                .split('-')
                .nth(1)
                .and_then(|pid| pid.parse().ok())
                .unwrap_or(u32::MAX),
            host: crate::base::provenance::host(),
            since: "?".into(),
            command: "repro".into(),
        })
    }
}

impl Lock {
    /// The same lock for another process: it is free when both have ended.
    pub fn held(&self) -> io::Result<OwnedFd> {
        self.0.try_clone().map(OwnedFd::from)
    }

    /// The lock of a run's own file, which tells who it is.
    pub(super) fn of_run(path: &Path) -> io::Result<Self> {
        let mut file = open(path)?;
        file.lock()?;
        sign(&mut file);
        Ok(Self(file))
    }

    /// Held by whoever reads results for long, beside others who do: they are not removed
    /// meanwhile. None where there is nothing to lock, or no right to.
    pub fn share(path: &Path) -> Option<Self> {
        let file = open(path).ok()?;
        file.lock_shared().ok()?;
        Some(Self(file))
    }

    /// Takes the lock alone if nobody holds it.
    pub fn try_take(path: &Path) -> Option<Self> {
        let mut file = read::open_own(OpenOptions::new().read(true).write(true), path).ok()?;
        file.try_lock().ok()?;
        sign(&mut file);
        Some(Self(file))
    }

    /// Held while a few lines are written in the store at `root`: nobody holds it for long.
    pub fn turn(root: &Path) -> io::Result<Turn> {
        let here = between_turns();
        let file = open(&root.join("turn"))?;
        file.lock()?;
        Ok(Turn(file, here))
    }

    /// Whether all others have gone who shared the lock; it is held alone then. Otherwise it may be lost.
    pub fn is_last(&self) -> bool {
        self.0.try_lock().is_ok()
    }

    /// Takes the lock, alone or beside others; first it tells `waiting` who holds it, if it has to wait.
    pub fn take(path: &Path, alone: bool, waiting: impl FnOnce(Option<Holder>)) -> Result<Self> {
        let mut file = open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let attempt = match alone {
            true => file.try_lock(),
            false => file.try_lock_shared(),
        };
        match attempt {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                waiting(holder(&mut file));
                let waited = match alone {
                    true => file.lock(),
                    false => file.lock_shared(),
                };
                waited.with_context(|| format!("cannot lock {}", path.display()))?;
            }
            Err(TryLockError::Error(e)) => {
                return Err(e).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        if alone {
            sign(&mut file);
        }
        Ok(Self(file))
    }
}

/// A turn in a store, see [`Lock::turn`].
#[derive(Debug)]
pub struct Turn(
    #[expect(dead_code, reason = "held")] File,
    #[expect(dead_code, reason = "held")] MutexGuard<'static, ()>,
);

/// While this is held, this process has no turn: it may stop for a while, and no other waits for it.
pub fn between_turns() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes who holds the lock. It is a courtesy: on a full disk the lock holds without it.
fn sign(file: &mut File) {
    let text = serde_json::to_string(&Holder::me()).unwrap_or_default();
    let _ = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(text.as_bytes()));
}

/// A name that no other process has or will have.
pub fn new_id() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let random = RandomState::new().build_hasher().finish() as u32;
    let millis = since.unwrap_or_default().as_millis();
    format!("{millis}-{}-{random:08x}", std::process::id())
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).read(true).write(true);
    read::open_own(&mut options, path)
}

/// More than any holder says of itself.
const LONG: u64 = 64 << 10;

fn holder(file: &mut File) -> Option<Holder> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(LONG).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}
