#![no_main]

#[path = "../bodies.rs"]
#[allow(dead_code, reason = "each target asks one thing")]
mod bodies;

use std::sync::LazyLock;

static SCRATCH: LazyLock<tempfile::TempDir> =
    LazyLock::new(|| tempfile::tempdir().expect("a folder"));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bodies::inputs(bytes, SCRATCH.path()));
