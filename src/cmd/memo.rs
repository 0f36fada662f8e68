//! What was looked at when everything was last found fresh, in `artifacts/fresh`. While none of
//! it has changed there is nothing to parse and nothing to judge: verdicts are a function of the
//! request, the index, and the files that were consulted, and all of them are compared here.
//!
//! This is a shortcut to an answer, never another answer: whatever differs or cannot be read
//! leads back to the planner.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use rayon::prelude::*;
use rustix::fs::{AtFlags, FileType};
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::base::device::Device;
use crate::base::digest::Digest;
use crate::base::files::{self, Finder};
use crate::base::read;
use crate::base::secret::Key;
use crate::exec::this_program;
use crate::pipeline::graph::{Id, Kind};
use crate::plan::project::{PipelineArgs, Request};
use crate::plan::{DATA, Planner};
use crate::store::observed::{self, What};
use crate::store::stat::Stamp;
use crate::store::{READS, boot_id, new_file, tree};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Memo<'a> {
    /// The digest of the request: the program, the pipeline's text, what the command line says.
    key: Digest,
    /// How many stages were fresh, and how many of their results were not made here.
    stages: usize,
    imported: usize,
    /// Everything known of results is in this file.
    index: Stamp,
    /// When the machine was started, if a file has changed so recently that it may not be on the disk.
    boot: Option<String>,
    /// The device's name, where a stage measures it.
    machine: Option<String>,
    /// Variables that count, with digests of their values.
    env: Vec<(String, Option<Digest>)>,
    /// Patterns, and the digest of the list of files they find.
    patterns: Vec<(String, Digest)>,
    /// Files of the project, relative to it; without a stamp those that are not there.
    #[serde(borrow)]
    files: Vec<(Text<'a>, Option<Stamp>)>,
    /// What was only asked to be there, and is, and what it is.
    #[serde(borrow)]
    there: Vec<(Text<'a>, observed::Kind)>,
    /// Links.
    #[serde(borrow)]
    links: Vec<(Text<'a>, Option<Stamp>)>,
    /// Outputs, relative to `results/`.
    #[serde(borrow)]
    outputs: Vec<(&'a str, Stamp)>,
}

/// A name that is not copied if JSON has it as it is; there may be a hundred thousand.
#[derive(Debug, PartialEq, Serialize)]
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Name;
        impl<'de> de::Visitor<'de> for Name {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(text.into()))
            }
            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(text.to_owned().into()))
            }
        }
        d.deserialize_str(Name)
    }
}

const NAME: &str = "fresh";

/// Digest of all that a verdict depends on besides the files and the index; none where a program cannot
/// look at itself.
pub fn key(
    request: &Request,
    args: &PipelineArgs,
    targets: &[String],
    data: Option<&Path>,
) -> Option<Digest> {
    let mut hasher = blake3::Hasher::new();
    let mut add = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    // Another build may judge otherwise. The stamp stands for the program as for any other file.
    let program = Stamp::of(&fs::metadata(this_program()).ok()?);
    add(serde_json::to_string(&program).ok()?.as_bytes());
    add(request.text.as_bytes());
    add(request.path.as_os_str().as_encoded_bytes());
    add(&read::bytes(&request.dir.join("accepted.toml"), read::WRITTEN).unwrap_or_default());
    add(args.profile.as_deref().unwrap_or_default().as_bytes());
    add(args.device.as_bytes());
    add(data.unwrap_or(Path::new("")).as_os_str().as_encoded_bytes());
    for list in [&args.set[..], targets] {
        add(&list.len().to_le_bytes());
        list.iter().for_each(|text| add(text.as_bytes()));
    }
    Some(Digest(*hasher.finalize().as_bytes()))
}

/// How many of these stages, all fresh, have results that were not made here.
pub fn imported(planner: &Planner, wanted: &[Id]) -> usize {
    let results = wanted.iter().filter_map(|id| planner.result(*id));
    results.filter(|entry| entry.origin.is_some()).count()
}

