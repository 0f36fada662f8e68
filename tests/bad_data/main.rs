//! Bad data through the binary: one error that names the file and gives a hint, and nothing
//! half-written.

#![cfg(feature = "kinds")]

mod archives;
mod arrays;
#[path = "../common/mod.rs"]
mod common;
mod files;
mod pictures;
mod weights;

use common::Said;
use files::{Space, below};

/// A pipeline of one stage that reads a data set.
fn dataset(source: &str) -> Space {
    Space::new(&format!(
        "[pipeline]\ntitle = \"bad data\"\n\n[stage.dataset]\nkind = \"dataset\"\n\
         params = {{ valid = 0, train = 0, test = 0, jpeg_quality = 0, pad = 0, source = {source} }}\n"
    ))
}

/// Runs with `data` as the folder of `--data`. The run fails, says so in a line with the file and
/// a hint, and leaves no result, no download and no scratch file: a log, the job that failed, and the line of the run.
#[track_caller]
fn fails(space: &Space, file: &str, why: &str) -> Said {
    let said = space.repro("run --device cpu --data data").ends(1);
    let told = |line: &str| line.contains(file) && line.contains(why) && line.contains("hint: ");
    assert!(
        said.err.lines().any(told),
        "no line has `{file}`, `{why}` and a hint:\n{}",
        said.err
    );
    let known = [
        "lock",
        "turn",
        "index",
        "key",
        "runs",
        "log",
        "job.json",
        ".gitignore",
        "CACHEDIR.TAG",
    ];
    let mut left = below(&space.path("artifacts"));
    left.retain(|path| !known.iter().any(|name| path.ends_with(name)));
    assert!(left.is_empty(), "left behind: {left:?}");
    said
}

/// A command outside a pipeline fails in the same way, and the folder stays as it was.
#[track_caller]
fn refuses(space: &Space, words: &str, file: &str, why: &str) {
    let before = below(&space.path(""));
    let said = space.repro(words).ends(1);
    let told = |line: &str| line.contains(file) && line.contains(why) && line.contains("hint: ");
    assert!(
        said.err.lines().any(told),
        "no line has `{file}`, `{why}` and a hint:\n{}",
        said.err
    );
    assert_eq!(before, below(&space.path("")));
}
