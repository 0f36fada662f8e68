//! What a run was found to depend on beyond what its stage declares, in a form that can be looked
//! at again: a file's content, a file that was not there, the names in a folder, a link.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::base::digest::Digest;
use crate::base::files;
pub use crate::base::files::path;
use crate::base::plain;
use crate::store::places::{Places, is_importable, names};

/// One such thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    #[serde(default, rename = "w", skip_serializing_if = "What::is_content")]
    pub what: What,
    /// Below the project, or absolute, as [`text`].
    #[serde(rename = "p")]
    pub path: String,
    /// The digest of what was found.
    #[serde(rename = "d")]
    pub digest: Digest,
    /// What [`What`] says.
    #[serde(default, rename = "n", skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// A file was read or executed.
    #[default]
    Content,
    /// It was asked for, and not there.
    Absent,
    /// It was asked for, and there; its content was not read.
    There,
    /// A folder was listed; `names` are those that the stage itself puts there.
    Names,
    /// A folder from which Python imports was listed: what could be imported; `names` as before.
    Importable,
    /// A folder from which Python imports: what of it could satisfy the imports in `names`.
    Imports,
    /// Where a link leads.
    Link,
}

impl What {
    fn is_content(&self) -> bool {
        *self == Self::Content
    }

    /// What its line in a manifest begins with.
    fn key(self) -> &'static str {
        match self {
            Self::Content => "read",
            Self::Absent => "absent",
            Self::There => "there",
            Self::Names => "names",
            Self::Importable => "importable",
            Self::Imports => "imports",
            Self::Link => "link",
        }
    }
}

impl Read {
    pub fn content(path: String, digest: Digest) -> Self {
        Self {
            what: What::Content,
            path,
            digest,
            names: Vec::new(),
        }
    }

    /// Its line in a manifest: key and value.
    pub fn line(&self) -> (String, String) {
        let key = format!("{}.{}", self.what.key(), self.path);
        let value = match self.names.is_empty() {
            true => self.digest.to_string(),
            false => format!("{} {}", self.digest, listed(&self.names)),
        };
        (key, value)
    }

    /// What is found now, of everything but contents, which are the store's to digest.
    pub fn look(&self, places: &Places, dir: &Path) -> Digest {
        let path = dir.join(path(&self.path));
        match self.what {
            What::Content => nothing(),
            What::Absent | What::There => presence(&path),
            What::Link => link(&path),
            What::Names => folder(places, &path, |name, _| !self.is_named(name)),
            What::Importable => folder(places, &path, |name, path| {
                !self.is_named(name) && is_importable(name, path)
            }),
            What::Imports => {
                let wanted: BTreeSet<&str> = self.names.iter().map(String::as_str).collect();
                imports(places, &path, &wanted)
            }
        }
    }

    fn is_named(&self, name: &[u8]) -> bool {
        self.names
            .iter()
            .any(|n| path(n).as_os_str().as_bytes() == name)
    }

    /// One sentence for `status`, when something else is found now.
    pub fn changed(&self, gone: bool) -> String {
        // A name may hold a line break.
        let path = plain::line(match self.path.as_str() {
            "" => ".",
            path => path,
        });
        match self.what {
            What::Content if gone => format!("{path} is gone"),
            What::Content => format!("file {path} changed"),
            What::Absent => format!("{path} is new"),
            What::There if gone => format!("{path} is gone"),
            What::There => match Kind::from_digest(self.digest) {
                Some(Kind::Folder) => format!("{path} is no folder any more"),
                Some(Kind::Empty) => format!("{path} is not empty any more"),
                _ => format!("{path} is no file with content any more"),
            },
            What::Names => format!("files in {path} came or went"),
            What::Importable | What::Imports => format!("modules in {path} came or went"),
            What::Link => format!("link {path} changed"),
        }
    }
}

fn listed(names: &[String]) -> Digest {
    Digest::of(names.join("\0").as_bytes())
}

/// Stands for what is not there.
pub fn nothing() -> Digest {
    Digest([0; 32])
}

