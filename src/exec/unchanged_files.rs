//! Files that a command is told to read must be the same at its end as when it was judged:
//! else its result would be kept under the name of something it was not made from.

use std::io;
use std::time::SystemTime;

use anyhow::{Result, bail};

use super::given::{Seen, Still};
use crate::base::digest::Digest;
use crate::base::files::{self, Finder};
use crate::store::stat;

/// One file, with its content as it was when the program was started.
#[derive(Debug)]
pub struct Watched {
    /// Relative to the project.
    pub name: String,
    pub digest: Digest,
    pub seen: Seen,
}

/// All that one command was told to read.
#[derive(Debug, Default)]
pub struct Watch {
    /// Names and patterns, as they are declared.
    pub declared: Vec<String>,
    /// The patterns among them that say which files are data.
    pub data: Vec<String>,
    /// What they stood for, sorted.
    pub found: Vec<String>,
    pub files: Vec<Watched>,
}

impl Watch {
    /// Fails if a file has another content now, or a pattern finds others. Tells of a file that was
    /// written to and is the same.
    pub fn unchanged(
        &self,
        dir: &std::path::Path,
        store: &std::path::Path,
    ) -> Result<Option<String>> {
        let sorry = "while it ran, so its result was not kept; run it again";
        let mut rewritten = None;
        for file in &self.files {
            let path = dir.join(files::path(&file.name));
            let still = match std::fs::metadata(&path) {
                Ok(meta) => file
                    .seen
                    .compare(&Seen::file(&meta, SystemTime::now()), || {
                        Ok(stat::hash_file(&path, meta.len())? == file.digest)
                    })?,
                Err(e) if e.kind() == io::ErrorKind::NotFound => Still::Changed,
                Err(e) => return Err(e.into()),
            };
            match still {
                Still::Same => {}
                Still::Rewritten => rewritten = rewritten.or(Some(file.name.clone())),
                Still::Changed => bail!("{} changed {sorry}", file.name),
            }
        }
        let mut finder = Finder::new(dir, store);
        let now = finder.find(self.declared.iter().map(String::as_str));
        // Both are sorted, and so begin alike up to the first name that only one of them has.
        let alike = now
            .iter()
            .zip(&self.found)
            .take_while(|(a, b)| a == b)
            .count();
        match now
            .get(alike)
            .into_iter()
            .chain(self.found.get(alike))
            .min()
        {
            Some(name) => bail!("{name} came or went {sorry}"),
            None => Ok(rewritten),
        }
    }
}
