//! Two states of a pipeline side by side: what their stages are told, their code, their numbers.

mod print;
mod view;

pub use print::render;
pub use view::{Scope, Sight, View};

use std::collections::{BTreeMap, BTreeSet};

use contract::metrics::Better;
use serde::Serialize;

use crate::base::human;
use crate::show::table::columns;
use crate::show::table::versus;
use view::{Lines, Measured, Numbers, Seen};

/// What `repro compare --format json` prints.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Comparison {
    /// The two sides as they were asked for.
    pub sides: [String; 2],
    /// What stages are told and is not the same; nothing where a side holds numbers alone.
    pub parameters: Option<Vec<Difference>>,
    /// Modules and files that differ.
    pub code: Option<Vec<Difference>>,
    pub metrics: Vec<Line>,
    pub remarks: Vec<String>,
}

/// Something that is not the same on both sides.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// A stage that stands for all its instances, or one of them.
    pub stage: String,
    pub name: String,
    pub sides: [Option<String>; 2],
}

/// One number on both sides.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Line {
    pub stage: String,
    pub metric: String,
    pub sides: [Shown; 2],
    /// The second minus the first, where they compare.
    pub difference: Option<f64>,
    /// The standard error of the difference, where one is known.
    pub std_error: Option<f64>,
    pub verdict: Option<Verdict>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Shown {
    #[serde(rename_all = "kebab-case")]
    Measured {
        value: f64,
        std_error: Option<f64>,
        /// How many runs it is the mean of.
        runs: usize,
        bound: bool,
        label: String,
        better: Better,
    },
    Stale {
        reason: String,
    },
    NotRun,
    /// This side has no such number.
    Absent,
}

/// What two numbers come to.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Verdict {
    Same,
    /// The first or the second is better, by so many standard errors where one is known.
    Better {
        side: usize,
        errors: Option<f64>,
    },
    /// They are less than two standard errors apart, or one is a bound.
    Undecided {
        errors: Option<f64>,
    },
    /// They were not measured alike, and why.
    Unlike {
        why: String,
    },
    /// One of them is no number.
    NoNumber,
}

/// Compares what was seen of two sides, which are called so. What is to be said of a side itself, such as
/// that results were imported, stands in the view's remarks.
pub fn compare(sides: [String; 2], views: [&View; 2]) -> Comparison {
    let mut remarks: Vec<String> = Vec::new();
    for (side, view) in sides.iter().zip(views) {
        remarks.extend(view.remarks.iter().map(|told| format!("{side}: {told}")));
    }
    let both = views.iter().all(|view| view.has_settings);
    let differences = |of: &dyn Fn(&Seen) -> &Lines| both.then(|| differences(views, of));
    let parameters = differences(&|seen| &seen.settings);
    let code = differences(&|seen| &seen.code);
    if let Some(alone) = views.iter().position(|view| !view.has_settings) {
        remarks.push(format!(
            "{} holds numbers, not what they were made from.",
            sides[alone]
        ));
    }
    let (metrics, neither) = metrics(views);
    if neither > 0 {
        let stages = human::count(neither, "stage");
        remarks.push(format!(
            "{stages} with metrics have a fresh result on neither side."
        ));
    }
    Comparison {
        sides,
        parameters,
        code,
        metrics,
        remarks,
    }
}

/// Labels of both sides, those of the first in their order and then what only the second has.
fn labels(views: [&View; 2]) -> Vec<(&str, [Option<&Seen>; 2])> {
    let [first, second] = views.map(|view| {
        let named = view.stages.iter().map(|seen| (seen.label.as_str(), seen));
        named.collect::<BTreeMap<_, _>>()
    });
    let all = views.iter().flat_map(|view| &view.stages);
    let mut known = BTreeSet::new();
    all.map(|seen| seen.label.as_str())
        .filter(|label| known.insert(*label))
        .map(|label| {
            (
                label,
                [first.get(label).copied(), second.get(label).copied()],
            )
        })
        .collect()
}

