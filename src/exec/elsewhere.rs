//! Other runs of the same store: what they work on is waited for, and what they occupy is not given away.

use std::time::{Duration, Instant};

use super::room::Seat;
use super::schedule::Run;
use super::{State, outcome};
use crate::base::digest::Fingerprint;
use crate::base::provenance;
use crate::pipeline::graph::Id;
use crate::pipeline::manifest::Manifest;
use crate::store::{Claimed, Holder, Running, Session, Taken};

/// How often other runs are looked at while one is waited for.
pub(super) const POLL: Duration = Duration::from_millis(200);

/// What became of a ready stage.
pub(super) enum Seated {
    /// The work is claimed.
    Seat(Seat),
    NoRoom,
    /// It is not ready any more, or was put into the list anew.
    Moved,
}

/// Seats of other runs of this machine.
pub(super) fn taken(others: &[Running]) -> Vec<Taken> {
    if others.is_empty() {
        return Vec::new();
    }
    let host = provenance::host();
    let here = others.iter().filter(|other| other.holder.host == host);
    let work = here.flat_map(|other| &other.work);
    work.map(|(_, claim)| claim.taken.clone()).collect()
}

impl Run<'_, '_> {
    /// Nothing is started any more.
    pub(super) fn halted(&self) -> bool {
        self.stopping.is_some() || !self.summary.failed.is_empty() && !self.options.keep_going
    }

    pub(super) fn waits_for_others(&self) -> bool {
        !self.halted() && (self.crowded || !self.elsewhere.is_empty())
    }

    pub(super) fn others(&self) -> Vec<Running> {
        let session = self.options.session.as_ref();
        session.map(Session::others).unwrap_or_default()
    }

    fn fingerprint(&self, id: Id) -> Option<Fingerprint> {
        self.planner.manifest(id).map(Manifest::fingerprint)
    }

    /// Claims the work of the ready stage at this place of the list, if there is room for it. `others` are
    /// looked at in advance once one of them was in the way: that spares a turn for each stage.
    pub(super) fn seat(&mut self, at: usize, others: &mut Vec<Running>) -> Seated {
        let id = self.ready[at];
        let Some(fp) = self.fingerprint(id) else {
            return Seated::NoRoom;
        };
        let works = |other: &&Running| other.work.iter().any(|(work, _)| *work == fp);
        if let Some(other) = others.iter().find(works) {
            self.ready.remove(at);
            self.wait_for(id, &other.holder);
            return Seated::Moved;
        }
        let stage = &self.planner.graph.stages[id];
        let (waiting, beside) = (self.ready.len() - at, self.side_by_side[id]);
        let room = &self.room;
        let admit = |others: &[Taken]| room.admit(stage, waiting, beside, others);
        let Some(seat) = admit(&taken(others)) else {
            if !others.is_empty() && admit(&[]).is_some() {
                self.is_crowded(id, others);
            }
            return Seated::NoRoom;
        };
        let Some(session) = &self.options.session else {
            self.ready.remove(at);
            return Seated::Seat(seat);
        };
        let claimed = session.claim(&fp, &stage.name, |others| {
            let seat = admit(&taken(others))?;
            let taken = seat.taken();
            Some((seat, taken))
        });
        match claimed {
            Ok(Claimed::Ours { seat, left }) => {
                self.ready.remove(at);
                self.claimed.insert(id, fp);
                match self.was_made(id, &fp, left) {
                    true => Seated::Moved,
                    false => Seated::Seat(seat),
                }
            }
            Ok(Claimed::Theirs(holder)) => {
                self.ready.remove(at);
                self.wait_for(id, &holder);
                *others = self.others();
                Seated::Moved
            }
            Ok(Claimed::NoRoom) => {
                *others = self.others();
                self.is_crowded(id, others);
                Seated::NoRoom
            }
            Err(e) => {
                self.ready.remove(at);
                let root = self.planner.store.root.display();
                let error = anyhow::Error::from(e).context(format!("cannot write in {root}"));
                self.ended(id, outcome::not_started(&error));
                Seated::Moved
            }
        }
    }

    /// Gives the work back. What came of it must be in the index by now.
    pub(super) fn release(&mut self, id: Id) {
        if let (Some(fp), Some(session)) = (self.claimed.remove(&id), &self.options.session) {
            session.release(&fp);
        }
    }

    /// Whether others have made a result for this work since it was judged; then it is judged again.
    fn was_made(&mut self, id: Id, fp: &Fingerprint, left: bool) -> bool {
        let store = &mut self.planner.store;
        let made = |store: &crate::store::Store| -> Vec<(Fingerprint, u64)> {
            let all = store.index.candidates(fp).into_iter();
            all.map(|entry| (entry.fp, entry.at)).collect()
        };
        let before = made(store);
        // An index that cannot be read tells of nothing new.
        let _ = store.index.catch_up();
        if left {
            // It may have been killed between its result and the word of it.
            store.adopt();
        }
        if made(store) == before {
            return false;
        }
        self.release(id);
        self.planner.look_again();
        self.judge_again(id);
        true
    }

    fn wait_for(&mut self, id: Id, holder: &Holder) {
        self.states[id] = State::Elsewhere;
        self.elsewhere.push(id);
        if self.told.insert((id, holder.pid)) {
            let name = &self.planner.graph.stages[id].name;
            self.progress.waits(name, holder);
        }
    }

    /// There would be room for a stage without the other runs.
    fn is_crowded(&mut self, id: Id, others: &[Running]) {
        self.crowded = true;
        if self.told.insert((id, 0)) {
            let busy = others.iter().filter(|other| !other.work.is_empty());
            let pids: Vec<String> = busy.map(|other| other.holder.pid.to_string()).collect();
            let name = &self.planner.graph.stages[id].name;
            let text = format!(
                "{name} waits until there is room beside the runs of process {}",
                pids.join(", ")
            );
            self.progress.say(&text);
        }
    }

    /// Judges again what other runs have ended, however they did.
    pub(super) fn look_elsewhere(&mut self) {
        if self.halted() || self.elsewhere.is_empty() || self.looked.elapsed() < POLL {
            return;
        }
        self.looked = Instant::now();
        let Some(session) = &self.options.session else {
            return;
        };
        let over = |id: &Id| {
            let fp = self.fingerprint(*id);
            fp.is_none_or(|fp| !session.is_elsewhere(&fp))
        };
        let over: Vec<Id> = self.elsewhere.iter().copied().filter(over).collect();
        if over.is_empty() {
            return;
        }
        self.elsewhere.retain(|id| !over.contains(id));
        let _ = self.planner.store.index.catch_up();
        self.planner.look_again();
        for id in over {
            self.judge_again(id);
        }
    }
}
