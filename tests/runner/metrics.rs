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
