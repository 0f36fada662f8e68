//! From notes to what counts: reads with digests, and remarks for people.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use rayon::prelude::*;

use super::environment;
use super::notes::{Listing, Marks, Notes};
use crate::base::digest::Digest;
use crate::base::read;
use crate::exec::python::Imports;
use crate::store::observed::{self, Kind, Read, What};
use crate::store::places::{CACHES, Class, Map, Places, is_importable, names};
use crate::store::record::Seen;
use crate::store::stat::{self, SeenFile, Stamp};

/// All that one run was found to do.
#[derive(Debug, Default)]
pub struct Findings {
    pub reads: Vec<Read>,
    pub seen: Seen,
    /// The stamps of files among the reads, for whoever asks next what has changed.
    pub looked: Vec<SeenFile>,
    /// Files of the store that it changed, and may not.
    pub damaged: Vec<PathBuf>,
}

/// What one run is judged against.
pub struct Frame<'a> {
    pub dir: &'a Path,
    /// Names that its manifest holds already.
    pub declared: &'a HashSet<String>,
    /// Outputs of other stages that it was given.
    pub given: &'a [PathBuf],
    /// Patterns that say which files of a folder count.
    pub patterns: &'a [String],
    /// When the stage began, by the clock of files.
    pub started: SystemTime,
}

/// Digest in the place of a file's that was changed by others while the program ran: no content
/// has it, so the result does not count next time.
pub fn torn() -> Digest {
    Digest::of(b"changed while the program that read it ran")
}

impl Findings {
    pub fn of(notes: &mut Notes, imports: &Imports, frame: &Frame) -> Result<Self> {
        let places = std::sync::Arc::clone(&notes.places);
        let mut found = Reads {
            notes,
            places: &places,
            frame,
            reads: Vec::new(),
            contents: Vec::new(),
            changed: HashSet::new(),
        };
        found.paths();
        found.links();
        found.listings(imports);
        found.imports(imports);
        let (contents, looked) = found.digests()?;
        for compiled in &found.notes.compiled {
            remove_if_early(compiled);
        }
        let mut all = found.reads;
        all.extend(contents);
        prune(&mut all);
        Ok(Self {
            reads: all,
            looked,
            seen: seen(notes, &places, frame),
            damaged: damaged(notes, frame),
        })
    }
}

struct Reads<'a> {
    notes: &'a Notes,
    places: &'a Places,
    frame: &'a Frame<'a>,
    reads: Vec<Read>,
    /// Files whose content counts, and whether the stage itself has changed them.
    contents: Vec<(PathBuf, String, bool)>,
    /// Device and inode of what the stage has changed: it may have been read by another name.
    changed: HashSet<(u64, u64)>,
}

