//! `[check.*]` of pipeline.toml: what the paper claims to be better than what. A claim has no
//! tolerance and needs no baseline: it holds for the present numbers or it does not.

use std::collections::BTreeMap;
use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use toml::Spanned;

use crate::diag::{Diagnostic, suggest};
use crate::graph::Graph;
use crate::plain;
use crate::spec::Spec;
use crate::table::{Evidence, Found};

/// All claims, in the order of the file.
#[derive(Debug, Clone, Default)]
pub struct Claims(Vec<(Spanned<String>, Claim)>);

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claim {
    /// In words, for whoever reads the check.
    claim: String,
    metric: String,
    /// The instance whose number is better ...
    stage: Spanned<String>,
    /// ... than the number of this one.
    than: Spanned<String>,
}

/// Whether a claim holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Holds {
    Yes,
    No,
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
    pub holds: Holds,
    /// Bytes of pipeline.toml.
    #[serde(skip)]
    pub span: Range<usize>,
}

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let claims = BTreeMap::<Spanned<String>, Claim>::deserialize(deserializer)?;
        let mut claims: Vec<_> = claims.into_iter().collect();
        claims.sort_by_key(|(name, _)| name.span().start);
        Ok(Self(claims))
    }
}

impl Claims {
    /// The claims of a pipeline, or the first thing wrong with them.
    pub fn load(spec: &Spec, graph: &Graph) -> Result<Self, Diagnostic> {
        let (source, Self(claims)) = (&spec.source, spec.claims.clone());
        for (name, claim) in &claims {
            for stage in [&claim.stage, &claim.than] {
                let found = graph.find(stage.get_ref());
                let measures = found.is_some_and(|id| graph.stages[id].metrics_port().is_some());
                if !measures {
                    let measuring = graph.stages.iter().filter(|s| s.metrics_port().is_some());
                    let what = match found {
                        Some(_) => "measures nothing",
                        None => "does not exist",
                    };
                    let message =
                        format!("check {}: stage {} {what}", name.get_ref(), stage.get_ref());
                    let names = measuring.map(|s| s.name.as_str());
                    return Err(source
                        .error(&stage.span(), message)
                        .hint(suggest(stage.get_ref(), names)));
                }
            }
        }
        Ok(Self(claims))
    }

    /// Looks whether each claim holds.
    pub fn judge(&self, evidence: &Evidence) -> Vec<Held> {
        let held = |(name, claim): &(Spanned<String>, Claim)| {
            let (values, holds) = claim.judge(evidence);
            Held {
                name: plain::line(name.get_ref()).into_owned(),
                claim: plain::line(&claim.claim).into_owned(),
                metric: claim.metric.clone(),
                stage: claim.stage.get_ref().clone(),
                than: claim.than.get_ref().clone(),
                values,
                holds,
                span: name.span(),
            }
        };
        self.0.iter().map(held).collect()
    }
}

impl Claim {
    fn judge(&self, evidence: &Evidence) -> (Option<(f64, f64)>, Holds) {
        let metric = |stage: &str| match evidence.stages.get(stage) {
            Some(Found::Fresh(outcome)) => {
                let found = outcome.metrics.iter().find(|m| m.name == self.metric);
                found.ok_or_else(|| format!("{stage} does not measure {}", self.metric))
            }
            Some(Found::Stale(reason)) => Err(format!("{stage} is stale: {reason}")),
            Some(Found::NotRun) | None => Err(format!("{stage} is not run")),
        };
        let pair =
            metric(self.stage.get_ref()).and_then(|ours| Ok((ours, metric(self.than.get_ref())?)));
        match pair {
            Err(reason) => (None, Holds::Unknown { reason }),
            Ok((ours, theirs)) => {
                let values = Some((ours.value, theirs.value));
                if (ours.base_label(), ours.n) != (theirs.base_label(), theirs.n) {
                    let reason = "the two numbers are not measured alike".into();
                    return (values, Holds::Unknown { reason });
                }
                match ours.better.than(ours.value, theirs.value) {
                    true => (values, Holds::Yes),
                    false => (values, Holds::No),
                }
            }
        }
    }
}

impl Held {
    pub fn fails(&self) -> bool {
        self.holds != Holds::Yes
    }

    /// `the flow layer lowers bits/dim: glow 5.41, vae 5.44`.
    pub fn sentence(&self) -> String {
        let Self {
            claim, stage, than, ..
        } = self;
        match (&self.holds, self.values) {
            (Holds::Unknown { reason }, _) => format!("{claim}: {reason}"),
            (_, Some((a, b))) => {
                let (a, b) = (super::print::number(a), super::print::number(b));
                format!("{claim}: {stage} {a}, {than} {b}")
            }
            (_, None) => claim.clone(),
        }
    }
}
