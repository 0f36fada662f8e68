//! What people see: tables, checks, figures and the report, through the binary.
#![allow(clippy::approx_constant)] // 3.14 is a made-up score, not pi

mod common;

use common::{Space, installed};

const PIPELINE: &str = r#"
[pipeline]
title = "A toy paper"
profile = "quick"
profiles.quick = "two models"

[stage.train]
kind = "command"
for.model = ["good", "fair"]
files = ["{model}.json", "history.jsonl"]
shell = "cp {model}.json {out.numbers} && cp history.jsonl {out.history}"
out.numbers = "numbers.json"
out.history = { file = "history.jsonl", holds = "history" }

[stage.score]
kind = "command"
for.model = ["good", "fair"]
in.numbers = "train.numbers"
run = ["cp", "{in.numbers}", "{out.metrics}"]
out.metrics = { file = "metrics.json", holds = "metrics" }

[stage.draw]
kind = "command"
in.numbers = "train@good.numbers"
files = ["picture.svg"]
shell = "cp picture.svg {out.picture}"
out.picture = { file = "picture.svg", holds = "figure" }

[table.1]
title = "Which model is better, & by how much"
head = "model"
columns = [{ id = "error", metric = "error", published = "error", better = "lower", digits = 1 }]
[[table.1.row]]
name = "good_model"
error = { published = 3.0, source = "the paper", stage = "score@good" }
[[table.1.row]]
name = "fair"
error = { published = 4.0, bound = true, source = "another paper", stage = "score@fair" }

[figure.1]
title = "The stages"
graph = true
[figure.2]
title = "A picture"
[[figure.2.panel]]
stage = "draw"
"#;

fn metrics(value: f64) -> String {
    format!(
        r#"{{"metrics":[{{"name":"error","label":"error","value":{value},"n":1000,"better":"lower"}}]}}"#
    )
}

fn space() -> Space {
    with(PIPELINE)
}

/// The files of the toy paper beside a pipeline.
fn with(pipeline: &str) -> Space {
    let space = Space::new(pipeline);
    space.write("good.json", &metrics(3.14));
    space.write("fair.json", &metrics(3.9));
    let epochs = "{\"epoch\":1,\"train\":{\"loss\":2.0}}\n{\"epoch\":2,\"train\":{\"loss\":1.0}}\n";
    space.write("history.jsonl", epochs);
    space.write("picture.svg", "<svg xmlns=\"http://www.w3.org/2000/svg\"/>");
    space
}

fn ran() -> Space {
    let space = space();
    space.repro("run").ends(0);
    space
}

#[test]
fn a_table_fills_as_stages_run_and_empties_as_they_go_stale() {
    let space = space();
    space
        .repro("tables")
        .ends(0)
        .says("*not run*")
        .says("2 not run: `repro run --profile quick`");
    space.repro("run").ends(0);
    space
        .repro("tables")
        .ends(0)
        .says("**3.1** |")
        .says("+0.1")
        .says_not("not run");
    space.write("good.json", &metrics(3.5));
    let said = space
        .repro("tables")
        .ends(0)
        .says("*stale*")
        .says("waits for train@good");
    said.says_not("3.1").says_not("3.5");
    space.repro("run").ends(0);
    space.repro("tables").says("**3.5** |");
}

#[test]
fn deleting_or_changing_an_artifact_never_leaves_a_silent_old_number() {
    let results = |space: &Space| -> Vec<std::path::PathBuf> {
        let folders = std::fs::read_dir(space.path("artifacts/results")).unwrap();
        folders
            .map(|f| f.unwrap().path().join("metrics.json"))
            .filter(|p| p.exists())
            .collect()
    };
    let space = ran();
    for file in results(&space) {
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        space
            .repro("tables")
            .ends(0)
            .says("*stale*")
            .says("output metrics is missing");
        std::fs::write(&file, text.replace("3.", "1.")).unwrap();
        space
            .repro("tables")
            .says("output metrics is not what was committed")
            .says_not("1.1");
        space.repro("run").ends(0);
        space.repro("tables").says_not("stale");
    }
    std::fs::remove_dir_all(space.path("artifacts")).unwrap();
    space
        .repro("tables")
        .ends(0)
        .says("*not run*")
        .says_not("3.1");
}

#[test]
fn two_runs_from_empty_stores_give_the_same_bytes_in_every_format() {
    let texts = |space: &Space| {
        let formats = ["md", "tex", "csv", "json", "html"];
        formats.map(|f| space.repro(&format!("tables --format {f}")).ends(0).out)
    };
    let space = ran();
    let first = texts(&space);
    std::fs::remove_dir_all(space.path("artifacts")).unwrap();
    space.repro("run").ends(0);
    assert_eq!(texts(&space), first);
}

