//! One file with a pipeline and results: for a reviewer without a network.
//!
//! `results/FINGERPRINT/…`, and below `project/` the pipeline, `accepted.toml` and the files that
//! `command` stages read, in a compressed tar. Nothing in an archive is believed: every artifact
//! must have the digest its record tells, every record must stand for its manifest, nothing that no
//! manifest names is kept, nothing may leave the folder it is unpacked to, and what it unpacks to has
//! a limit.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use tar::{Archive, Builder, EntryType, Header};

use crate::diag::Diagnostic;
use crate::digest::Fingerprint;
use crate::human;
use crate::manifest::Manifest;
use crate::plain;
use crate::read;
use crate::record::Record;
use crate::store::{Entry, Made, Store, stat};

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
    let part = tempfile::NamedTempFile::new_in(folder)
        .with_context(|| format!("cannot write in {}", folder.display()))?;
    let mut tar = Builder::new(GzEncoder::new(part, Compression::fast()));
    for (name, path) in files {
        add(&mut tar, &format!("{PROJECT}/{name}"), path)?;
    }
    for fp in results {
        let dir = store.result(fp);
        let entry = store.index.results.get(fp);
        let outputs = entry.map_or(&[][..], |entry| &entry.out);
        for file in stat::walk(&dir)? {
            if !belongs(&file, outputs) {
                continue;
            }
            add(&mut tar, &format!("results/{fp}/{file}"), &dir.join(&file))?;
        }
    }
    let part = tar.into_inner()?.finish()?;
    part.as_file().sync_all()?;
    part.persist(to)
        .with_context(|| format!("cannot write {}", to.display()))?;
    Ok(())
}

/// The same content gives the same bytes: no owners, no times.
fn add(tar: &mut Builder<impl std::io::Write>, name: &str, path: &Path) -> Result<()> {
    let file = read::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let meta = file.metadata()?;
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_size(meta.len());
    header.set_mode(0o644);
    tar.append_data(&mut header, name, file.take(meta.len()))?;
    Ok(())
}

/// What an archive may unpack to: far more than weights and pictures shrink by, far less than
/// what a few megabytes of zeros grow to.
pub fn usual_limit(packed: u64) -> u64 {
    (packed.saturating_mul(100)).max(256 << 20)
}

/// Files of one archive, and folders in each other.
const FILES: usize = 2_000_000;
const DEPTH: usize = 64;
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
    let mut long = None;
    // As they are: the library would take a long name into memory whatever its length.
    for entry in tar
        .entries()
        .context("this is no archive of `repro export`")?
        .raw(true)
    {
        let mut entry = entry.context("the archive is damaged")?;
        let size = entry.header().entry_size().unwrap_or(u64::MAX);
        if entry.header().entry_type() == EntryType::GNULongName && size <= PATH as u64 {
            let mut name = Vec::new();
            entry
                .read_to_end(&mut name)
                .context("the archive is damaged")?;
            name.truncate(name.iter().position(|b| *b == 0).unwrap_or(name.len()));
            long = Some(name);
            continue;
        }
        let path = long
            .take()
            .unwrap_or_else(|| entry.path_bytes().into_owned());
        let path = checked_path(&path)?;
        if path
            .split('/')
            .any(|part| part.eq_ignore_ascii_case(".git"))
        {
            // Nobody packs it by mistake.
            let message = format!("the archive holds {path}, which does not belong there");
            return Err(Diagnostic::new(message).into());
        }
        if entry.header().entry_type() != EntryType::Regular {
            bail!("the archive holds {path}, which does not belong there");
        }
        count += 1;
        ensure!(
            count <= FILES,
            "the archive holds more than {FILES} files, the limit"
        );
        let mut parts = path.split('/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some("results"), Some(fp), Some(_)) => {
                found.insert(fp.parse().map_err(anyhow::Error::msg)?);
            }
            (Some(PROJECT), Some(_), _) => files.push(path[PROJECT.len() + 1..].to_owned()),
            _ => {
                left_out.push(path);
                continue;
            }
        }
        if size > limit {
            return Err(too_large(limit));
        }
        let place = to.join(&path);
        if let Some(folder) = place.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file =
            File::create_new(&place).with_context(|| format!("the archive holds {path} twice"))?;
        io::copy(&mut entry, &mut file).context("the archive is damaged")?;
    }
    // The rest, so that the checksum at its end is compared too.
    io::copy(&mut tar.into_inner(), &mut io::sink()).context("the archive is damaged")?;
    let mut entries = Vec::new();
    let mut names = BTreeSet::from(["pipeline.toml".to_owned(), "accepted.toml".to_owned()]);
    for fp in found {
        let dir = to.join("results").join(Fingerprint::to_string(&fp));
        let (entry, manifest) = check(&dir, &fp)?;
        for file in stat::walk(&dir)? {
            if !belongs(&file, &entry.out) {
                left_out.push(format!("results/{fp}/{file}"));
            }
        }
        for place in fs::read_dir(&dir)? {
            let place = place?;
            if belongs(&place.file_name().to_string_lossy(), &entry.out) {
                continue;
            }
            match place.file_type()?.is_dir() {
                true => fs::remove_dir_all(place.path())?,
                false => fs::remove_file(place.path())?,
            }
        }
        names.extend(named(&manifest));
        names.extend(entry.reads.iter().map(|(path, _)| path.clone()));
        entries.push(entry);
    }
    let known = |file: &String| {
        Path::new(file)
            .ancestors()
            .any(|a| a.to_str().is_some_and(|a| names.contains(a)))
    };
    let (files, strange): (Vec<_>, Vec<_>) = files.into_iter().partition(known);
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

