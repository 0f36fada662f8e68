//! What is fresh, what is stale and why: one story a rule.

use std::fs;
use std::time::Duration;

use crate::common::{Space, eventually, said};

/// `first` writes the first digit of x, so that some changes of x change nothing below it.
pub const TWO: &str = r#"
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

#[test]
fn a_file_that_changes_while_it_is_read_spoils_the_result() {
    let space = Space::new(
        "[stage.a]\nkind = 'command'\nshell = 'cat data.csv > {out.x}; cp next.csv data.csv'\nfiles = 'data.csv'\nout.x = 'x'\n",
    );
    space.write("data.csv", "1\n");
    space.write("next.csv", "2\n");
    let said = space.repro(&["run"]);
    assert_eq!(said.code, Some(1));
    assert!(
        said.err
            .contains("data.csv changed while it ran, so its result was not kept"),
        "{}",
        said.err
    );
    assert_eq!(space.run(), ["a"], "the second copy changes nothing");
    assert_eq!(space.output("a", "x"), b"2\n");
}

#[test]
fn a_module_that_changes_while_it_is_read_makes_its_reader_run_again() {
    let space = Space::new(
        "[stage.a]\nkind = 'command'\nshell = 'cat one.txt > {out.x}; touch seen; for i in $(seq 100); do [ -e seen ] || break; sleep 0.1; done'\nout.x = 'x'\n",
    );
    space.write("one.txt", "1\n");
    // Somebody else changes the file as often as it was read.
    let change = |times: usize| {
        let child = space.start(&["run", "--json"]);
        for i in 0..times {
            eventually("it was read", || space.path("seen").exists());
            space.write("one.txt", &format!("{}\n", i + 2));
            fs::remove_file(space.path("seen")).expect("it is there");
        }
        // Whoever comes after finds it unchanged.
        std::thread::sleep(Duration::from_millis(50));
        let mut left = child;
        eventually("it ended", || {
            let _ = fs::remove_file(space.path("seen"));
            left.try_wait().expect("ours").is_some()
        });
        said(left.wait_with_output().expect("ours"))
    };
    let first = change(1);
    assert_eq!(
        first.stages("done"),
        ["a", "a"],
        "the second time nothing changed"
    );
    assert_eq!(space.output("a", "x"), b"2\n");
    assert_eq!(space.run(), [""; 0]);
    space.edit("sleep 0.1", "sleep 0.11");
    let said = change(2);
    assert_eq!(said.code, Some(1));
    assert!(
        said.out
            .contains("what it reads changed while it ran, twice: file one.txt changed"),
        "{}{}",
        said.out,
        said.err
    );
}

#[test]
fn a_file_that_changed_since_it_was_judged_is_judged_again() {
    let space = Space::new(
        "[stage.first]\nkind = 'command'\nshell = 'echo 2 > data.csv; echo > {out.x}'\nout.x = 'x'\n[stage.then]\nkind = 'command'\nshell = 'cat data.csv > {out.y}'\nfiles = 'data.csv'\nout.y = 'y'\n",
    );
    space.write("data.csv", "1\n");
    assert_eq!(space.ran(&["run", "--json", "-j1"]), ["first", "then"]);
    assert_eq!(space.output("then", "y"), b"2\n");
    assert_eq!(space.run(), [""; 0]);
}

#[test]
fn parameters_that_differ_never_look_alike() {
    let space = Space::new(
        "[stage.a]\nkind = 'command'\nrun = ['cp', '{params}', '{out.x}']\nout.x = 'x'\nparams = {}\n",
    );
    let mut last = "params = {}".to_owned();
    for params in [
        "{ optim = { lr = 1 } }",
        "{ 'optim.lr' = 1 }",
        "{ l = [{ n = 1 }, { n = 2 }] }",
        "{ l = { 0 = { n = 1 }, 1 = { n = 2 } } }",
        "{ l = [] }",
        "{ l = {} }",
        "{ l = 1 }",
        "{ l = 1.0 }",
        "{ l = '1' }",
    ] {
        let next = format!("params = {params}");
        space.edit(&last, &next);
        assert_eq!(space.run(), ["a"], "{params} is another work");
        last = next;
    }
}
