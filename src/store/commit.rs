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
    /// until then the index does not vouch for it after a power loss. Of two that make the same result the
    /// first wins, unless this is to `replace` what is there; the entry is that of the result that counts.
    ///
    /// [`Syncer`]: super::Syncer
    pub fn commit(
        &self,
        root: &Path,
        manifest: &str,
        record: &Record,
        durable: bool,
        replace: bool,
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
        let first = rename_new(&result, &place);
        let first = first.with_context(|| format!("cannot commit {}", place.display()))?;
        if !first {
            if let Some(theirs) = whole(&place, &record.result).filter(|_| !replace) {
                let _ = tree::remove(&self.dir);
                return Ok(theirs);
            }
            exchange(&result, &place)
                .with_context(|| format!("cannot commit {}", place.display()))?;
        }
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

/// Renames the folder `new` to `place`, unless something is there.
fn rename_new(new: &Path, place: &Path) -> io::Result<bool> {
    let renamed = match renameat_with(CWD, new, CWD, place, RenameFlags::NOREPLACE) {
        Ok(()) => return Ok(true),
        Err(rustix::io::Errno::EXIST) => return Ok(false),
        // A file system without these flags. A folder that is not empty is never replaced.
        Err(_) => fs::rename(new, place),
    };
    match renamed {
        Err(_) if fs::symlink_metadata(place).is_ok() && new.exists() => Ok(false),
        renamed => renamed.map(|()| true),
    }
}

/// The entry of the result that is there already, if it has these outputs and all in it is what it says.
fn whole(place: &Path, ours: &Entry) -> Option<Entry> {
    let theirs = super::checked(place, &ours.fp)?.ok()?;
    let good = |made: &Made| {
        let path = place.join(&made.file);
        let nodes = tree::walk(&path).ok();
        let digest = nodes.and_then(|nodes| tree::read(&path, &nodes).ok());
        digest == Some(made.digest)
    };
    let outputs = |entry: &Entry| {
        let all = entry.out.iter().map(|m| (m.port.clone(), m.file.clone()));
        all.collect::<Vec<_>>()
    };
    let listed = theirs
        .more
        .is_none_or(|list| super::read_list(place, list).is_some());
    let same = outputs(&theirs) == outputs(ours) && listed;
    (same && theirs.out.iter().all(good)).then_some(theirs)
}

/// Renames `new` to `place`. What is there takes the name of `new`.
fn exchange(new: &Path, place: &Path) -> io::Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_renamed_only_to_where_nothing_is() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let [a, b, place] = ["a", "b", "place"].map(|name| dir.path().join(name));
        for (folder, text) in [(&a, "first"), (&b, "second")] {
            fs::create_dir(folder)?;
            fs::write(folder.join("x"), text)?;
        }
        assert!(rename_new(&a, &place)?);
        assert!(!rename_new(&b, &place)?);
        assert_eq!(fs::read(place.join("x"))?, b"first");
        exchange(&b, &place)?;
        assert_eq!(fs::read(place.join("x"))?, b"second");
        assert_eq!(fs::read(b.join("x"))?, b"first");
        Ok(())
    }
}
