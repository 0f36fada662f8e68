//! Results whose files are not what was committed, and mending them.

use std::collections::HashMap;
use std::fs;

use super::Planner;
use crate::digest::{Digest, Fingerprint};
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
                .map(|e| e.out[number].port.clone());
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
            .map(|e| e.out[number].clone())
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
                .map(|e| self.store.output(&other, &e.out[i]))
            else {
                continue;
            };
            let to = self.store.output(fp, &made);
            let part = to.with_extension("restoring");
            let copied = from.is_file()
                && fs::copy(&from, &part)
                    .and_then(|_| fs::rename(&part, &to))
                    .is_ok();
            if copied {
                return true;
            }
        }
        false
    }
}
