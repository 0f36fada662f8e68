//! Digests of files, and when an earlier digest may stand in for reading one again.
//!
//! A digest is trusted while device, inode, size, mtime and ctime are all unchanged. The change
//! time cannot be set by a program, so content that was edited with size and mtime kept is
//! noticed too. The racy rule: a file that changed within `RACY` before it was hashed could
//! change again within the same tick of the clock, so its digest is not remembered. Artifacts
//! that the runner itself has just committed are exempt: their writers have ended, and when a stage
//! that was given them ends they are looked at again (`exec/given.rs`).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};
use serde::{Deserialize, Serialize};

use crate::base::digest::Digest;
use crate::base::read;

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

    /// The stamp of a folder, made from the names and stamps of all in it: their number stands in the place of
    /// the size, a digest of all that a program can set and one of the change times in the places of times.
    pub fn of_tree<'a>(
        folder: &Metadata,
        each: impl Iterator<Item = (&'a [u8], Option<&'a Self>)>,
    ) -> Self {
        let (mut set, mut changed) = (blake3::Hasher::new(), blake3::Hasher::new());
        let mut count = 0;
        for (name, stamp) in each {
            let Self(dev, ino, size, mtime, ctime) = stamp.copied().unwrap_or(Self(0, 0, 0, 0, 0));
            set.update(&name.len().to_le_bytes());
            set.update(name);
            for number in [dev, ino, size, mtime as u64] {
                set.update(&number.to_le_bytes());
            }
            changed.update(&ctime.to_le_bytes());
            count += 1;
        }
        let half = |hasher: &blake3::Hasher| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
            i64::from_le_bytes(bytes)
        };
        let (dev, ino) = (folder.dev(), folder.ino());
        Self(dev, ino, count, half(&set), half(&changed))
    }

    /// True if but for the change times nothing differs: the mode or the number of names may have
    /// changed, not the content by the usual means.
    pub fn but_for_ctime(&self, other: &Self) -> bool {
        (self.0, self.1, self.2, self.3) == (other.0, other.1, other.2, other.3)
    }

    /// Device and inode.
    pub fn file(&self) -> (u64, u64) {
        (self.0, self.1)
    }

    /// One for many, which is another as soon as one of them is.
    pub fn of_all(stamps: &[Self]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for Self(a, b, c, d, e) in stamps {
            [*a, *b, *c, *d as u64, *e as u64].iter().for_each(|n| {
                hasher.update(&n.to_le_bytes());
            });
        }
        let mut words = [[0; 8]; 4];
        let digest = hasher.finalize();
        words
            .iter_mut()
            .zip(digest.as_bytes().chunks_exact(8))
            .for_each(|(to, from)| to.copy_from_slice(from));
        let [a, b, c, d] = words.map(u64::from_le_bytes);
        Self(a, b, c, d as i64, stamps.len() as i64)
    }

    pub fn size(&self) -> u64 {
        self.2
    }

    /// True if the file changed since one moment ([`now`]) and not after the other. A time after
    /// both comes from a clock that was set back since, and tells nothing.
    pub fn changed_between(&self, from: SystemTime, to: SystemTime) -> bool {
        let nanos = |time: SystemTime| {
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
        };
        nanos(from) <= self.4 && self.4 <= nanos(to)
    }

    /// True if the file changed in the hour before, or after by a clock that was set back: longer than any
    /// kernel keeps what was written from the disk.
    pub fn is_recent(&self, now: SystemTime) -> bool {
        let hour_ago = now.checked_sub(Duration::from_secs(3600));
        let hour_ago = hour_ago.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        hour_ago.is_none_or(|at| i128::from(self.4) >= at.as_nanos() as i128)
    }

    /// False if the file changed so shortly before `hashed` that it could change unseen. A clock
    /// that went backwards makes it false too. The modification time has no say: a program can
    /// set it to anything.
    pub fn settled(&self, hashed: SystemTime) -> bool {
        let hashed = hashed.duration_since(UNIX_EPOCH).unwrap_or_default();
        i128::from(self.4) + RACY.as_nanos() as i128 <= hashed.as_nanos() as i128
    }
}

