//! What is known of all results, in one file that is read at once and only appended to.
//!
//! Each line is one fact in JSON. A line that was torn by a crash is skipped; results that it
//! should have told of are found again in `results/`. Facts that were not yet known to be on the
//! disk when the machine went down are kept, but what they say of files is checked by reading.
//!
//! Several processes append, each in its turn (`Lock::turn`), and read what others have appended. A writer
//! vouches only for its own lines, so they tell whose they are.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::SystemTime;

use super::durable::sync_folder;
use super::facts::{Entry, Home, Line, Names};
use super::lock::{Lock, new_id};
use super::stat::Stamp;
use crate::base::digest::{Digest, Fingerprint};
use crate::base::files;
use crate::base::read;

#[derive(Debug, Default)]
pub struct Index {
    path: PathBuf,
    pub results: HashMap<Fingerprint, Entry>,
    /// Results by the manifest without what runs were found to read.
    by_base: HashMap<Fingerprint, Vec<Fingerprint>>,
    pub names: Names,
    pub files: HashMap<String, (Stamp, Digest)>,
    /// Files that were noted since the index was loaded.
    learned: Vec<String>,
    /// This process as a writer, who wrote the last line, and during which boot.
    writer: String,
    last: String,
    boot: String,
    /// What is not known to be on the disk, by who wrote it.
    open: BTreeMap<String, Open>,
    /// The stamp of `results/` when all was last known to be on the disk.
    pub folder: Option<Stamp>,
    /// Which folder `results/` was when this was written.
    pub home: Option<Home>,
    /// Runs before this one have left results that may not have come to the disk.
    pub unsynced: bool,
    pending: String,
    lines: usize,
    boot_written: bool,
    /// The file, its device and number, and how far it was read. It stays open, so that no other takes its
    /// number.
    file: Option<File>,
    number: (u64, u64),
    read_to: u64,
}

/// Facts of one writer.
#[derive(Debug, Default)]
struct Open {
    /// During which boot they were written; empty if during several.
    boot: String,
    results: Vec<Fingerprint>,
    files: Vec<String>,
}

impl Index {
    pub fn load(path: &Path) -> io::Result<Self> {
        let mut index = Self {
            path: path.into(),
            writer: new_id(),
            ..Self::default()
        };
        index.catch_up()?;
        let here = boot_id();
        let open = index.open.values_mut().filter(|open| open.boot != here);
        let facts: Vec<_> = open
            .map(|open| {
                (
                    std::mem::take(&mut open.results),
                    std::mem::take(&mut open.files),
                )
            })
            .collect();
        for (results, files) in facts {
            results.iter().for_each(|fp| index.distrust(fp));
            for path in files {
                index.files.remove(&path);
            }
        }
        Ok(index)
    }

