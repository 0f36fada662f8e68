//! Digests of files, and when an earlier digest may stand in for reading one again.
//!
//! A digest is trusted while device, inode, size, mtime and ctime are all unchanged. The change
//! time cannot be set by a program, so content that was edited with size and mtime kept is
//! noticed too. The racy rule: a file that changed within [`RACY`] before it was hashed could
//! change again within the same tick of the clock, so its digest is not remembered. Artifacts
//! that the runner itself has just committed are exempt: their writer has ended, and they are
//! read-only.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Coarser than the tick of any file system we know but FAT's two seconds.
const RACY: Duration = Duration::from_millis(50);

/// What the file system says of a file: device, inode, size, mtime, ctime (nanoseconds).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp(u64, u64, u64, i64, i64);

impl Stamp {
    pub fn of(meta: &Metadata) -> Self {
        let nanos = |s: i64, ns: i64| s.wrapping_mul(1_000_000_000).wrapping_add(ns);
        Self(
            meta.dev(),
            meta.ino(),
            meta.size(),
            nanos(meta.mtime(), meta.mtime_nsec()),
            nanos(meta.ctime(), meta.ctime_nsec()),
        )
    }

    /// The same from a call relative to an open directory, which spares the kernel half the path.
    pub fn of_stat(stat: &rustix::fs::Stat) -> Self {
        let nanos = |s: i64, ns: i64| s.wrapping_mul(1_000_000_000).wrapping_add(ns);
        Self(
            stat.st_dev,
            stat.st_ino,
            stat.st_size as u64,
            nanos(stat.st_mtime, stat.st_mtime_nsec as i64),
            nanos(stat.st_ctime, stat.st_ctime_nsec as i64),
        )
    }

    pub fn size(&self) -> u64 {
        self.2
    }

    /// True if the file changed after one moment and not after the other. A time after both
    /// comes from a clock that was set back since, and tells nothing.
    pub fn changed_between(&self, from: SystemTime, to: SystemTime) -> bool {
        let nanos = |time: SystemTime| {
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
        };
        let latest = self.3.max(self.4);
        nanos(from) < latest && latest <= nanos(to)
    }

    /// False if the file changed so shortly before `hashed` that it could change unseen. A clock
    /// that went backwards makes it false too.
    pub fn settled(&self, hashed: SystemTime) -> bool {
        let hashed = hashed.duration_since(UNIX_EPOCH).unwrap_or_default();
        let latest = self.3.max(self.4);
        i128::from(latest) + RACY.as_nanos() as i128 <= hashed.as_nanos() as i128
    }
}

/// Digest of a file's content. Reads in pieces: a file that shrinks under a memory map would
/// kill the process.
pub fn hash_file(path: &Path, size: u64) -> io::Result<Digest> {
    const PIECE: u64 = 8 << 20;
    if size < 128 << 10 {
        return Ok(Digest::of(&fs::read(path)?));
    }
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; size.min(PIECE) as usize];
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        hasher.update_rayon(&buffer[..filled]);
        if filled < buffer.len() {
            return Ok(Digest(*hasher.finalize().as_bytes()));
        }
    }
}

/// Digest of a directory from its files' paths and digests, in the order of the paths.
pub struct Tree(blake3::Hasher);

impl Default for Tree {
    fn default() -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"tree\0");
        Self(hasher)
    }
}

impl Tree {
    /// Lengths first, so that two trees never share their bytes.
    pub fn add(&mut self, path: &str, digest: &Digest) {
        self.0.update(&(path.len() as u64).to_le_bytes());
        self.0.update(path.as_bytes());
        self.0.update(&digest.0);
    }

    pub fn digest(self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
}

/// The regular files and symbolic links below a directory: paths relative to it, sorted.
pub fn walk(dir: &Path) -> io::Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in walkdir::WalkDir::new(dir).min_depth(1) {
        let entry = entry?;
        if entry.file_type().is_dir() {
            continue;
        }
        let inside = entry.path().strip_prefix(dir).unwrap_or(entry.path());
        let Some(name) = inside.to_str() else {
            let message = format!("{} is not UTF-8", entry.path().display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        };
        files.push(name.to_owned());
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashing_in_pieces_equals_hashing_at_once() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("x");
        for size in [0, 1, 200 << 10, (8 << 20) + 3] {
            let bytes: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            fs::write(&path, &bytes)?;
            assert_eq!(hash_file(&path, size as u64)?, Digest::of(&bytes));
        }
        Ok(())
    }

    #[test]
    fn a_file_that_has_just_changed_is_not_settled() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("x");
        fs::write(&path, "x")?;
        let stamp = Stamp::of(&fs::metadata(&path)?);
        let written = SystemTime::now();
        assert!(!stamp.settled(written));
        assert!(stamp.settled(written + Duration::from_secs(1)));
        assert!(!stamp.settled(written - Duration::from_secs(60)));
        Ok(())
    }
}
