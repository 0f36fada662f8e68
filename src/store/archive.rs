//! One file with a pipeline and results: for a reviewer without a network.
//!
//! `results/FINGERPRINT/…`, and below `project/` the pipeline, `accepted.toml` and the files that
//! `command` stages read, in a compressed tar. Nothing in an archive is believed: every artifact
//! must have the digest its record tells, every record must stand for its manifest, nothing that no
//! manifest names is kept, nothing may leave the folder it is unpacked to, and what it unpacks to has
//! a limit.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Seek};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use tar::{Archive, Builder, EntryType, Header};

use crate::base::diag::Diagnostic;
use crate::base::digest::Fingerprint;
use crate::base::human;
use crate::base::plain;
use crate::base::read;
use crate::pipeline::manifest::Manifest;
use crate::store::observed;
use crate::store::record::Record;
use crate::store::tree::{self, Node, What};
use crate::store::{self, Entry, READS, Store, new_file};

/// Where files of the project are in an archive.
pub const PROJECT: &str = "project";

/// Writes results, and files of the project by their names there, to a new archive.
pub fn write(
    to: &Path,
    store: &Store,
    results: &BTreeSet<Fingerprint>,
    files: &BTreeMap<String, PathBuf>,
) -> Result<()> {
    let folder = to
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let part = new_file(folder).with_context(|| format!("cannot write in {}", folder.display()))?;
    let mut tar = Builder::new(GzEncoder::new(part, Compression::fast()));
    for (name, path) in files {
        add(&mut tar, &Path::new(PROJECT).join(name), path)?;
    }
    for fp in results {
        let dir = store.result(fp);
        let place = Path::new("results").join(fp.to_string());
        let outputs = store.index.results.get(fp).map(|entry| &entry.out);
        let outputs = outputs.into_iter().flatten().map(|made| &*made.file);
        for file in ["manifest.txt", "record.json", "log", READS]
            .into_iter()
            .chain(outputs)
        {
            let path = dir.join(file);
            let may_lack = ["log", READS].contains(&file);
            if may_lack && !fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file()) {
                continue;
            }
            let nodes = tree::walk(&path);
            let nodes = nodes.with_context(|| format!("cannot read {}", path.display()))?;
            if nodes.is_empty() {
                add_folder(&mut tar, &place.join(file))?;
            }
            for Node { name, what } in nodes {
                let (from, to) = (
                    tree::place(&path, &name),
                    tree::place(&place.join(file), &name),
                );
                match what {
                    What::File { .. } => add(&mut tar, &to, &from)?,
                    What::Empty => add_folder(&mut tar, &to)?,
                    What::Link(target, _) => {
                        let mut header = header(EntryType::Symlink, 0o777);
                        tar.append_link(&mut header, &to, &target)?;
                    }
                }
            }
        }
    }
    let part = tar.into_inner()?.finish()?;
    part.as_file().sync_all()?;
    part.persist(to)
        .with_context(|| format!("cannot write {}", to.display()))?;
    Ok(())
}

/// The same content gives the same bytes: no owners, no times.
fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(0);
    header
}

fn add_folder(tar: &mut Builder<impl io::Write>, name: &Path) -> Result<()> {
    let mut header = header(EntryType::Directory, 0o755);
    Ok(tar.append_data(&mut header, name, io::empty())?)
}

/// A file, or what a link to one points to.
fn add(tar: &mut Builder<impl io::Write>, name: &Path, path: &Path) -> Result<()> {
    let mut file = read::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let meta = file.metadata()?;
    let mode = if meta.mode() & 0o100 != 0 {
        0o755
    } else {
        0o644
    };
    let mut header = header(EntryType::Regular, mode);
    header.set_size(meta.len());
    tar.append_data(&mut header, name, (&mut file).take(meta.len()))?;
    // One that has become shorter would leave an archive that cannot be read.
    ensure!(
        file.stream_position()? == meta.len(),
        "{} changed while it was read; export again",
        path.display()
    );
    Ok(())
}

/// What an archive may unpack to: far more than weights and pictures shrink by, far less than
/// what a few megabytes of zeros grow to.
pub fn usual_limit(packed: u64) -> u64 {
    (packed.saturating_mul(100)).max(256 << 20)
}

/// Files of one archive, and folders in each other.
const FILES: usize = 2_000_000;
const DEPTH: usize = 256;
/// Bytes of a path.
const PATH: usize = 4096;

/// What was unpacked.
#[derive(Debug)]
pub struct Unpacked {
    pub entries: Vec<Entry>,
    /// Files below `project/`.
    pub files: Vec<String>,
    /// What no manifest or record names, and is gone again.
    pub left_out: Vec<String>,
}

/// Unpacks an archive to a folder and checks each result. Fails before it has written `limit` bytes.
pub fn unpack(from: impl Read, to: &Path, limit: u64) -> Result<Unpacked> {
    let over = Rc::new(Cell::new(false));
    let bounded = Bounded {
        inner: GzDecoder::new(from),
        left: limit,
        over: Rc::clone(&over),
    };
    let unpacked = unpack_from(bounded, to, limit);
    match unpacked {
        Err(_) if over.get() => Err(too_large(limit)),
        done => done,
    }
}

