//! What an output is: a file, or a folder with all that is in it. Its digest covers what the next
//! stage can see: names, bytes, which files can be executed, where links point, and folders that
//! are empty.

use std::ffi::{OsStr, OsString};
use std::fs::{self, FileType, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rayon::prelude::*;

use super::stat::{self, Stamp};
use crate::base::digest::Digest;

/// One thing in an output; of a file that is the output itself the name is empty.
#[derive(Debug)]
pub struct Node {
    /// Relative to the output. Any bytes.
    pub name: PathBuf,
    pub what: What,
}

#[derive(Debug)]
pub enum What {
    File {
        executable: bool,
        stamp: Stamp,
    },
    /// A link, with the text of its target.
    Link(OsString, Stamp),
    /// A folder with nothing in it. Others show in the names of what they hold.
    Empty,
}

/// Everything in an output, in the order of the names' bytes; links are not followed. Fails for
/// what has no content, such as a named pipe.
pub fn walk(root: &Path) -> io::Result<Vec<Node>> {
    let meta = fs::symlink_metadata(root)?;
    if !meta.is_dir() {
        let what = what(root, &meta)?;
        let name = PathBuf::new();
        return Ok(vec![Node { name, what }]);
    }
    let mut nodes = Vec::new();
    // Level by level: side by side, and at any depth.
    let mut open = vec![PathBuf::new()];
    while !open.is_empty() {
        let listed: Vec<_> = (open.par_iter())
            .map(|folder| list(root, folder))
            .collect::<io::Result<_>>()?;
        open.clear();
        for (found, folders) in listed {
            nodes.extend(found);
            open.extend(folders);
        }
    }
    nodes.sort_unstable_by(|a, b| bytes(&a.name).cmp(bytes(&b.name)));
    Ok(nodes)
}

fn bytes(name: &Path) -> &[u8] {
    name.as_os_str().as_bytes()
}

/// What lies in one folder, and the folders there.
fn list(root: &Path, folder: &Path) -> io::Result<(Vec<Node>, Vec<PathBuf>)> {
    let (mut nodes, mut folders) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(root.join(folder))? {
        let entry = entry?;
        let name = folder.join(entry.file_name());
        let meta = entry.metadata()?;
        match meta.is_dir() {
            true => folders.push(name),
            false => nodes.push(Node {
                what: what(&root.join(&name), &meta)?,
                name,
            }),
        }
    }
    let empty = nodes.is_empty() && folders.is_empty();
    if empty && !folder.as_os_str().is_empty() {
        let name = folder.into();
        let what = What::Empty;
        nodes.push(Node { name, what });
    }
    Ok((nodes, folders))
}

fn what(path: &Path, meta: &Metadata) -> io::Result<What> {
    let stamp = Stamp::of(meta);
    if meta.is_file() {
        let executable = meta.mode() & 0o100 != 0;
        return Ok(What::File { executable, stamp });
    }
    if meta.is_symlink() {
        return Ok(What::Link(fs::read_link(path)?.into(), stamp));
    }
    Err(no_content(path, meta.file_type()))
}

/// The error of a named pipe, a socket or a device where a file is wanted.
pub fn no_content(path: &Path, kind: FileType) -> io::Error {
    let what = match kind {
        kind if kind.is_fifo() => "a named pipe",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_dir() => "a folder",
        kind if kind.is_block_device() || kind.is_char_device() => "a device",
        _ => "no regular file",
    };
    io::Error::other(format!(
        "{} is {what}, and not a file with content",
        path.display()
    ))
}

/// Digest of an output with these nodes, whose files have been digested in their order.
pub fn digest(nodes: &[Node], files: impl IntoIterator<Item = Digest>) -> Digest {
    let mut files = files.into_iter();
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"tree\0");
    for node in nodes {
        let digest = match &node.what {
            What::File { executable, .. } => {
                let content = files.next().unwrap_or(Digest([0; 32]));
                file_digest(content, *executable)
            }
            What::Link(target, _) => marked("link", target.as_bytes()),
            What::Empty => marked("empty folder", b""),
        };
        if node.name.as_os_str().is_empty() {
            return digest;
        }
        // Lengths first, so that two trees never share their bytes.
        let name = bytes(&node.name);
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name);
        hasher.update(&digest.0);
    }
    Digest(*hasher.finalize().as_bytes())
}

