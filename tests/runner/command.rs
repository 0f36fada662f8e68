//! The `command` kind: what it reads, what it writes, what counts.

use crate::common::Space;
use std::fs;

#[test]
fn inputs_parameters_and_outputs_reach_the_program() {
    let space = Space::new(
        r#"
[stage.make]
kind = "command"
for.n = [1, 2]
run = ["sh", "-c", "mkdir $1 && echo $2 > $1/a && echo more > $1/b", "sh", "{out.dir}", "{params.n}"]
params.n = "{n}"
out.dir = "things"

[stage.join]
kind = "command"
shell = "cat $REPRO_PARAMS > {out.all}; for d in {in.dirs}; do cat $d/a; done >> $REPRO_OUT_ALL; echo $MODE >> {out.all}"
env = ["MODE=fast and loose"]
in.dirs = ["make@2.dir", "make@1.dir"]
out.all = "all.txt"
params.title = "it's"
"#,
    );
    assert_eq!(space.run(), ["join", "make@1", "make@2"]);
    let text = String::from_utf8(space.output("join", "all.txt")).expect("text");
    assert_eq!(text, "{\n  \"title\": \"it's\"\n}2\n1\nfast and loose\n");
    fs::remove_file(space.result("make@1").join("things/b")).expect("there");
    assert!(
        space
            .status()
            .contains("make@1  stale  output dir is not what was committed")
    );
    assert_eq!(space.run(), ["make@1"]);
}

#[test]
fn a_variable_that_counts_makes_stale() {
    let space = Space::new(
        "[stage.a]\nkind = 'command'\nshell = 'echo $MODE > {out.x}'\nenv = 'MODE'\nout.x = 'x'\n",
    );
    let run = |mode: &str| {
        space
            .command(&["run"])
            .env("MODE", mode)
            .output()
            .expect("starts")
    };
    assert!(run("1").status.success());
    let said = crate::common::said(
        space
            .command(&["status"])
            .env("MODE", "2")
            .output()
            .expect("starts"),
    );
    assert!(
        said.out.contains("a  stale  env.MODE: \"1\" -> \"2\""),
        "{}",
        said.out
    );
}

#[test]
fn patterns_notice_new_files() {
    let space = Space::new(
        "[stage.a]\nkind = 'command'\nshell = 'cat data/*.csv > {out.x}'\nfiles = 'data/**/*.csv'\nout.x = 'x'\n",
    );
    space.write("data/1.csv", "1\n");
    space.run();
    space.write("data/note.txt", "not of interest");
    assert_eq!(space.run(), [""; 0]);
    space.write("data/2.csv", "2\n");
    assert!(space.status().contains("a  stale  data/2.csv is new"));
    assert_eq!(space.run(), ["a"]);
    assert_eq!(space.output("a", "x"), b"1\n2\n");
}

#[test]
fn a_script_is_code_without_being_declared_and_can_be_accepted() {
    let space = Space::new(
        "[stage.a]\nkind = 'command'\nrun = ['sh', 'make.sh', '{out.x}']\nout.x = 'x'\n",
    );
    space.write("make.sh", "echo 1 > $1\n");
    space.run();
    space.write("make.sh", "# says one\necho 1 > $1\n");
    assert!(space.status().contains("a  stale  code make.sh changed"));
    assert_eq!(
        space.repro(&["accept", "a", "--why", "a comment"]).code,
        Some(0)
    );
    assert_eq!(space.run(), [""; 0]);
    assert!(space.read("accepted.toml").contains("why = \"a comment\""));
    assert_eq!(
        space.repro(&["accept", "a", "--why", "again"]).code,
        Some(2)
    );
    space.write("make.sh", "echo 2 > $1\n");
    assert_eq!(space.run(), ["a"]);
}

#[test]
fn what_a_depfile_names_counts_next_time() {
    let space = Space::new(
        "[stage.a]\nkind = 'command'\nshell = 'cat one.txt > {out.x}; echo \"x: one.txt\" > {depfile}'\nout.x = 'x'\n",
    );
    space.write("one.txt", "1");
    space.write("two.txt", "2");
    space.run();
    assert_eq!(space.run(), [""; 0]);
    space.write("two.txt", "3");
    assert_eq!(space.run(), [""; 0]);
    space.write("one.txt", "2");
    assert!(
        space.status().contains("a  stale  file one.txt changed"),
        "{}",
        space.status()
    );
    assert_eq!(space.run(), ["a"]);
    space.write("one.txt", "1");
    assert_eq!(space.run(), [""; 0], "the earlier result counts again");
}

#[test]
fn a_failure_shows_the_log_and_leaves_the_rest_to_keep_going() {
    let space = Space::new(
        r#"
[stage.bad]
kind = "command"
shell = "echo about to fail; exit 3"
out.x = "x"
[stage.after]
kind = "command"
run = ["cp", "{in.x}", "{out.y}"]
in.x = "bad.x"
out.y = "y"
[stage.lazy]
kind = "command"
shell = "true"
out.x = "x"
[stage.good]
kind = "command"
shell = "echo 1 > {out.x}"
out.x = "x"
"#,
    );
    let said = space.repro(&["run", "--keep-going", "-j1"]);
    assert_eq!(said.code, Some(1));
    for words in [
        "exit 3",
        "| about to fail",
        "without writing its output `x`",
        "failed: bad, lazy",
    ] {
        assert!(said.err.contains(words), "{words:?} not in\n{}", said.err);
    }
    assert!(space.status().contains("good   fresh"));
    assert_eq!(space.repro(&["log", "bad"]).out, "about to fail\n");
}

#[test]
fn metrics_of_a_command_fill_a_table() {
    let space = Space::new(
        r#"
[stage.score]
kind = "command"
run = ["cp", "score.json", "{out.metrics}"]
files = "score.json"
out.metrics = { file = "metrics.json", holds = "metrics" }
[table.1]
title = "Scores"
columns = [{ id = "acc", metric = "accuracy", better = "higher", digits = 2 }]
[[table.1.row]]
name = "ours"
acc = { stage = "score" }
"#,
    );
    space.write(
        "score.json",
        r#"{"metrics":[{"name":"accuracy","label":"accuracy","value":0.91,"better":"higher"}]}"#,
    );
    space.run();
    let said = space.repro(&["tables"]);
    assert!(said.out.contains("0.91"), "{}{}", said.out, said.err);
    assert!(said.out.contains("Profile default."), "{}", said.out);
}
