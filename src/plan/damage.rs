//! Results whose files are not what was committed, and mending them.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

use super::Planner;
use crate::base::digest::{Digest, Fingerprint};
use crate::base::read;
use crate::store::Health;

impl Planner<'_> {
    /// What is wrong with a result's outputs.
    pub(super) fn damage(&mut self, fp: &Fingerprint) -> Vec<String> {
        let Some(outputs) = self.store.index.results.get(fp).map(|e| e.out.len()) else {
            return Vec::new();
        };
        let mut reasons = Vec::new();
        for number in 0..outputs {
            let mut health = self.store.health(fp, number, false);
            if health != Health::Good && self.repair && self.restore(fp, number) {
                health = self.store.health(fp, number, false);
            }
            let port = self
                .store
                .index
                .results
                .get(fp)
                .and_then(|e| Some(e.out.get(number)?.port.clone()));
            let port = port.unwrap_or_default();
            reasons.extend(match health {
                Health::Good => None,
                Health::Missing => Some(format!("output {port} is missing")),
                Health::Changed => Some(format!("output {port} is not what was committed")),
                Health::Unreadable(why) => Some(format!("output {port} cannot be read: {why}")),
            });
        }
        reasons
    }

    /// Copies an output from another result that has the same content.
    fn restore(&mut self, fp: &Fingerprint, number: usize) -> bool {
        let copies = self.copies.get_or_insert_with(|| {
            let mut copies: HashMap<Digest, Vec<(Fingerprint, usize)>> = HashMap::new();
            for entry in self.store.index.results.values() {
                for (i, made) in entry.out.iter().enumerate() {
                    copies.entry(made.digest).or_default().push((entry.fp, i));
                }
            }
            copies
        });
        let Some(made) = self
            .store
            .index
            .results
            .get(fp)
            .and_then(|e| e.out.get(number).cloned())
        else {
            return false;
        };
        let others = copies.get(&made.digest).cloned().unwrap_or_default();
        for (other, i) in others.into_iter().filter(|o| *o != (*fp, number)) {
            if self.store.health(&other, i, true) != Health::Good {
                continue;
            }
            let Some(from) = self
                .store
                .index
                .results
                .get(&other)
                .and_then(|e| Some(self.store.output(&other, e.out.get(i)?)))
            else {
                continue;
            };
            let to = self.store.output(fp, &made);
            if from.is_file() && copy(&from, &to).is_ok() {
                return true;
            }
        }
        false
    }
}

/// Through a file of a new name, so that a link in the place of the output is replaced, not followed.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let folder = to.parent().unwrap_or(Path::new("."));
    if !fs::symlink_metadata(folder)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    let mut part = tempfile::NamedTempFile::new_in(folder)?;
    io::copy(&mut read::open(from)?, &mut part)?;
    let mode = fs::metadata(from)?.permissions();
    part.as_file().set_permissions(mode)?;
    part.persist(to).map_err(|e| e.error)?;
    Ok(())
}