/// What differs. A difference that all instances of a stage share is told once.
fn differences(views: [&View; 2], of: &dyn Fn(&Seen) -> &Lines) -> Vec<Difference> {
    let labels = labels(views);
    let mut instances: BTreeMap<&str, usize> = BTreeMap::new();
    let mut found: Vec<(&str, &str, &str, [Option<&str>; 2])> = Vec::new();
    for (label, seen) in &labels {
        let Some(family) = seen
            .iter()
            .flatten()
            .next()
            .map(|seen| seen.family.as_str())
        else {
            continue;
        };
        *instances.entry(family).or_default() += 1;
        let lines = seen.map(|seen| seen.map(of));
        let alone = seen.iter().any(Option::is_none);
        let keys: BTreeSet<&str> = lines
            .iter()
            .flatten()
            .flat_map(|l| l.keys())
            .map(String::as_str)
            .collect();
        for key in keys {
            // Of a stage that only one side has, that it is there is all there is to say.
            if alone && key != "kind" {
                continue;
            }
            let values = lines.map(|lines| Some(lines?.get(key)?.as_str()));
            if values[0] != values[1] {
                found.push((family, label, key, values));
            }
        }
    }
    let mut shared: BTreeMap<_, usize> = BTreeMap::new();
    for (family, _, key, values) in &found {
        *shared.entry((*family, *key, *values)).or_default() += 1;
    }
    let mut told = BTreeSet::new();
    let told = found
        .into_iter()
        .filter_map(|(family, label, key, values)| {
            let by_all = shared.get(&(family, key, values)) == instances.get(family);
            let stage = if by_all { family } else { label };
            told.insert((stage, key)).then(|| Difference {
                stage: stage.into(),
                name: key.into(),
                sides: values.map(|value| value.map(str::to_owned)),
            })
        });
    told.collect()
}

/// The numbers, and how many stages have none on either side.
fn metrics(views: [&View; 2]) -> (Vec<Line>, usize) {
    let (mut lines, mut neither) = (Vec::new(), 0);
    for (label, seen) in labels(views) {
        let numbers = seen.map(|seen| seen.map_or(&Numbers::None, |seen| &seen.numbers));
        let measured = numbers.map(|numbers| match numbers {
            Numbers::Measured(all) => &all[..],
            _ => &[],
        });
        let mut names: Vec<&str> = Vec::new();
        for metric in measured.iter().copied().flatten() {
            if !names.contains(&metric.name.as_str()) {
                names.push(&metric.name);
            }
        }
        let told = numbers
            .iter()
            .any(|n| matches!(n, Numbers::Stale(_) | Numbers::NotRun));
        neither += usize::from(names.is_empty() && told);
        for name in names {
            let found = measured.map(|all| all.iter().find(|m| m.name == name));
            let shown = [0, 1].map(|side| match (found[side], numbers[side]) {
                (Some(m), _) => m.shown(),
                (None, Numbers::Stale(reason)) => Shown::Stale {
                    reason: reason.clone(),
                },
                (None, Numbers::NotRun) => Shown::NotRun,
                (None, _) => Shown::Absent,
            });
            let mut line = Line {
                stage: label.into(),
                metric: name.into(),
                sides: shown,
                difference: None,
                std_error: None,
                verdict: None,
            };
            if let [Some(a), Some(b)] = found {
                let verdict = verdict(a, b);
                if !matches!(verdict, Verdict::Unlike { .. } | Verdict::NoNumber) {
                    line.difference = Some(b.number.value - a.number.value);
                    let known = a.has_error || b.has_error;
                    line.std_error = known.then(|| a.number.error.hypot(b.number.error));
                }
                line.verdict = Some(verdict);
            }
            lines.push(line);
        }
    }
    (lines, neither)
}