impl Reads<'_> {
    fn name(&self, path: &Path) -> Option<String> {
        let name = self.places.name(path)?;
        Some(observed::text(&name))
    }

    fn add(&mut self, what: What, path: &Path, digest: Digest) {
        if let Some(path) = self.name(path) {
            self.reads.push(Read {
                what,
                path,
                digest,
                names: Vec::new(),
            });
        }
    }

    fn paths(&mut self) {
        let all: Vec<(PathBuf, Marks)> = (self.notes.watched())
            .map(|(path, marks)| (path.to_path_buf(), marks))
            .collect();
        for (path, marks) in all {
            let changes = [Marks::WROTE, Marks::TOUCHED, Marks::OWN];
            if changes.into_iter().any(|mark| marks.has(mark))
                && let Ok(meta) = fs::metadata(&path)
            {
                self.changed.insert(Stamp::of(&meta).file());
            }
            self.path(&path, marks);
        }
    }

    fn path(&mut self, path: &Path, marks: Marks) {
        let is = |mark| marks.has(mark);
        if is(Marks::LINK) && !is(Marks::OWN) {
            let first = self.notes.links.get(path).copied();
            self.add(
                What::Link,
                path,
                first.unwrap_or_else(|| observed::link(path)),
            );
        }
        let changed = is(Marks::WROTE) || is(Marks::TOUCHED) || is(Marks::OWN);
        let read = match is(Marks::OWN) && !is(Marks::READ) {
            false => is(Marks::READ),
            // It was to be written and was not: what was read then is what was there before.
            true => is(Marks::EXISTED) && is(Marks::READ_LATER) && !self.is_newer(path),
        };
        if read {
            if let Some(name) = self.name(path) {
                self.contents.push((path.into(), name, changed));
            }
        } else if is(Marks::OWN) {
            // What the stage made itself does not count.
        } else if is(Marks::ABSENT) {
            if !self.notes.own(path) {
                self.add(What::Absent, path, observed::nothing());
            }
        } else if is(Marks::THERE) && self.places.name(path).is_some_and(|n| n != Path::new("")) {
            let kind = match (is(Marks::FOLDER), is(Marks::EMPTY)) {
                (true, _) => Kind::Folder,
                (_, true) => Kind::Empty,
                _ => Kind::File,
            };
            self.add(What::There, path, kind.digest());
        }
    }

    fn is_newer(&self, path: &Path) -> bool {
        let meta = fs::metadata(path);
        meta.is_ok_and(|m| Stamp::of(&m).changed_between(self.frame.started, SystemTime::now()))
    }

    fn links(&mut self) {
        let links: Vec<(PathBuf, Digest)> = self.notes.map.links.clone().into_iter().collect();
        for (link, digest) in links {
            if !self.notes.own(&link) {
                self.add(What::Link, &link, digest);
            }
        }
    }

    /// Folders that a program listed, apart from listings of Python's import system.
    fn listings(&mut self, imports: &Imports) {
        let listings: Vec<(&PathBuf, &Listing)> = self.notes.listings.iter().collect();
        for (folder, listing) in listings {
            let (mut whole, mut modules) = (false, false);
            for (process, (times, python)) in &listing.by {
                match imports.listed(*process, &self.places.real(folder)) {
                    Some(by_imports) => whole |= *times > by_imports,
                    // A Python that does not say what it imports, and looked where modules are.
                    None if *python && *times == 1 && self.holds_modules(folder) => {
                        modules = true;
                    }
                    None => whole = true,
                }
            }
            let what = match (whole, modules) {
                (true, _) => What::Names,
                (_, true) => What::Importable,
                _ => continue,
            };
            let own = self.own_names(folder, listing);
            let counts =
                |name: &&Vec<u8>| !own.contains(*name) && (whole || is_importable(name, folder));
            let kept: Vec<&[u8]> = listing
                .names
                .iter()
                .filter(counts)
                .map(Vec::as_slice)
                .collect();
            let text =
                |name: &Vec<u8>| observed::text(Path::new(std::ffi::OsStr::from_bytes(name)));
            let Some(path) = self.name(folder) else {
                continue;
            };
            // Who declares what counts in a folder need not hear of the rest.
            if is_covered(self.frame.patterns, &path) {
                continue;
            }
            self.reads.push(Read {
                what,
                path,
                digest: Digest::of(&kept.join(&0)),
                names: own.iter().map(text).collect(),
            });
        }
    }

    fn holds_modules(&self, folder: &Path) -> bool {
        let mut seen = self.notes.watched();
        seen.any(|(path, marks)| {
            marks.has(Marks::READ)
                && path.extension().is_some_and(|e| e == "py" || e == "so")
                && path
                    .ancestors()
                    .skip(1)
                    .take(2)
                    .any(|above| above == folder)
        })
    }

    /// Names in a folder that the stage itself has put there or taken away.
    fn own_names(&self, folder: &Path, listing: &Listing) -> BTreeSet<Vec<u8>> {
        let now = names(self.places, folder);
        let all: BTreeSet<&Vec<u8>> = now.union(&listing.names).collect();
        let own = all.into_iter().filter(|name| {
            let path = folder.join(std::ffi::OsStr::from_bytes(name));
            self.notes.own(&path)
        });
        own.cloned().collect()
    }

    /// What could satisfy or shadow the imports that were tried, in every watched folder where
    /// Python would look for them.
    fn imports(&mut self, imports: &Imports) {
        let mut wanted: BTreeMap<PathBuf, BTreeSet<&str>> = BTreeMap::new();
        for (folder, names) in &imports.wanted {
            let mut map = Map::default();
            let place = map.locate(self.places, folder);
            let watched = map.folder(self.places, &place) == Class::Watched;
            if watched && !self.notes.own(&place) {
                let all = wanted.entry(place).or_default();
                all.extend(names.iter().map(String::as_str));
            }
        }
        for (folder, names) in wanted {
            let Some(path) = self.name(&folder) else {
                continue;
            };
            let digest = match self.appeared(&folder, &names) {
                true => torn(),
                false => observed::imports(self.places, &folder, &names),
            };
            self.reads.push(Read {
                what: What::Imports,
                path,
                digest,
                names: names.into_iter().map(str::to_owned).collect(),
            });
        }
    }

    /// True if what an import would find came while the program ran, and not from itself: it may
    /// have looked before or after.
    fn appeared(&self, folder: &Path, wanted: &BTreeSet<&str>) -> bool {
        let found = names(self.places, folder).into_iter().filter(|name| {
            let stem = name.split(|b| *b == b'.').next().unwrap_or(name);
            std::str::from_utf8(stem).is_ok_and(|stem| wanted.contains(stem))
                && is_importable(name, folder)
        });
        let mut paths = found.map(|name| folder.join(std::ffi::OsStr::from_bytes(&name)));
        paths.any(|path| !path.is_dir() && !self.notes.own(&path) && self.is_newer(&path))
    }

    fn digests(&self) -> Result<(Vec<Read>, Vec<SeenFile>)> {
        let one = |(path, name, changed): &(PathBuf, String, bool)| {
            let found = self.digest(path, name, *changed);
            found.with_context(|| format!("cannot read {}", path.display()))
        };
        let all = self.contents.par_iter().map(one);
        let all = all.collect::<Result<Vec<_>>>()?;
        let (reads, looked): (Vec<_>, Vec<_>) = all.into_iter().flatten().unzip();
        Ok((reads, looked.into_iter().flatten().collect()))
    }

    /// What counts of a file that was read.
    fn digest(
        &self,
        path: &Path,
        name: &str,
        changed: bool,
    ) -> io::Result<Option<(Read, Option<SeenFile>)>> {
        let content = |digest| Read::content(name.to_owned(), digest);
        let other = |what, digest| Read {
            what,
            path: name.to_owned(),
            digest,
            names: Vec::new(),
        };
        // What another stage has read too is known by its stamp, for which it need not be opened.
        let known = self.notes.read_first(path).is_none_or(stat::is_known);
        let open = match known || changed {
            true => None,
            false => read::open_with(path).ok(),
        };
        let seen = match open {
            Some((file, meta)) => Ok((meta, Some(file))),
            None => fs::metadata(path).map(|meta| (meta, None)),
        };
        let (meta, file) = match seen {
            Ok(seen) => seen,
            // Somebody else took it away.
            Err(_) if !self.notes.own(path) => return Ok(Some((content(torn()), None))),
            // Read, and then taken away: it counts if it comes back.
            Err(_) => return Ok(Some((other(What::Absent, observed::nothing()), None))),
        };
        let changed = changed || self.changed.contains(&Stamp::of(&meta).file());
        if !changed && self.notes.is_another(path, &meta) {
            return Ok(Some((content(torn()), None)));
        }
        if !meta.is_file() || self.frame.declared.contains(name) {
            return Ok(None);
        }
        let digest = digest(path, file, &meta, changed, self.frame.started);
        match digest {
            // The program could not read it either: it may execute it, or go on without it.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                Ok(Some((other(What::There, Kind::of(&meta).digest()), None)))
            }
            digest => {
                let (digest, stamp) = digest?;
                let looked = stamp.map(|stamp| SeenFile {
                    name: name.to_owned(),
                    stamp,
                    digest,
                });
                Ok(Some((content(digest), looked)))
            }
        }
    }
}

