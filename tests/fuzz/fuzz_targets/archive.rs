#![no_main]

#[path = "../bodies.rs"]
#[allow(dead_code, reason = "each target asks one thing")]
mod bodies;

use std::io::Write;
use std::sync::LazyLock;

use flate2::{Compression, write::GzEncoder};

static SCRATCH: LazyLock<tempfile::TempDir> =
    LazyLock::new(|| tempfile::tempdir().expect("a folder"));

// The fuzzer sees the tar, not the compression around it, which it would never get right.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(bytes).expect("in memory");
    let packed = packed.finish().expect("in memory");
    bodies::archived(&packed, SCRATCH.path());
});