/// Digest of a file: of its bytes, unless it can be executed as well.
pub fn file_digest(content: Digest, executable: bool) -> Digest {
    match executable {
        false => content,
        true => marked("executable file", &content.0),
    }
}

/// No file has the digest of something that is not a file.
fn marked(what: &str, bytes: &[u8]) -> Digest {
    Digest(blake3::derive_key(&format!("repro 2026 {what}"), bytes))
}

/// Reads all of an output.
pub fn read(root: &Path, nodes: &[Node]) -> io::Result<Digest> {
    let one = |name: &Path, stamp: &Stamp| stat::hash_file(&place(root, name), stamp.size());
    let digests: Vec<Digest> = (nodes.par_iter())
        .filter_map(|node| match &node.what {
            What::File { stamp, .. } => Some(one(&node.name, stamp)),
            _ => None,
        })
        .collect::<io::Result<_>>()?;
    Ok(digest(nodes, digests))
}

/// Where a node lies. Joined with nothing, a path would end with a slash.
pub fn place(root: &Path, name: &Path) -> PathBuf {
    match name.as_os_str().is_empty() {
        true => root.into(),
        false => root.join(name),
    }
}

/// What the file system says of an output: a folder's stamp stands for those of all that is in it.
pub fn stamp(root: &Path) -> io::Result<Stamp> {
    let meta = fs::symlink_metadata(root)?;
    match meta.is_dir() {
        true => Ok(stamp_of(&meta, &walk(root)?)),
        false => Ok(Stamp::of(&meta)),
    }
}

/// The same, of what has been walked.
pub fn stamp_of(root: &Metadata, nodes: &[Node]) -> Stamp {
    if !root.is_dir() {
        return Stamp::of(root);
    }
    let each = nodes.iter().map(|node| {
        let name: &OsStr = node.name.as_ref();
        match &node.what {
            What::File { stamp, .. } | What::Link(_, stamp) => (name.as_bytes(), Some(stamp)),
            What::Empty => (name.as_bytes(), None),
        }
    });
    Stamp::of_tree(root, each)
}

/// True if all in it changed long enough before this time that its stamps can be trusted.
pub fn settled(nodes: &[Node], at: SystemTime) -> bool {
    nodes.iter().all(|node| match &node.what {
        What::File { stamp, .. } | What::Link(_, stamp) => stamp.settled(at),
        What::Empty => true,
    })
}

/// Removes a folder and all in it, also what a program has made read-only or has put deeper than a
/// path can be long. Nothing there is no error.
pub fn remove(root: &Path) -> io::Result<()> {
    match fs::remove_dir_all(root) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => fs::remove_file(root),
        Err(_) => remove_level_by_level(root),
        Ok(()) => Ok(()),
    }
}

/// Each folder moves up below the first and is emptied there, so that no path grows long.
fn remove_level_by_level(root: &Path) -> io::Result<()> {
    super::seal::open_folder(root)?;
    let mut open = vec![root.to_path_buf()];
    let mut emptied = Vec::new();
    let mut count = 0_u64;
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if !fs::symlink_metadata(&path)?.is_dir() {
                fs::remove_file(&path)?;
                continue;
            }
            super::seal::open_folder(&path)?;
            if folder == root {
                open.push(path);
                continue;
            }
            let above = loop {
                count += 1;
                let above = root.join(format!(".{count}"));
                if fs::symlink_metadata(&above).is_err() {
                    break above;
                }
            };
            fs::rename(&path, &above)?;
            open.push(above);
        }
        emptied.push(folder);
    }
    emptied.iter().rev().try_for_each(fs::remove_dir)
}