/// How many stages are fresh and how many of them imported, if that can be told from the last time.
pub fn recall(request: &Request, args: &PipelineArgs, key: &Digest) -> Option<(usize, usize)> {
    let text = read::own_bytes(&request.root.join(NAME), read::TOLD).ok()?;
    let memo: Memo = serde_json::from_slice(&text).ok()?;
    let index = Stamp::of(&fs::metadata(request.root.join("index")).ok()?);
    let secret = Key::of(&request.root);
    let holds = memo.key == *key
        && memo.index == index
        && memo.boot.as_ref().is_none_or(|boot| *boot == boot_id())
        && memo
            .env
            .iter()
            .all(|(name, was)| variable(name, &secret) == *was)
        && memo.machine_is_here(args)
        && memo.patterns_find_the_same(request)
        && memo.stamps_hold(request)?;
    holds.then_some((memo.stages, memo.imported))
}

fn variable(name: &str, key: &Key) -> Option<Digest> {
    let value = std::env::var_os(name)?;
    Some(key.digest(value.as_encoded_bytes()))
}

/// Digest of what something declared stands for now.
fn listing(finder: &mut Finder, declared: &str) -> Digest {
    let found = finder.look(declared);
    let mut text = found.names.join("\0");
    if let Some(wrong) = &found.wrong {
        text += &format!("\0\0{}", wrong.what);
    }
    Digest::of(text.as_bytes())
}

impl Memo<'_> {
    fn machine_is_here(&self, args: &PipelineArgs) -> bool {
        match &self.machine {
            None => true,
            Some(was) => Device::choose(&args.device).is_ok_and(|d| d.name == *was),
        }
    }

    fn patterns_find_the_same(&self, request: &Request) -> bool {
        let mut finder = Finder::new(&request.dir, &request.root);
        let mut same = |(declared, was): &(String, Digest)| listing(&mut finder, declared) == *was;
        self.patterns.iter().all(&mut same)
    }

    fn stamps_hold(&self, request: &Request) -> Option<bool> {
        let results = File::open(request.root.join("results")).ok()?;
        let files = self.files.par_iter().all(|(path, was)| {
            let meta = fs::metadata(request.dir.join(files::path(&path.0)));
            meta.ok().map(|m| Stamp::of(&m)) == *was
        });
        let there = self.there.par_iter();
        let there = there.all(|(path, kind)| {
            let meta = fs::metadata(request.dir.join(files::path(&path.0)));
            meta.is_ok_and(|meta| observed::Kind::of(&meta) == *kind)
        });
        let links = self.links.par_iter().all(|(path, was)| {
            let meta = fs::symlink_metadata(request.dir.join(files::path(&path.0)));
            meta.ok().map(|m| Stamp::of(&m)) == *was
        });
        // By far the most; relative to an open folder they cost the kernel half the path.
        let outputs = self
            .outputs
            .par_iter()
            .with_min_len(256)
            .all(|(path, was)| {
                let stat = rustix::fs::statat(&results, *path, AtFlags::SYMLINK_NOFOLLOW);
                stat.is_ok_and(|s| match FileType::from_raw_mode(s.st_mode) {
                    FileType::Directory => {
                        let path = request.root.join("results").join(path);
                        tree::stamp(&path).is_ok_and(|stamp| stamp == *was)
                    }
                    _ => Stamp::of_stat(&s) == *was,
                })
            });
        Some(files && there && links && outputs)
    }
}

/// Remembers that all of `wanted` is fresh. Where something cannot be told by a stamp (a
/// file that has only just changed), or the disk will not take it, nothing is remembered.
pub fn remember(planner: &mut Planner, wanted: &[Id], key: Option<Digest>) {
    // The next run finds out anew.
    let _ = try_remember(planner, wanted, key);
}