#[test]
fn tables_go_to_files_and_by_name() {
    let space = ran();
    space
        .repro("tables 1 --format md,tex,csv --out made")
        .ends(0)
        .complains("wrote made/table-1.tex");
    assert!(
        space
            .read("made/table-1.md")
            .starts_with("**Table 1.** Which model")
    );
    space
        .repro("tables 2")
        .ends(2)
        .complains("there is no table `2`");
    space
        .repro("tables --format md,tex")
        .ends(2)
        .complains("hint: name a folder with --out");
}

#[test]
fn latex_compiles_as_it_is_and_inside_a_paper() {
    let Some(pdflatex) = installed("pdflatex", "latex_compiles_as_it_is_and_inside_a_paper") else {
        return;
    };
    let space = ran();
    space.repro("tables --format tex --out .").ends(0);
    let paper = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n\
                 Before. \\input{table-1.tex} After.\n\\end{document}\n";
    space.write("paper.tex", paper);
    for file in ["table-1", "paper"] {
        let words = format!("-interaction=nonstopmode -halt-on-error {file}.tex");
        space.program(&pdflatex, &words).ends(0);
        assert!(space.path(&format!("{file}.pdf")).exists());
        assert!(
            !space
                .read(&format!("{file}.log"))
                .contains("Overfull \\hbox")
        );
    }
}

#[test]
fn csv_has_as_many_fields_in_every_line_and_full_numbers() {
    let text = ran().repro("tables --format csv").ends(0).out;
    let mut reader = csv::ReaderBuilder::new()
        .flexible(false)
        .from_reader(text.as_bytes());
    let heads = reader.headers().unwrap().clone();
    let at = |name: &str| heads.iter().position(|h| h == name).unwrap();
    let records: Vec<_> = reader.records().map(Result::unwrap).collect();
    assert_eq!(records.len(), 2);
    assert_eq!(
        (&records[0][at("value")], &records[0][at("published")]),
        ("3.14", "3")
    );
    assert_eq!(
        (&records[1][at("published_bound")], &records[1][at("state")]),
        ("true", "measured")
    );
}

#[test]
fn json_follows_the_published_schema() {
    let space = ran();
    let schema: serde_json::Value =
        serde_json::from_str(&space.repro("tables --schema").ends(0).out).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let check = |space: &Space| {
        let text = space.repro("tables --format json").ends(0).out;
        let tables: serde_json::Value = serde_json::from_str(&text).unwrap();
        let errors: Vec<_> = validator
            .iter_errors(&tables)
            .map(|e| e.to_string())
            .collect();
        assert_eq!(errors, [""; 0]);
        tables
    };
    let tables = check(&space);
    let cell = &tables[0]["rows"][0]["cells"][0];
    assert_eq!(cell["reproduced"]["state"], "measured");
    assert_eq!(cell["reproduced"]["runs"][0]["stage"], "score@good");
    space.write("good.json", &metrics(3.5));
    let cell = &check(&space)[0]["rows"][0]["cells"][0];
    assert_eq!(
        (&cell["reproduced"]["state"], &cell["published"]["value"]),
        (&"stale".into(), &3.0.into())
    );
    assert!(!validator.is_valid(&serde_json::json!([{ "id": "1" }])));
}

#[test]
fn a_typo_in_a_table_stops_every_command_before_anything_runs() {
    let story = |from: &str, to: &str, says: &str| {
        let space = space();
        space.edit("pipeline.toml", from, to);
        for command in ["run", "status", "tables"] {
            space.repro(command).ends(2).complains(says);
        }
        assert!(!space.path("artifacts/results").exists());
    };
    story(
        "stage = \"score@good\"",
        "stage = \"score@god\"",
        "pipeline.toml:35:58: table 1, row good_model, error: there is no stage score@god\nhint: did you mean `score@good`?",
    );
    story("digits = 1", "digit = 1", "unknown field `digit`");
    story(
        "stage = \"draw\"",
        "stage = \"score@good\"",
        "figure 2: stage score@good draws nothing",
    );
}

#[test]
fn a_regression_fails_the_check_and_names_the_cell() {
    let space = ran();
    space
        .repro("check")
        .ends(2)
        .complains("hint: `repro check --update` writes one");
    space
        .repro("check --update")
        .ends(0)
        .says("+ score@good error = 3.14");
    space
        .repro("check")
        .ends(0)
        .says("quick: 2 numbers, 2 the same");
    space
        .repro("check --update")
        .ends(0)
        .says("nothing to update");
    space.write("good.json", &metrics(3.2));
    space
        .repro("check")
        .ends(4)
        .says("STALE")
        .says("table 1, good_model, error: waits for train@good");
    space.repro("run").ends(0);
    space.repro("check").ends(0).says("within");
    space.write("good.json", &metrics(4.4));
    space.repro("run").ends(0);
    let said = space.repro("check --github --junit junit.xml").ends(4);
    let said = said
        .says("WORSE    score@good")
        .says("table 1, good_model, error");
    said.says("::error file=tests/baselines/quick.toml,line=")
        .says_not("score@fair");
    assert!(
        space
            .read("junit.xml")
            .contains("<failure message=\"score@good error got worse")
    );
    space
        .repro("check --update")
        .ends(0)
        .says("~ score@good error: 3.14 -> 4.4");
    space.repro("check").ends(0);
    space.edit("tests/baselines/quick.toml", "tolerance =", "tolerence =");
    space
        .repro("check")
        .ends(2)
        .complains("tests/baselines/quick.toml:")
        .complains("tolerence");
}

