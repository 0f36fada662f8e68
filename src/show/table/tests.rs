//! Stories about tables, from TOML to text.

use contract::metrics::Metric;
use serde_json::json;

use super::*;
use crate::pipeline::tables::{Problem, Tables};

const TABLE: &str = r#"
[table.2]
title = "FID and bits"
head = "model"
columns = [
  { id = "fid", metric = "frechet", published = "FID", better = "lower", digits = 2 },
  { id = "bits", metric = "bits-per-dim", published = "bits/dim", better = "lower", digits = 2 },
]
[[table.2.row]]
name = "PixelCNN"
note = "not trained here"
fid = { published = 65.93, source = "Ostrovski et al. 2018" }
[[table.2.row]]
name = "Glow"
fid = { published = 45.23, source = "the paper", stage = "fid@glow" }
bits = { published = 3.35, source = "Kingma", stage = "bpd@glow" }
[[table.2.row]]
name = "Ours"
fid = { published = 42.14, source = "the paper", stage = "fid@ours" }
bits = { published = 3.17, bound = true, source = "the paper", stage = "bpd@ours,*" }
"#;

#[derive(serde::Deserialize)]
struct File {
    table: Tables,
}

fn tables(text: &str) -> Tables {
    toml::from_str::<File>(text).unwrap().table
}

fn fresh(metric: serde_json::Value) -> Found {
    let metric: Metric = serde_json::from_value(metric).unwrap();
    Found::Fresh(Outcome {
        fingerprint: "f00d".into(),
        device: "cpu".into(),
        platform: None,
        origin: None,
        metrics: vec![metric],
    })
}

fn fid(value: f64, label: &str, resize: &str) -> Found {
    fresh(
        json!({"name": "frechet", "label": label, "value": value, "n": 1000, "better": "lower",
                 "protocol": {"resize": resize}}),
    )
}

fn bits(value: f64, label: &str) -> Found {
    fresh(
        json!({"name": "bits-per-dim", "label": label, "value": value, "n": 10000, "better": "lower"}),
    )
}

fn evidence(stages: Vec<(&str, Found)>) -> Evidence {
    let profile = Profile {
        name: "short".into(),
        about: "fewer epochs".into(),
        data: None,
    };
    Evidence {
        profile,
        stages: stages.into_iter().map(|(s, f)| (s.into(), f)).collect(),
    }
}

fn all_run() -> Vec<(&'static str, Found)> {
    vec![
        ("fid@glow", fid(50.0, "FID", "tf")),
        ("fid@ours", fid(41.0, "FID", "tf")),
        ("bpd@glow", bits(3.4, "bits/dim")),
        ("bpd@ours,0", bits(3.1, "bits/dim (bound)")),
        ("bpd@ours,1", bits(3.3, "bits/dim (bound)")),
    ]
}

fn markdown(stages: Vec<(&str, Found)>) -> String {
    let table = build(&tables(TABLE).0[0], &evidence(stages)).unwrap();
    render("", &[table], Format::Md).unwrap()
}

#[test]
fn published_and_reproduced_stand_side_by_side() {
    assert_eq!(
        markdown(all_run()),
        "\
**Table 2.** FID and bits

| model     | FID (published) | FID (reproduced) | difference | bits/dim (published) |      bits/dim (reproduced) | difference |
| --------- | --------------: | ---------------: | ---------: | -------------------: | -------------------------: | ---------: |
| PixelCNN¹ |          65.93² |                  |            |                      |                            |            |
| Glow      |          45.23³ |            50.00 |      +4.77 |                3.35⁴ |                       3.40 |      +0.05 |
| Ours      |      **42.14**³ |        **41.00** |      −1.14 |          **≤ 3.17**³ | **≤ 3.20 ± 0.14 (2 runs)** |      +0.03 |

¹ not trained here  
² Ostrovski et al. 2018  
³ the paper  
⁴ Kingma  
Profile short: fewer epochs.  
FID: n = 1,000, resize tf, on cpu.  
bits/dim: n = 10,000, on cpu; mean of 2 runs for Ours.  
± is the standard deviation over runs.  
≤ and ≥ mark bounds: the truth may be better.
"
    );
}

