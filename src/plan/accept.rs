//! What of a stage's staleness is a change of code, which a person may declare to change no result.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::{Code, MISSING, Planner, UNREADABLE, code_digest};
use crate::base::digest::Digest;
use crate::pipeline::graph::{Id, Kind};
use crate::plan::accepted::mentions::mentioned;
use crate::store::observed::{self, Read, What, is_code};

/// One change of code since the stage was last fresh.
#[derive(Debug)]
pub struct Change {
    /// `code`, or the line of a read.
    pub what: String,
    pub old: String,
    pub new: String,
    /// In words.
    pub told: Vec<String>,
}

impl Planner<'_> {
    /// Differences between the code now and that of the last result, one sentence each.
    pub(super) fn changed_code(&mut self, id: Id) -> Vec<String> {
        let was = self.last_code(id);
        let now = self.code(id);
        let names: BTreeSet<&String> = was.keys().chain(now.keys()).collect();
        let told = names
            .into_iter()
            .filter_map(|name| match (was.get(name), now.get(name)) {
                (Some(was), Some(now)) if was == now => None,
                (Some(_), Some(_)) => Some(format!("code {name} changed")),
                (None, _) => Some(format!("{name} is new")),
                (_, None) => Some(format!("{name} is gone")),
            });
        told.collect()
    }

    fn last_code(&self, id: Id) -> Code {
        let name = &self.graph.stages[id].name;
        let fp = self.store.index.names.get(&self.facts().profile, name);
        let record = fp.and_then(|fp| self.store.record(&fp).ok());
        record.map(|record| record.code).unwrap_or_default()
    }

    /// The changes of code since the stage was last fresh, if nothing else has changed; else in
    /// words what no one can declare to be the same.
    pub fn acceptable(&mut self, id: Id) -> Result<Vec<Change>, Vec<String>> {
        let (Some(now), Some((old, reads))) = (self.manifest(id).cloned(), self.last(id)) else {
            return Err(vec!["it has no result yet".into()]);
        };
        let mut changes = Vec::new();
        let mut others = now
            .without("code")
            .changes_since(&old.declared().without("code"));
        if old.get("code") != now.get("code") {
            changes.push(Change {
                what: "code".into(),
                old: old.get("code").unwrap_or(MISSING).into(),
                new: match self.code(id).is_empty() {
                    true => MISSING.into(),
                    false => code_digest(self.code(id)),
                },
                told: self.changed_code(id),
            });
            let unreadable = self.code(id).iter().filter(|(_, digest)| is_wrong(digest));
            others.extend(unreadable.map(|(name, _)| format!("{name} cannot be read")));
        }
        for read in reads.iter() {
            if read.what == What::Content && self.declares(id, &now, &read.path) {
                continue;
            }
            let Some(is) = self.read_again(id, read) else {
                continue;
            };
            let gone = is == MISSING || is == observed::nothing().to_string();
            let told = read.changed(gone);
            match may_be_accepted(read) && !is.starts_with(UNREADABLE) {
                true => changes.push(Change {
                    what: read.line().0,
                    old: read.digest.to_string(),
                    new: is,
                    told: vec![told],
                }),
                false => others.push(told),
            }
        }
        others.extend(self.still_named(id, &reads, &changes));
        match others.is_empty() {
            true => Ok(changes),
            false => Err(others),
        }
    }

    /// Files that are gone although code which is there still names them.
    fn still_named(&mut self, id: Id, reads: &[Read], changes: &[Change]) -> Vec<String> {
        let gone = |change: &&Change| change.new == MISSING;
        let gone = changes.iter().filter(gone).map(|c| path_of(c).to_owned());
        let mut gone: BTreeSet<String> = gone.collect();
        // What an earlier accepted change brought in may be gone as well.
        let family = &self.graph.stages[id].family;
        let facts = self.facts();
        let earlier = facts.accepted.all.iter().filter(|e| e.of == *family);
        let also: BTreeSet<String> = earlier.flat_map(|e| e.also.keys().cloned()).collect();
        gone.extend(
            also.into_iter()
                .filter(|file| self.content(file) == MISSING),
        );
        if gone.is_empty() {
            return Vec::new();
        }
        let mut named = Vec::new();
        for (file, paths) in self.mentions(id, reads) {
            let still = gone.iter().filter(|path| paths.contains(*path));
            named.extend(still.map(|path| format!("{file} still names {path}, which is gone")));
        }
        named
    }

    /// Files of the project that changed code brings in and that did not count yet, with digests.
    pub fn brought_in(&mut self, id: Id) -> BTreeMap<String, String> {
        let Kind::Command(_) = self.graph.stages[id].kind else {
            // All modules of a library kind are known already.
            return BTreeMap::new();
        };
        let reads = self.last(id).map(|(_, reads)| reads).unwrap_or_default();
        let counted: BTreeSet<&str> = reads.iter().map(|read| read.path.as_str()).collect();
        let mut found: BTreeMap<String, String> = BTreeMap::new();
        let mut open: Vec<String> = self.mentions(id, &reads).into_values().flatten().collect();
        let folders = folders(&reads);
        while let Some(path) = open.pop() {
            let known = counted.contains(&*path) || self.code(id).contains_key(&path);
            if known || found.contains_key(&path) || !is_code(&path) {
                continue;
            }
            let digest = self.content(&path);
            if digest.parse::<Digest>().is_err() {
                continue;
            }
            let text = fs::read(self.facts().dir.join(observed::path(&path))).unwrap_or_default();
            open.extend(mentioned(&path, &String::from_utf8_lossy(&text), &folders));
            found.insert(path, digest);
        }
        found
    }

    /// For each file of the present code, the files that it may name.
    fn mentions(&self, id: Id, reads: &[Read]) -> BTreeMap<String, BTreeSet<String>> {
        let folders = folders(reads);
        let contents = reads.iter().filter(|read| read.what == What::Content);
        let read = contents.map(|read| &read.path).filter(|path| is_code(path));
        let files: BTreeSet<&String> = read.chain(self.code(id).keys()).collect();
        let named = files.into_iter().filter_map(|file| {
            let text = fs::read(self.facts().dir.join(observed::path(file))).ok()?;
            let text = String::from_utf8_lossy(&text);
            Some((file.clone(), mentioned(file, &text, &folders)))
        });
        named.collect()
    }
}

/// Folders from which Python imports.
fn folders(reads: &[Read]) -> Vec<String> {
    let imports = reads.iter().filter(|read| read.what == What::Imports);
    imports.map(|read| read.path.clone()).collect()
}

/// `helper.py` of `read.helper.py`.
fn path_of(change: &Change) -> &str {
    change.what.split_once('.').map_or("", |(_, path)| path)
}

fn may_be_accepted(read: &Read) -> bool {
    match read.what {
        What::Content | What::Absent | What::There => is_code(&read.path),
        What::Imports | What::Importable => true,
        What::Names | What::Link => false,
    }
}

fn is_wrong(digest: &str) -> bool {
    digest == MISSING || digest.starts_with(UNREADABLE)
}
