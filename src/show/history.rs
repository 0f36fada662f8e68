//! The curves of a training, from its history artifact and its log.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use contract::history::PLACES;
use serde_json::{Map, Value};

use crate::base::read;

/// What was watched: `loss`, `bits/dim`, `lr`. Each by where it was seen: `train`, `valid`, or
/// nothing for a number that stands by itself.
pub type Curves = BTreeMap<String, BTreeMap<String, Vec<(f64, f64)>>>;

/// Reads the curves of a history file.
pub fn load(path: &Path) -> Result<Curves> {
    let text = read::bytes(path, read::TOLD);
    let text = text.with_context(|| format!("cannot read the history {}", path.display()))?;
    parse(&String::from_utf8_lossy(&text))
        .with_context(|| format!("{} is not a history", path.display()))
}

/// Every number of a line that is not its place is a point of a curve, and an object of numbers one
/// for each.
fn parse(text: &str) -> Result<Curves> {
    let mut curves = Curves::new();
    for (i, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let fields: Map<String, Value> = (serde_json::from_str(line))
            .or_else(|_| serde_json::from_str(&without_nan(line)))
            .with_context(|| format!("line {}", i + 1))?;
        let at = PLACES.iter().find_map(|key| fields.get(*key)?.as_f64());
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
                _ if PLACES.contains(&key.as_str()) => {}
                value => add(key, "", value),
            }
        }
    }
    Ok(curves)
}

/// Python writes `NaN`, `Infinity` and `-Infinity`, which are no JSON: a loss that is none of the
/// numbers leaves a gap in its curve.
fn without_nan(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let (mut rest, mut quoted) = (line, false);
    while let Some(c) = rest.chars().next() {
        let word = ["NaN", "Infinity", "-Infinity"].into_iter();
        let word = word.filter(|_| !quoted).find(|word| rest.starts_with(word));
        let taken = match (word, c) {
            (Some(word), _) => word.len(),
            // What is escaped ends no text.
            (None, '\\') => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            (None, c) => c.len_utf8(),
        };
        quoted ^= c == '"';
        text.push_str(word.map_or(&rest[..taken], |_| "null"));
        rest = &rest[taken..];
    }
    text
}

/// What a training's log counts by the second.
pub const THROUGHPUT: &str = "images/s";

/// Images per second over the epochs, from the log of a training (lines as
/// [`crate::exec::progress::values`] writes them). It stands there and not in the history, which is the
/// same bytes whenever and wherever the training is repeated.
pub fn throughput(log: &Path) -> Vec<(f64, f64)> {
    let text = read::text(log, read::TOLD).unwrap_or_default();
    let one = |line: &str| {
        let epoch = line.strip_prefix("epoch ")?.split('/').next()?;
        let mut values = line.split("  ").filter_map(|part| part.split_once(' '));
        let (_, rate) = values.find(|(name, _)| *name == THROUGHPUT)?;
        Some((epoch.parse().ok()?, rate.parse().ok()?))
    };
    text.lines().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use contract::history::Epoch;

    use super::*;

    #[test]
    fn what_a_kind_writes_becomes_curves() {
        let epoch = Epoch {
            epoch: 1,
            lr: 0.1,
            train: BTreeMap::from([("loss".into(), 3.0)]),
            valid: BTreeMap::from([("loss".into(), 4.0)]),
        };
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("history.jsonl");
        contract::history::save(&file, &[epoch]).unwrap();
        let curves = load(&file).unwrap();
        assert_eq!(curves["loss"]["train"], [(1.0, 3.0)]);
        assert_eq!(curves["loss"]["valid"], [(1.0, 4.0)]);
        assert_eq!(curves["lr"][""], [(1.0, 0.1)]);
    }

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
    fn what_python_writes_for_no_number_is_a_gap() {
        let text = "{\"step\":1,\"NaN \\\" NaN\":0.5,\"train\":{\"loss\":NaN}}\n\n\
                    {\"step\":2,\"train\":{\"loss\":-Infinity,\"kl\":Infinity}}\n\
                    {\"step\":3,\"train\":{\"loss\":2.0}}\r\n";
        let curves = parse(text).unwrap();
        assert_eq!(curves["loss"]["train"], [(3.0, 2.0)]);
        assert_eq!(curves["NaN \" NaN"][""], [(1.0, 0.5)]);
        assert!(!curves.contains_key("kl"));
    }

    #[test]
    fn the_throughput_is_read_from_the_lines_that_a_run_writes() {
        let at_epoch = |epoch| contract::Progress {
            done: epoch,
            total: 2,
            unit: "step".into(),
            epoch: Some(epoch),
            epochs: Some(2),
            values: BTreeMap::from([("loss".into(), 3.0), (THROUGHPUT.into(), 512.0)]),
        };
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let lines = [1, 2].map(|epoch| crate::exec::progress::values(&at_epoch(epoch)));
        std::fs::write(
            &log,
            format!("a note\n{}\ncheckpoint at 1\n", lines.join("\n")),
        )
        .unwrap();
        assert_eq!(throughput(&log), [(1.0, 512.0), (2.0, 512.0)]);
        assert_eq!(throughput(&dir.path().join("none")), []);
    }

    #[test]
    fn a_line_that_is_no_object_is_named() {
        let error = parse("{\"step\":1}\n[1]\n").unwrap_err();
        assert_eq!(error.to_string(), "line 2");
    }
}
