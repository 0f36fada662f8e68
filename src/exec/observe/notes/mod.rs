//! What one run of a stage was seen to do, kept as it happens: per path what was asked of it, and
//! whether the stage itself had made it before.
//!
//! Paths are looked at when they are first seen. Whatever could change them goes through the same
//! listener and is taken in order, so what is found then is what the program found.

mod changes;
mod marks;
mod outcome;
mod programs;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::calls::{Act, Event, Thing};
use crate::base::digest::Digest;
use crate::store::places::{Class, Map, Places, look, names};
pub use marks::Marks;
use outcome::{Aim, Moving, Pending};
pub use outcome::{Before, Caller, Id};

/// A folder whose names were asked for.
#[derive(Debug, Default)]
pub struct Listing {
    /// When it was first listed, without hidden ones and caches.
    pub names: BTreeSet<Vec<u8>>,
    /// For each process: how often, and whether it is a Python.
    pub by: HashMap<u32, (usize, bool)>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    class: Class,
    marks: Marks,
    /// The file that was found when it was first read.
    first: Option<Id>,
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
    /// Threads of programs that compare times of files (`programs.rs`) or not, as far as is known.
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
        first.is_some_and(|first| {
            let now = Id::of(now);
            first != now && (!first.changed_with(now) || has_lasting_numbers(path))
        })
    }

    /// Device and inode of a file when it was read first.
    pub fn read_first(&self, path: &Path) -> Option<(u64, u64)> {
        Some(self.seen.get(path)?.first?.file())
    }

    /// True if the stage made a folder that holds this path, or the path itself.
    pub fn own(&self, path: &Path) -> bool {
        let marks = self.seen.get(path).map(|s| s.marks);
        marks.is_some_and(|m| m.has(Marks::OWN)) || self.in_made(path)
    }

    fn in_made(&self, path: &Path) -> bool {
        !self.made.is_empty() && path.ancestors().any(|above| self.made.contains(above))
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
            let path = folder.join(crate::store::places::join(&target, inside));
            place = self.map.locate(&self.places, &path);
        }
        place
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
        let unknown = Seen {
            class,
            marks: Marks::default(),
            first: None,
        };
        &mut self.seen.entry(place.into()).or_insert(unknown).marks
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
            Some(meta) => {
                self.mark(place, Marks::THERE);
                if meta.is_file() && meta.len() == 0 {
                    self.mark(place, Marks::EMPTY);
                }
            }
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

/// False where a file may have another inode number at each look: file systems of users and of other
/// machines, as sshfs and shares of Windows.
fn has_lasting_numbers(path: &Path) -> bool {
    const FUSE: u32 = 0x6573_5546;
    const CIFS: u32 = 0xff53_4d42;
    const SMB2: u32 = 0xfe53_4d42;
    const PLAN9: u32 = 0x0102_1997;
    let kind = rustix::fs::statfs(path).map(|disk| disk.f_type as u32);
    !kind.is_ok_and(|kind| [FUSE, CIFS, SMB2, PLAN9].contains(&kind))
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

#[cfg(test)]
mod tests;
