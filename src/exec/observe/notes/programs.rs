//! What follows from which program runs.

use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
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
        // The kernel itself opens what the first line of a script names, which may be a script, and
        // the loader that a program names.
        let mut program = place.to_path_buf();
        for _ in 0..INTERPRETERS {
            if self.class(&program) == Class::System {
                break;
            }
            let Some(mut named) = interpreter(&program) else {
                break;
            };
            if named.is_relative() {
                let thread = self.caller.thread;
                let Ok(here) = fs::read_link(format!("/proc/{thread}/cwd")) else {
                    break;
                };
                named = here.join(named);
            }
            program = self.locate(Act::Execute, &named);
            if self.class(&program) == Class::Watched {
                self.read(&program);
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

/// What the kernel opens to run a file: what `#!` at the beginning of a script names, or the loader of a
/// program, as they are written.
fn interpreter(program: &Path) -> Option<PathBuf> {
    let mut head = [0u8; 256];
    let mut file = fs::File::open(program).ok()?;
    let got = file.read(&mut head).ok()?;
    let head = &head[..got];
    let word = match head.strip_prefix(b"#!") {
        Some(line) => {
            let line = line.split(|b| *b == b'\n').next()?;
            line.trim_ascii()
                .split(u8::is_ascii_whitespace)
                .next()?
                .to_vec()
        }
        None => loader(&file, head)?,
    };
    (!word.is_empty()).then(|| std::ffi::OsString::from_vec(word).into())
}

/// The loader that an ELF file of this machine's byte order names (`PT_INTERP`, elf(5)).
fn loader(file: &fs::File, head: &[u8]) -> Option<Vec<u8>> {
    const INTERP: u64 = 3;
    let number = |bytes: &[u8], at: usize, len: usize| {
        let mut word = [0; 8];
        word[..len].copy_from_slice(bytes.get(at..at + len)?);
        Some(u64::from_le_bytes(word))
    };
    // Where the headers of its parts begin, how long each is, how many; then where a header has the
    // place and the length of its part, and how many bytes a place takes.
    let (table, size, count, place, length, wide) = match head.get(..5)? {
        b"\x7fELF\x02" => (32, 54, 56, 8, 32, 8),
        b"\x7fELF\x01" => (28, 42, 44, 4, 16, 4),
        _ => return None,
    };
    let table = number(head, table, wide)?;
    let (size, count) = (number(head, size, 2)?, number(head, count, 2)?);
    let mut part = vec![0; usize::try_from(size).ok()?];
    for i in 0..count {
        file.read_exact_at(&mut part, table.checked_add(i * size)?)
            .ok()?;
        if number(&part, 0, 4)? == INTERP {
            let len = number(&part, length, wide)?.min(libc::PATH_MAX as u64);
            let mut name = vec![0; len as usize];
            file.read_exact_at(&mut name, number(&part, place, wide)?)
                .ok()?;
            let end = name.iter().position(|b| *b == 0)?;
            name.truncate(end);
            return Some(name);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_opens_to_run_a_file() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("x");
        for (head, named) in [
            ("#!/bin/sh -e\n", Some("/bin/sh")),
            ("#! bin/run\n", Some("bin/run")),
            ("#!\n", None),
            ("print(1)\n", None),
            ("\x7fELF\x02", None),
        ] {
            fs::write(&path, head)?;
            assert_eq!(interpreter(&path), named.map(PathBuf::from), "{head:?}");
        }
        // Whatever runs this test is a program with a loader, or a static one.
        let own = fs::read(std::env::current_exe()?)?;
        let named = interpreter(&std::env::current_exe()?);
        let loader = named.as_deref().map(Path::as_os_str);
        assert!(loader.is_none_or(|l| l.to_string_lossy().contains("ld")));
        // One that is cut short names none.
        fs::write(&path, &own[..100])?;
        assert_eq!(interpreter(&path), None);
        Ok(())
    }
}