/// What something is to a program that only asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    #[serde(rename = "f")]
    File,
    /// A file without content, which shells can tell (`[ -s file ]`).
    #[serde(rename = "e")]
    Empty,
    #[serde(rename = "d")]
    Folder,
}

impl Kind {
    pub fn of(meta: &fs::Metadata) -> Self {
        match meta.is_dir() {
            true => Self::Folder,
            false if meta.is_file() && meta.len() == 0 => Self::Empty,
            false => Self::File,
        }
    }

    pub fn digest(self) -> Digest {
        Digest::of(match self {
            Self::File => b"file" as &[u8],
            Self::Empty => b"empty",
            Self::Folder => b"folder",
        })
    }

    /// The inverse of [`digest`](Self::digest).
    pub fn from_digest(digest: Digest) -> Option<Self> {
        let mut all = [Self::File, Self::Empty, Self::Folder].into_iter();
        all.find(|kind| kind.digest() == digest)
    }
}

/// A digest of the fact that a file or folder is there, not of its content.
pub fn presence(path: &Path) -> Digest {
    match fs::metadata(path) {
        Ok(meta) => Kind::of(&meta).digest(),
        Err(_) => nothing(),
    }
}

/// The digest of the text of a link.
pub fn link(path: &Path) -> Digest {
    match fs::read_link(path) {
        Ok(target) => Digest::of(target.as_os_str().as_encoded_bytes()),
        Err(_) => presence(path),
    }
}

/// The digest of those names in a folder that count.
pub fn folder(places: &Places, path: &Path, counts: impl Fn(&[u8], &Path) -> bool) -> Digest {
    if !path.is_dir() {
        return Digest::of(b"no folder");
    }
    let all = names(places, path);
    let kept = all.iter().filter(|name| counts(name, path));
    Digest::of(&kept.map(Vec::as_slice).collect::<Vec<_>>().join(&0))
}

/// The digest of those entries of a folder that an import of one of these names would find.
pub fn imports(places: &Places, path: &Path, wanted: &BTreeSet<&str>) -> Digest {
    folder(places, path, |name, folder| {
        let stem = name.split(|b| *b == b'.').next().unwrap_or(name);
        std::str::from_utf8(stem).is_ok_and(|stem| wanted.contains(stem))
            && is_importable(name, folder)
    })
}

/// A path as text, see [`files`].
pub fn text(path: &Path) -> String {
    files::text(path).into_owned()
}

/// Endings of files that are programs or parts of them: a change of one can be accepted.
const CODE: [&str; 42] = [
    "awk", "bash", "c", "cc", "cmake", "cpp", "cu", "cuh", "cxx", "do", "f", "f90", "go", "h",
    "hpp", "hs", "ipynb", "java", "jl", "js", "lua", "m", "mjs", "mk", "ml", "nf", "pl", "pm",
    "py", "pyi", "pyx", "r", "rb", "rs", "scala", "sed", "sh", "smk", "sql", "stan", "ts", "zsh",
];

/// True if a file is a program or a part of one, by its name.
pub fn is_code(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    match name.rsplit_once('.') {
        Some((_, ending)) => {
            let ending = ending.to_ascii_lowercase();
            CODE.contains(&ending.as_str())
        }
        None => [
            "Makefile",
            "makefile",
            "GNUmakefile",
            "Snakefile",
            "justfile",
        ]
        .contains(&name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_import_would_find() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let places = Places::of(dir.path());
        let wanted = BTreeSet::from(["helper", "os"]);
        let look = || imports(&places, dir.path(), &wanted);
        let empty = look();
        for (name, counts) in [
            ("other.py", false),
            ("helper.txt", false),
            ("helper.py", true),
            ("os.cpython-311-x86_64-linux-gnu.so", true),
        ] {
            fs::write(dir.path().join(name), "")?;
            assert_eq!(look() != empty, counts, "{name}");
            fs::remove_file(dir.path().join(name))?;
        }
        fs::create_dir(dir.path().join("helper"))?;
        assert_ne!(look(), empty);
        Ok(())
    }
}
