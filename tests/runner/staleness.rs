//! What is fresh, what is stale and why: one story a rule.

use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use crate::space::Space;

/// `first` writes the first digit of x, so that some changes of x change nothing below it.
const TWO: &str = r#"
[stage.first]
kind = "command"
shell = "printf %.1s {params.x} > {out.text}"
params.x = 10
out.text = "text"

[stage.second]
kind = "command"
run = ["cp", "{in.text}", "{out.copy}"]
in.text = "first.text"
out.copy = "copy"
"#;

#[test]
fn a_change_runs_what_depends_on_it_and_says_why() {
    let space = Space::new(TWO);
    assert_eq!(space.run(), ["first", "second"]);
    assert_eq!(space.run(), [""; 0]);
    space.edit("x = 10", "x = 20");
    let status = space.status();
    assert!(
        status.contains("first   stale  params.x: 10 -> 20\nsecond  waits  first\n"),
        "{status}"
    );
    assert_eq!(space.run(), ["first", "second"]);
    assert_eq!(space.output("second", "copy"), b"2");
}

#[test]
fn a_parameter_is_set_for_every_stage_that_has_it() {
    let space = Space::new(TWO);
    space.run();
    let status = space.repro(&["status", "--set", "*.x=30"]).out;
    assert!(
        status.contains("first   stale  params.x: 10 -> 30\nsecond  waits  first\n"),
        "{status}"
    );
}

#[test]
fn a_rerun_with_equal_bytes_stops_there() {
    let space = Space::new(TWO);
    space.run();
    space.edit("x = 10", "x = 11");
    let said = space.repro(&["run", "--json"]);
    assert_eq!(
        (said.stages("done"), said.stages("fresh")),
        (vec!["first".into()], vec!["second".into()])
    );
}

#[test]
fn undoing_a_change_is_a_cache_hit() {
    let space = Space::new(TWO);
    space.run();
    for x in ["20", "30"] {
        let now = space.read("pipeline.toml");
        let line = now
            .lines()
            .find(|l| l.starts_with("params.x"))
            .expect("there")
            .to_owned();
        space.edit(&line, &format!("params.x = {x}"));
        assert_eq!(space.run(), ["first", "second"]);
    }
    space.edit("x = 30", "x = 10");
    assert_eq!(space.run(), [""; 0]);
    assert_eq!(space.output("second", "copy"), b"1");
}

#[test]
fn equal_work_under_another_name_or_profile_runs_once() {
    let space = Space::new(TWO);
    space.run();
    space.edit(
        "[stage.first]",
        "[pipeline.profiles]\ndefault = \"\"\nother = \"\"\n[stage.first]",
    );
    assert_eq!(space.ran(&["run", "--json", "--profile", "other"]), [""; 0]);
    let twin = TWO
        .replace("second", "third")
        .split("[stage.third]")
        .last()
        .map(|t| format!("[stage.third]{t}"));
    let all = format!("{}{}", space.read("pipeline.toml"), twin.expect("there"));
    space.write("pipeline.toml", &all);
    assert_eq!(space.run(), [""; 0]);
}

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

#[test]
fn parameters_can_be_borrowed_and_shrunk_by_a_profile() {
    let space = Space::new(
        r#"
[pipeline]
profile = "paper"
profiles.paper = "all"
profiles.quick = "less"
[stage.train]
kind = "command"
for.data = ["a", "b"]
for.seed = [0, 1]
shell = "cat {params} > {out.model}"
out.model = "model.json"
[stage.train.params]
seed = "{seed}"
source = "{data}.csv"
net = { kind = "big", width = 8, depth = 3 }
[stage.train.at.b]
params.net = { width = 9 }
[stage.time]
kind = "command"
shell = "cat {params} > {out.seconds}"
out.seconds = "seconds.json"
params.of.params-of = "train@b,1"
[profile.quick.train]
net = { width = 1 }
[profile.quick.train.at.a]
net = { kind = "small" }
"#,
    );
    space.run();
    let json = |stage: &str, file: &str| -> serde_json::Value {
        serde_json::from_slice(&space.output(stage, file)).expect("JSON")
    };
    let big = serde_json::json!({"kind": "big", "width": 9, "depth": 3});
    let whole = serde_json::json!({"seed": 1, "source": "b.csv", "net": big});
    assert_eq!(json("train@b,1", "model.json"), whole);
    assert_eq!(
        json("time", "seconds.json"),
        serde_json::json!({"of": whole})
    );
    let said = space.repro(&["--profile", "quick", "explain", "train@a,0"]);
    assert!(
        said.out.contains("params.net.kind: \"small\"\n") && !said.out.contains("width"),
        "{}",
        said.out
    );
    let said = space.repro(&["--profile", "quick", "explain", "train@b,0"]);
    assert!(said.out.contains("params.net.width: 1\n"), "{}", said.out);
    assert!(
        space
            .repro(&["--profile", "quick", "status"])
            .err
            .contains("these have: paper")
    );
}
