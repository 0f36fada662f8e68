//! Whether a call that has been let go on did what it was to do.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::marks::Marks;

/// Whether a path was there just before a call that may change that.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Before {
    Unknown,
    Missing,
    File(Id),
    Folder(Id),
    /// The link itself was asked for, or it leads nowhere.
    Link(Id),
    /// A pipe, a socket or a device.
    Other(Id),
}

impl Before {
    pub(super) fn id(self) -> Option<Id> {
        match self {
            Self::File(id) | Self::Folder(id) | Self::Link(id) | Self::Other(id) => Some(id),
            Self::Unknown | Self::Missing => None,
        }
    }
}

/// What a name stands for: device, number, and when that last changed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Id(u64, u64, i64, i64);

impl Id {
    pub(super) fn of(meta: &Metadata) -> Self {
        Self(meta.dev(), meta.ino(), meta.ctime(), meta.ctime_nsec())
    }

    /// The identity of the name itself: a link is not followed.
    pub(super) fn at(path: &Path) -> Option<Self> {
        fs::symlink_metadata(path).ok().map(|meta| Self::of(&meta))
    }

    /// True if both have the same change time.
    pub(super) fn changed_with(self, other: Self) -> bool {
        (self.2, self.3) == (other.2, other.3)
    }

    /// Device and inode.
    pub(super) fn file(self) -> (u64, u64) {
        (self.0, self.1)
    }

    pub(super) fn is_same_file(self, other: Self) -> bool {
        self.file() == other.file()
    }
}

/// A thread, and the number of the call that it makes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Caller {
    pub thread: u32,
    pub number: libc::c_long,
    pub arguments: [u64; 6],
}

impl Caller {
    /// True if its thread may still be in this call.
    pub(super) fn is_busy(&self) -> bool {
        // The call in which the thread waits and its arguments, `running`, or nothing if it is gone.
        let state = fs::read_to_string(format!("/proc/{}/syscall", self.thread));
        let state = state.unwrap_or_default();
        let mut words = state.split_whitespace();
        let number = words.next().unwrap_or_default();
        let argument = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok();
        number == "running"
            || number == self.number.to_string()
                && (words.zip(self.arguments)).all(|(word, was)| argument(word) == Some(was))
    }
}

/// What a rename takes away.
#[derive(Debug)]
pub(super) struct Moving {
    pub(super) id: Id,
    pub(super) folder: bool,
    pub(super) link: bool,
    pub(super) from: PathBuf,
}

/// What a call that has been let go on was to do. Whether it did is known when it has ended.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) caller: Caller,
    pub(super) place: PathBuf,
    /// What was known of the place before.
    pub(super) marks: Marks,
    pub(super) aim: Aim,
}

/// How long a call of another thread is waited for: in all, and between two looks.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_micros(100));

impl Pending {
    /// Until the call has done what it was to do, or its thread is past it.
    pub(super) fn wait(&self, calls: &mut impl FnMut(u32) -> bool) {
        let begun = Instant::now();
        while !self.aim.is_reached(&self.place)
            && !calls(self.caller.thread)
            && self.caller.is_busy()
            && begun.elapsed() < PATIENCE.0
        {
            std::thread::sleep(PATIENCE.1);
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Aim {
    /// That something is there.
    Put,
    /// That the file with this number is there: a rename.
    Moved(Id),
    /// That this file is not there any more.
    Gone(Id),
    /// That this folder is not.
    FolderGone(Id),
}

impl Aim {
    pub(super) fn is_reached(self, place: &Path) -> bool {
        match (self, Id::at(place)) {
            (Self::Put, now) => now.is_some(),
            (Self::Moved(id), now) => now.is_some_and(|now| now.is_same_file(id)),
            (Self::Gone(id), now) => now != Some(id),
            // What is put into a folder changes the folder.
            (Self::FolderGone(id), now) => !now.is_some_and(|now| now.is_same_file(id)),
        }
    }
}

pub(super) fn kind(meta: &Metadata) -> Before {
    let id = Id::of(meta);
    match meta.file_type() {
        t if t.is_file() => Before::File(id),
        t if t.is_dir() => Before::Folder(id),
        t if t.is_symlink() => Before::Link(id),
        _ => Before::Other(id),
    }
}
