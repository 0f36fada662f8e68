//! Rows of tables and panels of figures over the values of an axis.

use crate::common::Space;

/// Accuracy is 0.8 and the learning rate, and half of the seed more.
const SWEEP: &str = r#"
[stage.fit]
kind = "command"
for.lr = [0.1, 0.01, 1]
for.seed = [0, 1]
shell = "echo '{\"lr\": {lr}, \"seed\": {seed}}' > {out.model}; echo '<svg xmlns=\"http://www.w3.org/2000/svg\"/>' > {out.plot}"
out.model = "model.json"
out.plot = { file = "plot.svg", holds = "figure" }
[stage.score]
kind = "command"
for.lr = [0.1, 0.01, 1]
for.seed = [0, 1]
in.model = "fit.model"
shell = "awk -F'[:,}]' '{ print \"{\\\"accuracy\\\": \" $2 + $4 / 2 \"}\" }' {in.model} > {out.scores}"
out.scores = { file = "scores.json", holds = "metrics" }
[stage.data]
kind = "command"
for.split = ["train", "test"]
shell = "echo '{\"size\": 7}' > {out.scores}"
out.scores = { file = "scores.json", holds = "metrics" }
[table.1]
title = "Accuracy"
head = "learning rate"
columns = [
  { id = "acc", metric = "accuracy", better = "higher", digits = 2 },
  { id = "size", metric = "size", better = "higher", digits = 0 },
]
[[table.1.row]]
each = "lr"
acc = { stage = "score" }
[figure.1]
title = "All fits"
[[figure.1.panel]]
each = ["seed", "lr"]
caption = "lr {lr}, seed {seed}"
stage = "fit@{lr},{seed}"
"#;

fn names(space: &Space) -> Vec<String> {
    let said = space.repro("tables --format json").ends(0);
    let tables: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
    let rows = tables[0]["rows"].as_array().expect("rows");
    rows.iter()
        .map(|r| r["name"].as_str().expect("a name").into())
        .collect()
}

#[test]
fn a_row_stands_for_each_value_of_an_axis_with_means_over_seeds() {
    let space = Space::new(SWEEP);
    assert_eq!(names(&space), ["0.1", "0.01", "1"]);
    space.repro("tables").ends(0).says("not run");
    assert_eq!(space.run().len(), 13);
    let table = space.repro("tables").ends(0);
    let table = table.says("| 0.1           |     0.35 ± 0.35 (2 runs) |");
    table.says("| 1             | **1.25 ± 0.35 (2 runs)** |");
    // The same as by hand, in every format.
    let formats = ["md", "tex", "csv", "json", "html"];
    let texts = || formats.map(|f| space.repro(&format!("tables --format {f}")).ends(0).out);
    let by_each = texts();
    let row = |lr: &str| {
        format!("[[table.1.row]]\nname = \"{lr}\"\nacc = {{ stage = \"score@{lr},*\" }}\n")
    };
    let by_hand = ["0.1", "0.01", "1"].map(row).concat();
    space.edit(
        "[[table.1.row]]\neach = \"lr\"\nacc = { stage = \"score\" }\n",
        &by_hand,
    );
    assert_eq!(texts(), by_each);
    // Checks say where a number stands.
    space.repro("check --update").ends(0);
    let checked = space.repro("check --json").ends(0).out;
    assert!(checked.contains("table 1, 0.01, acc"), "{checked}");
}

#[test]
fn texts_are_filled_and_several_axes_make_every_combination() {
    let space = Space::new(SWEEP);
    let row = "each = [\"seed\", \"lr\"]\nname = \"lr {lr}\"\ngroup = \"seed {seed}\"\nnote = \"{{lr}} is {lr}\"\nacc = { stage = \"score@{lr},{seed}\" }";
    space.edit("each = \"lr\"\nacc = { stage = \"score\" }", row);
    let lrs = ["lr 0.1", "lr 0.01", "lr 1"];
    assert_eq!(names(&space), [lrs, lrs].concat());
    let table = space.repro("tables").ends(0).says("seed 1");
    table.says("{lr} is 0.01");
    // Values that need quotes in a stage's name.
    space.edit("for.lr = [0.1, 0.01, 1]", "for.lr = [\"a,b\", \"*\"]");
    assert_eq!(names(&space)[..2], ["lr a,b", "lr *"]);
    space
        .repro("figures --out out")
        .ends(2)
        .complains("fit@\"a,b\",0");
    // A cell whose stage has fewer values is left out where it has none.
    space.edit(
        "acc = { stage = \"score@{lr},{seed}\" }",
        "size = { stage = \"data@{split}\" }",
    );
    space.edit("each = [\"seed\", \"lr\"]\nname = \"lr {lr}\"\ngroup = \"seed {seed}\"\nnote = \"{{lr}} is {lr}\"", "each = \"split\"");
    assert_eq!(names(&space), ["train", "test"]);
}

