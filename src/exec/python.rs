//! A Python program tells which modules of the project it imported, without being changed.

use std::io;
use std::path::{Path, PathBuf};

use super::spawn::Program;

/// Loaded by every Python that starts with this folder on its path. At exit it appends the files
/// of all imported modules to a list, also from child processes, and then makes room for a
/// `sitecustomize` of the user's own.
const HOOK: &str = include_str!("sitecustomize.py");

/// Prepares the environment; returns where the list will be.
pub fn watch(program: &mut Program, work: &Path) -> io::Result<PathBuf> {
    let hook = work.join("python");
    std::fs::create_dir_all(&hook)?;
    std::fs::write(hook.join("sitecustomize.py"), HOOK)?;
    let list = work.join("imports");
    match std::fs::remove_file(&list) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut path = hook.into_os_string();
    if let Some(own) = std::env::var_os("PYTHONPATH").filter(|p| !p.is_empty()) {
        path.push(":");
        path.push(own);
    }
    program.env("PYTHONPATH", path);
    program.env("REPRO_IMPORTS", &list);
    // Byte code written during the run would be new files in the project.
    program.env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(list)
}
