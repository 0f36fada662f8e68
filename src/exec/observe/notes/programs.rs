//! What follows from which program runs.

use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::Notes;
use crate::exec::observe::calls::Act;
use crate::store::places::Class;

/// Scripts that are interpreters of scripts, as many as the kernel follows.
const INTERPRETERS: usize = 5;

/// Programs that look at times of files and read only what is newer than what was made of it.
const BUILDERS: [&str; 12] = [
    "make",
    "gmake",
    "ninja",
    "ninja-build",
    "samu",
    "cargo",
    "rsync",
    "tup",
    "redo",
    "mk",
    "bmake",
    "remake",
];

impl Notes {
    pub(super) fn execute(&mut self, place: &Path) {
        let Ok(meta) = fs::metadata(place) else {
            return;
        };
        let mode = meta.permissions().mode();
        let gains = mode & libc::S_ISUID != 0 && meta.uid() != rustix::process::geteuid().as_raw()
            || mode & libc::S_ISGID != 0 && meta.gid() != rustix::process::getegid().as_raw();
        if gains && meta.is_file() {
            self.privileged.get_or_insert_with(|| place.into());
        }
        let name = place.file_name().unwrap_or_default();
        let builds = BUILDERS.iter().any(|builder| *builder == name);
        self.builds |= builds;
        self.builders.insert(self.caller.thread, builds);
        // The kernel itself opens what the first line of a script names, which may be a script.
        let mut script = place.to_path_buf();
        for _ in 0..INTERPRETERS {
            if self.class(&script) == Class::System {
                break;
            }
            let Some(named) = interpreter(&script) else {
                break;
            };
            script = self.locate(Act::Execute, &named);
            if self.class(&script) == Class::Watched {
                self.read(&script);
            }
        }
    }

    /// True if the thread that calls is one of a program that compares times of files.
    pub(super) fn is_builder(&mut self) -> bool {
        let thread = self.caller.thread;
        *self.builders.entry(thread).or_insert_with(|| {
            let program = fs::read_link(format!("/proc/{thread}/exe")).ok();
            let name = program.as_deref().and_then(Path::file_name);
            name.is_some_and(|name| BUILDERS.iter().any(|builder| *builder == name))
        })
    }

    /// A program that asks for a file's time does what it does by it: a file that has another
    /// content has another time.
    pub(super) fn compares(&mut self, place: &Path) {
        if !self.in_made(place) && fs::metadata(place).is_ok_and(|meta| meta.is_file()) {
            self.read(place);
        }
    }
}

/// What `#!` at the beginning of a script names.
fn interpreter(script: &Path) -> Option<PathBuf> {
    let mut head = [0u8; 256];
    let mut file = fs::File::open(script).ok()?;
    let got = file.read(&mut head).ok()?;
    let line = head[..got]
        .strip_prefix(b"#!")?
        .split(|b| *b == b'\n')
        .next()?;
    let word = line.trim_ascii().split(u8::is_ascii_whitespace).next()?;
    let path = PathBuf::from(std::ffi::OsString::from_vec(word.to_vec()));
    path.is_absolute().then_some(path)
}
