//! What one run of a stage was seen to do, kept as it happens: per path what was asked of it, and
//! whether the stage itself had made it before.
//!
//! Paths are looked at when they are first seen. Whatever could change them goes through the same
//! listener and is taken in order, so what is found then is what the program found.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{self, Metadata};
use std::io::Read as _;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::calls::{Act, Event, Thing};
use super::places::{CACHES, Class, Map, Places, look};
use crate::digest::Digest;

/// What was seen of one path; several hold at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marks(u16);

impl Marks {
    /// Asked for, and there.
    pub const THERE: Self = Self(1);
    /// Its content was read, or it was executed.
    pub const READ: Self = Self(2);
    /// Asked for, and not there.
    pub const ABSENT: Self = Self(4);
    /// The stage made it, or its whole content; what is read of it later is the stage's own.
    pub const OWN: Self = Self(8);
    /// Opened for writing.
    pub const WROTE: Self = Self(16);
    /// Asked where it leads.
    pub const LINK: Self = Self(32);
    pub const FOLDER: Self = Self(64);
    /// Read after it had become the stage's own.
    pub const READ_LATER: Self = Self(128);
    /// Was there before it became the stage's own.
    pub const EXISTED: Self = Self(256);
    /// Mode, times or links changed by the stage.
    pub const TOUCHED: Self = Self(512);

    pub fn has(self, mark: Self) -> bool {
        self.0 & mark.0 != 0
    }

    fn add(&mut self, mark: Self) {
        self.0 |= mark.0;
    }

    fn without(self, mark: Self) -> Self {
        Self(self.0 & !mark.0)
    }
}

/// A folder whose names were asked for.
#[derive(Debug, Default)]
pub struct Listing {
    /// When it was first listed, without hidden ones and caches.
    pub names: BTreeSet<Vec<u8>>,
    /// By process: how often, and whether it is a Python.
    pub by: HashMap<u32, (usize, bool)>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    class: Class,
    marks: Marks,
    /// The file that was found when it was first read.
    first: Option<Id>,
}

/// Whether a path was there just before a call that may change that.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Before {
    Unknown,
    Missing,
    File(Id),
    Folder(Id),
    /// The link itself was asked for, or it leads nowhere.
    Link(Id),
    /// A pipe, a socket or a device.
    Other(Id),
}

impl Before {
    fn id(self) -> Option<Id> {
        match self {
            Self::File(id) | Self::Folder(id) | Self::Link(id) | Self::Other(id) => Some(id),
            Self::Unknown | Self::Missing => None,
        }
    }
}

/// What a name stands for: device, number, and when that last changed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Id(u64, u64, i64, i64);

impl Id {
    fn of(meta: &Metadata) -> Self {
        Self(meta.dev(), meta.ino(), meta.ctime(), meta.ctime_nsec())
    }

    /// Of a name itself, not of what it leads to as a link.
    fn at(path: &Path) -> Option<Self> {
        fs::symlink_metadata(path).ok().map(|meta| Self::of(&meta))
    }

    fn is_same_file(self, other: Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}

/// A thread, and the number of the call that it makes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Caller {
    pub thread: u32,
    pub number: libc::c_long,
    pub arguments: [u64; 6],
}

impl Caller {
    /// True if its thread may still be in this call.
    fn is_busy(&self) -> bool {
        // The call in which the thread waits and its arguments, `running`, or nothing if it is gone.
        let state = fs::read_to_string(format!("/proc/{}/syscall", self.thread));
        let state = state.unwrap_or_default();
        let mut words = state.split_whitespace();
        let number = words.next().unwrap_or_default();
        let argument = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok();
        number == "running"
            || number == self.number.to_string()
                && (words.zip(self.arguments)).all(|(word, was)| argument(word) == Some(was))
    }
}

/// What a rename takes away.
#[derive(Debug)]
struct Moving {
    id: Id,
    folder: bool,
    link: bool,
    from: PathBuf,
}

/// What a call that has been let go on was to do. Whether it did is known when it has ended.
#[derive(Debug)]
struct Pending {
    caller: Caller,
    place: PathBuf,
    /// What was known of the place before.
    marks: Marks,
    aim: Aim,
}

/// How long a call of another thread is waited for: in all, and between two looks.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_micros(100));

