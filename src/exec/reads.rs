//! Files of the project that a run was found to have read: from a depfile, or from the list of
//! modules that a Python program imported. Next time they count as its code.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};

use crate::digest::Digest;
use crate::store::ReadBefore;
use crate::store::stat::{self, Stamp};

/// Paths below the project, with digests; none of them in the store. `imports` is what Python programs
/// listed, `before` what the runs had read that left the checkpoint this one went on from. What
/// changed after the program was started may have been read before or after: it gets a digest that
/// no content has, so that the result does not count next time.
pub fn found(
    dir: &Path,
    store: &Path,
    depfile: &Path,
    imports: &str,
    before: &ReadBefore,
    started: SystemTime,
) -> Result<Vec<(String, Digest)>> {
    let mut paths: BTreeSet<PathBuf> = BTreeSet::new();
    if let Some(text) = read(depfile)? {
        paths.extend(parse_depfile(&text).into_iter().map(|path| dir.join(path)));
    }
    paths.extend(super::python::files(imports));
    paths.extend(before.files.keys().map(|name| dir.join(name)));
    let mut reads = Vec::new();
    for path in paths {
        let Ok(path) = path.canonicalize() else {
            continue;
        };
        let dir = dir.canonicalize()?;
        let Ok(inside) = path.strip_prefix(&dir) else {
            continue;
        };
        let installed = inside
            .components()
            .any(|c| c.as_os_str() == "site-packages");
        if path.starts_with(store) || installed || !path.is_file() {
            continue;
        }
        let Some(name) = inside.to_str() else {
            continue;
        };
        let meta = fs::metadata(&path)?;
        let digest = match Stamp::of(&meta).changed_between(started, SystemTime::now()) {
            true => Digest::of(b"changed while the program that read it ran"),
            false => {
                stat::hash_file(&path, meta.len()).with_context(|| format!("cannot read {name}"))?
            }
        };
        reads.push((name.to_owned(), digest));
    }
    Ok(reads)
}

/// A text, if it is there.
pub fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// The prerequisites in a Makefile's syntax: `target: a b \` and so on; `\ ` is a space in a name.
/// A text without a colon is a list of names.
pub fn parse_depfile(text: &str) -> Vec<String> {
    let joined = text.replace("\\\r\n", " ").replace("\\\n", " ");
    let mut names = Vec::new();
    for line in joined.lines() {
        let rest = match line.find(": ") {
            Some(at) => &line[at + 2..],
            None => line.strip_suffix(':').map_or(line, |_| ""),
        };
        let mut name = String::new();
        let mut escaped = false;
        for c in rest.chars().chain([' ']) {
            match c {
                '\\' if !escaped => escaped = true,
                c if c.is_whitespace() && !escaped => {
                    if !name.is_empty() {
                        names.push(std::mem::take(&mut name));
                    }
                }
                c => {
                    if escaped && !c.is_whitespace() && c != '\\' && c != '#' {
                        name.push('\\');
                    }
                    escaped = false;
                    name.push(c);
                }
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depfiles_as_compilers_write_them() {
        assert_eq!(
            parse_depfile("out.o: a.c \\\n b.h dir/c\\ d.h\n"),
            ["a.c", "b.h", "dir/c d.h"]
        );
        assert_eq!(parse_depfile("a.csv\nb.csv\n"), ["a.csv", "b.csv"]);
        assert_eq!(parse_depfile("header.h:\n"), Vec::<String>::new());
    }
}
