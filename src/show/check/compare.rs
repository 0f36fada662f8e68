//! Present numbers against a baseline: what moved, and what that means.

use std::ops::Range;

use contract::metrics::{Better, Metric};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::baseline::{Baseline, Entry};
use super::claims::Held;
use crate::pipeline::claims::Claims;
use crate::show::table::{Evidence, Found, Outcome};

/// What became of one number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Verdict {
    Same,
    /// It moved, by no more than the tolerance.
    Within,
    /// Better by more than the tolerance. It fails until the baseline has it: a number that is in
    /// the wrong unit or on the wrong data looks like a gain.
    Better,
    /// Worse by more than the tolerance.
    Worse,
    /// It is expected, and no result has it.
    Missing {
        reason: String,
    },
    /// Its result is of another pipeline than the present one.
    Stale {
        reason: String,
    },
    /// It is not the number that the baseline speaks of.
    Changed {
        reason: String,
    },
    /// The baseline does not have it.
    New,
}

impl Verdict {
    pub fn fails(&self) -> bool {
        use Verdict::*;
        matches!(
            self,
            Better | Worse | Missing { .. } | Stale { .. } | Changed { .. }
        )
    }

    /// The word that stands in the table.
    pub fn word(&self) -> &'static str {
        match self {
            Verdict::Same => "same",
            Verdict::Within => "within",
            Verdict::Better => "BETTER",
            Verdict::Worse => "WORSE",
            Verdict::Missing { .. } => "MISSING",
            Verdict::Stale { .. } => "STALE",
            Verdict::Changed { .. } => "CHANGED",
            Verdict::New => "new",
        }
    }

    pub fn reason(&self) -> Option<&str> {
        match self {
            Verdict::Missing { reason }
            | Verdict::Stale { reason }
            | Verdict::Changed { reason } => Some(reason),
            _ => None,
        }
    }
}

/// One number, expected and present.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Line {
    pub stage: String,
    pub metric: String,
    pub label: String,
    /// The cells of tables that show it, such as `table 2, Ours, fid`.
    pub cells: Vec<String>,
    pub verdict: Verdict,
    pub better: Better,
    pub baseline: Option<f64>,
    pub tolerance: Option<f64>,
    pub now: Option<f64>,
    pub n: Option<u64>,
    pub device: Option<String>,
    /// What its digits depend on besides the code, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Where the present number comes from, if it was not made here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imported: Option<String>,
    /// Bytes of the baseline file.
    #[serde(skip)]
    pub span: Option<Range<usize>>,
}

/// All numbers of a profile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    pub profile: String,
    pub lines: Vec<Line>,
    /// What pipeline.toml claims under `[check.*]`.
    #[serde(default)]
    pub claims: Vec<Held>,
}

impl Report {
    pub fn failures(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|l| l.verdict.fails())
    }

    /// True if every number is as expected and no claim fails.
    pub fn passes(&self) -> bool {
        self.failures().next().is_none() && !self.claims.iter().any(Held::fails)
    }
}

/// Judges every number of the baseline, then those that it lacks, then the claims.
pub fn compare(
    baseline: &Baseline,
    claims: &Claims,
    evidence: &Evidence,
    cells: &dyn Fn(&str, &str) -> Vec<String>,
) -> Report {
    let numbers = baseline.0.iter().filter(|e| e.spread.is_some()).count();
    let mut lines: Vec<Line> = baseline
        .0
        .iter()
        .map(|entry| expected(entry, numbers, evidence, cells))
        .collect();
    for (stage, found) in &evidence.stages {
        let Found::Fresh(outcome) = found else {
            continue;
        };
        for metric in &outcome.metrics {
            if baseline.find(stage, &metric.name).is_none() {
                lines.push(Line {
                    cells: cells(stage, &metric.name),
                    verdict: no_number(metric.value).unwrap_or(Verdict::New),
                    better: metric.better,
                    baseline: None,
                    tolerance: None,
                    span: None,
                    ..now(stage, metric, outcome)
                });
            }
        }
    }
    Report {
        profile: evidence.profile.name.clone(),
        lines,
        claims: claims.judge(evidence, &evidence.profile.name),
    }
}

