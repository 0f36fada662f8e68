//! A Python program tells which modules of the project it imported, without being changed.

use std::collections::BTreeMap;
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
    // Anew, for what lies there may be a link.
    match std::fs::remove_dir_all(&hook) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    std::fs::create_dir(&hook)?;
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

/// The files in such a list.
pub fn files(list: &str) -> impl Iterator<Item = PathBuf> {
    list.lines()
        .filter(|line| line.starts_with('/'))
        .map(PathBuf::from)
}

/// The versions in it, of Python and of what was imported.
pub fn versions(list: &str) -> BTreeMap<String, String> {
    let lines = list.lines().filter_map(|line| line.strip_prefix('='));
    let known = lines.filter_map(|line| line.split_once(' '));
    known
        .map(|(name, version)| (name.to_owned(), version.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_holds_files_and_versions() {
        let list = "/a/b.py\n=python 3.11.2\n=torch 2.11.0+cpu\n/c.py\n=torn";
        let paths = ["/a/b.py", "/c.py"].map(PathBuf::from);
        assert_eq!(files(list).collect::<Vec<_>>(), paths);
        let known = versions(list);
        assert_eq!(known["python"], "3.11.2");
        assert_eq!((known["torch"].as_str(), known.len()), ("2.11.0+cpu", 2));
    }
}
