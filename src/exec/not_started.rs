//! Why a program cannot be started, in words.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::anyhow;

use super::spawn::Program;
use crate::base::human;

pub fn why(program: &Program, error: &io::Error) -> anyhow::Error {
    let name = program.name.to_string_lossy();
    let path = program
        .dir
        .join(program.file().unwrap_or_else(|_| (&program.name).into()));
    let why = match error.raw_os_error() {
        Some(libc::E2BIG) => {
            let bytes: usize = program.arguments.iter().map(|a| a.len() + 1).sum();
            format!(
                "its {} arguments ({}) are too long for this system; pass {{inputs}}, a JSON file that names \
                 all inputs, in their place",
                program.arguments.len(),
                human::bytes(bytes as u64)
            )
        }
        Some(libc::ENOENT | libc::ENOTDIR) if path.exists() => interpreter(&path),
        Some(libc::EACCES) if path.is_dir() => "it is a folder".into(),
        Some(libc::EACCES) if path.exists() => {
            format!("it may not be executed; `chmod +x {name}` allows it")
        }
        _ if error.kind() == io::ErrorKind::NotFound && !name.contains('/') => {
            "no folder of PATH has a program of that name".into()
        }
        _ => error.to_string(),
    };
    anyhow!("cannot start {name}: {why}")
}

/// What is not there though the program is.
fn interpreter(path: &Path) -> String {
    let mut first = Vec::new();
    let read = File::open(path).and_then(|file| file.take(256).read_to_end(&mut first));
    let line = first.split(|b| *b == b'\n').next().unwrap_or_default();
    let Some(line) = line.strip_prefix(b"#!").filter(|_| read.is_ok()) else {
        return "the loader or interpreter that it asks for is not there".into();
    };
    let ends = line.ends_with(b"\r");
    let line = line.trim_ascii();
    let word = line.split(|b| *b == b' ').next().unwrap_or_default();
    let asked = Path::new(OsStr::from_bytes(word));
    match ends && fs::exists(asked).unwrap_or_default() {
        true => "its lines end as on Windows (CR LF), so that the interpreter's name does; \
                 `dos2unix` mends it"
            .into(),
        false => format!(
            "its first line asks for {}, which is not there",
            asked.display()
        ),
    }
}
