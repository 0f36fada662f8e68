//! Work in progress, and how it becomes a result: written, synced, renamed; whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::facts::{Entry, Made};
use super::seal::{Followed, seal};
use super::{durable, tree};
use crate::base::digest::{Digest, Fingerprint};
use crate::base::human;
use crate::base::read;
use crate::store::record::Record;

/// `work/FINGERPRINT/`.
#[derive(Debug, Clone)]
pub struct Work {
    pub dir: PathBuf,
}

impl Work {
    pub fn of(root: &Path, fp: &Fingerprint) -> Self {
        let dir = root.join("work").join(fp.to_string());
        Self { dir }
    }

    /// Makes ready for a run: what an earlier, interrupted one had put out is removed, its
    /// checkpoint is kept.
    pub fn prepare(root: &Path, fp: &Fingerprint) -> io::Result<Self> {
        let work = Self::of(root, fp);
        if let Err(e) = fs::create_dir(&work.dir) {
            if e.kind() != io::ErrorKind::AlreadyExists {
                return Err(e);
            }
            if !fs::symlink_metadata(&work.dir)?.is_dir() {
                let message = format!("{} is not a folder", work.dir.display());
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
            tree::remove(&work.result())?;
            remove_links(&work.dir)?;
        }
        fs::create_dir(work.result())?;
        Ok(work)
    }

    pub fn result(&self) -> PathBuf {
        self.dir.join("result")
    }

    pub fn checkpoint(&self) -> PathBuf {
        self.dir.join("checkpoint")
    }

    /// Whether an earlier run of the same work has left a checkpoint. A file that was being
    /// written when its writer was killed, and so never got its name, is none.
    pub fn has_checkpoint(&self) -> bool {
        let named = |file: fs::DirEntry| !file.file_name().as_encoded_bytes().starts_with(b".tmp");
        fs::read_dir(self.checkpoint()).is_ok_and(|files| files.flatten().any(named))
    }

    pub fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    pub fn open_log(&self) -> io::Result<File> {
        read::open_own(OpenOptions::new().create(true).append(true), &self.log())
    }

    /// Makes the outputs fit to be kept and digests them, and tells of what had to be copied for
    /// that. Fails if one was not written.
    pub fn collect(&self, outputs: &[(String, String)]) -> Result<(Vec<Made>, Vec<String>)> {
        let mut made = Vec::with_capacity(outputs.len());
        let mut told = Vec::new();
        for (port, file) in outputs {
            let path = self.result().join(file);
            if fs::symlink_metadata(&path).is_err() {
                bail!("it ended without writing its output `{port}` ({file})");
            }
            let sealed = seal(&path).with_context(|| format!("its output `{port}`"))?;
            if sealed.followed != Followed::default() {
                let count = human::count(sealed.followed.files, "file");
                let bytes = human::bytes(sealed.followed.bytes);
                told.push(format!(
                    "output `{port}`: copied {count} ({bytes}) that links in it pointed to"
                ));
            }
            made.push(Made {
                port: port.clone(),
                file: file.clone(),
                digest: sealed.digest,
                stamp: Some(sealed.stamp),
            });
        }
        Ok((made, told))
    }

    /// Digest of `state/`, if the run left one there.
    pub fn state(&self) -> Result<Option<Digest>> {
        let path = self.result().join("state");
        if fs::read_dir(&path).is_ok_and(|mut files| files.next().is_some()) {
            return Ok(Some(seal(&path)?.digest));
        }
        let _ = fs::remove_dir(path);
        Ok(None)
    }

    /// Makes this work the result with the record's fingerprint. With `durable`, it is on the
    /// disk before it gets its name; otherwise whoever commits sees to it later ([`Syncer`]), and
    /// until then the index does not vouch for it after a power loss.
    ///
    /// [`Syncer`]: super::Syncer
    pub fn commit(
        &self,
        root: &Path,
        manifest: &str,
        record: &Record,
        durable: bool,
    ) -> Result<Entry> {
        let result = self.result();
        write(&result.join("manifest.txt"), manifest.as_bytes())?;
        write(
            &result.join("record.json"),
            &serde_json::to_vec_pretty(record)?,
        )?;
        match fs::rename(self.log(), result.join("log")) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(e).context("cannot keep the log");
            }
            _ => {}
        }
        if durable {
            durable::sync(&[&result])?;
        }
        let results = root.join("results");
        let place = results.join(record.result.fp.to_string());
        replace(&result, &place).with_context(|| format!("cannot commit {}", place.display()))?;
        if durable {
            durable::sync_folder(&results)?;
        }
        // The result is committed; what is left here is only in the way. (Killed before it is
        // gone, the next run sees to it: `Store::sweep`.)
        let _ = tree::remove(&self.dir);
        Ok(record.result.clone())
    }
}

/// What we write into a folder of work must stay in it. We make no links there; one that came with a
/// copy would lead out.
fn remove_links(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if !kind.is_file() && !kind.is_dir() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Renames `new` to `place`. What was there takes the name of `new`.
fn replace(new: &Path, place: &Path) -> io::Result<()> {
    match renameat_with(CWD, new, CWD, place, RenameFlags::NOREPLACE) {
        Ok(()) => return Ok(()),
        Err(rustix::io::Errno::EXIST) => {}
        // A file system without these flags: nothing there is the usual case.
        Err(_) if !place.exists() => return fs::rename(new, place),
        Err(_) => {}
    }
    if renameat_with(CWD, new, CWD, place, RenameFlags::EXCHANGE).is_ok() {
        return Ok(());
    }
    let aside = new.with_extension("old");
    fs::rename(place, &aside)?;
    fs::rename(new, place)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let attempt = || {
        let mut file = match File::create_new(path) {
            // Whatever the program has put there: a link would be written through.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                tree::remove(path)?;
                File::create_new(path)?
            }
            file => file?,
        };
        file.write_all(bytes)
    };
    attempt().with_context(|| format!("cannot write {}", path.display()))
}
