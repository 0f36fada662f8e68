//! `accepted.toml`, kept in git: changes of code that a person has declared to change no result.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::diag::Diagnostic;

/// One module's two digests that count as the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Equivalence {
    /// Kind, or name of a `command` stage, for which it holds.
    pub of: String,
    pub module: String,
    pub old: String,
    pub new: String,
    pub why: String,
    pub when: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    #[serde(default, rename = "accept")]
    pub all: Vec<Equivalence>,
}

const HEAD: &str = "# Changes of code that were declared to change no result. Written by `repro accept`; belongs in git.\n";

impl Accepted {
    pub fn load(path: &Path) -> Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
        };
        toml::from_str(&text).map_err(|e| {
            let mut error = Diagnostic::new(format!("{}: {}", path.display(), e.message()));
            error.hint = Some("`repro accept` writes this file; restore it from git".into());
            error.into()
        })
    }

    pub fn save(&self, path: &Path) -> Result<()> {
        let mut text = HEAD.to_owned();
        write!(text, "\n{}", toml::to_string(self)?)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut file = crate::store::new_file(folder)?;
        std::io::Write::write_all(&mut file, text.as_bytes())?;
        file.persist(path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(())
    }

    /// The oldest digest that this one was declared equal to.
    pub fn canonical(&self, of: &str, module: &str, digest: &str) -> String {
        let mut digest = digest.to_owned();
        // Each entry leads at most one step back, so this ends even if a change was undone.
        for _ in 0..self.all.len() {
            let back = |e: &&Equivalence| e.of == of && e.module == module && e.new == digest;
            match self.all.iter().rfind(back) {
                Some(entry) => digest.clone_from(&entry.old),
                None => break,
            }
        }
        digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_changes_lead_back_to_the_digest_that_ran() {
        let step = |old: &str, new: &str| Equivalence {
            of: "vae".into(),
            module: "nn".into(),
            old: old.into(),
            new: new.into(),
            why: "renamed".into(),
            when: "2026-01-01".into(),
        };
        let accepted = Accepted {
            all: vec![step("a", "b"), step("b", "c")],
        };
        assert_eq!(accepted.canonical("vae", "nn", "c"), "a");
        assert_eq!(accepted.canonical("vae", "nn", "d"), "d");
        assert_eq!(accepted.canonical("glow", "nn", "c"), "c");
    }
}