fn too_large(limit: u64) -> anyhow::Error {
    let limit = human::bytes(limit);
    Diagnostic::new(format!(
        "the archive is too large: it unpacks to more than {limit}, the limit"
    ))
    .hint("if you expect that much of it: --max-size 20GiB")
    .into()
}

/// Ends where more has come out than may.
struct Bounded<R> {
    inner: R,
    left: u64,
    over: Rc<Cell<bool>>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        match self.left.checked_sub(n as u64) {
            Some(left) => self.left = left,
            None => {
                self.over.set(true);
                return Err(io::ErrorKind::FileTooLarge.into());
            }
        }
        Ok(n)
    }
}

fn unpack_from(from: impl Read, to: &Path, limit: u64) -> Result<Unpacked> {
    let mut tar = Archive::new(from);
    let mut found = BTreeSet::new();
    let (mut files, mut left_out, mut count) = (Vec::new(), Vec::new(), 0);
    let mut links = Vec::new();
    let (mut long, mut long_target) = (None, None);
    // As they are: the library would take a long name into memory whatever its length.
    for entry in tar
        .entries()
        .context("this is no archive of `repro export`")?
        .raw(true)
    {
        let mut entry = entry.context("the archive is damaged")?;
        let kind = entry.header().entry_type();
        let size = entry.header().entry_size().unwrap_or(u64::MAX);
        let of_next = matches!(kind, EntryType::GNULongName | EntryType::GNULongLink);
        if of_next && size <= PATH as u64 {
            let mut text = Vec::new();
            entry
                .read_to_end(&mut text)
                .context("the archive is damaged")?;
            text.truncate(text.iter().position(|b| *b == 0).unwrap_or(text.len()));
            match kind {
                EntryType::GNULongName => long = Some(text),
                _ => long_target = Some(text),
            }
            continue;
        }
        let path = long
            .take()
            .unwrap_or_else(|| entry.path_bytes().into_owned());
        let target = long_target.take();
        let path = checked_path(&path)?;
        let parts = path.components().count();
        // Only outputs hold anything but files: `results/FINGERPRINT/OUTPUT/…`.
        let output = path.starts_with("results") && parts > 2;
        let known = match kind {
            EntryType::Regular => true,
            EntryType::Directory => output,
            EntryType::Symlink => output && parts > 3,
            _ => false,
        };
        if path.starts_with(PROJECT) && acts_by_itself(&path) {
            // Nobody packs it by mistake.
            return Err(Diagnostic::new(strange(&path)).into());
        }
        ensure!(known, strange(&path));
        count += 1;
        ensure!(
            count <= FILES,
            "the archive holds more than {FILES} files, the limit"
        );
        if output {
            let fp = path.iter().nth(1).unwrap_or_default().to_string_lossy();
            found.insert(fp.parse::<Fingerprint>().map_err(anyhow::Error::msg)?);
        } else if path.starts_with(PROJECT) && parts > 1 {
            files.push(path.to_string_lossy()[PROJECT.len() + 1..].to_owned());
        } else {
            left_out.push(path.to_string_lossy().into_owned());
            continue;
        }
        if size > limit {
            return Err(too_large(limit));
        }
        let place = to.join(&path);
        if let Some(folder) = place.parent() {
            fs::create_dir_all(folder)?;
        }
        let twice = || format!("the archive holds {} twice", shown(&path));
        match kind {
            EntryType::Directory => fs::create_dir(&place).with_context(twice)?,
            EntryType::Symlink => {
                let target = target.or_else(|| entry.link_name_bytes().map(|t| t.into_owned()));
                let target = PathBuf::from(OsString::from_vec(target.unwrap_or_default()));
                ensure!(
                    store::stays_inside(parts - 4, &target) && store::climbs_first(&target),
                    "the archive holds {}, a link that leaves its output",
                    shown(&path)
                );
                links.push((place, path, target));
            }
            _ => {
                let mut file = File::create_new(&place).with_context(twice)?;
                io::copy(&mut entry, &mut file).context("the archive is damaged")?;
                if entry.header().mode().is_ok_and(|mode| mode & 0o100 != 0) {
                    let mode = file.metadata()?.mode() | 0o100 | 0o111 & !store::umask();
                    file.set_permissions(Permissions::from_mode(mode))?;
                }
            }
        }
    }
    // When all else is there, so that nothing was written through one of them.
    for (place, path, target) in links {
        std::os::unix::fs::symlink(target, &place)
            .with_context(|| format!("the archive holds {} twice", shown(&path)))?;
    }
    // The rest, so that the checksum at its end is compared too.
    io::copy(&mut tar.into_inner(), &mut io::sink()).context("the archive is damaged")?;
    let mut entries = Vec::new();
    let mut names = BTreeSet::from(["pipeline.toml".to_owned(), "accepted.toml".to_owned()]);
    for fp in found {
        let dir = to.join("results").join(Fingerprint::to_string(&fp));
        let (entry, named) = check(&dir, &fp)?;
        for place in fs::read_dir(&dir)? {
            let place = place?;
            let name = place.file_name();
            if !belongs(&name.to_string_lossy(), &entry) {
                tree::remove(&place.path())?;
                left_out.push(format!("results/{fp}/{}", name.to_string_lossy()));
            }
        }
        names.extend(named);
        entries.push(entry);
    }
    let (files, strange): (Vec<_>, Vec<_>) =
        files.into_iter().partition(|file| names.contains(file));
    for file in strange {
        fs::remove_file(to.join(PROJECT).join(&file))?;
        left_out.push(format!("{PROJECT}/{file}"));
    }
    Ok(Unpacked {
        entries,
        files,
        left_out,
    })
}

