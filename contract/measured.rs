//! Numbers as programs write them: a metrics artifact, or any JSON object of numbers such as
//! `{"accuracy": 0.84, "loss": {"test": 0.31}}`. No kind writes these, so this is code of none.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

use crate::metrics::{self, Better, Metric};

/// What stands for a number in the text while it is parsed: JSON has no word for it, Python writes one.
const WORDS: [(&str, &str, f64); 3] = [
    ("-Infinity", "\u{1}-inf", f64::NEG_INFINITY),
    ("Infinity", "\u{1}inf", f64::INFINITY),
    ("NaN", "\u{1}nan", f64::NAN),
];

/// Reads numbers. `better` says of a name which direction is an improvement, where the file does not; a
/// name of which nobody says it is taken to be better when lower.
///
/// Errors: a file that cannot be read, is no JSON, or holds no number.
pub fn load(file: &Path, better: &dyn Fn(&str) -> Option<Better>) -> Result<Vec<Metric>> {
    let text = metrics::read(file)
        .with_context(|| format!("cannot read the metrics file {}", file.display()))?;
    parse(&text, better).with_context(|| format!("{} is not a metrics file", file.display()))
}

fn parse(text: &str, better: &dyn Fn(&str) -> Option<Better>) -> Result<Vec<Metric>> {
    let value: Value = serde_json::from_str(&in_json(text))?;
    let Value::Object(fields) = value else {
        bail!("it is no object; hint: {{\"accuracy\": 0.84}}");
    };
    if fields.get("metrics").is_some_and(Value::is_array) {
        return metrics::parse(text);
    }
    let mut found = Vec::new();
    gather("", &fields, &mut found)?;
    ensure!(
        !found.is_empty(),
        "it holds no number; hint: {{\"accuracy\": 0.84}}"
    );
    let metric = |(name, value): (String, f64)| Metric {
        better: better(&name).unwrap_or(Better::Lower),
        label: name.clone(),
        name,
        value,
        std_error: None,
        n: None,
        unit: String::new(),
        protocol: Map::new(),
    };
    Ok(found.into_iter().map(metric).collect())
}

/// Numbers in tables within tables, by dotted names; what is no number is passed over.
fn gather(above: &str, fields: &Map<String, Value>, found: &mut Vec<(String, f64)>) -> Result<()> {
    for (key, value) in fields {
        let name = metrics::one_line(&format!("{above}{key}"));
        let number = match value {
            Value::Object(inner) => {
                gather(&format!("{name}."), inner, found)?;
                continue;
            }
            Value::Number(number) => number.as_f64(),
            Value::String(text) => WORDS.iter().find(|w| w.1 == text).map(|w| w.2),
            _ => None,
        };
        if let Some(number) = number {
            let twice = found.iter().any(|(known, _)| *known == name);
            ensure!(!twice, "{name} stands in it twice");
            found.push((name, number));
        }
    }
    Ok(())
}

/// The text with Python's `NaN` and `Infinity`, outside of strings, as texts that JSON can hold.
fn in_json(text: &str) -> String {
    let mut json = String::with_capacity(text.len());
    let (mut rest, mut quoted) = (text, false);
    while let Some(c) = rest.chars().next() {
        let word = WORDS
            .iter()
            .find(|(word, ..)| !quoted && rest.starts_with(word));
        if let Some((word, stands, _)) = word {
            json += &Value::from(*stands).to_string();
            rest = &rest[word.len()..];
            continue;
        }
        let mut len = c.len_utf8();
        match c {
            '"' => quoted = !quoted,
            // What it escapes ends no string.
            '\\' if quoted => len += rest[len..].chars().next().map_or(0, char::len_utf8),
            _ => {}
        }
        json += &rest[..len];
        rest = &rest[len..];
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(String, f64, Better)>> {
        let higher = |name: &str| (name == "accuracy").then_some(Better::Higher);
        let metrics = parse(text, &higher)?;
        Ok(metrics
            .into_iter()
            .map(|m| (m.name, m.value, m.better))
            .collect())
    }

    #[test]
    fn an_object_of_numbers_is_metrics() -> Result<()> {
        let text =
            r#"{"accuracy": 0.84, "loss": {"test": 1e-3, "train": 2}, "model": "mlp", "ok": true}"#;
        let expected = [
            ("accuracy".to_owned(), 0.84, Better::Higher),
            ("loss.test".to_owned(), 1e-3, Better::Lower),
            ("loss.train".to_owned(), 2.0, Better::Lower),
        ];
        assert_eq!(read(text)?, expected);
        // The whole form is read as it always was.
        let whole = r#"{"metrics": [{"name": "a", "label": "A", "value": 1, "better": "higher"}]}"#;
        assert_eq!(read(whole)?, [("a".to_owned(), 1.0, Better::Higher)]);
        assert_eq!(read(r#"{"metrics": {"a": 1}}"#)?[0].0, "metrics.a");
        Ok(())
    }

    #[test]
    fn what_python_writes_for_no_number_is_a_value() -> Result<()> {
        let found =
            read(r#"{"a": NaN, "b": -Infinity, "c": Infinity, "NaN \" NaN": 1, "d": "NaN"}"#)?;
        let value = |name: &str| found.iter().find(|(n, ..)| n == name).map(|f| f.1);
        assert!(value("a").is_some_and(f64::is_nan));
        assert_eq!(value("b"), Some(f64::NEG_INFINITY));
        assert_eq!(value("c"), Some(f64::INFINITY));
        assert_eq!((value("NaN \" NaN"), value("d")), (Some(1.0), None));
        Ok(())
    }

    #[test]
    fn what_holds_no_number_is_an_error() {
        let error = |text: &str| read(text).unwrap_err().to_string();
        for text in ["{}", r#"{"accuracy": "0.84"}"#, r#"{"a": [1, 2]}"#] {
            assert!(
                error(text).starts_with("it holds no number; hint: "),
                "{text}"
            );
        }
        assert!(error("[1]").starts_with("it is no object; hint: "));
        assert!(error("accuracy: 0.84").contains("expected value"));
        assert_eq!(
            error(r#"{"a": {"b": 1}, "a.b": 2}"#),
            "a.b stands in it twice"
        );
    }
}