/// A path that stays below where it is put and prints.
fn checked_path(path: &[u8]) -> Result<String> {
    let shown = String::from_utf8_lossy(path);
    let shown = plain::cut(&shown, 100);
    let good = std::str::from_utf8(path).ok().filter(|path| {
        let odd = |c: char| c.is_control() || plain::is_odd(c);
        let plain =
            |part: &str| !part.is_empty() && part.len() <= 255 && part != "." && part != "..";
        path.len() <= PATH
            && path.split('/').count() <= DEPTH
            && path.split('/').all(plain)
            && !path.contains(odd)
    });
    match good {
        Some(path) => Ok(path.to_owned()),
        None => bail!("the archive holds {shown}, which does not belong there"),
    }
}

/// Whether a file of a result's folder is one that its record tells of, or that every result has.
fn belongs(file: &str, outputs: &[Made]) -> bool {
    let top = file.split('/').next().unwrap_or(file);
    ["manifest.txt", "record.json", "log"].contains(&file) || outputs.iter().any(|o| o.file == top)
}

/// The files of the project that a manifest tells of.
fn named(manifest: &Manifest) -> impl Iterator<Item = String> {
    let keys = manifest.iter().map(|(key, _)| key);
    let files = keys.filter_map(|key| {
        let kinds = ["file.", "code.", "read."];
        kinds.into_iter().find_map(|kind| key.strip_prefix(kind))
    });
    let names = files.map(|name| name.replace("\\c ", ": ").replace("\\\\", "\\"));
    names.collect::<Vec<_>>().into_iter()
}

/// A result is what it claims to be: manifest, record and outputs agree.
fn check(dir: &Path, fp: &Fingerprint) -> Result<(Entry, Manifest)> {
    let damaged = |what: &str| format!("result {} of the archive: {what}", fp.short());
    let manifest = read::own_text(&dir.join("manifest.txt"), read::TOLD)
        .with_context(|| damaged("no manifest"))?;
    let mut entry = Record::load(&dir.join("record.json"))?.result;
    ensure!(entry.fp == *fp, damaged("its record is another's"));
    if let Some(why) = entry.problem().or_else(|| entry.contradiction(&manifest)) {
        bail!(damaged(&why));
    }
    for made in &mut entry.out {
        made.stamp = None;
        let path = dir.join(&made.file);
        let digest = if path.is_dir() {
            let mut tree = stat::Tree::default();
            for name in stat::walk(&path)? {
                let file = path.join(&name);
                tree.add(&name, &stat::hash_file(&file, fs::metadata(&file)?.len())?);
            }
            tree.digest()
        } else {
            let meta =
                fs::metadata(&path).with_context(|| damaged(&format!("no {}", made.file)))?;
            stat::hash_file(&path, meta.len())?
        };
        ensure!(
            digest == made.digest,
            damaged(&format!("{} is not what was committed", made.file))
        );
    }
    // Where training went on from stays at home.
    entry.state = None;
    entry.extends = None;
    Ok((entry, Manifest::parse(&manifest)))
}