/// What was found of a file that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct SeenFile {
    /// Relative to the project.
    pub name: String,
    pub stamp: Stamp,
    pub digest: Digest,
}

/// Digests of files that stages of this run have read: for other stages that read them too, and for
/// the index, which learns of them a moment later.
static KNOWN: Mutex<Known> = Mutex::new(BTreeMap::new());

/// Files that were looked at, by device and inode.
type Known = BTreeMap<(u64, u64), (Stamp, Digest)>;

/// The digest that a file with this stamp had when it was hashed in this run.
pub fn recall(stamp: &Stamp) -> Option<Digest> {
    let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let (was, digest) = known.get(&stamp.file())?;
    (was == stamp).then_some(*digest)
}

/// True if [`recall`] may know a file, by its device and inode.
pub fn is_known(file: (u64, u64)) -> bool {
    let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.contains_key(&file)
}

/// Keeps a digest for [`recall`]. The stamp must have been settled when the file was hashed.
pub fn remember(stamp: Stamp, digest: Digest) {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.insert(stamp.file(), (stamp, digest));
}

/// Longer than any kernel's clock of files stands still.
pub const TICK: Duration = Duration::from_millis(11);

/// The time as files are stamped with it. The usual clock runs up to a tick ahead of that: what
/// changes in the tick after it was read would seem to have changed before.
pub fn now() -> SystemTime {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a valid place for the answer.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_REALTIME_COARSE, &mut time) } != 0;
    if failed {
        return SystemTime::now();
    }
    UNIX_EPOCH + Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Bytes that are read and hashed at once: they stay in a core's cache. A power of two, so that
/// each piece is a whole subtree of BLAKE3's tree.
const PIECE: u64 = 1 << 20;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Digest of a file's content, which is BLAKE3's of its bytes. A large file is read and hashed by
/// all cores, each its own pieces. It is not mapped: a file that shrinks under a map would kill
/// the process. The file's size is known, so it was looked at.
pub fn hash_file(path: &Path, size: u64) -> io::Result<Digest> {
    let file = read::open_seen(path)?;
    hash_open(&file, size)
}

/// The same of a file that is open.
pub fn hash_open(file: &File, size: u64) -> io::Result<Digest> {
    if size <= PIECE {
        let mut bytes = vec![0; size as usize + 1];
        // That there is no more than its size is seen by the room that is left.
        let mut len = 0;
        loop {
            match (&mut &*file).read(&mut bytes[len..]) {
                Ok(0) => break,
                Ok(got) => len += got,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            }
            if len == size as usize && size > 0 {
                break;
            }
        }
        bytes.truncate(len);
        if len > size as usize {
            // It has grown, or tells of no size; and may have no end.
            file.take(read::INDEX).read_to_end(&mut bytes)?;
        }
        return Ok(Digest::of(&bytes));
    }
    let left = left_subtree_len(size);
    let halves = rayon::join(
        || subtree(file, 0, left),
        || subtree(file, left, size - left),
    );
    let root = merge_subtrees_root(&halves.0?, &halves.1?, Mode::Hash);
    Ok(Digest(*root.as_bytes()))
}

fn subtree(file: &File, at: u64, len: u64) -> io::Result<ChainingValue> {
    if len > PIECE {
        let left = left_subtree_len(len);
        let halves = rayon::join(
            || subtree(file, at, left),
            || subtree(file, at + left, len - left),
        );
        return Ok(merge_subtrees_non_root(&halves.0?, &halves.1?, Mode::Hash));
    }
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(len as usize, 0);
        file.read_exact_at(buffer, at)?;
        let mut hasher = blake3::Hasher::new();
        Ok(hasher
            .set_input_offset(at)
            .update(buffer)
            .finalize_non_root())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn hashing_in_pieces_equals_hashing_at_once() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("x");
        for size in [0, 1, 1 << 20, (1 << 20) + 1, 2 << 20, (7 << 20) + 3] {
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
