//! What is asked of whatever takes untrusted input: no panic, and nothing outside of the folder it is
//! unpacked to. What parses is gone on with: planned, restored, exported. Shared by the fuzz
//! targets and tests/parsers.rs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use repro::base::device::Device;
use repro::base::diag::Source;
use repro::base::digest::Fingerprint;
use repro::exec::depfile;
use repro::pipeline::claims::Claims;
use repro::pipeline::figures::Figures;
use repro::pipeline::graph::Graph;
use repro::pipeline::kinds::KINDS;
use repro::pipeline::manifest::Manifest;
use repro::pipeline::spec::{Overrides, Spec};
use repro::pipeline::tables::Tables;
use repro::plan::Planner;
use repro::plan::accepted::Accepted;
use repro::plan::project::Facts;
use repro::store::archive;
use repro::store::places::Places;
use repro::store::record::Record;
use repro::store::{Health, Index, Store};

/// pipeline.toml, up to verdicts on its stages in an empty store.
pub fn pipeline(bytes: &[u8], scratch: &Path) {
    let text = String::from_utf8_lossy(bytes);
    let set = Overrides {
        profile: None,
        set: vec!["train.lr=1e-3".into()],
    };
    for overrides in [set, Overrides::default()] {
        let source = Source::new("pipeline.toml", text.clone().into_owned());
        let Ok(spec) = Spec::parse(source, &overrides) else {
            continue;
        };
        let Ok(graph) = Graph::new(&spec, KINDS) else {
            continue;
        };
        let _ = Tables::load(&spec, &graph);
        let _ = Figures::load(&spec, &graph);
        let _ = Claims::load(&spec, &graph);
        // What patterns find elsewhere would be read.
        if !text.contains("..") && !text.contains("\"/") && !text.contains("'/") {
            let store = Store::open(&scratch.join("none"));
            plan(&graph, &mut store.expect("nothing there"), scratch, false);
        }
    }
}

fn plan(graph: &Graph, store: &mut Store, dir: &Path, repair: bool) {
    let facts = Facts {
        dir: dir.into(),
        profile: "default".into(),
        device: Device {
            gpus: Vec::new(),
            library: false,
            name: "cpu".into(),
        },
        accepted: Accepted::default(),
        places: Arc::new(Places::of(dir)),
        data: None,
        environment: Vec::new(),
    };
    let mut planner = Planner::new(graph, store, &facts, repair);
    planner.judge_all(&graph.order);
    for id in 0..graph.stages.len() {
        let _ = (planner.start(id), planner.estimate(id));
        let _ = planner.acceptable(id);
    }
}

/// A record, and the manifest beside it: what an imported result says of itself.
pub fn record(bytes: &[u8]) {
    let _ = serde_json::from_slice::<Record>(bytes);
    let manifest = Manifest::parse(&String::from_utf8_lossy(bytes));
    let again = Manifest::parse(&manifest.to_string());
    assert_eq!(again, manifest, "a manifest's text comes back");
}

pub fn depfile(bytes: &[u8]) {
    depfile::parse(bytes);
}

/// Two stages whose manifests are those of the results in the corpus's index.
const TWO: &str = "[stage.a]\nkind = 'command'\nshell = 'x'\nout.x = 'x'\n\
                   [stage.b]\nkind = 'command'\nshell = 'x'\nin.i = 'a.x'\nout.x = 'x'\n";

/// Files of the store and of the project that git, a copy or an enemy may have made.
pub fn files(bytes: &[u8], scratch: &Path) {
    let path = scratch.join("file");
    if fs::write(&path, bytes).is_err() {
        return;
    }
    if let Ok(index) = Index::load(&path) {
        for entry in index.results.values() {
            assert_eq!(entry.problem(), None, "an entry that was loaded");
        }
    }
    let _ = Accepted::load(&path);
    let _ = contract::metrics::load(&path);
    let _ = repro::show::history::load(&path);
    restored(bytes, scratch);
}