/// The part of a line that a present number gives.
fn now(stage: &str, metric: &Metric, outcome: &Outcome) -> Line {
    Line {
        stage: stage.into(),
        metric: metric.name.clone(),
        label: metric.label.clone(),
        cells: Vec::new(),
        verdict: Verdict::New,
        better: metric.better,
        baseline: None,
        tolerance: None,
        now: Some(metric.value),
        n: metric.n,
        device: Some(outcome.device.clone()),
        platform: outcome.platform.clone(),
        imported: outcome.origin.clone(),
        span: None,
    }
}

/// `numbers` are judged by their spread, together.
fn expected(
    entry: &Entry,
    numbers: usize,
    evidence: &Evidence,
    cells: &dyn Fn(&str, &str) -> Vec<String>,
) -> Line {
    let mut line = Line {
        stage: entry.stage.clone(),
        metric: entry.metric.clone(),
        label: entry.label.clone(),
        cells: cells(&entry.stage, &entry.metric),
        verdict: Verdict::Same,
        better: entry.better,
        baseline: Some(entry.value),
        tolerance: entry.tolerance,
        now: None,
        n: entry.n,
        device: None,
        platform: None,
        imported: None,
        span: Some(entry.span.clone()),
    };
    line.verdict = match evidence.stages.get(&entry.stage) {
        None => Verdict::Missing {
            reason: "the pipeline has no such stage with metrics".into(),
        },
        Some(Found::LeftOut) => Verdict::Missing {
            reason: "no part of this profile".into(),
        },
        Some(Found::NotRun) => Verdict::Missing {
            reason: "not run".into(),
        },
        Some(Found::Stale(reason)) => Verdict::Stale {
            reason: reason.clone(),
        },
        Some(Found::Fresh(outcome)) => {
            match outcome.metrics.iter().find(|m| m.name == entry.metric) {
                None => Verdict::Missing {
                    reason: "the stage no longer measures it".into(),
                },
                Some(metric) => {
                    line.now = Some(metric.value);
                    line.device = Some(outcome.device.clone());
                    line.platform.clone_from(&outcome.platform);
                    if let Some(spread) = &entry.spread
                        && metric.value != entry.value
                    {
                        line.baseline = Some(spread.mean);
                        line.tolerance = Some(spread.tolerance(metric.value, numbers));
                    }
                    line.imported.clone_from(&outcome.origin);
                    judge(entry, numbers, metric, outcome.platform.as_deref())
                }
            }
        }
    };
    line
}

/// NaN and infinity are never what was expected, whatever a baseline says.
fn no_number(value: f64) -> Option<Verdict> {
    let reason = format!("it is {value}, which no baseline can hold");
    (!value.is_finite()).then_some(Verdict::Changed { reason })
}

fn judge(entry: &Entry, numbers: usize, metric: &Metric, platform: Option<&str>) -> Verdict {
    let changed = |what: &str, was: String, is: String| Verdict::Changed {
        reason: format!("{what} was {was} and is {is}"),
    };
    if metric.label != entry.label {
        return changed("the label", entry.label.clone(), metric.label.clone());
    }
    if metric.n != entry.n {
        let count = |n: Option<u64>| n.map_or("not given".into(), |n| n.to_string());
        return changed("n", count(entry.n), count(metric.n));
    }
    if let Some(verdict) = no_number(metric.value) {
        return verdict;
    }
    if metric.value == entry.value {
        return Verdict::Same;
    }
    if let Some(platform) = platform.filter(|p| entry.platform.as_deref() == Some(*p)) {
        return Verdict::Changed {
            reason: format!(
                "it was {} on this platform ({platform}), where the same code gives the same digits; \
                 `repro check --update` if the change is meant",
                entry.value
            ),
        };
    }
    let moved = (metric.value - entry.value).abs();
    let holds = match &entry.spread {
        Some(spread) => spread.holds(metric.value, numbers),
        None => moved <= entry.tolerance.unwrap_or(0.0),
    };
    if holds {
        Verdict::Within
    } else if entry.better.than(metric.value, entry.value) {
        Verdict::Better
    } else {
        // A value that is not a number is neither within nor better.
        Verdict::Worse
    }
}