    /// Reads what others have appended, and tells whether there was anything.
    pub fn catch_up(&mut self) -> io::Result<bool> {
        let meta = match fs::symlink_metadata(&self.path) {
            Ok(meta) => meta,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        };
        if self.file.is_some() && number(&meta) == self.number && meta.len() == self.read_to {
            return Ok(false);
        }
        let file = read::open_own(OpenOptions::new().read(true), &self.path)?;
        let meta = file.metadata()?;
        let same = self.file.is_none() || number(&meta) == self.number;
        if !same || meta.len() < self.read_to {
            return self.load_again().map(|()| true);
        }
        if meta.len() > read::INDEX {
            let message = "it is larger than any index; remove it, and it is made anew";
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        let mut file = file;
        let mut text = Vec::with_capacity((meta.len() - self.read_to) as usize);
        file.seek(SeekFrom::Start(self.read_to))?;
        (&file)
            .take(meta.len() - self.read_to)
            .read_to_end(&mut text)?;
        let end = text
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or(0, |at| at + 1);
        self.take_in(&text[..end]);
        let torn = &text[end..];
        let whole = serde_json::from_slice::<Line>(torn).is_ok();
        if whole {
            // A crash has taken but its end.
            self.take_in(torn);
        } else if !torn.is_empty() {
            self.open.entry(self.last.clone()).or_default();
        }
        self.read_to += if whole { text.len() } else { end } as u64;
        self.keep_open(file)?;
        Ok(true)
    }

    fn keep_open(&mut self, file: File) -> io::Result<()> {
        self.number = number(&file.metadata()?);
        self.file = Some(file);
        Ok(())
    }

    /// Another process has written the file anew.
    fn load_again(&mut self) -> io::Result<()> {
        let mut new = Self::load(&self.path)?;
        for line in self.pending.lines() {
            let Ok(line) = serde_json::from_str(line) else {
                continue;
            };
            let fp = match &line {
                Line::Result(entry) => Some(entry.fp),
                _ => None,
            };
            new.learn(line);
            // Whether it was believed is not known any more.
            fp.iter().for_each(|fp| new.distrust(fp));
        }
        // It may also be gone, and what is known here is not.
        for (fp, entry) in self.results.drain() {
            if !new.results.contains_key(&fp) {
                new.learn(Line::Result(entry));
            }
        }
        new.writer = std::mem::take(&mut self.writer);
        new.learned = std::mem::take(&mut self.learned);
        new.pending = std::mem::take(&mut self.pending);
        new.unsynced = self.unsynced;
        new.boot_written = self.boot_written;
        *self = new;
        Ok(())
    }

    fn take_in(&mut self, text: &[u8]) {
        let here = boot_id();
        for line in text.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            self.lines += 1;
            let line = serde_json::from_slice(line);
            match line {
                Ok(Line::By(writer)) => {
                    self.last = writer;
                    continue;
                }
                Ok(Line::Synced(folder)) => {
                    self.open.remove(&self.last);
                    self.folder = folder;
                    continue;
                }
                Ok(Line::SyncedOf(writers)) => {
                    writers
                        .iter()
                        .for_each(|writer| drop(self.open.remove(writer)));
                    continue;
                }
                _ => {}
            }
            if let Ok(Line::Boot(id)) = &line {
                self.boot.clone_from(id);
            }
            if !self.open.contains_key(&self.last) {
                let boot = self.boot.clone();
                let open = Open {
                    boot,
                    ..Open::default()
                };
                self.open.insert(self.last.clone(), open);
            }
            let Some(open) = self.open.get_mut(&self.last) else {
                continue;
            };
            if open.boot != self.boot {
                open.boot.clear();
            }
            match line {
                Ok(Line::Recent(..)) if self.boot != here => {}
                Ok(Line::Home(home)) => self.home = Some(home),
                // As good as torn: what it tells of is looked for in `results/`.
                Ok(Line::Result(entry)) if entry.problem().is_some() => self.folder = None,
                Ok(line) => {
                    match &line {
                        Line::Result(entry) => open.results.push(entry.fp),
                        Line::File(path, ..) => open.files.push(path.clone()),
                        _ => {}
                    }
                    self.learn(line);
                }
                Err(_) => {}
            }
        }
    }

    /// Writes under the name by which the run is known.
    pub fn write_as(&mut self, writer: &str) {
        self.writer = writer.into();
    }

    /// True if all that was written is known to be on the disk.
    pub fn clean(&self) -> bool {
        self.open.is_empty() && self.lines > 0
    }

    /// Others who have not said that what they wrote is on the disk.
    pub fn others(&self) -> Vec<String> {
        let others = self.open.keys().filter(|writer| **writer != self.writer);
        others.cloned().collect()
    }

    fn learn(&mut self, line: Line) {
        match line {
            Line::Result(entry) => {
                if let Some(base) = entry.base {
                    let all = self.by_base.entry(base).or_default();
                    all.retain(|fp| *fp != entry.fp);
                    all.push(entry.fp);
                }
                self.results.insert(entry.fp, entry);
            }
            Line::Name(profile, stage, fp) => {
                self.names.insert(profile, stage, fp);
            }
            Line::File(path, stamp, digest) | Line::Recent(path, stamp, digest) => {
                self.files.insert(path, (stamp, digest));
            }
            Line::Gone(fp) => {
                self.results.remove(&fp);
            }
            _ => {}
        }
    }

