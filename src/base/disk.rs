//! The file system under the store.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

#[derive(Debug, Serialize)]
pub struct Disk {
    /// As the kernel calls it, such as `ext4` or `nfs4`.
    pub kind: String,
    pub free_bytes: u64,
    /// Whether files can be made where the store is, or will be.
    pub writable: bool,
}

/// Below this a store will not get far.
const LITTLE: u64 = 1 << 30;

/// Where a lock may hold only on one machine.
const SHARED: [&str; 7] = ["nfs", "nfs4", "cifs", "smb3", "lustre", "fuse.sshfs", "9p"];

impl Disk {
    /// The disk of a folder, or of the nearest folder above it that exists.
    pub fn of(path: &Path) -> Option<Self> {
        let path = std::path::absolute(path).ok()?;
        let there = path.ancestors().find(|p| p.exists())?.canonicalize().ok()?;
        let space = rustix::fs::statvfs(&there).ok()?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Some(Self {
            kind: kind_in(&mounts, &there).unwrap_or("unknown").to_owned(),
            free_bytes: space.f_bavail.saturating_mul(space.f_frsize),
            writable: rustix::fs::access(&there, rustix::fs::Access::WRITE_OK).is_ok(),
        })
    }

    /// What would keep a store from working here.
    pub fn problem(&self, store: &Path) -> Option<String> {
        let store = store.display();
        if !self.writable {
            Some(format!(
                "{store}: cannot be written; hint: --store DIR names another place"
            ))
        } else if self.free_bytes < LITTLE {
            Some(format!(
                "{store}: less than 1 GiB is free; hint: repro gc, or --store DIR"
            ))
        } else {
            None
        }
    }

    /// What to know of a store here.
    pub fn remark(&self) -> Option<&'static str> {
        match self.kind.as_str() {
            "tmpfs" | "ramfs" => Some("in memory: gone when the machine stops"),
            kind if SHARED.contains(&kind) => {
                Some("shared over a network: run from one machine at a time")
            }
            _ => None,
        }
    }
}

/// The type of the innermost mount that holds `path`; of two at one place the later hides the other.
fn kind_in<'a>(mountinfo: &'a str, path: &Path) -> Option<&'a str> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        // Spaces in names are written \040.
        let point = left.split(' ').nth(4)?.replace("\\040", " ");
        Some((PathBuf::from(point), right.split(' ').next()?))
    });
    let holding = mounts.filter(|(point, _)| path.starts_with(point));
    holding
        .max_by_key(|(point, _)| point.as_os_str().len())
        .map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_counts() {
        let mounts = "21 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n\
                      30 21 0:5 / /data rw - nfs4 host:/x rw\n\
                      31 30 0:6 / /data/my\\040disk rw - tmpfs tmpfs rw\n\
                      32 21 0:7 / /data2 rw - xfs /dev/sdb rw\n\
                      33 21 0:8 / /data2 rw - btrfs /dev/sdc rw\n";
        let kind = |path: &str| kind_in(mounts, Path::new(path)).unwrap_or("none");
        assert_eq!(kind("/home/me"), "ext4");
        assert_eq!(kind("/data/set"), "nfs4");
        assert_eq!(kind("/data/my disk/x"), "tmpfs");
        assert_eq!(kind("/data2"), "btrfs");
        assert_eq!(kind("/data22"), "ext4");
    }

    #[test]
    fn a_place_that_does_not_exist_yet_is_on_the_disk_above() {
        let dir = tempfile::tempdir().expect("a folder");
        let disk = Disk::of(&dir.path().join("a/b")).expect("a disk");
        assert!(disk.free_bytes > 0 && disk.writable);
        let full = Disk {
            free_bytes: 5,
            ..disk
        };
        assert!(
            full.problem(dir.path())
                .is_some_and(|p| p.contains("1 GiB is free"))
        );
        let kind = |kind: &str| Disk {
            kind: kind.into(),
            ..Disk {
                free_bytes: 1,
                writable: true,
                kind: String::new(),
            }
        };
        assert!(kind("nfs4").remark().is_some() && kind("ext4").remark().is_none());
    }
}
