//! Files that a run was found to have read: from a depfile, or from the list of modules that a Python
//! program imported. Next time they count as its code.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};

use crate::depfile;
use crate::digest::Digest;
use crate::files::{self, Finder};
use crate::store::stat::{self, Stamp};

/// Files with digests, none of them in the store: those that the depfile names, wherever they lie, and
/// those of the project that Python programs listed in `imports`. What changed after the program was
/// started may have been read before or after: it gets a digest that no content has, so that the
/// result does not count next time.
pub fn found(
    dir: &Path,
    store: &Path,
    depfile: &Path,
    imports: &[u8],
    started: SystemTime,
) -> Result<Vec<(String, Digest)>> {
    let finder = Finder::new(dir, store);
    let mut paths: BTreeSet<PathBuf> = BTreeSet::new();
    for path in depfile::parse(&read(depfile)?.unwrap_or_default()) {
        paths.insert(finder.spell(&path));
    }
    for path in super::python::files(imports) {
        let path = finder.spell(&path);
        let installed = path.iter().any(|part| part == "site-packages");
        if path.is_relative() && !path.starts_with("..") && !installed {
            paths.insert(path);
        }
    }
    let store = store.canonicalize()?;
    let mut reads = Vec::new();
    for path in paths {
        // The name stays the one that was given, so that a link that leads elsewhere is noticed.
        let whole = dir.join(&path);
        let Ok(meta) = fs::metadata(&whole) else {
            continue;
        };
        if !meta.is_file() || whole.canonicalize()?.starts_with(&store) {
            continue;
        }
        let name = files::text(&path).into_owned();
        let digest = match Stamp::of(&meta).changed_between(started, SystemTime::now()) {
            true => Digest::of(b"changed while the program that read it ran"),
            false => stat::hash_file(&whole, meta.len())
                .with_context(|| format!("cannot read {name}"))?,
        };
        reads.push((name, digest));
    }
    Ok(reads)
}

/// A file's content, if it is there.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}
