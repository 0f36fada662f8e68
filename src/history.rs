//! The history artifact: how a training went, a JSON object a line. Read for curves only.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

/// The label of outputs that hold a history.
pub const HOLDS: &str = "history";

/// What was watched: `loss`, `bits/dim`, `lr`. Each by where it was seen: `train`, `valid`, or
/// nothing for a number that stands by itself.
pub type Curves = BTreeMap<String, BTreeMap<String, Vec<(f64, f64)>>>;

/// Reads the curves of a history file.
pub fn load(path: &Path) -> Result<Curves> {
    let text = std::fs::read_to_string(path);
    let text = text.with_context(|| format!("cannot read the history {}", path.display()))?;
    parse(&text).with_context(|| format!("{} is not a history", path.display()))
}

/// `epoch`, or else `step`, is where a line stands; else the lines are counted. Every other
/// number is a curve, and an object of numbers one for each.
fn parse(text: &str) -> Result<Curves> {
    let mut curves = Curves::new();
    for (i, line) in text.lines().enumerate() {
        let fields: Map<String, Value> =
            serde_json::from_str(line).with_context(|| format!("line {}", i + 1))?;
        let at = ["epoch", "step"]
            .into_iter()
            .find_map(|key| fields.get(key)?.as_f64());
        let at = at.unwrap_or(i as f64 + 1.0);
        let mut add = |what: &str, place: &str, value: &Value| {
            if let Some(value) = value.as_f64() {
                let places = curves.entry(what.to_owned()).or_default();
                places
                    .entry(place.to_owned())
                    .or_default()
                    .push((at, value));
            }
        };
        for (key, value) in &fields {
            match value {
                Value::Object(parts) => parts.iter().for_each(|(what, v)| add(what, key, v)),
                _ if key == "epoch" || key == "step" => {}
                value => add(key, "", value),
            }
        }
    }
    Ok(curves)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_train_and_valid_become_one_curve_each() {
        let text = "{\"epoch\":1,\"lr\":0.1,\"train\":{\"loss\":3.0},\"valid\":{\"loss\":4.0}}\n\
                    {\"epoch\":2,\"lr\":0.1,\"train\":{\"loss\":2.0,\"kl\":null}}\n";
        let curves = parse(text).unwrap();
        assert_eq!(curves["loss"]["train"], [(1.0, 3.0), (2.0, 2.0)]);
        assert_eq!(curves["loss"]["valid"], [(1.0, 4.0)]);
        assert_eq!(curves["lr"][""], [(1.0, 0.1), (2.0, 0.1)]);
        assert!(!curves.contains_key("kl") && !curves.contains_key("epoch"));
    }

    #[test]
    fn a_line_that_is_no_object_is_named() {
        let error = parse("{\"step\":1}\n[1]\n").unwrap_err();
        assert_eq!(error.to_string(), "line 2");
    }
}