/// Removes a compiled form that Python has written within the second in which the source changed:
/// Python compares whole seconds, and would take it for that of a source changed once more in it.
fn remove_if_early(compiled: &Path) {
    let Some(source) = super::notes::source_of(compiled) else {
        return;
    };
    let changed = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    if let (Some(written), Some(edited)) = (changed(compiled), changed(&source))
        && written < edited + Duration::from_secs(2)
    {
        // Where it cannot be removed, things are as they always were with Python.
        let _ = fs::remove_file(compiled);
    }
}

/// The digest of a file as the program found it, and its stamp if a change from now on would show.
fn digest(
    path: &Path,
    file: Option<File>,
    meta: &fs::Metadata,
    changed_by_stage: bool,
    started: SystemTime,
) -> io::Result<(Digest, Option<Stamp>)> {
    let stamp = Stamp::of(meta);
    let now = SystemTime::now();
    if stamp.changed_between(started, now) && !changed_by_stage {
        return Ok((torn(), None));
    }
    if let Some(digest) = stat::recall(&stamp) {
        return Ok((digest, Some(stamp)));
    }
    let digest = match file {
        Some(file) => stat::hash_open(&file, meta.len())?,
        None => stat::hash_file(path, meta.len())?,
    };
    let settled = stamp.settled(now).then_some(stamp);
    if let Some(stamp) = settled {
        stat::remember(stamp, digest);
    }
    Ok((digest, settled))
}

