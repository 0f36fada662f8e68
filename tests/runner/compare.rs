//! Two states of a pipeline side by side.

use crate::common::{Said, Space, installed};

/// Accuracy is ten times the learning rate and a tenth of the seed.
const PIPELINE: &str = r#"
[pipeline]
profile = "full"
[pipeline.profiles.full]
about = "all"
[pipeline.profiles.quick]
about = "less"
[profile.quick.fit]
epochs = 1

[stage.fit]
kind = "command"
for.lr = [0.1, 0.01]
for.seed = [0, 1]
params = { lr = "{lr}", seed = "{seed}", epochs = 3 }
files = ["data.csv"]
run = ["sh", "fit.sh", "{params.lr}", "{params.seed}", "{out.model}", "{params.epochs}"]
out.model = "model"
[stage.score]
kind = "command"
for.lr = [0.1, 0.01]
for.seed = [0, 1]
in.model = "fit.model"
shell = "echo '{\"accuracy\":' $(cat {in.model}) '}' > {out.scores}"
out.scores = { file = "scores.json", holds = "metrics" }
[table.1]
title = "Accuracy"
columns = [{ id = "acc", metric = "accuracy", better = "higher", digits = 2 }]
[[table.1.row]]
each = "lr"
acc = { stage = "score" }
"#;

const FIT: &str = ". ./lib.sh; accuracy $1 $2 $4 > $3\n";
const LIB: &str = "accuracy() { awk \"BEGIN { print 5 * $1 + $2 / 10 + $3 / 100 }\"; }\n";

fn space() -> Space {
    let space = Space::new(PIPELINE);
    space.write("fit.sh", FIT);
    space.write("lib.sh", LIB);
    space.write("data.csv", "1\n");
    space
}

/// What it printed, with single spaces: columns are as wide as they must be.
#[track_caller]
fn shows(said: &Said, wanted: &[&str]) {
    let text: Vec<&str> = said.out.split_whitespace().collect();
    let text = text.join(" ");
    for wanted in wanted {
        assert!(
            text.contains(wanted),
            "`{wanted}` is not in\n{}{}",
            said.out,
            said.err
        );
    }
}

fn json(said: &Said) -> serde_json::Value {
    serde_json::from_str(&said.out).expect("JSON")
}

#[test]
fn two_settings_side_by_side() {
    let space = space();
    space.run();
    // The other side has not run: its cells say so, and that is no failure.
    let said = space.repro(&["compare", "now", "fit.epochs=5"]).ends(0);
    let same = "Code and declared files are the same.";
    let stale = "| score@0.1,0 | accuracy | 0.5300 | *stale* | | |";
    shows(&said, &["| fit | params.epochs | 3 | 5 |", stale, same]);
    let said = space.repro("compare quick").ends(0);
    shows(
        &said,
        &["| fit | params.epochs | 1 | 3 |", "| *not run* | 0.5300 |"],
    );
    space.ran("run --json --profile quick");
    let said = space.repro("compare quick now --stage score@0.1,0").ends(0);
    let better = "| score@0.1,0 | accuracy | 0.5100 | **0.5300** | +0.0200 | now is better |";
    shows(
        &said,
        &[better, "Of other stages than score@0.1,0 nothing is said."],
    );
    said.says_not("score@0.1,1");
    // A profile with settings of its own, and what the command line says of both sides.
    let words = [
        "compare",
        "quick fit.lr=0.2",
        "quick",
        "--set",
        "fit.seed=5",
        "--format",
        "json",
    ];
    let all = json(&space.repro(&words).ends(0));
    let told = all["parameters"].as_array().expect("a list");
    assert!(told.iter().all(|d| d["name"] == "params.lr"), "{all}");
    assert_eq!(told.len(), 4, "{all}");
}

