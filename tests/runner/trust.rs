//! What is believed of files, and what is read again: artifacts that were lost or spoiled, stamps,
//! and the shortcut of a run with nothing to do.

use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use crate::common::Space;
use crate::staleness::TWO;

#[test]
fn a_deleted_artifact_is_made_again() {
    let space = Space::new(TWO);
    space.run();
    let second = space.result("second");
    fs::remove_file(space.result("first").join("text")).expect("it was there");
    fs::remove_file(second.join("copy")).expect("no other copy is to help");
    assert!(
        space
            .status()
            .contains("first   stale  output text is missing\n")
    );
    assert_eq!(space.run(), ["first"]);
}

#[test]
fn a_lost_artifact_is_restored_where_another_result_has_the_bytes() {
    let space = Space::new(TWO);
    space.run();
    fs::remove_file(space.result("second").join("copy")).expect("it was there");
    // `first.text` has the same bytes as `second.copy`.
    assert_eq!(space.run(), [""; 0]);
    assert_eq!(space.output("second", "copy"), b"1");
}

#[test]
fn a_corrupted_artifact_is_never_used() {
    let space = Space::new(TWO);
    space.run();
    let path = space.result("first").join("text");
    space.spoil(&path, b"9");
    assert!(
        space
            .status()
            .contains("first   stale  output text is not what was committed")
    );
    assert_eq!(space.repro(&["verify"]).code, Some(1));
    assert_eq!(space.run(), [""; 0], "restored from the copy");
    assert_eq!(fs::read(path).expect("there"), b"1");
}

#[test]
fn content_changed_with_size_and_mtime_kept_is_noticed() {
    let space = Space::new(TWO);
    space.run();
    let path = space.result("second").join("copy");
    let before = fs::metadata(&path)
        .and_then(|m| m.modified())
        .expect("a time");
    space.spoil(&path, b"7");
    File::options()
        .write(true)
        .open(&path)
        .and_then(|f| f.set_modified(before))
        .expect("ours");
    assert!(
        space.status().contains("second  stale"),
        "the change time tells"
    );
    assert_eq!(space.run(), [""; 0]);
    assert_eq!(space.output("second", "copy"), b"1");
}

#[test]
fn touching_a_file_changes_nothing() {
    let space = Space::new(&TWO.replace("params.x = 10", "params.x = 10\nfiles = \"data.csv\""));
    space.write("data.csv", "1,2\n");
    space.run();
    let later = SystemTime::now() + Duration::from_secs(100);
    File::options()
        .write(true)
        .open(space.path("data.csv"))
        .and_then(|f| f.set_modified(later))
        .expect("ours");
    assert_eq!(space.run(), [""; 0]);
    space.write("data.csv", "1,3\n");
    assert!(
        space
            .status()
            .contains("first   stale  file data.csv changed")
    );
}

#[test]
fn a_result_of_which_the_index_does_not_know_yet_is_found() {
    let space = Space::new(TWO);
    space.run();
    let index = space.path("artifacts/index");
    // What a crash may leave: a result, an index that was in order before it, no word of either.
    let before = fs::read(&index).expect("there");
    space.edit("x = 1", "x = 2");
    assert!(!space.run().is_empty());
    fs::write(&index, before).expect("ours");
    fs::remove_file(space.path("artifacts/fresh")).expect("all was fresh");
    assert_eq!(space.run(), [""; 0]);
}

/// A run that is killed right after a result got its name leaves the folder it was made in.
#[test]
fn what_a_killed_run_did_not_tidy_up_is_gone_after_the_next() {
    let space = Space::new(TWO);
    space.run();
    let work = space.path("artifacts/work");
    let results = fs::read_dir(space.path("artifacts/results")).expect("there");
    let done = results.flatten().next().expect("a result").file_name();
    let forced = "0".repeat(32);
    fs::create_dir_all(work.join(&done).join("checkpoint")).expect("ours");
    fs::create_dir_all(work.join(&forced).join("result")).expect("ours");
    space.edit("x = 1", "x = 2");
    assert!(!space.run().is_empty());
    assert!(!work.join(&done).exists(), "its result is there");
    assert!(work.join(&forced).exists(), "its result is yet to come");
}

#[test]
fn a_lost_index_costs_nothing() {
    let space = Space::new(TWO);
    space.run();
    fs::remove_file(space.path("artifacts/index")).expect("it was there");
    assert_eq!(space.run(), [""; 0]);
    space.write("artifacts/index", "{\"result\":{\"fp\":\"torn");
    assert_eq!(space.run(), [""; 0]);
}

