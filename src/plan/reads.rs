//! What a result was found to read, looked at again.

use super::{FEW, Looked, MISSING, Planner};
use crate::base::digest::Digest;
use crate::base::files;
use crate::pipeline::graph::{Id, Kind};
use crate::pipeline::manifest::Manifest;
use crate::store::observed::{self, Read, What};
use crate::store::stat::SeenFile;

impl Planner<'_> {
    /// True if the pipeline names this file, as input or as code.
    pub(super) fn declares(&self, id: Id, manifest: &Manifest, path: &str) -> bool {
        let code = matches!(self.graph.stages[id].kind, Kind::Command(_));
        code && self.codes[id].contains_key(path) || manifest.get(&format!("file.{path}")).is_some()
    }

    /// Files that the run behind a stage's result was found to read, or else its last run.
    pub fn found_files(&mut self, id: Id) -> Vec<String> {
        let reads = match self.fresh(id) {
            Some(fp) => self.store.reads(&fp),
            None => self.last(id).map(|(_, reads)| reads),
        };
        let reads = reads.iter().flat_map(|reads| reads.iter());
        let contents = reads.filter(|read| read.what == What::Content);
        contents.map(|read| read.path.clone()).collect()
    }

    /// Digest of what is in a file of the project now, if there is such a file.
    pub fn digest_now(&mut self, path: &str) -> Option<String> {
        Some(self.content(path)).filter(|digest| digest != MISSING)
    }

    pub(super) fn changed_reads(
        &mut self,
        id: Id,
        manifest: &Manifest,
        reads: &[Read],
    ) -> Vec<String> {
        let mut changes = Vec::new();
        for read in reads {
            // A declared file tells of its change itself.
            if read.what == What::Content && self.declares(id, manifest, &read.path) {
                continue;
            }
            if let Some(now) = self.read_again(id, read) {
                // After an accepted change only what it brought in may have changed.
                let facts = self.facts;
                let (family, key) = (self.graph.stages[id].family.clone(), read.line().0);
                let mut present = |file: &str| self.content(file);
                let brought_in = facts.accepted.outdated(&family, &key, &now, &mut present);
                if !brought_in.is_empty() {
                    let told = brought_in.iter().map(|file| format!("file {file} changed"));
                    changes.extend(told.filter(|t| !changes.contains(t)).collect::<Vec<_>>());
                    continue;
                }
                let gone = now == MISSING || now == observed::nothing().to_string();
                changes.push(read.changed(gone));
            }
        }
        changes
    }

    /// What is found now of something that a run was found to read, if that is something else,
    /// accepted changes apart.
    pub(super) fn read_again(&mut self, id: Id, read: &Read) -> Option<String> {
        let now = match read.what {
            What::Content => self.content(&read.path),
            _ => self.looked_at(read).to_string(),
        };
        let was = read.digest.to_string();
        if now == was {
            return None;
        }
        let facts = self.facts;
        let accepted = &facts.accepted;
        if accepted.all.is_empty() {
            return Some(now);
        }
        let (family, key) = (self.graph.stages[id].family.clone(), read.line().0);
        let mut first = |digest: &str| {
            accepted.canonical(&family, &key, digest, &mut |file| self.content(file))
        };
        (first(&now) != first(&was)).then_some(now)
    }

    /// Digests of many files at once are found on all cores.
    pub(super) fn look_side_by_side(&mut self, reads: &[Read]) {
        let contents = reads.iter().filter(|read| read.what == What::Content);
        let new = contents.filter(|read| !self.looked.contents.contains_key(&read.path));
        let new: Vec<String> = new.map(|read| read.path.clone()).collect();
        if new.len() > FEW {
            let found = self.files(new);
            self.looked.contents.extend(found);
        }
    }

    /// Digest of a file that was read, or what is wrong with it. Asked once for all stages that
    /// share it, until [`look_again`](Self::look_again).
    pub(super) fn content(&mut self, path: &str) -> String {
        if let Some(known) = self.looked.contents.get(path) {
            return known.clone();
        }
        let now = self.file(path);
        self.looked.contents.insert(path.into(), now.clone());
        now
    }

    pub(super) fn looked_at(&mut self, read: &Read) -> Digest {
        let key = read.line().0 + "\0" + &read.names.join("\0");
        let (places, dir) = (&self.facts.places, &self.facts.dir);
        let others = &mut self.looked.others;
        *others.entry(key).or_insert_with(|| read.look(places, dir))
    }

    /// What was just found of files need not be asked for again.
    pub fn has_looked(&mut self, found: Vec<SeenFile>) {
        for SeenFile {
            name,
            stamp,
            digest,
        } in found
        {
            let path = self.facts.dir.join(files::path(&name));
            self.store
                .index
                .learn_file(&files::text(&path), stamp, digest);
            self.looked.contents.insert(name, digest.to_string());
        }
    }

    /// True if a file was not there when it was last looked at, and nothing if it was not looked at.
    pub fn was_missing(&self, name: &str) -> Option<bool> {
        Some(self.looked.contents.get(name)? == MISSING)
    }

    /// What programs read may have changed since it was last looked at.
    pub fn look_again(&mut self) {
        self.looked = Looked::default();
    }
}
