//! `[check.*]` of pipeline.toml: what the paper claims to be better than what. A claim has no
//! tolerance and needs no baseline: it holds for the present numbers, or it does not, or their errors
//! leave it undecided.

use std::ops::Range;

use contract::metrics::Metric;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::base::plain;
use crate::pipeline::claims::{Claim, Claims};
use crate::show::table::versus::{self, Number};
use crate::show::table::{Evidence, Found, columns};

/// Whether a claim holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Holds {
    Yes,
    No,
    /// The numbers differ by less than two standard errors of their difference.
    Undecided {
        /// By how many the claim holds; less than 0 if the numbers are the other way round.
        errors: f64,
    },
    /// One of the numbers is missing or stale, or they are not of the same kind.
    Unknown {
        reason: String,
    },
}

/// One claim and the present numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Held {
    pub name: String,
    pub claim: String,
    pub metric: String,
    pub stage: String,
    pub than: String,
    /// The numbers of both stages, where they are known.
    pub values: Option<(f64, f64)>,
    /// Whether each of them is a bound, so that the truth may be better.
    #[serde(default)]
    pub bounds: (bool, bool),
    pub holds: Holds,
    /// Whether this profile's numbers are held to it; else it fails nothing.
    #[serde(default = "yes")]
    pub binds: bool,
    /// Bytes of pipeline.toml.
    #[serde(skip)]
    pub span: Range<usize>,
}

fn yes() -> bool {
    true
}

impl Claims {
    /// Looks whether each claim holds for the numbers of a profile.
    pub fn judge(&self, evidence: &Evidence, profile: &str) -> Vec<Held> {
        let held = |(name, claim): &(Spanned<String>, Claim)| {
            let Judged {
                values,
                bounds,
                holds,
            } = claim.judge(evidence);
            Held {
                name: plain::line(name.get_ref()).into_owned(),
                claim: plain::line(&claim.claim).into_owned(),
                metric: claim.metric.clone(),
                stage: claim.stage.get_ref().clone(),
                than: claim.than.get_ref().clone(),
                values,
                bounds,
                holds,
                binds: claim.binds(profile) && !claim.left_out(evidence),
                span: name.span(),
            }
        };
        self.0.iter().map(held).collect()
    }
}

/// What is found of one claim.
#[derive(Debug)]
struct Judged {
    values: Option<(f64, f64)>,
    bounds: (bool, bool),
    holds: Holds,
}

impl Claim {
    fn judge(&self, evidence: &Evidence) -> Judged {
        let metric = |stage: &str| match evidence.stages.get(stage) {
            Some(Found::Fresh(outcome)) => {
                let found = outcome.metrics.iter().find(|m| m.name == self.metric);
                found.ok_or_else(|| format!("{stage} does not measure {}", self.metric))
            }
            Some(Found::Stale(reason)) => Err(format!("{stage} is stale: {reason}")),
            Some(Found::LeftOut) => Err(format!("{stage} is no part of this profile")),
            Some(Found::NotRun) | None => Err(format!("{stage} is not run")),
        };
        let pair =
            metric(self.stage.get_ref()).and_then(|ours| Ok((ours, metric(self.than.get_ref())?)));
        let (ours, theirs) = match pair {
            Ok(pair) => pair,
            Err(reason) => {
                return Judged {
                    values: None,
                    bounds: (false, false),
                    holds: Holds::Unknown { reason },
                };
            }
        };
        Judged {
            values: Some((ours.value, theirs.value)),
            bounds: (ours.is_bound(), theirs.is_bound()),
            holds: match self.differ(ours, theirs) {
                Some(reason) => Holds::Unknown { reason },
                None => compare(ours, theirs),
            },
        }
    }

    /// Whether the profile has not both stages.
    fn left_out(&self, evidence: &Evidence) -> bool {
        let stages = [&self.stage, &self.than];
        let found = stages.map(|stage| evidence.stages.get(stage.get_ref()));
        found.iter().any(|f| matches!(f, Some(Found::LeftOut)))
    }

    /// Why two numbers are not of one kind, if they are not.
    fn differ(&self, ours: &Metric, theirs: &Metric) -> Option<String> {
        let unlike = |what: &str, a: &str, b: &str| {
            Some(format!(
                "the two are not measured alike: {what} is {a} and {b}"
            ))
        };
        if ours.base_label() != theirs.base_label() {
            return unlike("the label", ours.base_label(), theirs.base_label());
        }
        if ours.better != theirs.better {
            return Some("for one of the two lower is better, for the other higher".into());
        }
        let count = |n: Option<u64>| n.map_or("not given".into(), |n| n.to_string());
        if ours.n != theirs.n {
            return unlike("n", &count(ours.n), &count(theirs.n));
        }
        let conflict = versus::conflict(&ours.protocol, &theirs.protocol, &self.varies)?;
        let (key, a, b) = conflict;
        let hint = format!("; varies = [\"{key}\"] in the claim lets it differ");
        let text = unlike(key, &columns::plain(a), &columns::plain(b))?;
        Some(plain::line(&(text + &hint)).into_owned())
    }
}

/// Two numbers of one kind.
fn compare(ours: &Metric, theirs: &Metric) -> Holds {
    let number = |m: &Metric| Number {
        value: m.value,
        error: m.std_error.unwrap_or(0.0),
        bound: m.is_bound(),
    };
    let errors = number(ours).ahead(number(theirs), ours.better);
    let (worse, better) = match errors < 0.0 {
        true => (ours, theirs),
        false => (theirs, ours),
    };
    if worse.is_bound() && !better.is_bound() && errors != 0.0 {
        let reason = "the worse number is a bound, and the truth behind it may be better".into();
        return Holds::Unknown { reason };
    }
    match errors {
        e if e >= versus::APART => Holds::Yes,
        e if e <= -versus::APART => Holds::No,
        // Equal, without an error.
        0.0 => Holds::No,
        e if e.is_nan() => Holds::No,
        errors => Holds::Undecided { errors },
    }
}

impl Held {
    /// True if it does not hold, or cannot be judged. One that is not decided passes while the numbers
    /// are as it says.
    pub fn fails(&self) -> bool {
        // What is undecided is said, whichever way it leans: it contradicts nothing.
        self.binds && matches!(self.holds, Holds::No | Holds::Unknown { .. })
    }

    /// `the flow layer lowers bits/dim: glow 5.41, vae 5.44 (bound)`.
    pub fn sentence(&self) -> String {
        let Self {
            claim, stage, than, ..
        } = self;
        match (&self.holds, self.values) {
            (Holds::Unknown { reason }, _) => format!("{claim}: {reason}"),
            (holds, Some((a, b))) => {
                let said = |value: f64, bound: bool| {
                    super::print::number(value) + if bound { " (bound)" } else { "" }
                };
                let (a, b) = (said(a, self.bounds.0), said(b, self.bounds.1));
                let by = match holds {
                    Holds::Undecided { errors } => format!(
                        ", {:.1} standard errors {}",
                        errors.abs(),
                        if *errors < 0.0 {
                            "the other way"
                        } else {
                            "apart"
                        }
                    ),
                    _ => String::new(),
                };
                let told = match (self.binds, holds) {
                    (false, Holds::No) => "; this profile is not held to it",
                    _ => "",
                };
                format!("{claim}: {stage} {a}, {than} {b}{by}{told}")
            }
            (_, None) => claim.clone(),
        }
    }
}
