//! Numbers that programs write as they are used to.

use crate::common::Space;

const PIPELINE: &str = r#"
[stage.fit]
kind = "command"
for.lr = [1, 2]
shell = "echo '{\"accuracy\": 0.8{lr}, \"loss\": {\"test\": 0.5}, \"name\": \"mlp\"}' > {out.scores}"
out.scores = { file = "scores.json", holds = "metrics" }
[table.1]
title = "Accuracy"
columns = [
  { id = "acc", metric = "accuracy", better = "higher", digits = 2 },
  { id = "loss", metric = "loss.test", better = "lower", digits = 1 },
]
[[table.1.row]]
name = "small step"
acc = { stage = "fit@1" }
loss = { stage = "fit@1" }
[[table.1.row]]
name = "large step"
acc = { stage = "fit@2" }
"#;

#[test]
fn a_plain_object_of_numbers_is_shown_and_held_to_a_baseline() {
    let space = Space::new(PIPELINE);
    assert_eq!(space.run().len(), 2);
    let said = space.repro(&["tables"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(
        said.out.contains("| small step |     0.81 |"),
        "{}",
        said.out
    );
    assert!(
        said.out.contains("| large step | **0.82** |"),
        "{}",
        said.out
    );
    assert_eq!(space.repro(&["check", "--update"]).code, Some(0));
    assert_eq!(space.repro(&["check"]).code, Some(0));
    // A lower accuracy is worse, because the column says so.
    space.edit("0.8{lr}", "0.6{lr}");
    assert_eq!(space.run().len(), 2);
    let said = space.repro(&["check"]);
    assert_eq!(said.code, Some(4), "{}", said.err);
    assert!(said.out.contains("WORSE"), "{}", said.out);
}

#[test]
fn no_number_is_a_value_and_no_metrics_fail_their_stage() {
    let one = "[stage.a]\nkind = 'command'\nshell = 'cat scores > {out.x}'\nfiles = 'scores'\nout.x = { file = 'x.json', holds = 'metrics' }\n\
        [table.1]\ntitle = 'T'\ncolumns = [{ id = 'v', metric = 'loss', better = 'lower', digits = 1 }]\n[[table.1.row]]\nname = 'r'\nv = { stage = 'a' }\n";
    let space = Space::new(one);
    space.write("scores", "{\"loss\": NaN}");
    assert_eq!(space.run(), ["a"]);
    let said = space.repro(&["tables"]);
    assert!(said.out.contains("NaN"), "{} {}", said.out, said.err);
    for (text, why) in [
        (
            "loss: 1.0\n",
            "its output x.json holds no metrics: expected",
        ),
        (
            "{\"loss\": \"low\"}",
            "its output x.json holds no metrics: it holds no number; hint: ",
        ),
        ("", "its output x.json holds no metrics: EOF"),
    ] {
        space.write("scores", text);
        let said = space.repro(&["run"]);
        assert_eq!(said.code, Some(1), "{}", said.err);
        assert!(
            said.err.contains(why) && said.err.contains("hint: "),
            "{}",
            said.err
        );
    }
}

#[test]
fn json_lines_csv_and_toml_are_taken_as_they_are() {
    let pipeline = |file: &str| PIPELINE_OF.replace("FILE", file);
    for (file, text) in [
        (
            "log.jsonl",
            "{\"epoch\": 1, \"acc\": 0.5}\n{\"epoch\": 2, \"acc\": 0.75}\n",
        ),
        ("scores.csv", "epoch,acc\n1,0.5\n2,0.75\n"),
        ("scores.tsv", "metric\tvalue\nacc\t0.75\n"),
        ("scores.toml", "acc = 0.75\nmodel = 'mlp'\n"),
    ] {
        let space = Space::new(&pipeline(file));
        space.write("scores", text);
        assert_eq!(space.run(), ["a"], "{file}");
        let said = space.repro(&["tables"]).ends(0);
        assert!(said.out.contains("0.75"), "{file}: {}", said.out);
    }
    let fails = |file: &str, text: &str, why: &str| {
        let space = Space::new(&pipeline(file));
        space.write("scores", text);
        let said = space.repro(&["run"]).ends(1);
        assert!(
            said.err
                .contains(&format!("its output {file} holds no metrics: {why}")),
            "{}",
            said.err
        );
        assert!(said.err.contains("hint: "), "{}", said.err);
    };
    fails("x.csv", "acc,loss\n0.5\n", "CSV error: record 1 (line: 2");
    fails("x.toml", "acc: 0.5\n", "line 1: ");
    fails("x.jsonl", "acc\n", "line 1 is no JSON");
    fails("x.csv", "name,model\na,b\n", "it holds no number");
}

#[test]
fn what_is_no_number_fails_the_check_with_and_without_a_baseline() {
    let space = Space::new(&PIPELINE_OF.replace("FILE", "x.json"));
    for text in ["{\"acc\": NaN}", "{\"acc\": Infinity}"] {
        space.write("scores", text);
        space.run();
        // It is not taken into a baseline.
        space.repro(&["check", "--update"]);
        let said = space.repro(&["check"]);
        assert_ne!(said.code, Some(0), "{}", said.out);
        assert!(said.out.contains("CHANGED"), "{}", said.out);
    }
    space.write("scores", "{\"acc\": 0.5}");
    space.run();
    space.repro(&["check", "--update"]).ends(0);
    space.repro(&["check"]).ends(0);
    space.write("scores", "{\"acc\": NaN}");
    space.run();
    let said = space.repro(&["check"]).ends(4);
    said.says("it is NaN, which no baseline can hold");
    space.repro(&["check", "--update"]);
    space.repro(&["check"]).ends(4);
}

const PIPELINE_OF: &str = "[stage.a]\nkind = 'command'\nshell = 'cat scores > {out.x}'\nfiles = 'scores'\nout.x = { file = 'FILE', holds = 'metrics' }\n\
    [table.1]\ntitle = 'T'\ncolumns = [{ id = 'v', metric = 'acc', better = 'higher', digits = 2 }]\n[[table.1.row]]\nname = 'r'\nv = { stage = 'a' }\n";