fn try_remember(planner: &mut Planner, wanted: &[Id], key: Option<Digest>) -> Option<()> {
    let key = key?;
    if !planner.store.index.clean() || planner.store.index.has_notes() {
        return None;
    }
    let dir = planner.facts().dir.clone();
    let mut env = BTreeMap::new();
    let mut patterns = BTreeSet::new();
    let mut paths = BTreeSet::new();
    let mut outputs = Vec::with_capacity(wanted.len());
    let mut machine = None;
    let mut folders = BTreeSet::new();
    let (mut there, mut links) = (BTreeSet::new(), BTreeSet::new());
    let mut finder = Finder::new(&dir, &planner.store.root);
    for &id in wanted {
        let fp = planner.fresh(id)?;
        for read in planner.store.reads(&fp)?.iter() {
            let set = match read.what {
                What::Content | What::Absent => &mut paths,
                What::There => {
                    there.insert((read.path.clone(), observed::Kind::from_digest(read.digest)?));
                    continue;
                }
                What::Link => &mut links,
                What::Names | What::Importable | What::Imports => &mut folders,
            };
            set.insert(read.path.clone());
        }
        let entry = planner.result(id)?;
        // Many files outside of the project, each of which would have to be looked at.
        if planner.manifest(id)?.get(DATA).is_some() {
            return None;
        }
        for made in &entry.out {
            outputs.push((format!("{}/{}", entry.fp, made.file), made.stamp?));
        }
        if entry.more.is_some() {
            // The list of what was read: damaged, it vouches for nothing.
            let list = format!("{}/{READS}", entry.fp);
            let meta = fs::symlink_metadata(planner.store.root.join("results").join(&list)).ok()?;
            let stamp = Stamp::of(&meta);
            outputs.push((list, stamp.settled(SystemTime::now()).then_some(stamp)?));
        }
        let stage = &planner.graph.stages[id];
        if stage.kind.measures_machine() {
            machine = Some(planner.facts().device.name.clone());
        }
        if let Kind::Command(command) = &stage.kind {
            paths.extend(planner.files_of(id));
            let script = command.script().map(|s| finder.spell(Path::new(s)));
            paths.extend(script.map(|path| files::text(&path).into_owned()));
            paths.extend(planner.facts().environment.iter().cloned());
            patterns.extend(command.declared().map(|(_, d)| d.text.clone()));
            for counted in command.env.iter().filter(|v| v.value.is_none()) {
                let now = variable(&counted.name, &planner.store.key);
                env.insert(counted.name.clone(), now);
            }
        }
    }
    // What an accepted change has brought in counts too.
    let accepted = planner.facts().accepted.all.iter();
    paths.extend(accepted.flat_map(|change| change.also.keys().cloned()));
    let mut stamps = Vec::with_capacity(paths.len() + folders.len());
    let now = SystemTime::now();
    for path in &folders {
        // A folder's stamp changes with its names; with what else it changes, the planner sees.
        let stamp = Stamp::of(&fs::metadata(dir.join(files::path(path))).ok()?);
        let stamp = stamp.settled(now).then_some(stamp)?;
        stamps.push((Text(path.into()), Some(stamp)));
    }
    let listings = patterns.iter().map(|declared| {
        let listing = listing(&mut finder, declared);
        (declared.clone(), listing)
    });
    let patterns = listings.collect();
    let link = |path: &String| {
        let meta = fs::symlink_metadata(dir.join(files::path(path))).ok();
        meta.map(|meta| Stamp::of(&meta))
    };
    let links: Vec<_> = (links.iter())
        .map(|path| (Text(path.into()), link(path)))
        .collect();
    let stamp = Stamp::of(&fs::metadata(planner.store.root.join("index")).ok()?);
    planner.store.index.catch_up().ok()?;
    // Verdicts are of a moment before these stamps were taken: what changed in between is seen now,
    // and what changes from now on is seen by the stamps.
    let fresh: Vec<_> = wanted.iter().map(|id| planner.fresh(*id)).collect();
    planner.judge_all(wanted);
    if !wanted.iter().map(|id| planner.fresh(*id)).eq(fresh) || planner.store.index.has_notes() {
        return None;
    }
    // Files were judged by these.
    let index = &planner.store.index;
    for path in &paths {
        let whole = dir.join(files::path(path));
        let missing = planner.was_missing(path);
        let stamp = match missing.unwrap_or_else(|| !whole.exists()) {
            true => None,
            false => Some(index.files.get(files::text(&whole).as_ref())?.0),
        };
        stamps.push((Text(path.into()), stamp));
    }
    let mut known = stamps.iter().filter_map(|(_, stamp)| *stamp);
    let memo = Memo {
        boot: known.any(|s| s.is_recent(now)).then(boot_id),
        key,
        stages: wanted.len(),
        imported: imported(planner, wanted),
        index: stamp,
        machine,
        env: env.into_iter().collect(),
        patterns,
        files: stamps,
        there: there
            .iter()
            .map(|(path, kind)| (Text(path.into()), *kind))
            .collect(),
        links,
        outputs: outputs.iter().map(|(p, s)| (p.as_str(), *s)).collect(),
    };
    write(&planner.store.root, &memo)
}

fn write(root: &Path, memo: &Memo) -> Option<()> {
    let mut file = new_file(root).ok()?;
    file.write_all(&serde_json::to_vec(memo).ok()?).ok()?;
    file.persist(root.join(NAME)).ok()?;
    Some(())
}
