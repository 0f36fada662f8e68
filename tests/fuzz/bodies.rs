//! What is asked of the parsers of untrusted input: whatever the bytes, no panic, and nothing
//! outside of the folder they are unpacked to. Shared by the fuzz targets and tests/parsers.rs.

use std::fs;
use std::path::Path;

use repro::accept::Accepted;
use repro::archive;
use repro::diag::Source;
use repro::exec::parse_depfile;
use repro::figures::Figures;
use repro::graph::Graph;
use repro::manifest::Manifest;
use repro::record::Record;
use repro::spec::{Overrides, Spec};
use repro::store::Index;
use repro::table::Tables;

/// pipeline.toml, up to the checked graph, tables and figures.
pub fn pipeline(bytes: &[u8]) {
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
        if let Ok(graph) = Graph::new(&spec, stages::STAGES) {
            let _ = Tables::load(&spec, &graph);
            let _ = Figures::load(&spec, &graph);
        }
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
    parse_depfile(&String::from_utf8_lossy(bytes));
}

/// Files of the store and of the project that git or a copy may have mangled.
pub fn files(bytes: &[u8], scratch: &Path) {
    let path = scratch.join("file");
    if fs::write(&path, bytes).is_ok() {
        let _ = Index::load(&path);
        let _ = Accepted::load(&path);
        let _ = repro::metrics::load(&path);
        let _ = repro::history::load(&path);
    }
}

/// Weights and sets of images that somebody else has written: what their readers refuse, and what they read.
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

/// An archive, packed or not, into a folder below `above`.
pub fn archived(bytes: &[u8], above: &Path) {
    let Ok(folder) = tempfile::tempdir_in(above) else {
        return;
    };
    let _ = archive::read(bytes, folder.path());
    drop(folder);
    let left = fs::read_dir(above).map_or(0, Iterator::count);
    assert_eq!(left, 0, "written outside");
}