#[test]
fn a_stale_result_shows_its_reason_and_not_its_number() {
    let mut stages = all_run();
    stages[1].1 = Found::Stale("params.seed: 0 -> 1".into());
    stages[4].1 = Found::NotRun;
    let text = markdown(stages);
    assert!(
        text.contains("| Ours      |      **42.14**³ |         *stale*⁵ |"),
        "{text}"
    );
    assert!(text.contains("*not run*"), "{text}");
    assert!(text.contains("⁵ fid@ours: params.seed: 0 -> 1"), "{text}");
    assert!(
        text.contains("1 stale, 1 not run: `repro run --profile short`."),
        "{text}"
    );
    assert!(!text.contains("41.00") && !text.contains("3.10"), "{text}");
}

#[test]
fn another_metric_is_headed_by_its_own_name_and_not_compared() {
    let label = "Fréchet distance (classifier features)";
    let mut stages = all_run();
    stages[0].1 = fid(5.0, label, "none");
    stages[1].1 = fid(4.0, label, "none");
    let text = markdown(stages);
    let head = format!("| FID (published) | {label} | bits/dim (published) |");
    assert!(text.contains(&head), "{text}");
    let why = format!("No difference is shown: {label} is not FID.");
    assert!(text.contains(&why), "{text}");
}

#[test]
fn numbers_of_other_data_are_not_compared() {
    let mut evidence = evidence(all_run());
    evidence.profile.data = Some("coloured Fashion-MNIST".into());
    let table = build(&tables(TABLE).0[0], &evidence).unwrap();
    assert!(
        table
            .rows
            .iter()
            .flat_map(|r| &r.cells)
            .all(|c| c.difference.is_none())
    );
    let text = render("", &[table], Format::Md).unwrap();
    assert!(text.contains("Data: coloured Fashion-MNIST.  \n"), "{text}");
    assert!(
        text.contains("the published FID was measured on other data."),
        "{text}"
    );
}

#[test]
fn a_column_refuses_to_mix_protocols_and_labels() {
    let refusal = |found: Found| {
        let mut stages = all_run();
        stages[0].1 = found;
        build(&tables(TABLE).0[0], &evidence(stages))
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        refusal(fid(50.0, "FID", "none")),
        "table 2, column fid: Glow has resize none, Ours has resize tf; one column cannot hold \
         both (hint: give each a column, or list `resize` in the column's `varies`)"
    );
    let text = refusal(fid(50.0, "Fréchet distance", "tf"));
    assert!(
        text.contains("Glow has label Fréchet distance, Ours has label FID"),
        "{text}"
    );
}

#[test]
fn a_metric_that_a_stage_does_not_have_is_named() {
    let mut stages = all_run();
    stages[0].1 = bits(1.0, "bits/dim");
    let error = build(&tables(TABLE).0[0], &evidence(stages)).unwrap_err();
    let text = format!("{error:#}");
    assert_eq!(
        text,
        "table 2, row Glow, fid: stage fid@glow measures no frechet; it has bits-per-dim"
    );
}

#[test]
fn each_group_has_its_own_best() {
    let text = TABLE.replace("name = \"Ours\"", "name = \"Ours\"\ngroup = \"CIFAR-10\"");
    let table = build(&tables(&text).0[0], &evidence(all_run())).unwrap();
    let best = |row: usize| table.rows[row].cells[0].published.as_ref().unwrap().best;
    assert_eq!([best(0), best(1), best(2)], [false, true, false]);
}

