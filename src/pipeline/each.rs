//! `each` of a table's row or a figure's panel: it stands for one row for each value of an axis.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};
use toml::Spanned;

use super::spec::{Spec, braces, budget, names};
use crate::base::diag::{Diagnostic, Source, suggest};

/// The axes that `each` names, in its order; none where it is not there.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(from = "Spanned<Written>")]
pub struct Each(pub Vec<Spanned<String>>);

enum Written {
    One(String),
    Many(Vec<Spanned<String>>),
}

impl From<Spanned<Written>> for Each {
    fn from(written: Spanned<Written>) -> Self {
        let span = written.span();
        Self(match written.into_inner() {
            Written::One(axis) => vec![Spanned::new(span, axis)],
            // An empty list names an axis that nothing can have, so that it is complained of where it stands.
            Written::Many(axes) if axes.is_empty() => vec![Spanned::new(span, String::new())],
            Written::Many(axes) => axes,
        })
    }
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Written;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("the name of an axis, or a list of such names")
            }

            fn visit_str<E>(self, axis: &str) -> Result<Written, E> {
                Ok(Written::One(axis.into()))
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut items: S) -> Result<Written, S::Error> {
                let mut axes = Vec::new();
                while let Some(axis) = items.next_element()? {
                    axes.push(axis);
                }
                Ok(Written::Many(axes))
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}

/// A value for each axis of an `each`: axis and value as names show it.
pub type Choice = Vec<(String, String)>;

/// An axis: its name and its values, in the order of the file.
type Axis<'s> = (&'s str, Vec<String>);

/// The axes of every stage that has some.
pub struct Axes<'s> {
    source: &'s Source,
    families: HashMap<&'s str, Vec<Axis<'s>>>,
}

impl<'s> Axes<'s> {
    pub fn of(spec: &'s Spec) -> Self {
        let mut families: HashMap<&str, Vec<Axis>> = HashMap::new();
        let mut seen = HashSet::new();
        for instance in &spec.instances {
            if instance.axes.is_empty() {
                continue;
            }
            let axes = families.entry(&instance.stage).or_default();
            for (i, (axis, value)) in instance.axes.iter().enumerate() {
                if axes.len() == i {
                    axes.push((axis, Vec::new()));
                }
                let label = value.label();
                if seen.insert((instance.stage.as_str(), i, label.clone())) {
                    axes[i].1.push(label);
                }
            }
        }
        Self {
            source: &spec.source,
            families,
        }
    }

