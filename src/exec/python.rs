//! A Python program tells which modules of the project it imported, without being changed.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
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
    // A colon would end the folder's name; the program starts in the project's folder.
    let hook = match hook.as_os_str().as_encoded_bytes().contains(&b':') {
        true => hook
            .strip_prefix(&program.dir)
            .unwrap_or(&hook)
            .to_path_buf(),
        false => hook,
    };
    program.env("REPRO_IMPORTS", &list);
    program.env("PYTHONPATH", hook);
    if let Some(own) = std::env::var_os("PYTHONPATH") {
        also(program, own);
    }
    // Byte code written during the run would be new files in the project.
    program.env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(list)
}

/// Has the program search the folders of `own`, behind that of the hook if it has one.
pub fn also(program: &mut Program, own: OsString) {
    let hook = match program.own("REPRO_IMPORTS") {
        Some(_) => program.own("PYTHONPATH"),
        None => None,
    };
    let hook = hook.and_then(|path| env::split_paths(path).next());
    let path = match hook {
        Some(hook) if own.is_empty() => hook.into_os_string(),
        Some(hook) => {
            let mut path = hook.into_os_string();
            path.push(":");
            path.push(own);
            path
        }
        None => own,
    };
    program.env("PYTHONPATH", path);
}

/// The files in such a list.
pub fn files(list: &[u8]) -> impl Iterator<Item = PathBuf> {
    let lines = list.split(|b| *b == b'\n');
    let files = lines.filter(|line| line.starts_with(b"/"));
    files.map(|line| {
        let mut path = Vec::with_capacity(line.len());
        let mut bytes = line.iter();
        while let Some(byte) = bytes.next() {
            path.push(match (byte, bytes.as_slice().first()) {
                (b'\\', Some(b'n')) => bytes.next().map_or(*byte, |_| b'\n'),
                (b'\\', Some(_)) => *bytes.next().unwrap_or(byte),
                _ => *byte,
            });
        }
        OsString::from_vec(path).into()
    })
}

/// The versions in it, of Python and of what was imported.
pub fn versions(list: &[u8]) -> BTreeMap<String, String> {
    let list = String::from_utf8_lossy(list);
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
        let list = b"/a/b.py\n=python 3.11.2\n=torch 2.11.0+cpu\n/c\\\\n\\nd.py\n=torn";
        let paths = ["/a/b.py", "/c\\n\nd.py"].map(PathBuf::from);
        assert_eq!(files(list).collect::<Vec<_>>(), paths);
        let known = versions(list);
        assert_eq!(known["python"], "3.11.2");
        assert_eq!((known["torch"].as_str(), known.len()), ("2.11.0+cpu", 2));
    }
}
