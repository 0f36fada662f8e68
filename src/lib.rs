//! `repro`: declarative, content-hashed reproduction pipelines.
//!
//! ```text
//! pipeline.toml ─spec→ Spec ─graph→ Graph ─plan→ Verdicts ─exec→ processes ─store→ artifacts/
//!    text              instances    checked      reasons         the only side effects
//! ```
//!
//! - The runner sees kinds only as `StageDef`; artifacts are labels it compares, never opens
//!   (`metrics` excepted).
//! - `status` and `run` ask the same planner; `run` asks again whenever an input became known.
//! - A result appears whole, by rename, or not at all. No artifact is ever edited.
//! - What a file system says of a file only saves reading it again; content alone decides.
//! - Device, threads, date, host and commit belong to the record, not to the manifest.
//! - A room knows those above it in this list, and none below.

pub mod base;
pub mod cmd;
pub mod exec;
pub mod pipeline;
pub mod plan;
pub mod show;
pub mod store;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// From the lowest: a room knows those before it.
    const ROOMS: [&str; 7] = ["base", "pipeline", "store", "plan", "exec", "show", "cmd"];

    #[test]
    fn no_room_knows_one_above_it() {
        let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"));
        let mut read = 0;
        for entry in walkdir::WalkDir::new(root) {
            let entry = entry.expect("our sources");
            let path = entry.path().strip_prefix(root).expect("below it");
            let room = path.iter().next().and_then(|part| part.to_str());
            let Some(at) = ROOMS.iter().position(|name| room == Some(name)) else {
                continue;
            };
            if path.extension().is_none_or(|e| e != "rs") {
                continue;
            }
            read += 1;
            let text = fs::read_to_string(entry.path()).expect("our sources");
            // Tests may look at all.
            if path.file_name().is_some_and(|name| name == "tests.rs") {
                continue;
            }
            let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or("");
            let code = text.lines().filter(|l| !l.trim_start().starts_with("//"));
            for line in code {
                for above in &ROOMS[at + 1..] {
                    let uses = line.contains(&format!("crate::{above}::"));
                    assert!(!uses, "{}: {}", path.display(), line.trim());
                }
            }
        }
        assert!(read > 100, "{read} files");
    }
}