const CLAIM: &str = r#"
[check.order]
claim = "the good model is better"
metric = "error"
stage = "score@good"
than = "score@fair"
"#;

#[test]
fn a_claim_that_does_not_hold_fails_the_check() {
    let space = with(&format!("{PIPELINE}{CLAIM}"));
    space
        .repro("check")
        .ends(2)
        .says("UNKNOWN  the good model is better: score@good is not run");
    space.repro("run").ends(0);
    space.repro("check --update").ends(0);
    space
        .repro("check")
        .ends(0)
        .says("holds    the good model is better: score@good 3.14, score@fair 3.9")
        .says("2 the same, 1 claim holding");
    space.write("fair.json", &metrics(3.1));
    space.repro("run").ends(0);
    let said = space.repro("check --github --junit junit.xml").ends(4);
    said.says("FAILS    the good model is better: score@good 3.14, score@fair 3.1")
        .says("::error file=pipeline.toml,line=48,title=repro check::the good model is better")
        .says("0 of 1 claim holding");
    assert!(space.read("junit.xml").contains("failures=\"1\""));
    space.edit(
        "pipeline.toml",
        "than = \"score@fair\"",
        "than = \"score@far\"",
    );
    space.repro("check").ends(2).complains(
        "pipeline.toml:52:8: check order: stage score@far does not exist\nhint: did you mean `score@fair`?",
    );
}

#[test]
fn a_tolerance_is_measured_over_seeds() {
    let space = ran();
    for (i, value) in [3.3, 3.0].into_iter().enumerate() {
        space.write("good.json", &metrics(value));
        space.repro("run").ends(0);
        let report = space.repro("check --json").out;
        space.write(&format!("seed{i}.json"), &report);
    }
    space.write("good.json", &metrics(3.15));
    space.repro("run").ends(0);
    space
        .repro("check --update --spread seed0.json seed1.json")
        .ends(0);
    let text = space.read("tests/baselines/quick.toml");
    assert!(text.contains("tolerance = 0.45\n"), "{text}");
    assert!(
        text.contains("three standard deviations over 3 runs"),
        "{text}"
    );
}

#[test]
fn figures_are_pictures_the_graph_and_curves() {
    let space = space();
    space
        .repro("figures 2")
        .ends(2)
        .complains("figure 2, draw: not run");
    space.repro("run").ends(0);
    space
        .repro("figures")
        .ends(0)
        .complains("wrote figures/figure-2.svg");
    let graph = space.read("figures/figure-1.svg");
    assert!(graph.contains("score (command): 2 fresh"), "{graph}");
    let curves = space.read("figures/curves-train-good.svg");
    assert!(
        curves.contains("loss (train) from 2 at 1 to 1 at 2"),
        "{curves}"
    );
    space
        .repro("tensorboard --out events")
        .ends(0)
        .complains("wrote events/train@good/events.out.tfevents.");
}

#[test]
fn the_report_is_one_file_that_needs_nothing_else() {
    let space = ran();
    space.write("fair.json", &metrics(3.8));
    space.repro("report").ends(0).complains("wrote report.html");
    let page = space.read("report.html");
    for part in [
        "A toy paper",
        "popovertarget=\"from-1-0-0-reproduced\"",
        "id=\"from-1-0-0-reproduced\"",
        "3.14",
        "id=\"stage-score-good\"",
        "waits for train@fair",
        "Before you read the numbers",
        "2 stages stale",
        "data:image/svg+xml;base64,",
        "loss (train) from 2 at 1",
    ] {
        assert!(page.contains(part), "the page lacks {part}");
    }
    for outside in ["src=\"http", "href=\"http", "url(", "@import"] {
        assert!(!page.contains(outside), "the page needs {outside}");
    }
    // Every link inside the page leads somewhere.
    let ids: Vec<&str> = page
        .split(" id=\"")
        .skip(1)
        .filter_map(|p| p.split('"').next())
        .collect();
    for target in page
        .split("href=\"#")
        .skip(1)
        .filter_map(|p| p.split('"').next())
    {
        assert!(ids.contains(&target), "nothing is called {target}");
    }
    let mut unique = ids.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), ids.len(), "an id stands twice");
}