    /// Results for a manifest, newest first: the one with that fingerprint, or those whose runs
    /// were found to read more. What was made elsewhere comes after all that was made here.
    pub fn candidates(&self, fp: &Fingerprint) -> Vec<&Entry> {
        let same = self.results.get(fp).into_iter();
        let more = self.by_base.get(fp).into_iter().flatten().rev();
        let all = same.chain(more.filter_map(|fp| self.results.get(fp)));
        let mut all: Vec<&Entry> = all.collect();
        all.sort_by_key(|entry| entry.origin.is_some());
        all
    }

    /// Forgets all results and files.
    pub fn forget(&mut self) {
        self.results.clear();
        self.by_base.clear();
        self.files.clear();
        self.learned.clear();
        self.unsynced = false;
    }

    /// Says of all results that they were not made here, unless that is known of them.
    pub fn disown(&mut self, origin: &str) {
        let ours = self.results.values().filter(|entry| entry.origin.is_none());
        for mut entry in ours.cloned().collect::<Vec<_>>() {
            entry.origin = Some(origin.into());
            self.add_result(entry);
        }
    }

    /// Notes where the index is written, if that is not known.
    pub fn settle_in(&mut self, home: Home) {
        if self.home != Some(home) {
            self.home = Some(home);
            self.push(&Line::Home(home));
        }
    }

    /// Forgets what is believed of a result's files, so that they are read before use.
    pub fn distrust(&mut self, fp: &Fingerprint) {
        if let Some(entry) = self.results.get_mut(fp) {
            for made in &mut entry.out {
                made.stamp = None;
            }
        }
    }

    pub fn add_result(&mut self, entry: Entry) {
        self.note(Line::Result(entry));
    }

    pub fn add_name(&mut self, profile: &str, stage: &str, fp: Fingerprint) {
        if self.names.get(profile, stage) != Some(fp) {
            self.note(Line::Name(profile.into(), stage.into(), fp));
        }
    }

    pub fn add_file(&mut self, path: &str, stamp: Stamp, digest: Digest) {
        self.learned.push(path.into());
        self.note(file_line(path, stamp, digest));
    }

    /// Adds what is not known yet.
    pub fn learn_file(&mut self, path: &str, stamp: Stamp, digest: Digest) {
        if self.files.get(path) != Some(&(stamp, digest)) {
            self.add_file(path, stamp, digest);
        }
    }

    /// Takes over the digests that an index of the same store has learned of files and not written.
    pub fn carry(&mut self, other: &Self) {
        for path in &other.learned {
            if let Some((stamp, digest)) = other.files.get(path) {
                self.learn_file(path, *stamp, *digest);
            }
        }
    }

    /// Believes of files below `to` what it knows of those below `from`: links lead from there to here, and a
    /// stamp tells whether it is the same file. Nothing of it is written.
    pub fn believe_below(&mut self, from: &Path, to: &Path) {
        let [from, to] = [from, to].map(|folder| format!("{}/", files::text(folder)));
        let below = |(path, known): (&String, &(Stamp, Digest))| {
            Some((to.clone() + path.strip_prefix(from.as_str())?, *known))
        };
        let more: Vec<_> = self.files.iter().filter_map(below).collect();
        self.files.extend(more);
    }

    pub fn add_gone(&mut self, fp: Fingerprint) {
        self.note(Line::Gone(fp));
    }

    fn note(&mut self, line: Line) {
        if !self.boot_written {
            self.boot_written = true;
            self.push(&Line::Boot(boot_id()));
        }
        self.push(&line);
        self.learn(line);
    }

    fn push(&mut self, line: &Line) {
        if let Ok(text) = serde_json::to_string(line) {
            self.pending.push_str(&text);
            self.pending.push('\n');
            self.lines += 1;
        }
    }

    /// True if something was noted that is not written yet.
    pub fn has_notes(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Writes what was noted, after what others have written was read. A failure leaves the file as it
    /// was, and the notes for next time.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let _turn = Lock::turn(self.folder_of())?;
        let mut file = open_append(&self.path)?;
        self.catch_up()?;
        let mut text = String::new();
        if self.last != self.writer {
            text += &serde_json::to_string(&Line::By(self.writer.clone()))?;
            text.push('\n');
        }
        text += &self.pending;
        let before = file.metadata()?.len();
        if let Err(e) = file.write_all(text.as_bytes()) {
            file.set_len(before)?;
            return Err(e);
        }
        self.pending.clear();
        self.last.clone_from(&self.writer);
        self.boot = boot_id();
        self.open.entry(self.writer.clone()).or_default();
        self.read_to = before + text.len() as u64;
        self.keep_open(file)
    }