#[test]
fn the_best_is_what_nothing_is_better_than_beyond_its_error() {
    let marked = |glow: serde_json::Value, ours: serde_json::Value| {
        let metric = |given: &serde_json::Value| {
            fresh(
                json!({"name": "frechet", "label": given["label"], "value": given["value"],
                         "std_error": given["error"], "n": 1000, "better": "lower"}),
            )
        };
        let stages = vec![("fid@glow", metric(&glow)), ("fid@ours", metric(&ours))];
        let table = build(&tables(TABLE).0[0], &evidence(stages)).unwrap();
        let best = |row: usize| match &table.rows[row].cells[0].reproduced {
            Some(content::Reproduced::Measured(m)) => m.best,
            _ => panic!("not measured"),
        };
        (best(1), best(2))
    };
    let exact = |value: f64, error: f64| json!({"label": "FID", "value": value, "error": error});
    let bound = |value: f64| json!({"label": "FID (bound)", "value": value, "error": 0.0});
    assert_eq!(marked(exact(50.0, 0.3), exact(41.0, 0.3)), (false, true));
    assert_eq!(marked(exact(42.0, 1.0), exact(41.0, 1.0)), (false, false));
    assert_eq!(marked(exact(41.0, 0.0), exact(41.004, 0.0)), (false, false));
    assert_eq!(marked(exact(42.0, 0.0), bound(41.0)), (false, true));
    assert_eq!(marked(exact(40.0, 0.0), bound(41.0)), (false, false));
}

#[test]
fn a_part_of_another_row_is_never_the_best() {
    let text = TABLE.replace("name = \"Ours\"", "name = \"Ours\"\npart = true");
    let table = build(&tables(&text).0[0], &evidence(all_run())).unwrap();
    let cell = &table.rows[2].cells[0];
    assert!(!cell.published.as_ref().unwrap().best);
    let Some(content::Reproduced::Measured(m)) = &cell.reproduced else {
        panic!("not measured");
    };
    assert!(!m.best);
}

#[test]
fn what_is_wrong_with_a_declaration_is_said_with_its_place() {
    let stages: Vec<(String, bool)> = all_run()
        .iter()
        .map(|(s, _)| (s.to_string(), true))
        .collect();
    let problem = |from: &str, to: &str| {
        let text = TABLE.replacen(from, to, 1);
        let problems = tables(&text).problems(&stages);
        assert_eq!(problems.len(), 1, "{problems:?}");
        let Problem {
            span,
            message,
            hint,
        } = problems.into_iter().next().unwrap();
        format!("{}: {message}; {hint}", &text[span])
    };
    assert_eq!(tables(TABLE).problems(&stages), []);
    assert_eq!(
        problem("fid@glow", "fid@glo"),
        "\"fid@glo\": table 2, row Glow, fid: there is no stage fid@glo; did you mean `fid@glow`?"
    );
    assert_eq!(
        problem("fid = { published = 45.23", "fdi = { published = 45.23"),
        "fdi: table 2, row Glow: there is no column fdi; the columns are fid, bits"
    );
    assert!(problem(", source = \"Kingma\"", "").contains("a published value needs a source"));
    assert!(
        problem(
            "published = 3.17, bound = true, source = \"the paper\"",
            "bound = true"
        )
        .contains("`bound` belongs to a published value")
    );
    assert!(problem("name = \"Ours\"", "name = \"Glow\"").contains("row Glow is declared twice"));
}

#[test]
fn a_stage_without_metrics_is_named() {
    let stages: Vec<(String, bool)> = all_run()
        .iter()
        .map(|(s, _)| (s.to_string(), *s != "bpd@ours,1"))
        .collect();
    let problems = tables(TABLE).problems(&stages);
    assert_eq!(
        problems[0].message,
        "table 2, row Ours, bits: stage bpd@ours,1 has no metrics"
    );
}

#[test]
fn an_unknown_key_is_an_error_with_its_place() {
    let text = TABLE.replace("bound = true", "bond = true");
    let error = toml::from_str::<File>(&text).err().unwrap();
    assert!(error.message().contains("unknown field `bond`"), "{error}");
    assert_eq!(&text[error.span().unwrap()], "bond");
}

#[test]
fn tables_keep_the_order_of_the_file() {
    let text = "[table.b]\ntitle = ''\ncolumns = []\n[table.10]\ntitle = ''\ncolumns = []\n\
                [table.9]\ntitle = ''\ncolumns = []\n";
    let ids: Vec<_> = tables(text)
        .0
        .iter()
        .map(|t| t.id.get_ref().clone())
        .collect();
    assert_eq!(ids, ["b", "10", "9"]);
}