/// True if patterns say which files of a folder count. A folder's own name says that all do.
fn is_covered(patterns: &[String], folder: &str) -> bool {
    patterns.iter().any(|pattern| {
        let parts: Vec<&str> = pattern
            .split('/')
            .filter(|p| !["", "."].contains(p))
            .collect();
        let wild = |part: &&str| part.contains(['*', '?', '[', '{']);
        let fixed = parts.iter().take_while(|part| !wild(part)).count();
        if fixed == parts.len() {
            return false;
        }
        let prefix = parts[..fixed].join("/");
        match parts.len() - fixed {
            1 if parts[fixed] != "**" => folder == prefix,
            _ => prefix.is_empty() || Path::new(folder).starts_with(prefix),
        }
    })
}

/// Leaves out what others say already: that a folder is there in which something was read, or that
/// a file below a missing folder is missing.
fn prune(all: &mut Vec<Read>) {
    all.sort_by(|a, b| (&a.path, a.what.order()).cmp(&(&b.path, b.what.order())));
    all.dedup_by(|a, b| a.what == b.what && a.path == b.path);
    let mut above: HashSet<String> = HashSet::new();
    let mut contents: HashSet<String> = HashSet::new();
    let mut absent: HashSet<String> = HashSet::new();
    for read in all.iter() {
        match read.what {
            What::Absent => {
                absent.insert(read.path.clone());
                continue;
            }
            What::Content => {
                contents.insert(read.path.clone());
            }
            What::Names | What::Importable | What::Imports => {
                above.insert(read.path.clone());
            }
            What::There | What::Link => {}
        }
        let ancestors = Path::new(&read.path).ancestors().skip(1);
        above.extend(ancestors.filter_map(|p| Some(p.to_str()?.to_owned())));
    }
    all.retain(|read| match read.what {
        What::There => !above.contains(&read.path) && !contents.contains(&read.path),
        What::Absent => {
            let mut ancestors = Path::new(&read.path).ancestors().skip(1);
            !ancestors.any(|p| p.to_str().is_some_and(|p| absent.contains(p)))
        }
        _ => true,
    });
}

impl What {
    fn order(self) -> u8 {
        self as u8
    }
}

