//! What comes from outside, mutated at random, never panics: pipelines, records, depfiles,
//! archives, weights and arrays of others, up to planning, restoring and exporting.
//!
//! The seeds are in tests/corpus; `REPRO_FUZZ=1000000 cargo test --release --test parsers` runs
//! longer. A text that panics is printed, and belongs in the corpus once it is mended. The same
//! is asked with coverage as a guide by tests/fuzz (its README says how).

#[path = "fuzz/bodies.rs"]
mod bodies;

use std::fs;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

use flate2::{Compression, write::GzEncoder};

/// A small generator: the same mutations on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n.max(1)
    }
}

/// Flips, removes, repeats, inserts and swaps pieces, also from another seed.
fn mutate(seed: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len() + 1);
        let len = random.below(24).min(bytes.len() - at);
        match random.below(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 => drop(bytes.drain(at..at + len)),
            2 => {
                let piece = bytes[at..at + len].to_vec();
                bytes.splice(at..at, piece);
            }
            3 => {
                let tokens: [&[u8]; 12] = [
                    b"[", b"]]", b"{", b"}", b"=", b"\"", b".", b"@*", b"for.", b"-9e999", b"\xff",
                    b"{in.x}",
                ];
                bytes.splice(at..at, tokens[random.below(tokens.len())].iter().copied());
            }
            4 => {
                let from = random.below(other.len() + 1);
                let to = (from + random.below(40)).min(other.len());
                bytes.splice(at..at, other[from..to].iter().copied());
            }
            _ => bytes.truncate(at),
        }
    }
    bytes
}

fn fuzz(kind: &str, seeds: &[Vec<u8>], take: impl Fn(&[u8])) {
    let rounds = std::env::var("REPRO_FUZZ")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(3000);
    let mut random = Random(11);
    for seed in seeds {
        take(seed);
    }
    for _ in 0..rounds {
        let (seed, other) = (
            &seeds[random.below(seeds.len())],
            &seeds[random.below(seeds.len())],
        );
        let bytes = mutate(seed, other, &mut random);
        if catch_unwind(AssertUnwindSafe(|| take(&bytes))).is_err() {
            panic!("{kind} panics on: {}", bytes.escape_ascii());
        }
    }
}

fn corpus(ending: &str) -> Vec<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus");
    let files = fs::read_dir(folder)
        .expect("the corpus")
        .flatten()
        .map(|f| f.path());
    let fitting = files.filter(|p| p.extension().is_some_and(|e| e == ending));
    let mut all: Vec<_> = fitting.map(|p| fs::read(p).expect("a file")).collect();
    all.sort();
    assert!(!all.is_empty(), "no seeds that end in {ending}");
    all
}

#[test]
fn pipelines() {
    let scratch = tempfile::tempdir().expect("a folder");
    fuzz("pipeline.toml", &corpus("toml"), |bytes| {
        bodies::pipeline(bytes, scratch.path());
    });
}

#[test]
fn records() {
    fuzz("record.json", &corpus("json"), bodies::record);
}

#[test]
fn depfiles() {
    fuzz("depfile", &corpus("d"), bodies::depfile);
}

#[test]
fn files_of_the_store() {
    let scratch = tempfile::tempdir().expect("a folder");
    fuzz("index", &corpus("index"), |bytes| {
        bodies::files(bytes, scratch.path());
    });
}

/// Pickles, arrays and archives of both, from the files that PyTorch and numpy have written.
#[cfg(feature = "kinds")]
#[test]
fn weights_and_arrays() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    let files = fs::read_dir(folder)
        .expect("golden files")
        .flatten()
        .map(|f| f.path());
    let ours = files.filter(|p| {
        p.extension()
            .is_some_and(|e| e == "pth" || e == "npy" || e == "npz")
    });
    let mut seeds: Vec<_> = ours.map(|p| fs::read(p).expect("a file")).collect();
    seeds.sort();
    let scratch = tempfile::tempdir().expect("a folder");
    fuzz("weights or array", &seeds, |bytes| {
        bodies::inputs(bytes, scratch.path());
    });
}

/// Mutated inside and outside of the compression; nothing is ever written beside the folder.
#[test]
fn archives() {
    let broken = packed(&[
        ("pipeline.toml".into(), "x = 1\n".into()),
        (
            format!("results/{}/manifest.txt", "0".repeat(32)),
            "kind: a\n".into(),
        ),
        (
            format!("results/{}/record.json", "0".repeat(32)),
            "{}".into(),
        ),
    ]);
    let seeds = [broken, genuine()];
    let above = tempfile::tempdir().expect("a folder");
    fuzz("archive", &seeds, |bytes| {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(bytes).expect("in memory");
        bodies::archived(&packed.finish().expect("in memory"), above.path());
        bodies::archived(bytes, above.path());
    });
}

fn packed(files: &[(String, String)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, text.as_bytes())
            .expect("in memory");
    }
    tar.into_inner().expect("in memory")
}

/// An archive with one result that is what it claims to be.
fn genuine() -> Vec<u8> {
    let record = fs::read(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/corpus/record.json"
    ));
    let mut record: serde_json::Value =
        serde_json::from_slice(&record.expect("the corpus")).expect("JSON");
    let mut manifest = repro::pipeline::manifest::Manifest::new("command");
    manifest.add("file.data.csv", "missing");
    let fp = manifest.fingerprint().to_string();
    let digest = blake3::hash(b"1\n").to_hex().to_string();
    record["result"] = serde_json::json!({
        "fp": fp, "stage": "a", "at": 1, "wall": 1.0, "device": "cpu",
        "out": [{"port": "x", "file": "x", "digest": digest}],
    });
    packed(&[
        ("project/pipeline.toml".into(), "x = 1\n".into()),
        ("project/data.csv".into(), "1\n".into()),
        (format!("results/{fp}/manifest.txt"), manifest.to_string()),
        (format!("results/{fp}/record.json"), record.to_string()),
        (format!("results/{fp}/x"), "1\n".into()),
    ])
}

/// What the seed is for: it is taken, so that its mutants come as far.
#[test]
fn a_genuine_archive_is_taken() {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(&genuine()).expect("in memory");
    let to = tempfile::tempdir().expect("a folder");
    let bytes = packed.finish().expect("in memory");
    let unpacked = repro::store::archive::unpack(&*bytes, to.path(), 1 << 20).expect("a result");
    assert_eq!((unpacked.entries.len(), unpacked.files.len()), (1, 2));
}
