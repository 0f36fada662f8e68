//! `repro check`: regressions, claims and tolerances.

use crate::{PIPELINE, metrics, ran, with};

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
    space.edit_file("tests/baselines/quick.toml", "tolerance =", "tolerence =");
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
        .says("holds  the good model is better: score@good 3.14, score@fair 3.9")
        .says("2 the same, 1 claim holding");
    space.write("fair.json", &metrics(3.1));
    space.repro("run").ends(0);
    let said = space.repro("check --github --junit junit.xml").ends(4);
    said.says("FAILS  the good model is better: score@good 3.14, score@fair 3.1")
        .says("::error file=pipeline.toml,line=48,title=repro check::the good model is better")
        .says("BETTER   score@fair")
        .says("0 of 1 claim holding");
    // The claim, and a gain that nobody has accepted.
    assert!(space.read("junit.xml").contains("failures=\"2\""));
    space
        .repro("check --accept-better")
        .ends(0)
        .says("~ score@fair error: 3.9 -> 3.1");
    space
        .repro("check --junit junit.xml")
        .ends(4)
        .says("2 the same");
    assert!(space.read("junit.xml").contains("failures=\"1\""));
    space.edit_file(
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
    let spread = "[metric.spread]\nruns = 3\nmean = 3.1476";
    assert!(text.contains(spread), "{text}");
    assert!(text.contains("\ndeviation = 0.0476"), "{text}");
    // Student's t of 2 degrees at 5 % is 4.30: up to 3.1476 exp(4.30 * 0.0477 * (4/3)^0.5) = 3.99.
    for (value, code, word) in [(3.9, 0, "within"), (4.1, 4, "WORSE")] {
        space.write("good.json", &metrics(value));
        space.repro("run").ends(0);
        space.repro("check").ends(code).says(word);
    }
}