    fn axis(&self, stage: &str, axis: &str) -> Option<&Axis<'s>> {
        self.families
            .get(family(stage))?
            .iter()
            .find(|a| a.0 == axis)
    }

    /// True if what stands for a stage says which value of the axis it means: by `{axis}`, or as the name
    /// of a stage alone, which takes the values of its row.
    fn uses(&self, stage: &str, axis: &str) -> bool {
        let bare = !stage.contains('@') && self.families.contains_key(stage);
        bare || braces::holes(stage)
            .iter()
            .any(|h| h.braces == 1 && h.name == axis)
    }

    /// Every combination of values of these axes, as the stages named have them; the last axis turns
    /// fastest. `place` is what an error is about.
    pub fn choices(
        &self,
        place: &str,
        each: &Each,
        stages: &[&Spanned<String>],
    ) -> Result<Vec<Choice>, Diagnostic> {
        let mut all: Vec<Choice> = vec![Vec::new()];
        for (i, axis) in each.0.iter().enumerate() {
            let name = axis.get_ref();
            let wrong = |message: String| {
                self.source
                    .error(&axis.span(), format!("{place}: {message}"))
            };
            if name.is_empty() {
                return Err(wrong("`each` names no axis".into()).hint("each = \"lr\""));
            }
            if each.0[..i].iter().any(|before| before.get_ref() == name) {
                let hint = "name each axis once";
                return Err(wrong(format!("`each` has the axis `{name}` twice")).hint(hint));
            }
            let having: Vec<(&str, &Axis)> = (stages.iter())
                .filter_map(|s| Some((s.get_ref().as_str(), self.axis(s.get_ref(), name)?)))
                .collect();
            if having.is_empty() {
                let families = stages
                    .iter()
                    .filter_map(|s| self.families.get(family(s.get_ref())));
                let mut known: Vec<&str> = families.flatten().map(|a| a.0).collect();
                known.sort_unstable();
                known.dedup();
                let hint = match (&known[..], stages) {
                    (_, []) => "`each` needs a `stage` that has the axis".into(),
                    ([], _) => "the stages it names have no axes (`for`)".into(),
                    (known, _) => suggest(name, known.iter().copied()),
                };
                return Err(
                    wrong(format!("no stage that it names has an axis `{name}`")).hint(hint),
                );
            }
            let mut values: Vec<&str> = Vec::new();
            let mut seen = HashSet::new();
            for (stage, (_, labels)) in &having {
                if self.uses(stage, name) {
                    values.extend(
                        labels
                            .iter()
                            .map(String::as_str)
                            .filter(|l| seen.insert(*l)),
                    );
                }
            }
            if values.is_empty() {
                let stage = family(having[0].0);
                let hint = format!("stage = \"{}\"", self.pattern(stage, name));
                let message = format!("no stage that it names says which `{name}` it means");
                return Err(wrong(message).hint(hint));
            }
            if all.len().saturating_mul(values.len()) > budget::INSTANCES {
                let message = format!(
                    "it stands for more than {} rows, the limit",
                    budget::INSTANCES
                );
                return Err(wrong(message));
            }
            all = all
                .iter()
                .flat_map(|before| {
                    values.iter().map(|value| {
                        let mut choice = before.clone();
                        choice.push((name.clone(), (*value).into()));
                        choice
                    })
                })
                .collect();
        }
        Ok(all)
    }

    /// How a stage is named by the value of one axis: `fit@{lr},*`.
    fn pattern(&self, stage: &str, axis: &str) -> String {
        let axes = self.families.get(stage).into_iter().flatten();
        let parts = axes.map(|(name, _)| match *name == axis {
            true => format!("{{{axis}}}"),
            false => "*".into(),
        });
        format!("{stage}@{}", parts.collect::<Vec<_>>().join(","))
    }

    /// The stage that is meant for a choice of values; nothing if it has no such value, which another
    /// stage of the row has.
    pub fn stage(
        &self,
        written: &Spanned<String>,
        choice: &Choice,
    ) -> Result<Option<String>, Diagnostic> {
        let text = written.get_ref();
        let has = |(axis, value): &(String, String)| {
            let values = self.axis(text, axis).filter(|_| self.uses(text, axis));
            values.is_none_or(|(_, values)| values.contains(value))
        };
        if !choice.iter().all(has) {
            return Ok(None);
        }
        if let Some(axes) = self.families.get(text.as_str()) {
            let parts = axes.iter().map(|(axis, _)| match chosen(choice, axis) {
                Some(value) => names::quoted(value).into_owned(),
                None => "*".into(),
            });
            return Ok(Some(format!(
                "{text}@{}",
                parts.collect::<Vec<_>>().join(",")
            )));
        }
        let quoted = |value: &str| names::quoted(value).into_owned();
        self.fill(text, choice, &written.span(), quoted).map(Some)
    }

    /// A text with the values of a choice in the place of `{axis}`.
    pub fn text(
        &self,
        text: &str,
        choice: &Choice,
        span: &std::ops::Range<usize>,
    ) -> Result<String, Diagnostic> {
        self.fill(text, choice, span, str::to_owned)
    }

    fn fill(
        &self,
        text: &str,
        choice: &Choice,
        span: &std::ops::Range<usize>,
        put: impl Fn(&str) -> String,
    ) -> Result<String, Diagnostic> {
        let holes = braces::holes(text);
        let wrong = holes
            .iter()
            .find(|h| h.braces == 1 && chosen(choice, h.name).is_none());
        if let Some(wrong) = wrong {
            let axes = choice.iter().map(|(axis, _)| axis.as_str());
            let message = format!("`{{{}}}` is no axis of this `each`", wrong.name);
            let hint = suggest(wrong.name, axes);
            let hint = format!(
                "{hint}; {{{{{}}}}} stands for the braces themselves",
                wrong.name
            );
            return Err(self.source.error(span, message).hint(hint));
        }
        Ok(braces::replace_text(text, |hole| match hole.literal() {
            Some(literal) => Some(literal),
            None => chosen(choice, hole.name).map(&put),
        }))
    }
}

fn family(stage: &str) -> &str {
    stage.split_once('@').map_or(stage, |(family, _)| family)
}

fn chosen<'c>(choice: &'c Choice, axis: &str) -> Option<&'c str> {
    let found = choice.iter().find(|(name, _)| name == axis);
    found.map(|(_, value)| value.as_str())
}

/// The values alone: the name of a row that has no other.
pub fn values(choice: &Choice) -> String {
    let values: Vec<&str> = choice.iter().map(|(_, value)| value.as_str()).collect();
    values.join(", ")
}

/// `lr 0.1, seed 2`, for messages.
pub fn described(choice: &Choice) -> String {
    let each = choice.iter().map(|(axis, value)| format!("{axis} {value}"));
    each.collect::<Vec<_>>().join(", ")
}

/// Two of a row's choices that come out under one name, if there are such.
pub fn alike<'c, N: std::hash::Hash + Eq>(
    named: impl IntoIterator<Item = (N, &'c Choice)>,
) -> Option<(&'c Choice, &'c Choice)> {
    let mut seen = HashMap::new();
    for (name, choice) in named {
        if let Some(before) = seen.insert(name, choice) {
            return Some((before, choice));
        }
    }
    None
}