#[test]
fn whole_pipelines_are_compared_by_means_too() {
    let space = space();
    space.run();
    space.repro("check --update").ends(0);
    space.edit("epochs = 3 }", "epochs = 13 }");
    space.run();
    let said = space.repro("compare baseline now --mean seed").ends(0);
    let line = "| `score@0.1,*` | accuracy | 0.5800 ± 0.0500 (2 runs) | 0.6800 ± 0.0500 (2 runs) | +0.1000 ± 0.0707 | \
                undecided (1.4 standard errors) |";
    shows(&said, &[line, "`score@0.01,*`"]);
    let said = space
        .repro(&["compare", "fit.epochs=3", "now", "--mean", "seed"])
        .ends(0);
    shows(&said, &["| fit | params.epochs | 3 | 13 |", line]);
    let said = space.repro("compare baseline --mean sed").ends(2);
    said.complains("no stage has an axis `sed`\nhint: did you mean `seed`?");
    let said = space
        .repro("compare fit@0.1,* fit@0.01,* --mean seed")
        .ends(2);
    said.complains("--mean seed is for whole pipelines\nhint: in the name of a stage");
}

#[test]
fn two_values_of_an_axis_with_means_over_seeds() {
    let space = space();
    space.run();
    let said = space.repro("compare fit@0.1,* fit@0.01,*").ends(0);
    // Each mean is of two runs that are 0.1 apart.
    let line = "| `score@*,*` | accuracy | **0.5800 ± 0.0500 (2 runs)** | 0.1300 ± 0.0500 (2 runs) | −0.4500 ± 0.0707 | \
                `fit@0.1,*` is better (6.4 standard errors) |";
    shows(&said, &["| fit | params.lr | 0.1 | 0.01 |", line]);
    let one = json(
        &space
            .repro("compare score@0.1,0 score@0.01,0 --format json")
            .ends(0),
    );
    let metrics = one["metrics"].as_array().expect("a list");
    assert_eq!(
        (metrics.len(), &metrics[0]["stage"]),
        (1, &"score@*,0".into())
    );
    let difference = metrics[0]["difference"]
        .as_f64()
        .map(|d| (d * 100.0).round());
    assert_eq!(difference, Some(-45.0));
    assert_eq!(metrics[0]["verdict"]["is"], "better");
    // Two stages that have nothing in common but that they are compared.
    let said = space.repro("compare fit@0.1,0 score@0.1,0").ends(0);
    shows(&said, &["fit@0.1,0 / score@0.1,0"]);
}

#[test]
fn a_revision_of_git_is_planned_against_the_present_store() {
    if installed("git", "compare").is_none() {
        return;
    }
    let space = space();
    let git = |line: &str| {
        let who = "git -c user.name=a -c user.email=a@b";
        space.shell(&format!("{who} {line}")).ends(0)
    };
    space.write(".gitignore", "/artifacts/\n/data.csv\n");
    git("init -q -b main");
    space.run();
    git("add -A");
    git("commit -q -m one");
    git("tag v1");
    // A module that is declared nowhere, and a parameter.
    space.write("lib.sh", &LIB.replace("/ 10 ", "/ 10 + 0.25 "));
    space.edit("epochs = 3 }", "epochs = 4 }");
    let said = space.repro("compare v1 --stage score").ends(0);
    shows(&said, &["| score@0.1,0 | accuracy | 0.5300 | *stale* |"]);
    space.run();
    let said = space.repro("compare v1").ends(0);
    let better = "| score@0.1,0 | accuracy | 0.5300 | **0.7900** | +0.2600 | now is better |";
    let now = "v1: what git does not hold is as it is now (data.csv).";
    shows(
        &said,
        &[
            "| fit | params.epochs | 3 | 4 |",
            "| fit | lib.sh |",
            better,
            now,
        ],
    );
    said.says_not("fit.sh");
    // The other way round, by commit, from a folder below.
    space
        .shell("mkdir -p sub && cd sub && repro compare now git:v1~0 --format csv")
        .ends(0)
        .says("metrics,\"score@0.1,0\"");
    // Nothing is left behind, nor is the work tree touched.
    git("diff --cached --quiet");
    let said = space.repro("compare v9").ends(2);
    said.complains("hint: did you mean `v1`?");
    git("branch quick");
    let said = space.repro("compare quick").ends(2);
    said.complains("hint: say which: `profile:quick` or `git:quick`");
    space.repro("compare git:quick profile:full").ends(0);
    space
        .repro("compare git:quickly")
        .ends(2)
        .complains("did you mean `git:quick`?");
    // What is wrong with the pipeline of a revision is said of that side.
    let good = space.read("pipeline.toml");
    space.edit("epochs = 4 }", "epochs = 4 ");
    git("commit -q -a -m bad");
    space.write("pipeline.toml", &good);
    space
        .repro("compare HEAD")
        .ends(2)
        .complains("(side A of the comparison, `HEAD`)");
}

