//! `accepted.toml`, kept in git: changes of code that a person has declared to change no result.

pub mod mentions;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::base::diag::Diagnostic;
use crate::base::read;

/// Two digests that count as the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Equivalence {
    /// Kind, or name of a `command` stage, for which it holds.
    pub of: String,
    /// What they are of: `code`, all the code that is known before a run, or `read.FILE` and its
    /// like, what a run was found to read.
    pub what: String,
    pub old: String,
    pub new: String,
    /// Files that the new code brings in, with the digests they had: with others it does not hold.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub also: BTreeMap<String, String>,
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
        let text = match read::text(path, read::WRITTEN) {
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

    /// The oldest digest that this one was declared equal to; `present` says which digest a file has
    /// now.
    pub fn canonical(
        &self,
        of: &str,
        what: &str,
        digest: &str,
        present: &mut dyn FnMut(&str) -> String,
    ) -> String {
        let mut digest = digest.to_owned();
        // Each entry leads at most one step back, so this ends even if a change was undone.
        for _ in 0..self.all.len() {
            let mut back = self
                .all
                .iter()
                .rev()
                .filter(|e| e.of == of && e.what == what && e.new == digest && e.old != digest);
            let holds = |e: &&Equivalence| e.also.iter().all(|(file, was)| present(file) == *was);
            match back.find(holds) {
                Some(entry) => digest.clone_from(&entry.old),
                None => break,
            }
        }
        digest
    }

    /// Files that changes accepted for this stage or kind have brought in, and that are others now.
    pub fn outdated(
        &self,
        of: &str,
        what: &str,
        digest: &str,
        present: &mut dyn FnMut(&str) -> String,
    ) -> Vec<String> {
        let steps = self
            .all
            .iter()
            .filter(|e| e.of == of && e.what == what && e.new == digest);
        let files = steps.flat_map(|e| &e.also);
        let others = files.filter(|(file, was)| present(file) != **was);
        others.map(|(file, _)| file.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_changes_lead_back_to_the_digest_that_ran() {
        let step = |old: &str, new: &str| Equivalence {
            of: "vae".into(),
            what: "code".into(),
            old: old.into(),
            new: new.into(),
            also: BTreeMap::new(),
            why: "renamed".into(),
            when: "2026-01-01".into(),
        };
        let accepted = Accepted {
            all: vec![step("a", "b"), step("b", "c")],
        };
        let first =
            |of: &str, digest: &str| accepted.canonical(of, "code", digest, &mut |_| String::new());
        assert_eq!(first("vae", "c"), "a");
        assert_eq!(first("vae", "d"), "d");
        assert_eq!(first("glow", "c"), "c");
    }

    #[test]
    fn what_an_accepted_change_brought_in_counts_from_then_on() {
        let accepted = Accepted {
            all: vec![Equivalence {
                of: "fit".into(),
                what: "read.helper.py".into(),
                old: "a".into(),
                new: "b".into(),
                also: BTreeMap::from([("more.py".into(), "m".into())]),
                why: "moved".into(),
                when: "2026-01-01".into(),
            }],
        };
        let first =
            |more: &str| accepted.canonical("fit", "read.helper.py", "b", &mut |_| more.to_owned());
        assert_eq!((first("m"), first("n")), ("a".to_owned(), "b".to_owned()));
        let outdated = accepted.outdated("fit", "read.helper.py", "b", &mut |_| "n".into());
        assert_eq!(outdated, ["more.py"]);
    }
}