fn verdict(a: &Measured, b: &Measured) -> Verdict {
    let unlike = |what: &str, a: String, b: String| Verdict::Unlike {
        why: format!("{what} is {a} and {b}"),
    };
    if a.base_label() != b.base_label() {
        return unlike("label", a.base_label().into(), b.base_label().into());
    }
    if let Some((key, was, is)) = versus::conflict(&a.protocol, &b.protocol, &[]) {
        return unlike(key, columns::plain(was), columns::plain(is));
    }
    if let (Some(was), Some(is)) = (a.n, b.n)
        && was != is
    {
        return unlike("n", was.to_string(), is.to_string());
    }
    let better = a.better;
    if !a.number.value.is_finite() || !b.number.value.is_finite() {
        return Verdict::NoNumber;
    }
    let ahead = b.number.ahead(a.number, better);
    let errors = (a.has_error || b.has_error)
        .then_some(ahead.abs())
        .filter(|e| e.is_finite());
    match () {
        () if a.number == b.number || ahead == 0.0 => Verdict::Same,
        () if b.number.beats(a.number, better) => Verdict::Better { side: 1, errors },
        () if a.number.beats(b.number, better) => Verdict::Better { side: 0, errors },
        () => Verdict::Undecided { errors },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::table::versus::Number;

    fn measured(value: f64, error: Option<f64>) -> Measured {
        Measured {
            name: "accuracy".into(),
            label: "accuracy".into(),
            number: Number {
                value,
                error: error.unwrap_or(0.0),
                bound: false,
            },
            has_error: error.is_some(),
            runs: 1,
            n: None,
            better: Better::Higher,
            protocol: serde_json::Map::new(),
        }
    }

    fn seen(label: &str, settings: &[(&str, &str)], numbers: Numbers) -> Seen {
        let pairs = settings
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Seen {
            label: label.into(),
            family: label.split('@').next().unwrap().into(),
            settings: pairs.collect(),
            code: Lines::new(),
            numbers,
        }
    }

    fn view(stages: Vec<Seen>) -> View {
        View {
            stages,
            has_settings: true,
            remarks: Vec::new(),
        }
    }

    #[test]
    fn errors_decide_which_side_is_better() {
        let of = |a: Measured, b: Measured| verdict(&a, &b);
        let better = |side, errors| Verdict::Better { side, errors };
        assert_eq!(
            of(measured(0.8, None), measured(0.9, None)),
            better(1, None)
        );
        assert_eq!(
            of(measured(0.9, None), measured(0.8, None)),
            better(0, None)
        );
        assert_eq!(
            of(measured(1.0, Some(0.3)), measured(3.0, Some(0.4))),
            better(1, Some(4.0))
        );
        assert_eq!(
            of(measured(1.0, Some(0.3)), measured(1.5, Some(0.4))),
            Verdict::Undecided { errors: Some(1.0) }
        );
        assert_eq!(
            of(measured(1.0, Some(0.3)), measured(1.0, None)),
            Verdict::Same
        );
        assert_eq!(
            of(measured(f64::NAN, None), measured(1.0, None)),
            Verdict::NoNumber
        );
        let mut other = measured(1.0, None);
        other.protocol.insert("split".into(), "test".into());
        let mut train = other.clone();
        train.protocol.insert("split".into(), "train".into());
        let why = "split is test and train".into();
        assert_eq!(of(other, train), Verdict::Unlike { why });
    }

    #[test]
    fn what_all_instances_share_is_told_once() {
        let of = |lr: &str, one: &str| {
            let settings = |seed: &str| {
                [
                    ("params.lr".to_owned(), lr.to_owned()),
                    ("params.x".to_owned(), seed.to_owned()),
                ]
            };
            let seen = |label: &str, x: &str| {
                let settings = settings(x);
                let pairs: Vec<(&str, &str)> = settings
                    .iter()
                    .map(|(k, v)| (k.as_str(), v.as_str()))
                    .collect();
                seen(label, &pairs, Numbers::None)
            };
            view(vec![seen("fit@0", "1"), seen("fit@1", one)])
        };
        let compared = compare(["a".into(), "b".into()], [&of("0.1", "1"), &of("0.2", "3")]);
        let told = compared.parameters.unwrap();
        let told: Vec<(&str, &str)> = told
            .iter()
            .map(|d| (d.stage.as_str(), d.name.as_str()))
            .collect();
        assert_eq!(told, [("fit", "params.lr"), ("fit@1", "params.x")]);
    }

    #[test]
    fn a_stage_that_only_one_side_has_is_told_by_its_kind() {
        let settings = [("kind", "command"), ("params.x", "1")];
        let one = view(vec![seen("a", &settings, Numbers::None)]);
        let both = vec![
            seen("a", &settings, Numbers::None),
            seen("b", &settings, Numbers::None),
        ];
        let compared = compare(["one".into(), "two".into()], [&one, &view(both)]);
        let new = Difference {
            stage: "b".into(),
            name: "kind".into(),
            sides: [None, Some("command".into())],
        };
        assert_eq!(compared.parameters, Some(vec![new]));
    }

    #[test]
    fn a_side_without_a_number_says_so() {
        let one = view(vec![seen(
            "a",
            &[],
            Numbers::Measured(vec![measured(1.0, None)]),
        )]);
        for (numbers, shown) in [
            (Numbers::NotRun, Shown::NotRun),
            (
                Numbers::Stale("x".into()),
                Shown::Stale { reason: "x".into() },
            ),
            (Numbers::None, Shown::Absent),
        ] {
            let other = view(vec![seen("a", &[], numbers)]);
            let compared = compare(["a".into(), "b".into()], [&one, &other]);
            assert_eq!(compared.metrics[0].sides[1], shown);
            assert_eq!(compared.metrics[0].difference, None);
        }
        let none = view(vec![seen("a", &[], Numbers::NotRun)]);
        let compared = compare(["a".into(), "b".into()], [&none, &none]);
        assert_eq!(compared.metrics, []);
        assert_eq!(
            compared.remarks,
            ["1 stage with metrics have a fresh result on neither side."]
        );
    }
}
