//! What becomes of a stage when more is known: fresh, ready, to be run once more.

use super::schedule::Run;
use super::{State, outcome};
use crate::base::plain;
use crate::exec::progress::End;
use crate::pipeline::graph::Id;
use crate::pipeline::manifest::Manifest;
use crate::plan::Verdict;
use crate::store::stat;

impl Run<'_, '_> {
    pub(super) fn begin(&mut self, wanted: &[Id]) {
        let mut open = Vec::new();
        for &id in wanted {
            let needs = self.planner.graph.stages[id].needs();
            let missing = needs
                .iter()
                .filter(|n| self.states[**n] != State::Fresh)
                .count();
            self.states[id] = State::Waiting(missing);
            if missing == 0 {
                self.judge(id);
            }
            if self.states[id] != State::Fresh {
                open.push(id);
            }
        }
        self.progress.begin(open.len(), wanted.len() - open.len());
    }

    /// Everything the stage needs is fresh: is it?
    pub(super) fn judge(&mut self, id: Id) {
        let forced = self.options.force.contains(&id) && !self.summary.ran.contains(&id);
        self.planner.judge(id);
        let manifest = self.planner.manifest(id).map(Manifest::fingerprint);
        if !forced && self.planner.fresh(id).is_some() {
            self.states[id] = State::Fresh;
            self.name(id);
            return;
        }
        if let Some(fp) = manifest
            && let Some((_, waiting)) = self.working.get_mut(&fp)
        {
            waiting.push(id);
            return;
        }
        if let Some(fp) = manifest {
            self.working.insert(fp, (id, Vec::new()));
        }
        self.states[id] = State::Ready;
        self.ready.push(id);
    }

    /// A file that the stage reads has changed since it was judged.
    pub(super) fn judge_again(&mut self, id: Id) {
        let fp = self.planner.manifest(id).map(Manifest::fingerprint);
        let waiting = fp.and_then(|fp| self.working.remove(&fp));
        for id in std::iter::once(id).chain(waiting.map_or(Vec::new(), |w| w.1)) {
            self.judge(id);
            if self.states[id] == State::Fresh {
                self.progress.fresh(&self.planner.graph.stages[id].name);
                self.revive(id);
            }
        }
    }

    /// Results that a stage was to be given are not what was committed any more: they are restored or
    /// made again, and whoever reads them waits. `id` is ready and in no list.
    pub(super) fn make_again(&mut self, id: Id, spoiled: &[Id]) {
        self.ready.push(id);
        for &from in spoiled {
            let name = self.planner.graph.stages[from].name.clone();
            if self.remade.contains(&from) {
                self.ready.retain(|other| *other != id);
                let why =
                    format!("the result of {name}, which it reads, is changed again and again");
                self.ended(id, outcome::not_started(&anyhow::anyhow!(why)));
                return;
            }
            self.remade.push(from);
            let text = format!("the result of {name} is not what was committed any more");
            self.progress.say(&text);
            let mut loose = Vec::new();
            for user in self.planner.graph.stages[from].users.clone() {
                match self.states[user] {
                    State::Waiting(missing) => self.states[user] = State::Waiting(missing + 1),
                    State::Ready | State::Elsewhere => {
                        self.states[user] = State::Waiting(1);
                        self.ready.retain(|other| *other != user);
                        self.elsewhere.retain(|other| *other != user);
                        let fp = self.planner.manifest(user).map(Manifest::fingerprint);
                        let same = fp.and_then(|fp| self.working.remove(&fp));
                        loose.extend(same.map_or(Vec::new(), |w| w.1));
                    }
                    // What runs is told when it ends; what has run read what was committed.
                    _ => {}
                }
            }
            self.states[from] = State::Waiting(0);
            self.judge(from);
            if self.states[from] == State::Fresh {
                self.progress.fresh(&name);
            }
            for other in loose {
                if self.states[other] == State::Waiting(0) {
                    self.judge(other);
                }
            }
            self.revive(from);
        }
    }

    /// What a stage was found to read has changed while it ran, so that its result does not
    /// count: it runs once more, and if that happens again it never would.
    pub(super) fn run_again(&mut self, id: Id) {
        self.summary.ran.pop();
        if !self.again.contains(&id) {
            self.again.push(id);
            // Then what has just changed lies before the new start, by the clock of files.
            std::thread::sleep(stat::TICK);
            return;
        }
        let reasons = match self.planner.verdict(id) {
            Some(Verdict::Stale(reasons)) => &reasons[..],
            _ => &[],
        };
        let changed = |reason: &String| {
            let file = reason.strip_prefix("file ")?.strip_suffix(" changed")?;
            Some(format!(
                "; hint: if it does not matter, [pipeline] ignore = [{file:?}]"
            ))
        };
        let hint = reasons.iter().find_map(changed).unwrap_or_default();
        let why = reasons.join("; ") + &hint;
        self.ready.retain(|other| *other != id);
        let fp = self.planner.manifest(id).map(Manifest::fingerprint);
        fp.and_then(|fp| self.working.remove(&fp));
        self.states[id] = State::Failed;
        self.summary.failed.push(id);
        let name = &self.planner.graph.stages[id].name;
        let end = End::Failed {
            cause: format!("what it reads changed while it ran, twice: {why}"),
            tail: Vec::new(),
            log: format!("repro log {}", plain::quoted(name)),
        };
        self.progress.end(name, &end);
    }

    /// Remembers under which result this stage was seen fresh.
    fn name(&mut self, id: Id) {
        if let Some(fp) = self.planner.fresh(id) {
            let name = &self.planner.graph.stages[id].name;
            self.planner
                .store
                .index
                .add_name(&self.facts.profile, name, fp);
        }
    }

    /// A stage became fresh: whoever waited for it may go on.
    pub(super) fn revive(&mut self, id: Id) {
        let mut open = vec![id];
        while let Some(id) = open.pop() {
            if self.states[id] != State::Fresh {
                continue;
            }
            for user in self.planner.graph.stages[id].users.clone() {
                let State::Waiting(missing) = self.states[user] else {
                    continue;
                };
                self.states[user] = State::Waiting(missing.saturating_sub(1));
                if missing <= 1 {
                    self.judge(user);
                    if self.states[user] == State::Fresh {
                        self.progress.fresh(&self.planner.graph.stages[user].name);
                        open.push(user);
                    }
                }
            }
        }
    }
}
