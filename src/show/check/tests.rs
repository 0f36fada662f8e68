//! Stories about baselines: numbers move, and the check says what that means.

use serde_json::json;

use super::*;
use crate::base::diag::Source;
use crate::pipeline::claims::Claims;
use crate::show::table::{Evidence, Found, Outcome};

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
        platform: None,
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
fn a_number_may_move_by_its_tolerance_either_way() {
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
fn a_gain_beyond_the_tolerance_fails_until_it_is_accepted() {
    let report = check(&present(4.2, 1000));
    assert!(!report.passes());
    let text = print::text(&report);
    assert!(text.contains("BETTER   fid@ours"), "{text}");
    let junit = print::junit(&report);
    assert!(junit.contains("repro check --accept-better"), "{junit}");
    let old = Baseline::parse(BASELINE).unwrap();
    let new = accept_better(&old, &report, "0.1.0");
    assert_eq!(differences(&old, &new), ["~ fid@ours frechet: 42 -> 4.2"]);
    assert_eq!(new.0[0].tolerance, Some(1.5));
    // What is worse is not taken.
    let worse = check(&present(60.0, 1000));
    assert_eq!(accept_better(&old, &worse, "0.1.0"), old);
}

/// The evidence of two stages, and whether the first is better by the claim's judgement.
fn claim(a: serde_json::Value, b: serde_json::Value, varies: &str) -> (Held, bool) {
    #[derive(serde::Deserialize)]
    struct File {
        check: Claims,
    }
    let text = format!(
        "[check.c]\nclaim = \"a beats b\"\nmetric = \"m\"\nstage = \"a\"\nthan = \"b\"\n{varies}"
    );
    let claims = toml::from_str::<File>(&text).unwrap().check;
    let mut evidence = Evidence::default();
    for (stage, mut metric) in [("a", a), ("b", b)] {
        let defaults = json!({"name": "m", "label": "m", "better": "lower", "n": 10});
        for (key, value) in defaults.as_object().unwrap() {
            let _ = metric
                .as_object_mut()
                .unwrap()
                .entry(key)
                .or_insert(value.clone());
        }
        evidence.stages.insert(
            stage.into(),
            Found::Fresh(Outcome {
                fingerprint: "f00d".into(),
                device: "cpu".into(),
                platform: None,
                origin: None,
                metrics: vec![serde_json::from_value(metric).unwrap()],
            }),
        );
    }
    let held = claims.judge(&evidence, "brief").remove(0);
    let fails = held.fails();
    (held, fails)
}

#[test]
fn a_claim_is_decided_by_the_errors_of_its_numbers() {
    let value = |value: f64, error: f64| json!({"value": value, "std_error": error});
    let (held, fails) = claim(value(1.0, 0.3), value(3.0, 0.4), "");
    assert_eq!((held.holds, fails), (Holds::Yes, false));
    // A claim that is of other profiles is told, and fails nothing.
    for (varies, expected) in [
        ("profiles = [\"paper\"]", false),
        ("profiles = [\"paper\", \"brief\"]", true),
    ] {
        let (held, fails) = claim(value(3.0, 0.3), value(1.0, 0.4), varies);
        assert_eq!((&held.holds, fails), (&Holds::No, expected));
        let told = held.sentence().ends_with("this profile is not held to it");
        assert_eq!(told, !expected, "{}", held.sentence());
    }
    let (held, fails) = claim(value(1.0, 0.3), value(1.75, 0.4), "");
    assert_eq!(
        (&held.holds, fails),
        (&Holds::Undecided { errors: 1.5 }, false)
    );
    assert_eq!(
        held.sentence(),
        "a beats b: a 1, b 1.75, 1.5 standard errors apart"
    );
    let (held, fails) = claim(value(1.75, 0.3), value(1.0, 0.4), "");
    assert_eq!(
        (&held.holds, fails),
        (&Holds::Undecided { errors: -1.5 }, false)
    );
    let (held, _) = claim(value(3.0, 0.3), value(1.0, 0.4), "");
    assert_eq!(held.holds, Holds::No);
    // Without errors the numbers are taken as they are.
    assert_eq!(
        claim(json!({"value": 1.0}), json!({"value": 1.1}), "")
            .0
            .holds,
        Holds::Yes
    );
    assert_eq!(
        claim(json!({"value": 1.0}), json!({"value": 1.0}), "")
            .0
            .holds,
        Holds::No
    );
}

#[test]
fn a_claim_compares_like_with_like() {
    let with = |protocol: serde_json::Value| json!({"value": 1.0, "protocol": protocol});
    let other = json!({"value": 2.0, "protocol": {"resize": "clean", "draws": 8}});
    let (held, fails) = claim(with(json!({"resize": "tf-legacy"})), other.clone(), "");
    assert!(fails);
    let Holds::Unknown { reason } = held.holds else {
        panic!("{held:?}");
    };
    assert!(reason.contains("resize is tf-legacy and clean"), "{reason}");
    let (held, _) = claim(
        with(json!({"resize": "tf-legacy"})),
        other,
        "varies = [\"resize\"]",
    );
    assert_eq!(held.holds, Holds::Yes);
    // A bound that is lower is lower still; an exact number is not better than a bound.
    let bound = |value: f64| json!({"value": value, "label": "m (bound)"});
    let (held, _) = claim(bound(1.0), json!({"value": 2.0}), "");
    assert_eq!(held.sentence(), "a beats b: a 1 (bound), b 2");
    assert_eq!(held.holds, Holds::Yes);
    let (held, _) = claim(json!({"value": 1.0}), bound(2.0), "");
    assert!(matches!(held.holds, Holds::Unknown { .. }), "{held:?}");
    let (held, fails) = claim(bound(2.0), json!({"value": 1.0}), "");
    assert!(
        matches!(held.holds, Holds::Unknown { .. }) && fails,
        "{held:?}"
    );
    assert_eq!(claim(bound(1.0), bound(2.0), "").0.holds, Holds::Yes);
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
fn a_spread_over_runs_decides_what_is_a_change() {
    let report = check(&present(42.0, 1000));
    let others = [check(&present(43.0, 1000)), check(&present(44.0, 1000))];
    let new = update(&Baseline::default(), &report, &others, "0.1.0");
    let (entry, spread) = (&new.0[0], new.0[0].spread.as_ref().unwrap());
    assert_eq!((entry.value, entry.tolerance, spread.runs), (42.0, None, 3));
    assert_eq!(
        Baseline::parse(&new.to_text().unwrap()).unwrap().0[0]
            .spread
            .as_ref(),
        Some(spread)
    );
    let against = |value: f64| {
        compare(
            &new,
            &Claims::default(),
            &present(value, 1000),
            &|_, _| vec![],
        )
    };
    let verdict = |value| against(value).lines[0].verdict.clone();
    assert_eq!(verdict(42.0), Verdict::Same);
    // t of 2 degrees of freedom at 5 % is 4.30: 42.99 times exp(± 4.30 * 0.02326 * (4/3)^0.5).
    assert_eq!(verdict(48.2), Verdict::Within);
    assert_eq!(verdict(48.4), Verdict::Worse);
    assert_eq!(verdict(38.4), Verdict::Within);
    assert_eq!(verdict(38.2), Verdict::Better);
    let line = &against(48.4).lines[0];
    assert!((line.baseline.unwrap() - 42.99).abs() < 0.01 && line.tolerance < Some(5.3));
    // What was measured once stays until it is measured anew.
    let later = update(&new, &against(43.0), &[], "0.1.0");
    assert_eq!(
        (later.0[0].value, &later.0[0].spread),
        (43.0, &entry.spread)
    );
    let guessed = update(&Baseline::default(), &report, &[], "0.1.0");
    assert_eq!(guessed.0[0].tolerance, Some(2.1));
}

/// A change of two standard deviations in one number drowns in what seeds do, but not where the same
/// code gives the same digits.
#[test]
fn on_the_platform_of_the_baseline_any_change_is_found() {
    let on = |value: f64, platform: &str| {
        let mut evidence = present(value, 1000);
        for found in evidence.stages.values_mut() {
            if let Found::Fresh(outcome) = found {
                outcome.platform = Some(platform.into());
            }
        }
        evidence
    };
    let runs = [43.0, 41.0, 44.0, 42.5].map(|value| check(&on(value, "here")));
    let baseline = update(
        &Baseline::default(),
        &check(&on(42.0, "here")),
        &runs,
        "0.1.0",
    );
    assert_eq!(baseline.0[0].platform.as_deref(), Some("here"));
    let deviation = baseline.0[0].spread.as_ref().unwrap().deviation;
    let planted = 42.0 * (2.0 * deviation).exp();
    let verdict = |platform: &str, value| {
        let report = compare(
            &baseline,
            &Claims::default(),
            &on(value, platform),
            &|_, _| vec![],
        );
        (report.passes(), report.lines[0].verdict.clone())
    };
    assert_eq!(verdict("here", 42.0), (true, Verdict::Same));
    assert_eq!(verdict("there", planted), (true, Verdict::Within));
    let (passes, found) = verdict("here", planted);
    assert!(!passes);
    let why = found.reason().unwrap();
    assert!(
        why.starts_with("it was 42 on this platform (here), where"),
        "{why}"
    );
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