#[test]
fn a_moved_project_is_still_fresh() {
    let space = Space::new(TWO);
    space.run();
    let other = Space::new(TWO);
    fs::rename(space.path("artifacts"), other.path("artifacts")).expect("one file system");
    assert_eq!(other.run(), [""; 0]);
}

/// The index is told a wrong digest for a file's stamp: whoever believes it has not read the file.
#[test]
fn unchanged_files_are_not_read_again() {
    let space = Space::new(&TWO.replace("params.x = 10", "params.x = 10\nfiles = \"data.csv\""));
    space.write("data.csv", "1,2\n");
    std::thread::sleep(Duration::from_millis(100));
    space.run();
    let index = space.read("artifacts/index");
    let truth = blake3::hash(b"1,2\n").to_hex().to_string();
    assert!(index.contains(&truth), "{index}");
    let lie = blake3::hash(b"3,4\n").to_hex().to_string();
    space.write("artifacts/index", &index.replace(&truth, &lie));
    let status = space.status();
    assert!(status.contains("file data.csv changed"), "{status}");
    let later = SystemTime::now() + Duration::from_secs(100);
    let file = File::options().write(true).open(space.path("data.csv"));
    file.and_then(|f| f.set_modified(later)).expect("ours");
    assert_eq!(space.run(), [""; 0], "with another stamp it is read");
}

/// After a run with nothing to do the next one only looks at what that one looked at. Each of
/// these must still be noticed.
#[test]
fn what_was_fresh_a_moment_ago_is_not_taken_for_granted() {
    let space = Space::new(
        r#"
[stage.a]
kind = "command"
run = ["sh", "make.sh", "{out.x}", "{params.x}"]
files = ["data/*.csv"]
env = ["MODE"]
params.x = 1
out.x = "x"
[stage.b]
kind = "command"
shell = "cat {in.x} one.txt > {out.y}; echo y: one.txt > {depfile}"
in.x = "a.x"
out.y = "y"
"#,
    );
    space.write("make.sh", "echo $MODE $2 > $1; cat data/*.csv >> $1\n");
    space.write("data/1.csv", "1\n");
    space.write("one.txt", "one\n");
    let settle = || std::thread::sleep(Duration::from_millis(100));
    settle();
    let ran = |mode: &str, more: &[&str]| {
        let arguments = [&["run", "--json"], more].concat();
        let output = space.command(&arguments[..]).env("MODE", mode).output();
        let said = crate::common::said(output.expect("starts"));
        assert_eq!(said.code, Some(0), "{}", said.err);
        said.stages("done")
    };
    let fresh = |mode: &str| {
        settle();
        assert_eq!(ran(mode, &[]), [""; 0]);
        assert_eq!(ran(mode, &[]), [""; 0]);
        assert!(space.path("artifacts/fresh").exists());
    };
    assert_eq!(ran("m", &[]), ["a", "b"]);
    fresh("m");
    assert_eq!(ran("n", &[]), ["a", "b"], "a variable");
    fresh("n");
    assert_eq!(ran("n", &["--set", "a.x=2"]), ["a", "b"], "a parameter");
    fresh("n");
    space.write("data/2.csv", "2\n");
    assert_eq!(ran("n", &[]), ["a", "b"], "a new file");
    fresh("n");
    fs::remove_file(space.path("data/1.csv")).expect("there");
    assert_eq!(ran("n", &[]), ["a", "b"], "a file that is gone");
    fresh("n");
    let before = fs::metadata(space.path("one.txt")).and_then(|m| m.modified());
    space.write("one.txt", "two\n");
    let file = File::options().write(true).open(space.path("one.txt"));
    file.and_then(|f| f.set_modified(before.expect("a time")))
        .expect("ours");
    assert_eq!(ran("n", &[]), ["b"], "size and time kept");
    fresh("n");
    space.write(
        "make.sh",
        "echo $MODE $2 > $1; cat data/*.csv >> $1; echo\n",
    );
    assert_eq!(ran("n", &[]), ["a"], "code");
    fresh("n");
    let output = space.output_of("b", "y", "n");
    space.spoil(&output, b"spoilt");
    assert_eq!(ran("n", &[]), ["b"], "an artifact");
    fresh("n");
    fs::remove_file(space.path("artifacts/index")).expect("there");
    fresh("n");
    space.edit("params.x = 1", "params.x = 3");
    assert_eq!(ran("n", &[]), ["a", "b"], "the pipeline");
    fresh("n");
}