impl Pending {
    /// Until the call has done what it was to do, or its thread is past it.
    fn wait(&self, calls: &mut impl FnMut(u32) -> bool) {
        let begun = Instant::now();
        while !self.aim.is_reached(&self.place)
            && !calls(self.caller.thread)
            && self.caller.is_busy()
            && begun.elapsed() < PATIENCE.0
        {
            std::thread::sleep(PATIENCE.1);
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Aim {
    /// That something is there.
    Put,
    /// That the file with this number is there: a rename.
    Moved(Id),
    /// That this file is not there any more.
    Gone(Id),
    /// That this folder is not.
    FolderGone(Id),
}

impl Aim {
    fn is_reached(self, place: &Path) -> bool {
        match (self, Id::at(place)) {
            (Self::Put, now) => now.is_some(),
            (Self::Moved(id), now) => now.is_some_and(|now| now.is_same_file(id)),
            (Self::Gone(id), now) => now != Some(id),
            // What is put into a folder changes the folder.
            (Self::FolderGone(id), now) => !now.is_some_and(|now| now.is_same_file(id)),
        }
    }
}

/// The process behind a thread.
#[derive(Debug, Clone, Copy)]
pub struct Who {
    pub process: u32,
    pub python: bool,
}

#[derive(Debug)]
pub struct Notes {
    pub places: Arc<Places>,
    pub map: Map,
    seen: HashMap<PathBuf, Seen>,
    /// Folders that the stage made: all in them is its own.
    made: HashSet<PathBuf>,
    caller: Caller,
    pending: Vec<Pending>,
    /// What the last rename takes away.
    moving: Option<Moving>,
    /// Links that the stage made, and those outside that lead to a watched file: what is read
    /// through them is what they lead to.
    followed: HashSet<PathBuf>,
    /// Where links led when they were first asked for.
    pub links: HashMap<PathBuf, Digest>,
    /// Threads of programs that compare times of files ([`BUILDERS`]) or not, as far as is known.
    builders: HashMap<u32, bool>,
    /// One of those programs was started.
    builds: bool,
    /// Links among what is installed, looked at once.
    looked: HashSet<PathBuf>,
    /// Results of the store that were read.
    pub store_reads: BTreeSet<PathBuf>,
    pub listings: HashMap<PathBuf, Listing>,
    /// Opened to be listed, by process.
    opened: HashMap<(u32, PathBuf), usize>,
    /// Files read outside, by folder.
    pub outside: HashMap<PathBuf, BTreeSet<PathBuf>>,
    /// Folders of installed packages, with the packages of each.
    pub packages: HashSet<(PathBuf, PathBuf)>,
    pub network: BTreeSet<String>,
    pub gpu: bool,
    /// Files that `ignore` took out.
    pub ignored: usize,
    /// Calls whose paths could not be read.
    pub lost: usize,
    /// A program ran with another view of the file system, as in a container.
    pub apart: bool,
    /// It asked for a ring of `io_uring`, and was told that there is none.
    pub ring: bool,
    /// A program that wants to become another user, and cannot under the filter.
    pub privileged: Option<PathBuf>,
    /// Paths below the store that were opened for writing.
    pub store_writes: BTreeSet<PathBuf>,
    /// Python's compiled forms of sources below a watched folder that were written.
    pub compiled: BTreeSet<PathBuf>,
    /// Processes were left when the stage had ended.
    pub left: bool,
    /// Every thread that was seen.
    pub threads: HashSet<u32>,
    /// Files that were read since it was last written down which.
    pub unwritten: Vec<PathBuf>,
}

/// The process that opens a folder to list it, and how often that counts.
type Lister = Option<(u32, usize)>;

/// Links that lead on to links, as many as the kernel follows.
const LINKS: usize = 40;

/// Scripts that are interpreters of scripts, as many as the kernel follows.
const INTERPRETERS: usize = 5;

/// Programs that look at times of files and read only what is newer than what was made of it.
const BUILDERS: [&str; 12] = [
    "make",
    "gmake",
    "ninja",
    "ninja-build",
    "samu",
    "cargo",
    "rsync",
    "tup",
    "redo",
    "mk",
    "bmake",
    "remake",
];

/// More than any import system lists a folder.
const RELATIVE: usize = 1 << 20;

/// Files kept by name for one folder outside; more are only counted by their folder.
const OUTSIDE: usize = 1000;

impl Notes {
    pub fn new(places: Arc<Places>) -> Self {
        Self {
            places,
            map: Map::default(),
            seen: HashMap::new(),
            made: HashSet::new(),
            caller: Caller::default(),
            pending: Vec::new(),
            moving: None,
            followed: HashSet::new(),
            links: HashMap::new(),
            builders: HashMap::new(),
            builds: false,
            looked: HashSet::new(),
            store_reads: BTreeSet::new(),
            listings: HashMap::new(),
            opened: HashMap::new(),
            outside: HashMap::new(),
            packages: HashSet::new(),
            network: BTreeSet::new(),
            gpu: false,
            ignored: 0,
            lost: 0,
            apart: false,
            ring: false,
            privileged: None,
            store_writes: BTreeSet::new(),
            compiled: BTreeSet::new(),
            left: false,
            threads: HashSet::new(),
            unwritten: Vec::new(),
        }
    }

    /// Every path below a watched folder that was seen, with its marks.
    pub fn watched(&self) -> impl Iterator<Item = (&Path, Marks)> {
        let seen = self.seen.iter();
        let watched = seen.filter(|(_, seen)| seen.class == Class::Watched);
        watched.map(|(path, seen)| (path.as_path(), seen.marks))
    }

    /// True if a file is another than the one that was read first, or has changed since.
    pub fn is_another(&self, path: &Path, now: &Metadata) -> bool {
        let first = self.seen.get(path).and_then(|seen| seen.first);
        first.is_some_and(|first| first != Id::of(now))
    }

    /// True if the stage made a folder that holds this path, or the path itself.
    pub fn own(&self, path: &Path) -> bool {
        let marks = self.seen.get(path).map(|s| s.marks);
        marks.is_some_and(|m| m.has(Marks::OWN)) || self.in_made(path)
    }

    fn in_made(&self, path: &Path) -> bool {
        !self.made.is_empty() && path.ancestors().any(|above| self.made.contains(above))
    }

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
    fn read_all(&mut self, folder: &Path) {
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

    /// The place that a path means, behind links that the stage itself has made.
    fn locate(&mut self, act: Act, path: &Path) -> PathBuf {
        let mut place = self.map.locate(&self.places, path);
        if self.followed.is_empty() {
            return place;
        }
        let follows = follows(act);
        for _ in 0..LINKS {
            let mut above = place.ancestors().skip(usize::from(!follows));
            let Some(link) = above.find(|path| self.followed.contains(*path)) else {
                break;
            };
            let (Ok(target), Ok(inside)) = (fs::read_link(link), place.strip_prefix(link)) else {
                break;
            };
            let folder = link.parent().unwrap_or(link);
            let path = folder.join(super::places::join(&target, inside));
            place = self.map.locate(&self.places, &path);
        }
        place
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

    fn judge(&mut self, pending: &Pending) {
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

    fn expect(&mut self, place: &Path, aim: Aim) {
        let marks = self.of(place);
        self.pending.push(Pending {
            caller: self.caller,
            place: place.into(),
            marks,
            aim,
        });
    }

    /// True if it matters which process does this.
    pub fn wants_process(&mut self, event: &Event) -> bool {
        let Event::Path { act, path, .. } = event else {
            return false;
        };
        let lists = match act {
            Act::List => true,
            Act::Open(flags) => flags & libc::O_DIRECTORY != 0 && flags & libc::O_PATH == 0,
            _ => false,
        };
        if !lists {
            return false;
        }
        let place = self.locate(*act, path);
        self.map.folder(&self.places, &place) == Class::Watched
    }

    /// Takes in what is done.
    pub fn take(&mut self, event: &Event, before: Before, who: Option<Who>) {
        let (act, path, absolute) = match event {
            Event::Connect(peer) => {
                self.network.insert(peer.clone());
                return;
            }
            Event::Path {
                act,
                path,
                absolute,
            } => (*act, path, *absolute),
        };
        let mut place = self.locate(act, path);
        if act == Act::List {
            self.list(place, who);
            return;
        }
        match act {
            Act::Execute => self.execute(&place),
            Act::Remove => {
                self.moving = before.id().map(|id| Moving {
                    id,
                    folder: matches!(before, Before::Folder(_)),
                    link: matches!(before, Before::Link(_)),
                    from: place.clone(),
                });
            }
            Act::Make(Thing::Link) => {
                self.followed.insert(place.clone());
            }
            Act::Make(Thing::Moved) => self.move_links(&place),
            _ => {}
        }
        if let Some(source) = source_of(&place) {
            if let Act::Make(_) = act {
                self.compiled.insert(place.clone());
            }
            // Python looks at the source to see whether its compiled form is of it.
            if let Act::Open(flags) = act
                && flags & libc::O_ACCMODE == libc::O_RDONLY
                && self.class(&source) == Class::Watched
            {
                self.read(&source);
            }
            return;
        }
        let mut class = self.class(&place);
        if matches!(class, Class::Outside | Class::Environment | Class::System)
            && self.leads_inside(act, &place)
        {
            place = self.locate(act, path);
            class = self.class(&place);
        }
        if let Act::Look { .. } = act
            && class == Class::Watched
            && self.builds
            && self.is_builder()
        {
            self.compares(&place);
        }
        match class {
            Class::Watched => {
                // Python's import system lists folders by absolute names, and counts what it does.
                let times = if absolute { 1 } else { RELATIVE };
                let lister = who.map(|who| (who.process, times));
                self.watch(act, &place, before, lister);
            }
            Class::Store => self.store(act, &place, before),
            Class::Ignored => self.first(&place, class, |notes| notes.ignored += 1),
            Class::Environment => self.environment(&place),
            Class::System => {
                self.gpu |= matches!(act, Act::Open(_)) && is_gpu(&place);
            }
            Class::Outside => self.outside(act, &place),
            Class::Cache => {}
        }
    }

    /// Learns of a link outside that leads to a file below a watched folder.
    fn leads_inside(&mut self, act: Act, place: &Path) -> bool {
        if !matches!(act, Act::Open(_) | Act::Execute) || !follows(act) {
            return false;
        }
        if !self.looked.insert(place.into()) {
            return false;
        }
        let link = fs::symlink_metadata(place).is_ok_and(|meta| meta.is_symlink());
        let real = link.then(|| place.canonicalize().ok()).flatten();
        let inside = real.is_some_and(|real| {
            let real = self.map.locate(&self.places, &real);
            self.class(&real) == Class::Watched
        });
        if !inside {
            return false;
        }
        // Each link of a chain, up to one that the project knows.
        let mut link = place.to_path_buf();
        for _ in 0..LINKS {
            self.followed.insert(link.clone());
            let Ok(target) = fs::read_link(&link) else {
                break;
            };
            let folder = link.parent().unwrap_or(&link).to_path_buf();
            link = self.map.locate(&self.places, &folder.join(target));
            let more = fs::symlink_metadata(&link).is_ok_and(|meta| meta.is_symlink());
            if !more || self.class(&link) == Class::Watched {
                break;
            }
        }
        true
    }

    fn class(&mut self, place: &Path) -> Class {
        match self.seen.get(place) {
            Some(seen) => seen.class,
            None => self.map.class(&self.places, place),
        }
    }

    fn marks(&mut self, place: &Path, class: Class) -> &mut Marks {
        // Two look-ups, but no copy of a path that is known.
        if !self.seen.contains_key(place) {
            let unknown = Seen {
                class,
                marks: Marks::default(),
                first: None,
            };
            self.seen.insert(place.into(), unknown);
        }
        let seen = self.seen.entry(place.into());
        let unknown = Seen {
            class,
            marks: Marks::default(),
            first: None,
        };
        &mut seen.or_insert(unknown).marks
    }

    fn mark(&mut self, place: &Path, mark: Marks) {
        self.marks(place, Class::Watched).add(mark);
    }

    fn of(&self, place: &Path) -> Marks {
        self.seen.get(place).map_or(Marks::default(), |s| s.marks)
    }

    fn first(&mut self, place: &Path, class: Class, then: impl FnOnce(&mut Self)) {
        if !self.seen.contains_key(place) {
            self.marks(place, class);
            then(self);
        }
    }

    fn watch(&mut self, act: Act, place: &Path, before: Before, lister: Lister) {
        if self.in_made(place) {
            // What it leaves there may be meant to be kept.
            if let Act::Open(flags) = act
                && flags & libc::O_ACCMODE != libc::O_RDONLY
                && flags & libc::O_CREAT != 0
            {
                self.mark(place, Marks::OWN);
                self.mark(place, Marks::WROTE);
            }
            return;
        }
        match act {
            Act::Look { follow: true } => self.look(place),
            Act::Look { follow: false } | Act::Target => {
                self.link(place);
                self.look(place);
            }
            Act::Open(flags) => self.open(flags, place, before, lister),
            Act::Execute => self.read(place),
            // Looked at before it happened.
            Act::Carry => {}
            Act::Make(thing) => self.make(thing, place, before),
            Act::Remove => self.remove(place, before),
            Act::Touch => self.mark(place, Marks::TOUCHED),
            Act::List => {}
        }
    }

    /// If it is a link, where it leads counts, and what is there has its name.
    fn link(&mut self, place: &Path) {
        let known = self.of(place);
        if known.has(Marks::LINK) || known.has(Marks::OWN) {
            return;
        }
        if let Ok(target) = fs::read_link(place) {
            self.mark(place, Marks::LINK);
            let digest = Digest::of(target.as_os_str().as_encoded_bytes());
            self.links.insert(place.into(), digest);
            self.map.learn_link(&self.places, place);
        }
    }

    fn look(&mut self, place: &Path) {
        let known = self.of(place);
        if known.has(Marks::OWN)
            || known.0 & (Marks::THERE.0 | Marks::READ.0 | Marks::ABSENT.0) != 0
        {
            return;
        }
        match look(place) {
            None => self.mark(place, Marks::ABSENT),
            Some(meta) if meta.is_dir() => self.folder(place),
            Some(_) => self.mark(place, Marks::THERE),
        }
    }

    fn folder(&mut self, place: &Path) {
        self.mark(place, Marks::THERE);
        self.mark(place, Marks::FOLDER);
        // Learns whether it is a link.
        self.map.folder(&self.places, place);
    }

    fn read(&mut self, place: &Path) {
        let known = self.of(place);
        if known.has(Marks::OWN) {
            self.mark(place, Marks::READ_LATER);
            return;
        }
        if known.has(Marks::READ) || self.in_made(place) {
            return;
        }
        match look(place) {
            None => self.mark(place, Marks::ABSENT),
            Some(meta) if meta.is_dir() => self.folder(place),
            Some(meta) if meta.is_file() => {
                self.mark(place, Marks::READ);
                if let Some(seen) = self.seen.get_mut(place) {
                    seen.first = Some(Id::of(&meta));
                }
                self.unwritten.push(place.into());
            }
            Some(_) => {}
        }
    }

    fn open(&mut self, flags: i32, place: &Path, before: Before, lister: Lister) {
        if flags & libc::O_PATH != 0 {
            return self.look(place);
        }
        // A nameless file is in a folder, and in no list.
        if flags & libc::O_TMPFILE == libc::O_TMPFILE {
            return;
        }
        let access = flags & libc::O_ACCMODE;
        let (makes, cuts) = (flags & libc::O_CREAT != 0, flags & libc::O_TRUNC != 0);
        if access == libc::O_RDONLY && !makes && !cuts {
            self.read(place);
            if flags & libc::O_DIRECTORY != 0
                && let Some((process, times)) = lister
                && self.of(place).has(Marks::FOLDER)
            {
                *self.opened.entry((process, place.into())).or_default() += times;
            }
            return;
        }
        match before {
            Before::Missing if makes => {
                self.expect(place, Aim::Put);
                self.mark(place, Marks::OWN);
                self.mark(place, Marks::WROTE);
            }
            Before::Missing => self.look(place),
            Before::Folder(_) => self.folder(place),
            Before::Link(_) | Before::Other(_) => {}
            Before::File(_) | Before::Unknown => {
                if makes && flags & libc::O_EXCL != 0 {
                    return self.look(place);
                }
                if access == libc::O_RDONLY && !cuts {
                    return self.read(place);
                }
                if access == libc::O_RDWR && !cuts {
                    self.read(place);
                }
                let known = self.of(place);
                if cuts && !known.has(Marks::READ) {
                    self.mark(place, Marks::OWN);
                    self.mark(place, Marks::EXISTED);
                }
                self.mark(place, Marks::WROTE);
            }
        }
    }

    /// Links move with what a rename moves.
    fn move_links(&mut self, place: &Path) {
        let Some(moving) = &self.moving else { return };
        if moving.link {
            self.followed.insert(place.into());
        }
        let inside = self.followed.iter().filter_map(|link| {
            let inside = link.strip_prefix(&moving.from).ok()?;
            Some(super::places::join(place, inside))
        });
        let moved: Vec<PathBuf> = inside.collect();
        self.followed.extend(moved);
    }

    fn make(&mut self, thing: Thing, place: &Path, before: Before) {
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

    fn remove(&mut self, place: &Path, before: Before) {
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

    fn list(&mut self, place: PathBuf, who: Option<Who>) {
        if self.map.folder(&self.places, &place) != Class::Watched || self.in_made(&place) {
            return;
        }
        let Some(who) = who else { return };
        let opened = self.opened.get(&(who.process, place.clone()));
        // A folder that was opened by a relative name, or without saying that it is one.
        let times = opened.copied().unwrap_or(usize::MAX);
        let listing = match self.listings.get_mut(&place) {
            Some(listing) => listing,
            None => {
                let names = names(&self.places, &place);
                let listing = self.listings.entry(place).or_default();
                listing.names = names;
                listing
            }
        };
        listing.by.insert(who.process, (times, who.python));
    }

    fn execute(&mut self, place: &Path) {
        let Ok(meta) = fs::metadata(place) else {
            return;
        };
        let mode = meta.permissions().mode();
        let gains = mode & libc::S_ISUID != 0 && meta.uid() != rustix::process::geteuid().as_raw()
            || mode & libc::S_ISGID != 0 && meta.gid() != rustix::process::getegid().as_raw();
        if gains && meta.is_file() {
            self.privileged.get_or_insert_with(|| place.into());
        }
        let name = place.file_name().unwrap_or_default();
        let builds = BUILDERS.iter().any(|builder| *builder == name);
        self.builds |= builds;
        self.builders.insert(self.caller.thread, builds);
        // The kernel itself opens what the first line of a script names, which may be a script.
        let mut script = place.to_path_buf();
        for _ in 0..INTERPRETERS {
            if self.class(&script) == Class::System {
                break;
            }
            let Some(named) = interpreter(&script) else {
                break;
            };
            script = self.locate(Act::Execute, &named);
            if self.class(&script) == Class::Watched {
                self.read(&script);
            }
        }
    }

    /// True if the thread that calls is one of a program that compares times of files.
    fn is_builder(&mut self) -> bool {
        let thread = self.caller.thread;
        *self.builders.entry(thread).or_insert_with(|| {
            let program = fs::read_link(format!("/proc/{thread}/exe")).ok();
            let name = program.as_deref().and_then(Path::file_name);
            name.is_some_and(|name| BUILDERS.iter().any(|builder| *builder == name))
        })
    }

    /// A program that asks for a file's time does what it does by it: a file that has another
    /// content has another time.
    fn compares(&mut self, place: &Path) {
        if !self.in_made(place) && fs::metadata(place).is_ok_and(|meta| meta.is_file()) {
            self.read(place);
        }
    }

    fn store(&mut self, act: Act, place: &Path, before: Before) {
        if let Act::Open(flags) = act
            && flags & libc::O_ACCMODE == libc::O_RDONLY
            && let Some(result) = self.places.result(place)
        {
            self.store_reads.insert(result);
        }
        let changes = match act {
            Act::Open(flags) => {
                flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0
            }
            Act::Make(_) => true,
            Act::Remove => before != Before::Missing,
            _ => false,
        };
        if changes {
            self.store_writes.insert(place.into());
        }
    }

    fn environment(&mut self, place: &Path) {
        let holder =
            |name: &str| ["site-packages", "dist-packages", "node_modules"].contains(&name);
        let mut folder = place;
        let mut inside = None;
        while let Some(above) = folder.parent() {
            if above
                .file_name()
                .is_some_and(|n| n.to_str().is_some_and(holder))
            {
                inside = Some((above, folder.file_name()));
                break;
            }
            folder = above;
        }
        if let Some((packages, Some(name))) = inside {
            let known = (packages.to_path_buf(), PathBuf::from(name));
            self.packages.insert(known);
        }
    }

    fn outside(&mut self, act: Act, place: &Path) {
        const NO_READ: i32 = libc::O_CREAT | libc::O_TRUNC | libc::O_PATH | libc::O_DIRECTORY;
        let reads = match act {
            Act::Open(flags) => flags & libc::O_ACCMODE != libc::O_WRONLY && flags & NO_READ == 0,
            Act::Carry => true,
            _ => return,
        };
        if !reads {
            self.first(place, Class::Outside, |_| {});
            return;
        }
        self.first(place, Class::Outside, |notes| {
            let Some(folder) = place.parent() else { return };
            if fs::metadata(place).is_ok_and(|meta| meta.is_file()) {
                let files = notes.outside.entry(folder.into()).or_default();
                if files.len() < OUTSIDE {
                    files.insert(place.into());
                }
            }
        });
    }
}

/// Whether a call goes on to where a link leads.
fn follows(act: Act) -> bool {
    match act {
        Act::Look { follow } => follow,
        Act::Open(flags) => flags & libc::O_NOFOLLOW == 0,
        Act::Execute | Act::List => true,
        Act::Target | Act::Make(_) | Act::Carry | Act::Remove | Act::Touch => false,
    }
}

fn kind(meta: &Metadata) -> Before {
    let id = Id::of(meta);
    match meta.file_type() {
        t if t.is_file() => Before::File(id),
        t if t.is_dir() => Before::Folder(id),
        t if t.is_symlink() => Before::Link(id),
        _ => Before::Other(id),
    }
}

/// `pkg/x.py` for `pkg/__pycache__/x.cpython-311.pyc`.
pub fn source_of(path: &Path) -> Option<PathBuf> {
    let folder = path.parent()?;
    if folder.file_name()? != "__pycache__" {
        return None;
    }
    let (stem, _) = path.file_name()?.to_str()?.split_once('.')?;
    Some(folder.parent()?.join(format!("{stem}.py")))
}

/// The names in a folder that may mean something to a program: not hidden ones, caches, the store.
pub fn names(places: &Places, folder: &Path) -> BTreeSet<Vec<u8>> {
    let Ok(entries) = fs::read_dir(folder) else {
        return BTreeSet::new();
    };
    let names = entries.flatten().map(|e| e.file_name());
    let plain = names.filter(|name| {
        let hidden = name.as_encoded_bytes().starts_with(b".");
        let path = folder.join(name);
        !hidden
            && !CACHES.iter().any(|c| *c == name)
            && !places.in_store(&path)
            && !places.ignores(&path)
    });
    plain.map(OsStringExt::into_vec).collect()
}

fn is_gpu(path: &Path) -> bool {
    let Some(name) = path.strip_prefix("/dev").ok().and_then(Path::to_str) else {
        return false;
    };
    let numbered = |prefix: &str| {
        name.strip_prefix(prefix)
            .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    numbered("nvidia") || numbered("dri/renderD") || name == "kfd"
}

/// What `#!` at the beginning of a script names.
fn interpreter(script: &Path) -> Option<PathBuf> {
    let mut head = [0u8; 256];
    let mut file = fs::File::open(script).ok()?;
    let got = file.read(&mut head).ok()?;
    let line = head[..got]
        .strip_prefix(b"#!")?
        .split(|b| *b == b'\n')
        .next()?;
    let word = line.trim_ascii().split(u8::is_ascii_whitespace).next()?;
    let path = PathBuf::from(std::ffi::OsString::from_vec(word.to_vec()));
    path.is_absolute().then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::places::Root;
    use globset::GlobSet;

    struct Scene {
        dir: tempfile::TempDir,
        notes: Notes,
    }

    impl Scene {
        fn new(files: &[&str]) -> Self {
            let dir = tempfile::tempdir().expect("a temporary folder");
            for file in files {
                let path = dir.path().join(file);
                fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
                fs::write(path, "x").expect("a file");
            }
            let roots = vec![Root::new(dir.path(), Path::new(""))];
            let places = Places::new(roots, &dir.path().join("artifacts"), GlobSet::empty());
            let notes = Notes::new(Arc::new(places));
            Self { dir, notes }
        }

        /// As the listener does: looks, lets it happen, takes it in.
        fn does(&mut self, act: Act, path: &str, happen: impl FnOnce(&Path)) {
            let path = self.dir.path().join(path);
            let event = Event::Path {
                act,
                path: path.clone(),
                absolute: true,
            };
            let before = self.notes.before(&event);
            happen(&path);
            self.notes.take(&event, before, None);
            self.notes.end();
        }

        fn renames(&mut self, from: &str, to: &str) {
            let [from, to] = [from, to].map(|name| self.dir.path().join(name));
            let event = |act, path: &Path| Event::Path {
                act,
                path: path.into(),
                absolute: true,
            };
            let all = [
                event(Act::Carry, &from),
                event(Act::Remove, &from),
                event(Act::Make(Thing::Moved), &to),
            ];
            let before = all.each_ref().map(|event| self.notes.before(event));
            // What cannot be done is what is tried here too.
            let _ = fs::rename(&from, &to);
            for (event, before) in all.iter().zip(before) {
                self.notes.take(event, before, None);
            }
            self.notes.end();
        }

        fn marks(&self, path: &str) -> Marks {
            self.notes.of(&self.dir.path().join(path))
        }
    }

    const READ: Act = Act::Open(libc::O_RDONLY);
    const WRITE: Act = Act::Open(libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC);

    #[test]
    fn what_was_there_is_read_and_what_the_stage_made_is_its_own() {
        let mut scene = Scene::new(&["a", "b", "c/d"]);
        let write = |path: &Path| fs::write(path, "new").expect("written");
        scene.does(READ, "a", |_| {});
        scene.does(WRITE, "b", write);
        scene.does(READ, "b", |_| {});
        scene.does(WRITE, "new", write);
        scene.does(READ, "new", |_| {});
        scene.does(READ, "none", |_| {});
        scene.does(Act::Look { follow: true }, "c/d", |_| {});
        assert!(scene.marks("a").has(Marks::READ));
        assert!(!scene.marks("b").has(Marks::READ) && scene.marks("b").has(Marks::READ_LATER));
        assert!(!scene.marks("new").has(Marks::READ));
        assert!(scene.marks("none").has(Marks::ABSENT));
        assert!(scene.marks("c/d").has(Marks::THERE) && !scene.marks("c/d").has(Marks::READ));
    }

    #[test]
    fn a_file_replaced_after_it_was_read_stays_read() {
        let mut scene = Scene::new(&["state", "old"]);
        scene.does(READ, "state", |_| {});
        let make = |path: &Path| fs::write(path, "new").expect("written");
        scene.does(WRITE, "state.tmp", make);
        scene.renames("state.tmp", "state");
        assert!(scene.marks("state").has(Marks::READ) && scene.marks("state").has(Marks::WROTE));
        scene.does(Act::Open(libc::O_RDWR), "old", |_| {});
        assert!(scene.marks("old").has(Marks::READ) && scene.marks("old").has(Marks::WROTE));
    }

    #[test]
    fn all_in_a_folder_that_the_stage_made_is_its_own() {
        let mut scene = Scene::new(&["a"]);
        let folder = |path: &Path| fs::create_dir(path).expect("made");
        scene.does(Act::Make(Thing::Folder), "tmp", folder);
        scene.does(READ, "tmp/none", |_| {});
        assert_eq!(scene.marks("tmp/none"), Marks::default());
        // A folder that is there already was not made.
        scene.does(Act::Make(Thing::Folder), "tmp", |_| {});
        assert!(scene.notes.own(&scene.dir.path().join("tmp/x")));
    }

    #[test]
    fn what_was_refused_is_not_the_stage_s_own() {
        let mut scene = Scene::new(&["a", "b/c", "d/e"]);
        scene.does(Act::Remove, "b", |_| {});
        scene.does(READ, "b/c", |_| {});
        assert!(scene.marks("b/c").has(Marks::READ));
        scene.does(WRITE, "none/x", |_| {});
        assert!(!scene.marks("none/x").has(Marks::OWN) && scene.marks("none/x").has(Marks::ABSENT));
        // A file cannot take the place of a folder.
        scene.renames("a", "d");
        scene.does(READ, "d/e", |_| {});
        scene.does(READ, "a", |_| {});
        assert!(scene.marks("d/e").has(Marks::READ) && scene.marks("a").has(Marks::READ));
        scene.renames("b", "moved");
        assert!(scene.marks("b/c").has(Marks::READ));
        assert!(scene.notes.own(&scene.dir.path().join("moved/c")));
    }

    #[test]
    fn compiled_python_stands_for_its_source() {
        let mut scene = Scene::new(&["pkg/m.py", "pkg/__pycache__/m.cpython-311.pyc"]);
        scene.does(READ, "pkg/__pycache__/m.cpython-311.pyc", |_| {});
        assert!(scene.marks("pkg/m.py").has(Marks::READ));
    }
}