    /// Notes that everything it has written is on the disk, and what `left` have, which are gone; the
    /// caller has seen to it. `folder` is `results/`, if nothing is in it that the index does not tell of.
    pub fn synced(&mut self, folder: Option<Stamp>, left: &[String]) -> io::Result<()> {
        self.folder = folder.filter(|folder| folder.settled(SystemTime::now()));
        if !left.is_empty() {
            self.push(&Line::SyncedOf(left.to_vec()));
        }
        self.push(&Line::Synced(self.folder));
        self.flush()?;
        open_append(&self.path)?.sync_data()?;
        self.open
            .retain(|writer, _| *writer != self.writer && !left.contains(writer));
        self.unsynced = false;
        Ok(())
    }

    fn folder_of(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    /// True if half of the file or more is out of date.
    pub fn is_long(&self) -> bool {
        let live = self.results.len() + self.names.iter().count() + self.files.len() + 3;
        self.lines >= 2 * live + 100
    }

    /// Rewrites the file without what is out of date, if all of it is known to be on the disk. No other
    /// run may be there.
    pub fn compact(&mut self) -> io::Result<()> {
        let _turn = Lock::turn(self.folder_of())?;
        self.catch_up()?;
        if !self.clean() || self.has_notes() {
            return Ok(());
        }
        let mut text = String::new();
        let mut line = |line: Line| {
            if let Ok(json) = serde_json::to_string(&line) {
                text.push_str(&json);
                text.push('\n');
            }
        };
        let mut results: Vec<&Entry> = self.results.values().collect();
        results.sort_by_key(|e| (e.at, e.fp));
        results
            .into_iter()
            .for_each(|e| line(Line::Result(e.clone())));
        for (profile, stage, fp) in self.names.iter() {
            line(Line::Name(profile.into(), stage.into(), fp));
        }
        line(Line::Boot(boot_id()));
        for (path, (stamp, digest)) in &self.files {
            line(file_line(path, *stamp, *digest));
        }
        self.home
            .into_iter()
            .for_each(|home| line(Line::Home(home)));
        line(Line::Synced(self.folder));
        let folder = self.folder_of();
        let mut file = super::new_file(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        let file = file.persist(&self.path).map_err(|e| e.error)?;
        sync_folder(folder)?;
        self.lines = text.lines().count();
        self.boot_written = false;
        self.last.clear();
        self.read_to = text.len() as u64;
        self.keep_open(file)
    }
}

/// What was written shortly before it was read may not have come to the disk, and its time may have: it is
/// believed until the machine goes down. To wait for it would be to wait for all that others write.
fn file_line(path: &str, stamp: Stamp, digest: Digest) -> Line {
    match stamp.is_recent(SystemTime::now()) {
        true => Line::Recent(path.into(), stamp, digest),
        false => Line::File(path.into(), stamp, digest),
    }
}

/// Device and number of a file.
fn number(meta: &Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

/// Opens for appending whole lines, also after a line that was torn.
pub(super) fn open_append(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::FileExt;
    let mut file = read::open_own(
        OpenOptions::new().create(true).read(true).append(true),
        path,
    )?;
    let len = file.metadata()?.len();
    let mut last = [b'\n'];
    if len > 0 {
        file.read_exact_at(&mut last, len - 1)?;
    }
    if last != [b'\n'] {
        file.write_all(b"\n")?;
    }
    Ok(file)
}

/// Changes whenever the machine starts; empty where there is no such thing, and then no fact is
/// believed that was not synced.
pub fn boot_id() -> String {
    static BOOT: OnceLock<String> = OnceLock::new();
    let read = || {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id");
        text.map_or_else(
            |_| format!("process {}", std::process::id()),
            |t| t.trim().into(),
        )
    };
    BOOT.get_or_init(read).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_below_one_folder_is_believed_below_another() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("index");
        let stamp: Stamp = serde_json::from_str("[1,2,3,4,5]")?;
        let mut index = Index::load(&path)?;
        for name in ["/here/data/x", "/hereafter/x"] {
            index.add_file(name, stamp, Digest::of(b"x"));
        }
        index.flush()?;
        index.believe_below(Path::new("/here"), Path::new("/there"));
        assert!(index.files.contains_key("/there/data/x"));
        assert_eq!(index.files.len(), 3);
        assert!(!index.has_notes(), "it is not written");
        Ok(())
    }

    #[test]
    fn two_writers_read_each_other_and_vouch_for_their_own_lines() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("index");
        let stamp: Stamp = serde_json::from_str("[1,2,3,4,5]")?;
        let digest = Digest::of(b"x");
        let (mut one, mut two) = (Index::load(&path)?, Index::load(&path)?);
        let name = |index: &Index| index.names.get("p", "a");
        let (first, second) = (Fingerprint::of("1"), Fingerprint::of("2"));
        one.add_file("/one", stamp, digest);
        one.add_name("p", "a", first);
        one.flush()?;
        two.add_file("/two", stamp, digest);
        two.flush()?;
        assert!(two.files.contains_key("/one") && name(&two) == Some(first));
        assert!(!one.files.contains_key("/two"));
        // A crash has torn a line of the first one.
        open_append(&path)?.write_all(b"{\"name\":[\"p\",")?;
        assert!(one.catch_up()? && one.files.contains_key("/two"));
        two.add_name("p", "a", second);
        two.flush()?;
        assert!(one.catch_up()? && name(&one) == Some(second));
        assert!(!one.catch_up()?, "there is nothing more");
        // What the second has written may not be on the disk: after the machine went down it is not believed.
        one.synced(Some(stamp), &[])?;
        assert!(!Index::load(&path)?.clean());
        let text = fs::read_to_string(&path)?;
        fs::write(&path, text.replace(&boot_id(), "an earlier one"))?;
        let later = Index::load(&path)?;
        assert!(later.files.contains_key("/one") && !later.files.contains_key("/two"));
        fs::write(&path, text)?;
        let mut third = Index::load(&path)?;
        let left = third.others();
        assert_eq!(left.len(), 1);
        third.synced(Some(stamp), &left)?;
        assert!(Index::load(&path)?.clean());
        Ok(())
    }

    #[test]
    fn one_that_was_written_anew_is_read_anew_and_own_notes_stay() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("index");
        let stamp: Stamp = serde_json::from_str("[1,2,3,4,5]")?;
        let (mut one, mut two) = (Index::load(&path)?, Index::load(&path)?);
        one.add_file("/one", stamp, Digest::of(b"1"));
        one.flush()?;
        two.catch_up()?;
        one.synced(Some(stamp), &[])?;
        one.compact()?;
        one.add_file("/more", stamp, Digest::of(b"2"));
        one.flush()?;
        two.add_file("/two", stamp, Digest::of(b"3"));
        two.flush()?;
        assert!(
            ["/one", "/more", "/two"]
                .iter()
                .all(|f| two.files.contains_key(*f))
        );
        let all = Index::load(&path)?;
        assert!(
            ["/one", "/more", "/two"]
                .iter()
                .all(|f| all.files.contains_key(*f))
        );
        Ok(())
    }

    #[test]
    fn what_was_written_shortly_before_it_was_read_is_believed_until_the_machine_goes_down()
    -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("index");
        let old: Stamp = serde_json::from_str("[1,2,3,4,5]")?;
        let new = Stamp::of(&fs::metadata(dir.path())?);
        let digest = Digest::of(b"x");
        let mut index = Index::load(&path)?;
        index.add_file("/old", old, digest);
        index.add_file("/new", new, digest);
        index.flush()?;
        index.synced(Some(old), &[])?;
        let known = |index: &Index| ["/old", "/new"].map(|name| index.files.contains_key(name));
        assert_eq!(known(&Index::load(&path)?), [true, true]);
        // The same when the file was written anew.
        index.compact()?;
        assert_eq!(known(&Index::load(&path)?), [true, true]);
        let text = fs::read_to_string(&path)?;
        fs::write(&path, text.replace(&boot_id(), "an earlier one"))?;
        assert_eq!(known(&Index::load(&path)?), [true, false]);
        Ok(())
    }
}
