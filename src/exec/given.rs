//! What a stage is given to read must be the same at its end as when it was started: else its result
//! would be kept under the name of something it was not made from. Outputs of other stages are
//! compared here, declared files in `watched.rs`, both by the same rule.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};

use crate::base::digest::Digest;
use crate::store::stat::Stamp;
use crate::store::{tree, was_linked};

/// What the file system said of a file or a folder when a stage was started.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    stamp: Stamp,
    mode: u32,
    links: u64,
    folder: bool,
    /// A change since could not go unseen.
    settled: bool,
}

impl Seen {
    /// How a file is seen.
    pub fn file(meta: &Metadata, now: SystemTime) -> Self {
        let stamp = Stamp::of(meta);
        Self::new(meta, stamp, stamp.settled(now))
    }

    /// How an output is seen.
    pub fn output(path: &Path, now: SystemTime) -> io::Result<Self> {
        let meta = fs::symlink_metadata(path)?;
        if !meta.is_dir() {
            return Ok(Self::file(&meta, now));
        }
        let nodes = tree::walk(path)?;
        let stamp = tree::stamp_of(&meta, &nodes);
        Ok(Self::new(&meta, stamp, tree::settled(&nodes, now)))
    }

    fn new(meta: &Metadata, stamp: Stamp, settled: bool) -> Self {
        Self {
            stamp,
            mode: meta.mode(),
            links: meta.nlink(),
            folder: meta.is_dir(),
            settled,
        }
    }

    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// What has become of it since, given what the file system says now and whether the content is
    /// the same.
    pub fn compare(
        &self,
        now: &Self,
        same: impl FnOnce() -> io::Result<bool>,
    ) -> io::Result<Still> {
        if now.stamp == self.stamp && self.settled {
            return Ok(Still::Same);
        }
        if !same()? {
            return Ok(Still::Changed);
        }
        // A new mode or one more name change no content, but the change time as well.
        let told = self.folder
            || now.mode != self.mode
            || now.links != self.links
            || was_linked(self.stamp.file());
        let untouched = now.stamp == self.stamp || now.stamp.but_for_ctime(&self.stamp) && told;
        Ok(if untouched {
            Still::Same
        } else {
            Still::Rewritten
        })
    }
}

/// What has become of something that must stay as it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Still {
    Same,
    /// It is the same again: it may have been another in between, and been read then.
    Rewritten,
    Changed,
}

/// One output of another stage.
#[derive(Debug)]
pub struct Given {
    /// `STAGE.OUTPUT`.
    pub name: String,
    pub path: PathBuf,
    pub digest: Digest,
    pub seen: Seen,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Inputs(pub Vec<Given>);

impl Inputs {
    pub fn paths(&self) -> Vec<PathBuf> {
        self.0.iter().map(|given| given.path.clone()).collect()
    }

    /// Fails if one is not what it was when the stage was started, whoever has changed it.
    pub fn unchanged(&self) -> Result<()> {
        for given in &self.0 {
            let still = given
                .still()
                .with_context(|| format!("cannot read {} again, which it was given", given.name))?;
            if still != Still::Same {
                bail!(
                    "{} ({}), which it was given, changed while it ran, so nothing it made was kept; \
                     hint: a stage writes to its own outputs alone: copy an input before you change it",
                    given.name,
                    given.path.display()
                );
            }
        }
        Ok(())
    }
}

impl Given {
    fn still(&self) -> io::Result<Still> {
        let now = match Seen::output(&self.path, SystemTime::now()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Still::Changed),
            now => now?,
        };
        self.seen.compare(&now, || {
            // A named pipe in its place is none of it.
            let Ok(nodes) = tree::walk(&self.path) else {
                return Ok(false);
            };
            Ok(tree::read(&self.path, &nodes)? == self.digest)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    /// A file as it is seen long after it was written.
    fn seen(path: &Path) -> Seen {
        let later = SystemTime::now() + Duration::from_secs(1);
        Seen::output(path, later).expect("it is there")
    }

    fn untouched(path: &Path, was: &Seen) -> bool {
        let still = was.compare(&seen(path), || Ok(true));
        still.expect("it is there") == Still::Same
    }

    #[test]
    fn what_was_changed_and_changed_back_is_not_what_it_was() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("x");
        fs::write(&path, "one").expect("a file");
        let was = seen(&path);
        assert!(untouched(&path, &was));
        std::thread::sleep(Duration::from_millis(20));
        for text in ["two", "one"] {
            fs::write(&path, text).expect("ours");
        }
        assert!(!untouched(&path, &was));
        // With its time put back as well, the change time tells.
        let was = seen(&path);
        let time = fs::metadata(&path)
            .and_then(|m| m.modified())
            .expect("a time");
        std::thread::sleep(Duration::from_millis(20));
        fs::write(&path, "two").expect("ours");
        fs::write(&path, "one").expect("ours");
        let file = fs::File::options().write(true).open(&path).expect("ours");
        file.set_modified(time).expect("ours");
        assert!(!untouched(&path, &was));
    }

    #[test]
    fn another_mode_or_name_is_no_change() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("x");
        fs::write(&path, "one").expect("a file");
        let was = seen(&path);
        std::thread::sleep(Duration::from_millis(20));
        fs::hard_link(&path, dir.path().join("y")).expect("a link");
        assert!(untouched(&path, &was));
        let was = seen(&path);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("ours");
        assert!(untouched(&path, &was));
    }

    #[test]
    fn of_what_has_just_been_written_the_content_is_asked() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("x");
        fs::write(&path, "one").expect("a file");
        let was = Seen::output(&path, SystemTime::now()).expect("there");
        let still = was.compare(&seen(&path), || Ok(false));
        assert_eq!(still.expect("there"), Still::Changed);
    }
}
