//! One file with a pipeline and results: for a reviewer without a network.
//!
//! `results/FINGERPRINT/…`, and below `project/` the pipeline, `accepted.toml` and the files that
//! `command` stages read, in a compressed tar. Nothing in an archive is believed: every artifact
//! must have the digest its record tells, every record must stand for its manifest, and nothing
//! may leave the folder it is unpacked to.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Permissions};
use std::io::{Read, Seek};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use tar::{Archive, Builder, EntryType, Header};

use crate::digest::Fingerprint;
use crate::manifest::Manifest;
use crate::record::Record;
use crate::store::tree::{self, Node, What};
use crate::store::{self, Entry, Store, new_file};

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
        for file in ["manifest.txt", "record.json", "log"]
            .into_iter()
            .chain(outputs)
        {
            let path = dir.join(file);
            if file == "log" && !path.exists() {
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

fn add_folder(tar: &mut Builder<impl std::io::Write>, name: &Path) -> Result<()> {
    let mut header = header(EntryType::Directory, 0o755);
    Ok(tar.append_data(&mut header, name, std::io::empty())?)
}

/// A file, or what a link to one points to.
fn add(tar: &mut Builder<impl std::io::Write>, name: &Path, path: &Path) -> Result<()> {
    let context = || format!("cannot read {}", path.display());
    let meta = fs::metadata(path).with_context(context)?;
    ensure!(
        meta.is_file(),
        "{} is not a regular file, which an archive cannot hold",
        path.display()
    );
    let mode = if meta.mode() & 0o100 != 0 {
        0o755
    } else {
        0o644
    };
    let mut header = header(EntryType::Regular, mode);
    header.set_size(meta.len());
    let mut file = File::open(path).with_context(context)?;
    tar.append_data(&mut header, name, (&mut file).take(meta.len()))?;
    // One that has become shorter would leave an archive that cannot be read.
    ensure!(
        file.stream_position()? == meta.len(),
        "{} changed while it was read; export again",
        path.display()
    );
    Ok(())
}

/// Unpacks an archive to a folder and checks each result. Returns their records' entries.
pub fn read(from: impl Read, to: &Path) -> Result<Vec<Entry>> {
    let mut tar = Archive::new(GzDecoder::new(from));
    let mut found = BTreeSet::new();
    let mut links = Vec::new();
    for entry in tar
        .entries()
        .context("this is no archive of `repro export`")?
    {
        let mut entry = entry.context("the archive is damaged")?;
        let path = entry.path()?.into_owned();
        let plain = path.components().all(|c| matches!(c, Component::Normal(_)));
        let kind = entry.header().entry_type();
        // Only outputs hold anything but files: `results/FINGERPRINT/OUTPUT/…`.
        let output = path.starts_with("results") && path.components().count() > 2;
        let known = match kind {
            EntryType::Regular => true,
            EntryType::Directory => output,
            EntryType::Symlink => output && path.components().count() > 3,
            _ => false,
        };
        if !plain || !known {
            bail!(
                "the archive holds {}, which does not belong there",
                path.display()
            );
        }
        let mut parts = path
            .components()
            .map(|c| c.as_os_str().to_string_lossy().into_owned());
        match (parts.next().as_deref(), parts.next()) {
            (Some("results"), Some(fp)) => {
                found.insert(fp.parse().map_err(anyhow::Error::msg)?);
            }
            (Some(PROJECT), Some(_)) => {}
            _ => continue,
        }
        let place = to.join(&path);
        if let Some(folder) = place.parent() {
            fs::create_dir_all(folder)?;
        }
        let twice = || format!("the archive holds {} twice", path.display());
        match kind {
            EntryType::Directory => fs::create_dir(&place).with_context(twice)?,
            EntryType::Symlink => {
                let target = entry.link_name()?.unwrap_or_default().into_owned();
                ensure!(
                    store::stays_inside(path.components().count() - 4, &target),
                    "the archive holds {}, a link that leaves its output",
                    path.display()
                );
                links.push((place, target));
            }
            _ => {
                let mut file = File::create_new(&place).with_context(twice)?;
                std::io::copy(&mut entry, &mut file).context("the archive is damaged")?;
                if entry.header().mode()? & 0o100 != 0 {
                    let mode = file.metadata()?.mode() | 0o100 | 0o111 & !store::umask();
                    file.set_permissions(Permissions::from_mode(mode))?;
                }
            }
        }
    }
    // When all else is there, so that nothing was written through one of them.
    for (place, target) in links {
        std::os::unix::fs::symlink(target, &place)
            .with_context(|| format!("the archive holds {} twice", place.display()))?;
    }
    // The rest, so that the checksum at its end is compared too.
    std::io::copy(&mut tar.into_inner(), &mut std::io::sink()).context("the archive is damaged")?;
    found
        .into_iter()
        .map(|fp: Fingerprint| check(&to.join("results").join(fp.to_string()), &fp))
        .collect()
}

/// A result is what it claims to be: manifest, record and outputs agree.
fn check(dir: &Path, fp: &Fingerprint) -> Result<Entry> {
    let damaged = |what: &str| format!("result {} of the archive: {what}", fp.short());
    let manifest =
        fs::read_to_string(dir.join("manifest.txt")).with_context(|| damaged("no manifest"))?;
    ensure!(
        Manifest::parse(&manifest).fingerprint() == *fp,
        damaged("its manifest is another's")
    );
    let mut entry = Record::load(&dir.join("record.json"))?.result;
    ensure!(entry.fp == *fp, damaged("its record is another's"));
    for made in &mut entry.out {
        made.stamp = None;
        let plain = Path::new(&made.file)
            .components()
            .all(|c| matches!(c, Component::Normal(_)));
        ensure!(plain, damaged("an output lies outside"));
        let path = dir.join(&made.file);
        let nodes = tree::walk(&path).with_context(|| damaged(&format!("no {}", made.file)))?;
        let digest = tree::read(&path, &nodes)?;
        ensure!(
            digest == made.digest,
            damaged(&format!("{} is not what was committed", made.file))
        );
    }
    // Where training went on from stays at home.
    entry.state = None;
    entry.extends = None;
    Ok(entry)
}
