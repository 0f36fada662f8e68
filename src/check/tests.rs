//! Stories about baselines: numbers move, and the check says what that means.

use serde_json::json;

use super::*;
use crate::diag::Source;
use crate::table::{Evidence, Found, Outcome};

const BASELINE: &str = r#"
[[metric]]
stage = "fid@ours"
metric = "frechet"
label = "FID"
value = 42.0
tolerance = 1.5
tolerance_from = "three standard deviations over 3 runs"
better = "lower"
n = 1000
measured = "cpu, repro 0.1.0"
"#;

fn present(value: f64, n: u64) -> Evidence {
    let metric =
        json!({"name": "frechet", "label": "FID", "value": value, "n": n, "better": "lower"});
    found(Found::Fresh(Outcome {
        fingerprint: "f00d".into(),
        device: "cpu".into(),
        origin: None,
        metrics: vec![serde_json::from_value(metric).unwrap()],
    }))
}

fn found(found: Found) -> Evidence {
    let mut evidence = Evidence::default();
    evidence.profile.name = "quick".into();
    evidence.stages.insert("fid@ours".into(), found);
    evidence
}

fn check(evidence: &Evidence) -> Report {
    let cells = |stage: &str, _: &str| vec![format!("table 2, Ours, {}", &stage[..3])];
    compare(
        &Baseline::parse(BASELINE).unwrap(),
        &Claims::default(),
        evidence,
        &cells,
    )
}

#[test]
fn a_number_may_move_by_its_tolerance_and_improve_by_any() {
    let verdict = |value| check(&present(value, 1000)).lines[0].verdict.clone();
    assert_eq!(verdict(42.0), Verdict::Same);
    assert_eq!(verdict(43.5), Verdict::Within);
    assert_eq!(verdict(43.6), Verdict::Worse);
    assert_eq!(verdict(20.0), Verdict::Better);
}

#[test]
fn a_regression_names_the_cell() {
    let report = check(&present(47.8, 1000));
    assert_eq!(report.failures().count(), 1);
    assert_eq!(
        print::text(&report),
        "\
verdict  stage     metric   baseline   now  change  tolerance  where
WORSE    fid@ours  frechet        42  47.8    +5.8        1.5  table 2, Ours, fid

quick: 1 number, 1 worse
"
    );
    assert_eq!(
        print::github(
            &report,
            &Source::new("tests/baselines/quick.toml", BASELINE.into()),
            &Source::new("pipeline.toml", String::new())
        ),
        "::error file=tests/baselines/quick.toml,line=2,title=repro check::fid@ours frechet got \
         worse: 42 -> 47.8, tolerance 1.5 (table 2, Ours, fid)\n"
    );
    let junit = print::junit(&report);
    assert!(junit.contains("failures=\"1\""), "{junit}");
    assert!(junit.contains("42 -&gt; 47.8"), "{junit}");
}

#[test]
fn a_number_that_is_not_there_fails_and_says_why() {
    let stale = check(&found(Found::Stale("params.seed: 0 -> 1".into())));
    assert!(print::text(&stale).contains("STALE"));
    assert!(print::text(&stale).contains("table 2, Ours, fid: params.seed: 0 -> 1"));
    let missing = check(&found(Found::NotRun));
    assert!(print::text(&missing).contains("MISSING"));
    let gone = check(&Evidence::default());
    assert_eq!(gone.failures().count(), 1);
    let other = check(&present(42.0, 500));
    assert_eq!(
        other.lines[0].verdict.reason(),
        Some("n was 1000 and is 500")
    );
}

#[test]
fn an_update_is_read_back_and_then_nothing_differs() {
    let old = Baseline::parse(BASELINE).unwrap();
    let report = check(&present(47.8, 1000));
    let new = update(&old, &report, &[], "0.1.0");
    assert_eq!(differences(&old, &new), ["~ fid@ours frechet: 42 -> 47.8"]);
    let mut read = Baseline::parse(&new.to_text().unwrap()).unwrap();
    read.0[0].span = 0..0;
    assert_eq!(read, new);
    let again = compare(&new, &Claims::default(), &present(47.8, 1000), &|_, _| {
        Vec::new()
    });
    assert_eq!(again.lines[0].verdict, Verdict::Same);
}

#[test]
fn a_tolerance_comes_from_the_spread_over_runs() {
    let report = check(&present(42.0, 1000));
    let others = [check(&present(43.0, 1000)), check(&present(44.0, 1000))];
    let new = update(&Baseline::default(), &report, &others, "0.1.0");
    assert_eq!((new.0[0].tolerance, new.0[0].value), (3.0, 42.0));
    assert_eq!(
        new.0[0].tolerance_from,
        "three standard deviations over 3 runs"
    );
    let guessed = update(&Baseline::default(), &report, &[], "0.1.0");
    assert_eq!(guessed.0[0].tolerance, 2.1);
}

#[test]
fn a_stale_number_keeps_its_entry_and_one_no_longer_measured_loses_it() {
    let old = Baseline::parse(BASELINE).unwrap();
    let stale = check(&found(Found::Stale("older".into())));
    assert_eq!(update(&old, &stale, &[], "0.1.0"), old);
    let gone = check(&Evidence::default());
    let new = update(&old, &gone, &[], "0.1.0");
    assert_eq!(differences(&old, &new), ["- fid@ours frechet = 42"]);
}

#[test]
fn a_typo_in_a_baseline_has_a_place() {
    let text = BASELINE.replace("tolerance =", "tolerence =");
    let error = Baseline::parse(&text).unwrap_err();
    assert!(
        error.to_string().contains("unknown field `tolerence`"),
        "{error}"
    );
    assert_eq!(&text[error.span().unwrap()], "tolerence");
}
