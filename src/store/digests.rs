//! Digests of files, by what the index knows of them where they have not changed since.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rayon::prelude::*;

use super::Store;
use super::index::Index;
use super::stat::{self, Stamp};
use super::tree::{self, What};
use crate::base::digest::Digest;
use crate::base::{files, read};

impl Store {
    /// Digest of a file or directory; unchanged files are not read again unless `read` says so.
    pub fn digest_of(&mut self, path: &Path, read: bool) -> io::Result<Digest> {
        if !fs::metadata(path)?.is_dir() {
            return self.digest_of_file(path, read);
        }
        let nodes = tree::walk(path)?;
        let files: Vec<PathBuf> = (nodes.iter())
            .filter(|node| matches!(node.what, What::File { .. }))
            .map(|node| path.join(&node.name))
            .collect();
        let digests = self.digests_of(&files, read);
        let digests = digests.into_iter().collect::<io::Result<Vec<_>>>()?;
        Ok(tree::digest(&nodes, digests))
    }

    /// Digest of the names and contents of many files of one folder. The index keeps one line for all of them: data sets
    /// have hundreds of thousands.
    pub fn digest_of_all(&mut self, files: &[PathBuf]) -> io::Result<Digest> {
        let stamps = || -> io::Result<Vec<Stamp>> {
            let stamp = |path: &PathBuf| Ok(Stamp::of(&fs::metadata(path)?));
            files.par_iter().map(stamp).collect()
        };
        let before = stamps()?;
        let all = Stamp::of_all(&before);
        // No file has this name, so that the line stands for no other, and nothing is synced for it.
        let folder = files
            .first()
            .and_then(|file| file.parent())
            .unwrap_or(Path::new(""));
        let key = format!("{}/# {} files", folder.display(), files.len());
        if let Some((known, digest)) = self.index.files.get(&key)
            && *known == all
        {
            return Ok(*digest);
        }
        let started = SystemTime::now();
        let digests: io::Result<Vec<Digest>> = (files.par_iter().zip(&before))
            .map(|(path, stamp)| stat::hash_file(path, stamp.size()))
            .collect();
        let mut all_of_them = Vec::with_capacity(files.len() * 64);
        for (path, digest) in files.iter().zip(digests?) {
            let name = path.file_name().unwrap_or_default().as_encoded_bytes();
            all_of_them.extend((name.len() as u64).to_le_bytes());
            all_of_them.extend(name);
            all_of_them.extend(digest.0);
        }
        let digest = Digest::of(&all_of_them);
        if stamps()? == before && before.iter().all(|stamp| stamp.settled(started)) {
            self.index.add_file(&key, all, digest);
        }
        Ok(digest)
    }

    /// Digests of many files, read side by side.
    pub fn digests_of(&mut self, paths: &[PathBuf], read: bool) -> Vec<io::Result<Digest>> {
        let index = &self.index;
        let seen: Vec<_> = (paths.par_iter())
            .map(|path| look_at(index, path, read))
            .collect();
        let noted = paths
            .iter()
            .zip(seen)
            .map(|(path, seen)| -> io::Result<Digest> {
                let (digest, stamp) = seen?;
                if let Some(stamp) = stamp {
                    self.index.add_file(&files::text(path), stamp, digest);
                }
                Ok(digest)
            });
        noted.collect()
    }

    fn digest_of_file(&mut self, path: &Path, read: bool) -> io::Result<Digest> {
        let (digest, stamp) = look_at(&self.index, path, read)?;
        if let Some(stamp) = stamp {
            self.index.add_file(&files::text(path), stamp, digest);
        }
        Ok(digest)
    }
}

/// Digest of a file, known or read; with its stamp if it was read and may be trusted next time.
fn look_at(index: &Index, path: &Path, again: bool) -> io::Result<(Digest, Option<Stamp>)> {
    let meta = fs::metadata(path)?;
    // Opening a pipe would wait for whoever writes to it.
    read::regular(meta.file_type())?;
    let stamp = Stamp::of(&meta);
    if !again
        && let Some((known, digest)) = index.files.get(files::text(path).as_ref())
        && *known == stamp
    {
        return Ok((*digest, None));
    }
    if !again && let Some(digest) = stat::recall(&stamp) {
        return Ok((digest, Some(stamp)));
    }
    let started = SystemTime::now();
    let digest = stat::hash_file(path, stamp.size())?;
    let after = Stamp::of(&fs::metadata(path)?);
    let trusted = after == stamp && stamp.settled(started);
    Ok((digest, trusted.then_some(stamp)))
}