#[test]
fn a_panel_stands_for_each_value_too() {
    let space = Space::new(SWEEP);
    space.run();
    let said = space.repro("figures --out out").ends(0);
    assert!(
        said.err.contains("out/figure-1-lr-0.01-seed-1.svg"),
        "{}",
        said.err
    );
    assert_eq!(
        std::fs::read_dir(space.path("out")).expect("there").count(),
        6
    );
    space.repro("report").ends(0);
    assert!(space.read("report.html").contains("lr 0.01, seed 1"));
    space.edit(
        "[\"seed\", \"lr\"]\ncaption = \"lr {lr}, seed {seed}\"\nstage = \"fit@{lr},{seed}\"",
        "\"lr\"\nstage = \"fit\"",
    );
    let said = space.repro("figures").ends(2);
    said.complains("pipeline.toml:35:9: figure 1: fit has more axes than this `each`");
}

#[test]
fn what_is_wrong_with_each_has_its_place_and_a_hint() {
    let fails = |row: &str, why: &str| {
        let space = Space::new(SWEEP);
        space.edit("each = \"lr\"\nacc = { stage = \"score\" }", row);
        let said = space.repro("tables").ends(2);
        assert!(said.err.contains(why), "{row}\n{}", said.err);
    };
    fails(
        "each = \"lrr\"\nacc = { stage = \"score\" }",
        "pipeline.toml:29:8: table 1: no stage that it names has an axis `lrr`\nhint: did you mean `lr`?",
    );
    fails(
        "each = [\"lr\", \"split\"]\nacc = { stage = \"score\" }",
        "pipeline.toml:29:15: table 1: no stage that it names has an axis `split`\nhint: one of lr, seed",
    );
    fails(
        "name = \"all\"\neach = \"lr\"\nacc = { stage = \"score\" }",
        "29:8: table 1, row all: it has the same name for lr 0.1 and for lr 0.01\nhint: put the axes into its name",
    );
    fails(
        "each = \"lr\"\nacc = { stage = \"score@*,0\" }",
        "no stage that it names says which `lr` it means\nhint: stage = \"score@{lr},*\"",
    );
    fails(
        "each = \"lr\"\nname = \"{lx}\"\nacc = { stage = \"score\" }",
        "pipeline.toml:30:8: `{lx}` is no axis of this `each`\nhint: did you mean `lr`?",
    );
    fails(
        "each = \"lr\"\nacc = { stage = \"score\", published = 1.0, source = \"x\" }",
        "30:1: table 1: a published value stands in one row",
    );
    fails(
        "each = []\nacc = { stage = \"score\" }",
        "29:8: table 1: `each` names no axis",
    );
    fails(
        "each = [\"lr\", \"lr\"]\nacc = { stage = \"score\" }",
        "`each` has the axis `lr` twice",
    );
    fails(
        "each = 3\nacc = { stage = \"score\" }",
        "29:8: invalid type",
    );
    fails("acc = { stage = \"score@{lr},*\" }", "missing field `name`");
    fails(
        "name = \"a\"\nacc = { stage = \"score@{lr},*\" }",
        "hint: a row with `each` has values",
    );
}

#[test]
fn the_schema_knows_rows_and_panels_with_each() {
    let space = Space::new(SWEEP);
    let schema = serde_json::from_str(&space.repro("schema").ends(0).out).expect("JSON");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let valid = |text: &str| {
        let value: serde_json::Value = toml::from_str(text).expect("TOML");
        validator.is_valid(&value)
    };
    assert!(valid(SWEEP));
    assert!(!valid(&SWEEP.replace("each = \"lr\"", "each = 3")));
    assert!(!valid(&SWEEP.replace("each = \"lr\"\n", "")));
    assert!(!valid(&SWEEP.replace("caption =", "captoin =")));
}
