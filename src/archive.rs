//! One file with a pipeline and results: for a reviewer without a network.
//!
//! `results/FINGERPRINT/…`, and below `project/` the pipeline, `accepted.toml` and the files that
//! `command` stages read, in a compressed tar. Nothing in an archive is believed: every artifact
//! must have the digest its record tells, every record must stand for its manifest, and nothing
//! may leave the folder it is unpacked to.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use tar::{Archive, Builder, EntryType, Header};

use crate::digest::Fingerprint;
use crate::manifest::Manifest;
use crate::record::Record;
use crate::store::{Entry, Store, stat};

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
        for file in stat::walk(&dir)? {
            if file.starts_with("state/") {
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
    let meta =
        fs::symlink_metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(
        meta.is_file(),
        "{} is not a regular file, which an archive cannot hold",
        path.display()
    );
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_size(meta.len());
    header.set_mode(0o644);
    tar.append_data(&mut header, name, File::open(path)?)?;
    Ok(())
}

/// Unpacks an archive to a folder and checks each result. Returns their records' entries.
pub fn read(from: impl Read, to: &Path) -> Result<Vec<Entry>> {
    let mut tar = Archive::new(GzDecoder::new(from));
    let mut found = BTreeSet::new();
    for entry in tar
        .entries()
        .context("this is no archive of `repro export`")?
    {
        let mut entry = entry.context("the archive is damaged")?;
        let path = entry.path()?.into_owned();
        let plain = path.components().all(|c| matches!(c, Component::Normal(_)));
        if !plain || entry.header().entry_type() != EntryType::Regular {
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
        let mut file = File::create_new(&place)
            .with_context(|| format!("the archive holds {} twice", path.display()))?;
        std::io::copy(&mut entry, &mut file).context("the archive is damaged")?;
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
    Ok(entry)
}