/// Weights and sets of images that somebody else has written: what their readers refuse, and what they read.
#[cfg(any(feature = "kinds", fuzzing))]
pub fn inputs(bytes: &[u8], scratch: &Path) {
    for name in ["weights.pth", "set.npz", "set.npy"] {
        let path = scratch.join(name);
        if fs::write(&path, bytes).is_ok() {
            let _ = match name.starts_with("weights") {
                true => stages::tools::parse::weights(&path),
                false => stages::tools::parse::set(&path),
            };
        }
    }
}

/// A store with this index, which vouches for all that it says: looked at, and restored.
fn restored(index: &[u8], scratch: &Path) {
    let (root, canary) = (scratch.join("store"), scratch.join("canary"));
    let made = fs::create_dir_all(root.join("results"))
        .and_then(|()| fs::write(&canary, "untouched"))
        .and_then(|()| fs::write(root.join("index"), index));
    if made.is_err() {
        return;
    }
    let Ok(mut store) = Store::open(&root) else {
        return;
    };
    store.index = Index::load(&root.join("index")).unwrap_or_default();
    for (fp, outputs) in numbers(&store) {
        for number in 0..=outputs {
            let _ = store.health(&fp, number, true);
        }
    }
    let spec = Spec::parse(Source::new("p", TWO.into()), &Overrides::default());
    if let Ok(graph) = spec.and_then(|spec| Graph::new(&spec, &[])) {
        plan(&graph, &mut store, scratch, true);
    }
    let results: BTreeSet<_> = numbers(&store).into_iter().map(|(fp, _)| fp).collect();
    let to = scratch.join("exported");
    let _ = archive::write(&to, &store, &results, &BTreeMap::new());
    let _ = fs::remove_file(to);
    assert_eq!(fs::read(&canary).expect("there"), b"untouched");
    let there = fs::read_dir(scratch).expect("there").flatten();
    let names: BTreeSet<_> = there
        .map(|f| f.file_name().to_string_lossy().into_owned())
        .collect();
    let known = BTreeSet::from(["file", "store", "canary"].map(str::to_owned));
    assert!(names.is_subset(&known), "written outside: {names:?}");
}

fn numbers(store: &Store) -> Vec<(Fingerprint, usize)> {
    let entries = store.index.results.values();
    entries.map(|entry| (entry.fp, entry.out.len())).collect()
}

/// An archive, packed or not, into a folder below `above`, and from there into a store and out again.
pub fn archived(bytes: &[u8], above: &Path) {
    let Ok(folder) = tempfile::tempdir_in(above) else {
        return;
    };
    if let Ok(unpacked) = archive::unpack(bytes, folder.path(), 16 << 20) {
        let Ok((mut store, _lock)) = Store::lock(&folder.path().join("store"), |_| ()) else {
            return;
        };
        let mut results = BTreeSet::new();
        for entry in unpacked.entries {
            assert_eq!(entry.problem(), None, "an entry that was unpacked");
            let from = folder.path().join("results").join(entry.fp.to_string());
            fs::rename(from, store.result(&entry.fp)).expect("a folder of its own");
            results.insert(entry.fp);
            store.index.add_result(entry);
        }
        for (fp, outputs) in numbers(&store) {
            for number in 0..outputs {
                assert_eq!(store.health(&fp, number, true), Health::Good);
            }
        }
        let files = unpacked.files.iter().map(|name| {
            let path = folder.path().join(archive::PROJECT).join(name);
            (name.clone(), path)
        });
        let to = folder.path().join("again");
        archive::write(&to, &store, &results, &files.collect())
            .expect("what was unpacked is packed");
        let again = tempfile::tempdir_in(folder.path()).expect("a folder");
        let packed = fs::read(&to).expect("there");
        let twice = archive::unpack(&*packed, again.path(), 16 << 20).expect("our own");
        assert_eq!(twice.entries.len(), results.len());
    }
    drop(folder);
    let left = fs::read_dir(above).map_or(0, Iterator::count);
    assert_eq!(left, 0, "written outside");
}
