//! What a stage itself makes, moves and takes away: of that nothing counts, and what it moves counts as
//! read.

use std::fs;
use std::path::{Path, PathBuf};

use super::marks::Marks;
use super::outcome::{Aim, Before, Caller, Id, Pending, kind};
use super::{Notes, Who};
use crate::exec::observe::calls::{Act, Event, Thing};
use crate::store::places::{Class, join};

impl Notes {
    /// Looks at what an event may change; to be called before it happens.
    pub fn before(&mut self, event: &Event) -> Before {
        let Event::Path { act, path, .. } = event else {
            return Before::Unknown;
        };
        let itself = match act {
            Act::Open(flags) if flags & (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC) != 0 => {
                false
            }
            Act::Make(_) | Act::Remove | Act::Carry => true,
            // Once it has happened the caller is another program, and may have gone elsewhere.
            Act::Execute => {
                let place = self.locate(*act, path);
                self.execute(&place);
                return Before::Unknown;
            }
            _ => return Before::Unknown,
        };
        let place = self.locate(*act, path);
        // What a rename takes from elsewhere is asked for too.
        if *act != Act::Remove && !matches!(self.class(&place), Class::Watched | Class::Store) {
            return Before::Unknown;
        }
        let before = match fs::symlink_metadata(&place) {
            Ok(meta) if meta.is_symlink() && !itself => match fs::metadata(&place) {
                Ok(meta) => kind(&meta),
                // A link that leads nowhere is there for whoever wants to make it.
                Err(_) => Before::Link(Id::of(&meta)),
            },
            Ok(meta) => kind(&meta),
            Err(_) => Before::Missing,
        };
        // Once it has happened there is nothing left to look at.
        match (act, before) {
            (Act::Carry, Before::Folder(_)) => self.read_all(&place),
            (Act::Carry, Before::Link(_)) if !self.in_made(&place) => {
                self.link(&place);
                self.read(&place);
            }
            (Act::Carry, Before::File(_)) if !self.in_made(&place) => self.read(&place),
            _ => {}
        }
        before
    }

    /// What is in a folder that goes on under another name counts as read, as it does for a file.
    pub(super) fn read_all(&mut self, folder: &Path) {
        if self.map.folder(&self.places, folder) != Class::Watched || self.own(folder) {
            return;
        }
        let whole = Who {
            process: self.caller.thread,
            python: false,
        };
        self.list(folder.into(), Some(whole));
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if self.class(&path) != Class::Watched {
                continue;
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => self.read_all(&path),
                Ok(kind) if kind.is_symlink() => {
                    self.link(&path);
                    self.read(&path);
                }
                Ok(kind) if kind.is_file() => self.read(&path),
                _ => {}
            }
        }
    }

    /// A thread makes a call. The one before has ended: what it was to do is done, or was refused,
    /// and so is what others were to do, who are waited for.
    /// `calls` says of a thread whether it waits with another call, of which nobody knows yet.
    pub fn begin(&mut self, caller: Caller, mut calls: impl FnMut(u32) -> bool) {
        self.caller = caller;
        for pending in std::mem::take(&mut self.pending) {
            if pending.caller.thread != caller.thread {
                pending.wait(&mut calls);
            }
            self.judge(&pending);
        }
    }

    /// All threads have ended.
    pub fn end(&mut self) {
        for pending in std::mem::take(&mut self.pending) {
            self.judge(&pending);
        }
    }

    pub(super) fn judge(&mut self, pending: &Pending) {
        let place = &pending.place;
        if pending.aim.is_reached(place) {
            if matches!(pending.aim, Aim::Put | Aim::Moved(_)) {
                self.map.forget(place);
            }
            return;
        }
        self.made.remove(place);
        self.followed.remove(place);
        for mark in [Marks::OWN, Marks::WROTE, Marks::EXISTED] {
            if !pending.marks.has(mark) {
                let marks = self.marks(place, Class::Watched);
                *marks = marks.without(mark);
            }
        }
        self.look(place);
    }

    pub(super) fn expect(&mut self, place: &Path, aim: Aim) {
        let marks = self.of(place);
        self.pending.push(Pending {
            caller: self.caller,
            place: place.into(),
            marks,
            aim,
        });
    }

    /// Links move with what a rename moves.
    pub(super) fn move_links(&mut self, place: &Path) {
        let Some(moving) = &self.moving else { return };
        if moving.link {
            self.followed.insert(place.into());
        }
        let inside = self.followed.iter().filter_map(|link| {
            let inside = link.strip_prefix(&moving.from).ok()?;
            Some(join(place, inside))
        });
        let moved: Vec<PathBuf> = inside.collect();
        self.followed.extend(moved);
    }

    pub(super) fn make(&mut self, thing: Thing, place: &Path, before: Before) {
        let moved = self.moving.take();
        let (aim, folder) = match (thing, moved) {
            (Thing::Moved, Some(moving)) => (Aim::Moved(moving.id), moving.folder),
            // What it takes away was not there.
            (Thing::Moved, None) => return self.look(place),
            _ if before != Before::Missing => return self.look(place),
            (thing, _) => (Aim::Put, thing == Thing::Folder),
        };
        self.expect(place, aim);
        if before != Before::Missing {
            self.mark(place, Marks::EXISTED);
        }
        self.mark(place, Marks::OWN);
        self.mark(place, Marks::WROTE);
        if folder {
            self.made.insert(place.into());
        }
        self.map.forget(place);
    }

    pub(super) fn remove(&mut self, place: &Path, before: Before) {
        let aim = match before {
            Before::Missing => return self.look(place),
            Before::Folder(id) => Aim::FolderGone(id),
            Before::File(id) | Before::Link(id) | Before::Other(id) => Aim::Gone(id),
            Before::Unknown => return,
        };
        self.expect(place, aim);
        self.mark(place, Marks::OWN);
        if let Before::Folder(_) = before {
            self.made.insert(place.into());
        }
        self.map.forget(place);
    }
}
