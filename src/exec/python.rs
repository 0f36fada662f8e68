//! A Python program tells which modules it imports and where it looked for them, without being changed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::spawn::Program;

/// Loaded by every Python that starts with its folder on the path, and by their children.
const HOOK: &str = include_str!("sitecustomize.py");

/// Prepares the environment. The list will be at `list`; the hook lies in the store.
pub fn watch(program: &mut Program, store: &Path, list: &Path) -> io::Result<()> {
    let hook = store.join("python");
    let file = hook.join("sitecustomize.py");
    if fs::read(&file).ok().as_deref() != Some(HOOK.as_bytes()) {
        fs::create_dir_all(&hook)?;
        let mut new = crate::store::new_file(&hook)?;
        io::Write::write_all(&mut new, HOOK.as_bytes())?;
        new.persist(&file).map_err(|e| e.error)?;
    }
    match fs::remove_file(list) {
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
    program.env("REPRO_IMPORTS", list);
    program.env("PYTHONPATH", hook);
    if let Some(own) = env::var_os("PYTHONPATH") {
        also(program, own);
    }
    if program.variable("PYTHONDONTWRITEBYTECODE").is_none() {
        // Byte code written during the run would be new files in the project.
        program.env("PYTHONDONTWRITEBYTECODE", "1");
    }
    Ok(())
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

/// What the list says. Its lines, by their first character:
///
/// ```text
/// +PID                 this process will tell
/// @PID  FOLDER ...     where top-level modules are looked for from now on
/// ?PID  NAME           a top-level module was asked for
/// ?PID  NAME FOLDER .. a module of a package, looked for in these folders
/// >PID  FOLDER         the import system listed this folder
/// !PID                 all was told
/// /FILE                a module's file
/// =NAME VERSION        a package's version
/// ```
#[derive(Debug, Default)]
pub struct Imports {
    pub files: BTreeSet<PathBuf>,
    pub versions: BTreeMap<String, String>,
    /// For each folder, the modules that were looked for in it.
    pub wanted: BTreeMap<PathBuf, BTreeSet<String>>,
    telling: HashSet<u32>,
    listings: HashMap<(u32, PathBuf), usize>,
}

impl Imports {
    pub fn parse(list: &[u8]) -> Self {
        let mut imports = Self::default();
        let mut paths: HashMap<u32, Vec<PathBuf>> = HashMap::new();
        let mut top: HashMap<u32, BTreeSet<String>> = HashMap::new();
        for line in list.split(|b| *b == b'\n') {
            let Some((first, rest)) = line.split_first() else {
                continue;
            };
            if *first == b'/' {
                imports.files.insert(path(line));
                continue;
            }
            let mut fields = rest.split(|b| *b == b'\t');
            let head = fields.next().unwrap_or_default();
            let Ok(head) = std::str::from_utf8(head) else {
                continue;
            };
            if *first == b'=' {
                if let Some((name, version)) = head.split_once(' ') {
                    imports.versions.insert(name.into(), version.into());
                }
                continue;
            }
            let Ok(process) = head.parse::<u32>() else {
                continue;
            };
            match first {
                b'+' => {
                    imports.telling.insert(process);
                }
                b'@' => {
                    let folders: Vec<PathBuf> = fields.map(path).collect();
                    // What was asked for before may come to be found there too: `sys.path` grows
                    // at its beginning as well.
                    for folder in &folders {
                        let names = top.entry(process).or_default().clone();
                        imports
                            .wanted
                            .entry(folder.clone())
                            .or_default()
                            .extend(names);
                    }
                    paths.insert(process, folders);
                }
                b'?' => {
                    let Some(Ok(name)) = fields.next().map(std::str::from_utf8) else {
                        continue;
                    };
                    let own: Vec<PathBuf> = fields.map(path).collect();
                    let is_top = own.is_empty();
                    let folders = match is_top {
                        true => paths.get(&process).cloned().unwrap_or_default(),
                        false => own,
                    };
                    for folder in folders {
                        imports
                            .wanted
                            .entry(folder)
                            .or_default()
                            .insert(name.into());
                    }
                    if is_top {
                        top.entry(process).or_default().insert(name.into());
                    }
                }
                b'>' => {
                    if let Some(folder) = fields.next() {
                        *imports.listings.entry((process, path(folder))).or_default() += 1;
                    }
                }
                _ => {}
            }
        }
        imports
    }

    pub fn load(list: &Path) -> io::Result<Self> {
        match fs::read(list) {
            Ok(text) => Ok(Self::parse(&text)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(e),
        }
    }

    /// How often a process's import system listed a folder; nothing for a process that does not tell.
    pub fn listed(&self, process: u32, folder: &Path) -> Option<usize> {
        self.telling.contains(&process).then(|| {
            let key = (process, folder.to_path_buf());
            self.listings.get(&key).copied().unwrap_or(0)
        })
    }
}

/// The inverse of what the hook makes of a name.
fn path(bytes: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(bytes.len());
    let mut bytes = bytes.iter();
    while let Some(byte) = bytes.next() {
        path.push(match (byte, bytes.as_slice().first()) {
            (b'\\', Some(b'n')) => bytes.next().map_or(*byte, |_| b'\n'),
            (b'\\', Some(b't')) => bytes.next().map_or(*byte, |_| b'\t'),
            (b'\\', Some(_)) => *bytes.next().unwrap_or(byte),
            _ => *byte,
        });
    }
    OsString::from_vec(path).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_holds_modules_and_where_they_were_looked_for() {
        let list = b"+7\n?7\tos\n@7\t/p\t/p/lib\n?7\thelper\n?7\tsub\t/p/pkg\n>7\t/p\n>7\t/p\n\
            /a/b.py\n=python 3.11.2\n=torch 2.11.0+cpu\n/c\\\\n\\nd.py\n!7\n=torn";
        let known = Imports::parse(list);
        let paths = ["/a/b.py", "/c\\n\nd.py"].map(PathBuf::from);
        assert_eq!(known.files, BTreeSet::from(paths));
        assert_eq!(known.versions["python"], "3.11.2");
        assert_eq!(known.versions.len(), 2);
        let wanted = |folder: &str| -> Vec<&str> {
            known.wanted[Path::new(folder)]
                .iter()
                .map(String::as_str)
                .collect()
        };
        assert_eq!(wanted("/p"), ["helper", "os"]);
        assert_eq!(wanted("/p/lib"), ["helper", "os"]);
        assert_eq!(wanted("/p/pkg"), ["sub"]);
        assert_eq!(known.listed(7, Path::new("/p")), Some(2));
        assert_eq!(known.listed(7, Path::new("/q")), Some(0));
        assert_eq!(known.listed(8, Path::new("/p")), None);
    }
}