#[test]
fn the_baseline_is_a_side_with_numbers_alone() {
    let space = space();
    space.run();
    space
        .repro("compare baseline")
        .ends(2)
        .complains("hint: `repro check --update` writes one");
    space.repro("check --update").ends(0);
    let said = space.repro("compare baseline").ends(0);
    shows(
        &said,
        &[
            "the same |",
            "baseline holds numbers, not what they were made from.",
        ],
    );
    space.edit("epochs = 3 }", "epochs = 5 }");
    let said = space.repro("compare baseline now").ends(0);
    shows(&said, &["| score@0.1,0 | accuracy | 0.5300 | *stale* |"]);
    space.run();
    shows(
        &space.repro("compare baseline now").ends(0),
        &["now is better"],
    );
}

#[test]
fn results_that_were_imported_are_told() {
    let space = space();
    space.run();
    let archive = space.path("results.tar.gz");
    let archive = archive.to_str().expect("a path");
    space.repro(&["export", archive]).ends(0);
    let other = self::space();
    other.repro(&["import", archive]).ends(0);
    let said = other.repro(&["compare", "now", "fit.epochs=5"]).ends(0);
    shows(&said, &["now: 4 results imported from", "not made here."]);
    said.says_not("fit.epochs=5: 4 results");
}

#[test]
fn every_format_tells_the_same() {
    let space = space();
    space.run();
    let tex = space
        .repro(&["compare", "fit.epochs=5", "--format", "tex"])
        .ends(0);
    tex.says("\\toprule").says("stale");
    let csv = space
        .repro(&["compare", "fit.epochs=5", "--format", "csv"])
        .ends(0);
    let csv = csv
        .says("section,stage,name,first")
        .says("parameters,fit,params.epochs,5,,there,3,,there");
    csv.says("\"score@0.1,0\",accuracy,,,stale,0.53,,measured");
    space
        .repro(&[
            "compare",
            "fit.epochs=5",
            "--format",
            "html",
            "--out",
            "c.html",
        ])
        .ends(0);
    assert!(space.read("c.html").contains("params.epochs"));
}

#[test]
fn what_cannot_be_compared_is_said_with_its_side() {
    let space = space();
    let fails = |arguments: &[&str], why: &str| {
        let said = space.repro(&[&["compare"], arguments].concat()).ends(2);
        assert!(said.err.contains(why), "{arguments:?}\n{}", said.err);
    };
    fails(
        &["quikc"],
        "`quikc` is no profile, no setting, no stage and no revision of git (side A of the comparison, `quikc`)\nhint: did you mean `quick`?",
    );
    fails(
        &["now", "fit.epohcs=2"],
        "(side B of the comparison, `fit.epohcs=2`)\nhint: did you mean `epochs`?",
    );
    fails(&["profile:slow"], "there is no profile `slow`");
    fails(
        &["fit@0.1,0", "now"],
        "a stage is compared with a stage, not `fit@0.1,0` with `now`\nhint: two stages",
    );
    fails(&["fit@0.1,0", "fit@1e-1,0"], "are the same");
    fails(&["stage:fti", "fit"], "there is no stage `fti`");
    fails(
        &["now", "quick", "--stage", "scroe"],
        "no side has a stage `scroe`\nhint: did you mean `score`?",
    );
    let said = space.repro("compare now quick").ends(0);
    said.says("4 stages with metrics have a fresh result on neither side.");
}
