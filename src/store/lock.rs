//! One writer a store. The kernel holds the lock, so a killed process leaves none.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::base::diag::Diagnostic;
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
    fn waits_for_us(&self) -> bool {
        let above = |pid: &u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The name, in brackets, may contain anything.
            let (_, rest) = stat.rsplit_once(')')?;
            rest.split_whitespace().nth(1)?.parse().ok()
        };
        let mut line = std::iter::successors(Some(std::process::id()), above);
        self.host == crate::base::provenance::host() && line.any(|pid| pid == self.pid)
    }

    /// The process that holds the lock now, if there is one.
    pub fn of(path: &Path) -> Option<Self> {
        let mut file = read::open_own(OpenOptions::new().read(true), path).ok()?;
        match file.try_lock_shared() {
            Ok(()) => None,
            Err(_) => holder(&mut file),
        }
    }
}

impl Lock {
    /// The same lock for another process: it is free when both have ended.
    pub fn held(&self) -> Option<OwnedFd> {
        self.0.try_clone().ok().map(OwnedFd::from)
    }

    /// Held by whoever reads results for long, beside others who do: they are not removed
    /// meanwhile. None where there is nothing to lock, or no right to.
    pub fn share(path: &Path) -> Option<Self> {
        let file = open(path).ok()?;
        file.lock_shared().ok()?;
        Some(Self(file))
    }

    /// Takes the lock if nobody holds it.
    pub fn try_take(path: &Path) -> Option<Self> {
        let file = read::open_own(OpenOptions::new().read(true).write(true), path).ok()?;
        file.try_lock().ok()?;
        Some(Self(file))
    }

    /// Takes the lock, first telling `waiting` who holds it if somebody does.
    pub fn take(path: &Path, waiting: impl FnOnce(Option<Holder>)) -> Result<Self> {
        let mut file = open(path).with_context(|| format!("cannot open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = holder(&mut file);
                if let Some(holder) = holder.as_ref().filter(|h| h.waits_for_us()) {
                    let message = format!(
                        "{} is held by `{}` (process {}), which waits for the stage that this was started by",
                        path.display(),
                        holder.command,
                        holder.pid
                    );
                    return Err(Diagnostic::new(message)
                        .hint("--store DIR names a store of its own; or make it a stage of the pipeline")
                        .into());
                }
                waiting(holder);
                file.lock()
                    .with_context(|| format!("cannot lock {}", path.display()))?;
            }
            Err(TryLockError::Error(e)) => {
                return Err(e).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        let text = serde_json::to_string(&Holder::me())?;
        // The name is a courtesy: on a full disk the lock holds without it.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(text.as_bytes()));
        Ok(Self(file))
    }
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
