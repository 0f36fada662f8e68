//! Tables: what they hold as stages run, and what their formats promise.

use crate::common::{Space, installed, said};
use crate::{metrics, ran, space};

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
        let mut program = space.program(&pdflatex);
        said(
            program
                .args(words.split_whitespace())
                .output()
                .expect("it starts"),
        )
        .ends(0);
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
        space.edit_file("pipeline.toml", from, to);
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