fn seen(notes: &Notes, places: &Places, frame: &Frame) -> Seen {
    let declared = |path: &Path| {
        let name = observed::text(path);
        let mut above = path.ancestors().filter_map(Path::to_str);
        frame.declared.contains(&name) || above.any(|p| frame.declared.contains(p))
    };
    let mut outside: BTreeMap<String, usize> = BTreeMap::new();
    for (folder, files) in &notes.outside {
        let old = |path: &&PathBuf| {
            let meta = fs::metadata(path);
            meta.is_ok_and(|m| !Stamp::of(&m).changed_between(frame.started, SystemTime::now()))
                && !declared(path)
        };
        let count = files.iter().filter(old).count();
        if count > 0 {
            outside.insert(observed::text(folder), count);
        }
    }
    let mut wrote: Vec<String> = (notes.watched())
        .filter(|(path, marks)| {
            (marks.has(Marks::WROTE) || marks.has(Marks::OWN))
                && !path
                    .components()
                    .any(|c| CACHES.iter().any(|n| *n == c.as_os_str()))
                && fs::symlink_metadata(path).is_ok_and(|m| {
                    !m.is_dir() && Stamp::of(&m).changed_between(frame.started, SystemTime::now())
                })
        })
        .filter_map(|(path, _)| Some(observed::text(&places.name(path)?)))
        .collect();
    wrote.sort();
    Seen {
        observed: true,
        outside,
        wrote,
        packages: environment::versions(&notes.packages),
        network: notes.network.iter().cloned().collect(),
        gpu: notes.gpu,
        results: (notes.store_reads.iter())
            .filter(|result| !frame.given.iter().any(|given| given.starts_with(result)))
            .map(|result| observed::text(result))
            .collect(),
        ignored: notes.ignored,
        left: 0,
        lost: notes.lost,
        apart: notes.apart,
    }
}

/// Files in other results that were opened for writing and have changed since the start.
fn damaged(notes: &Notes, frame: &Frame) -> Vec<PathBuf> {
    let foreign = (notes.store_writes.iter()).filter(|path| notes.places.in_results(path));
    let changed = foreign.filter(|path| match fs::symlink_metadata(path) {
        Ok(meta) => Stamp::of(&meta).changed_between(frame.started, SystemTime::now()),
        Err(_) => true,
    });
    changed.cloned().collect()
}

/// Reads of files that the program itself has reported: those that its depfile names, wherever they
/// lie, and modules of watched folders.
pub fn reported(
    named: impl IntoIterator<Item = PathBuf>,
    modules: impl IntoIterator<Item = PathBuf>,
    places: &Places,
    frame: &Frame,
) -> Result<Vec<Read>> {
    let mut map = Map::default();
    let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
    let named = named.into_iter().map(|path| (path, true));
    let modules = modules.into_iter().map(|path| (path, false));
    for (path, anywhere) in named.chain(modules) {
        let place = map.locate(places, &frame.dir.join(path));
        let class = map.class(places, &place);
        let counts = class == Class::Watched || anywhere && class != Class::Store;
        if counts && place.is_file() {
            let name = places.name(&place).unwrap_or_else(|| place.clone());
            files.insert(observed::text(&name), place);
        }
    }
    files.retain(|name, _| !frame.declared.contains(name));
    let read = files.into_par_iter().map(|(name, place)| {
        let (digest, _) = fs::metadata(&place)
            .and_then(|meta| digest(&place, None, &meta, false, frame.started))
            .with_context(|| format!("cannot read {}", place.display()))?;
        Ok(Read::content(name, digest))
    });
    read.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_say_what_counts_in_the_folders_that_they_name() {
        let covered = |pattern: &str, folder: &str| is_covered(&[pattern.to_owned()], folder);
        assert!(covered("data/*.csv", "data") && !covered("data/*.csv", "data/deep"));
        assert!(covered("data/**/*.csv", "data") && covered("data/**/*.csv", "data/deep"));
        assert!(!covered("./data", "data") && !covered("data", "data/deep"));
        assert!(covered("*.csv", "") && !covered("*.csv", "data"));
        assert!(!covered("data/*.csv", "") && !covered("data/1.csv", "dat"));
    }
}