/// A path that stays below where it is put. It prints; only below an output a name may be any bytes, as
/// its stage has chosen them.
fn checked_path(bytes: &[u8]) -> Result<PathBuf> {
    let bytes = bytes.strip_suffix(b"/").unwrap_or(bytes);
    let path = PathBuf::from(OsString::from_vec(bytes.to_vec()));
    let parts: Vec<&[u8]> = bytes.split(|b| *b == b'/').collect();
    let plain = |part: &&[u8]| {
        let special = part.is_empty() || *part == b"." || *part == b"..";
        !special && part.len() <= 255 && !part.contains(&0)
    };
    let odd = |c: char| c.is_control() || plain::is_odd(c);
    let prints = |part: &&[u8]| std::str::from_utf8(part).is_ok_and(|text| !text.contains(odd));
    let told = match path.starts_with("results") {
        true => 3,
        false => parts.len(),
    };
    let good = bytes.len() <= PATH
        && parts.len() <= DEPTH
        && parts.iter().all(plain)
        && parts.iter().take(told).all(prints);
    ensure!(good, strange(&path));
    Ok(path)
}

fn shown(path: &Path) -> String {
    plain::cut(&path.to_string_lossy(), 100).into_owned()
}

fn strange(path: &Path) -> String {
    format!(
        "the archive holds {}, which does not belong there",
        shown(path)
    )
}

/// True if git would carry out what it finds there.
pub fn acts_by_itself(path: &Path) -> bool {
    path.iter().any(|part| part.eq_ignore_ascii_case(".git"))
}

/// Whether something in a result's folder is what its record tells of, or what every result has.
fn belongs(name: &str, entry: &Entry) -> bool {
    ["manifest.txt", "record.json", "log"].contains(&name)
        || name == READS && entry.more.is_some()
        || entry.out.iter().any(|made| made.file == name)
}

/// The name in an archive of a file of the project, where it cannot leave the folder it is put into.
pub fn inside(name: &str) -> Option<String> {
    let parts = Path::new(name).components();
    let parts = parts.filter(|part| *part != Component::CurDir);
    let plain = |part: Component| match part {
        Component::Normal(part) => part.to_str().map(str::to_owned),
        _ => None,
    };
    Some(parts.map(plain).collect::<Option<Vec<_>>>()?.join("/"))
}

/// Checks that a result is what it claims to be: manifest, record and outputs agree. Gives what its record says,
/// and the files of the project that it depends on, as they are called in an archive.
fn check(dir: &Path, fp: &Fingerprint) -> Result<(Entry, Vec<String>)> {
    let damaged = |what: &str| format!("result {} of the archive: {what}", fp.short());
    let manifest = read::own_text(&dir.join("manifest.txt"), read::TOLD)
        .with_context(|| damaged("no manifest"))?;
    let record = Record::load(&dir.join("record.json"))?;
    let mut entry = record.result;
    ensure!(entry.fp == *fp, damaged("its record is another's"));
    if let Some(why) = entry.problem().or_else(|| entry.contradiction(&manifest)) {
        bail!(damaged(&why));
    }
    for made in &mut entry.out {
        made.stamp = None;
        let path = dir.join(&made.file);
        let nodes = tree::walk(&path).with_context(|| damaged(&format!("no {}", made.file)))?;
        let digest = tree::read(&path, &nodes)?;
        ensure!(
            digest == made.digest,
            damaged(&format!("{} is not what was committed", made.file))
        );
    }
    let list = match entry.more {
        Some(digest) => store::read_list(dir, digest)
            .with_context(|| damaged(&format!("{READS} is not what was committed")))?,
        None => entry.reads.clone(),
    };
    // Where training went on from stays at home.
    entry.state = None;
    entry.extends = None;
    let manifest = Manifest::parse(&manifest);
    let declared = manifest
        .iter()
        .filter_map(|(key, _)| key.strip_prefix("file."));
    // The manifest has one digest for all code; which files that is tells the record.
    let code = record.code.keys().map(String::as_str);
    let code = code.filter(|_| manifest.get("kind") == Some("command"));
    let contents = list
        .iter()
        .filter(|read| read.what == observed::What::Content);
    let read = contents.map(|read| read.path.as_str());
    let named = declared.chain(code).chain(read).filter_map(inside);
    Ok((entry, named.collect()))
}
