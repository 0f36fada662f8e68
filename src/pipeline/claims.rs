//! `[check.*]` of pipeline.toml as it is written: what the paper claims to be better than what.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::graph::Graph;
use super::spec::Spec;
use crate::base::diag::{Diagnostic, suggest};

/// All claims, in the order of the file.
#[derive(Debug, Clone, Default)]
pub struct Claims(pub Vec<(Spanned<String>, Claim)>);

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// In words, for whoever reads the check.
    pub claim: String,
    pub metric: String,
    /// The instance whose number is better ...
    pub stage: Spanned<String>,
    /// ... than the number of this one.
    pub than: Spanned<String>,
    /// Keys of the metric's protocol that may differ between the two.
    #[serde(default)]
    pub varies: Vec<String>,
    /// The profiles whose numbers are held to it; empty: all. Elsewhere it is only told.
    #[serde(default)]
    pub profiles: Vec<Spanned<String>>,
}

impl Claim {
    /// Whether the numbers of a profile are held to it.
    pub fn binds(&self, profile: &str) -> bool {
        self.profiles.is_empty() || self.profiles.iter().any(|p| p.get_ref() == profile)
    }
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
            for profile in &claim.profiles {
                let known = || spec.profiles.iter().map(|p| p.name.as_str());
                if !known().any(|p| p == profile.get_ref()) {
                    let (name, profile_name) = (name.get_ref(), profile.get_ref());
                    let message = format!("check {name}: there is no profile {profile_name}");
                    return Err(source
                        .error(&profile.span(), message)
                        .hint(suggest(profile_name, known())));
                }
            }
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
}
