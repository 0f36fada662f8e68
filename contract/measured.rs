//! Numbers as programs write them: a metrics artifact, or any JSON object of numbers such as
//! `{"accuracy": 0.84, "loss": {"test": 0.31}}`; the same as TOML, as lines of JSON, or as CSV. No kind
//! writes these, so this is code of none.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Map, Value};

use crate::metrics::{self, Better, Metric};

/// What stands for a number in the text while it is parsed: JSON has no word for it, Python writes one.
const WORDS: [(&str, &str, f64); 3] = [
    ("-Infinity", "\u{1}-inf", f64::NEG_INFINITY),
    ("Infinity", "\u{1}inf", f64::INFINITY),
    ("NaN", "\u{1}nan", f64::NAN),
];

/// How a file is written; its name says so.
#[derive(Clone, Copy)]
enum Form {
    Json,
    Lines,
    Toml,
    /// With this between its fields.
    Csv(u8),
}

impl Form {
    fn of(file: &Path) -> Self {
        let extension = file.extension().unwrap_or_default().to_string_lossy();
        match extension.to_lowercase().as_str() {
            "jsonl" | "ndjson" => Self::Lines,
            "toml" => Self::Toml,
            "csv" => Self::Csv(b','),
            "tsv" => Self::Csv(b'\t'),
            _ => Self::Json,
        }
    }

    /// What such a file may be.
    fn hint(self) -> &'static str {
        match self {
            Self::Json => {
                "a JSON object such as {\"accuracy\": 0.84}; .jsonl, .csv and .toml are read, too"
            }
            Self::Lines => "JSON objects such as {\"accuracy\": 0.84}, one a line",
            Self::Toml => "accuracy = 0.84",
            Self::Csv(_) => "a line of names, such as accuracy,loss, and lines of numbers below it",
        }
    }
}

/// Numbers by name, in the order in which the names first appeared. A later one takes the place of an
/// earlier: of a file that grew while a model was trained the end counts.
#[derive(Default)]
struct Found(Vec<(String, f64)>);

impl Found {
    fn put(&mut self, name: &str, value: f64) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some(known) => known.1 = value,
            None => self.0.push((name.into(), value)),
        }
    }
}

/// Reads numbers. `better` says of a name which direction is an improvement, where the file does not; a
/// name of which nobody says it is taken to be better when lower.
///
/// Errors: a file that cannot be read, is not what its name says, or holds no number.
pub fn load(file: &Path, better: &dyn Fn(&str) -> Option<Better>) -> Result<Vec<Metric>> {
    let text = metrics::read(file)
        .with_context(|| format!("cannot read the metrics file {}", file.display()))?;
    parse(Form::of(file), &text, better)
        .with_context(|| format!("{} is not a metrics file", file.display()))
}

fn parse(form: Form, text: &str, better: &dyn Fn(&str) -> Option<Better>) -> Result<Vec<Metric>> {
    // A spreadsheet writes the mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let hinted = |e: anyhow::Error| anyhow!("{e:#}; hint: {}", form.hint());
    let found = match form {
        Form::Json => match serde_json::from_str(&in_json(text)) {
            Ok(Value::Object(fields)) => match whole(&fields) {
                true => return metrics::parse(text),
                false => numbers(&fields)?,
            },
            Ok(_) => return Err(hinted(anyhow!("it is no object"))),
            // Many call such a file by the name of JSON.
            Err(e) => match lines(text) {
                Ok(found) if !found.0.is_empty() => found,
                _ => return Err(hinted(e.into())),
            },
        },
        Form::Lines => lines(text).map_err(hinted)?,
        Form::Toml => {
            let table: toml::Table =
                toml::from_str(text).map_err(|e| hinted(anyhow!("{}", in_one_line(&e, text))))?;
            let fields =
                Value::Object(table.iter().map(|(k, v)| (k.clone(), in_toml(v))).collect());
            match &fields {
                Value::Object(fields) if !whole(fields) => numbers(fields)?,
                _ => return metrics::parse(&fields.to_string()),
            }
        }
        Form::Csv(between) => comma_separated(text, between).map_err(hinted)?,
    };
    if found.0.is_empty() {
        return Err(hinted(anyhow!("it holds no number")));
    }
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
    Ok(found.0.into_iter().map(metric).collect())
}

/// True for the form that says more of its metrics than their values.
fn whole(fields: &Map<String, Value>) -> bool {
    fields.get("metrics").is_some_and(Value::is_array)
}

fn numbers(fields: &Map<String, Value>) -> Result<Found> {
    let mut found = Vec::new();
    gather("", fields, &mut found)?;
    Ok(Found(found))
}

/// An object a line, empty lines apart.
fn lines(text: &str) -> Result<Found> {
    let mut found = Found::default();
    for (i, line) in text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
    {
        let value = serde_json::from_str(&in_json(line));
        let Value::Object(fields) = value.with_context(|| format!("line {} is no JSON", i + 1))?
        else {
            bail!("line {} is no object", i + 1);
        };
        for (name, value) in numbers(&fields)?.0 {
            found.put(&name, value);
        }
    }
    Ok(found)
}

/// A TOML value as JSON, with its words for what is no number.
fn in_toml(value: &toml::Value) -> Value {
    match value {
        toml::Value::Float(f) if !f.is_finite() => {
            let word = WORDS.iter().find(|w| w.2 == *f).unwrap_or(&WORDS[2]);
            word.1.into()
        }
        toml::Value::Float(f) => (*f).into(),
        toml::Value::Integer(i) => (*i).into(),
        toml::Value::Boolean(b) => (*b).into(),
        toml::Value::String(text) => text.as_str().into(),
        toml::Value::Datetime(at) => at.to_string().into(),
        toml::Value::Array(items) => items.iter().map(in_toml).collect(),
        toml::Value::Table(table) => {
            Value::Object(table.iter().map(|(k, v)| (k.clone(), in_toml(v))).collect())
        }
    }
}

fn in_one_line(e: &toml::de::Error, text: &str) -> String {
    let line = e
        .span()
        .map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
    let place = line.map_or(String::new(), |line| format!("line {line}: "));
    format!("{place}{}", e.message().replace('\n', " "))
}

/// A head and rows, each number under its name; or two columns, a name and its number, below a head that calls
/// the second `value`, or without a head.
fn comma_separated(text: &str, between: u8) -> Result<Found> {
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(between)
        .trim(csv::Trim::All)
        .has_headers(false)
        .from_reader(text.as_bytes());
    let rows: Vec<csv::StringRecord> = reader.records().collect::<Result<_, _>>()?;
    let number = |field: &str| field.parse::<f64>().ok();
    let mut found = Found::default();
    let Some(head) = rows.first() else {
        return Ok(found);
    };
    let pair = |row: &csv::StringRecord| {
        let name = row
            .get(0)
            .filter(|name| !name.is_empty() && number(name).is_none())?;
        Some((metrics::one_line(name), number(row.get(1)?)?))
    };
    let below = &rows[1..];
    let two = head.len() == 2;
    let named =
        two && head[1].eq_ignore_ascii_case("value") && below.iter().all(|row| pair(row).is_some());
    if named || two && rows.iter().all(|row| pair(row).is_some()) {
        for (name, value) in rows.iter().filter_map(pair) {
            found.put(&name, value);
        }
        return Ok(found);
    }
    ensure!(
        head.iter().all(|name| number(name).is_none()),
        "its first line holds numbers, not their names"
    );
    for row in below {
        for (name, field) in head.iter().zip(row) {
            if let (false, Some(value)) = (name.is_empty(), number(field)) {
                found.put(&metrics::one_line(name), value);
            }
        }
    }
    Ok(found)
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
        read_as(Form::Json, text)
    }

    fn read_as(form: Form, text: &str) -> Result<Vec<(String, f64, Better)>> {
        let higher = |name: &str| (name == "accuracy").then_some(Better::Higher);
        let metrics = parse(form, text, &higher)?;
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

    fn pairs(form: Form, text: &str) -> Vec<(String, f64)> {
        let found = read_as(form, text).unwrap_or_else(|e| panic!("{text}: {e:#}"));
        found
            .into_iter()
            .map(|(name, value, _)| (name, value))
            .collect()
    }

    fn expected(pairs: &[(&str, f64)]) -> Vec<(String, f64)> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).into(), *value))
            .collect()
    }

    #[test]
    fn the_last_line_of_a_log_counts() {
        let text =
            "{\"epoch\": 1, \"loss\": 0.5}\n\n{\"epoch\": 2, \"loss\": 0.25, \"acc\": 0.9}\n";
        let last = expected(&[("epoch", 2.0), ("loss", 0.25), ("acc", 0.9)]);
        assert_eq!(pairs(Form::Lines, text), last);
        assert_eq!(pairs(Form::Json, text), last);
        assert!(pairs(Form::Lines, "{\"a\": NaN}")[0].1.is_nan());
        let error = read_as(Form::Lines, "{\"a\": 1}\n[2]")
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("line 2 is no object; hint: JSON objects"),
            "{error}"
        );
    }

    #[test]
    fn tables_of_toml_are_names_with_points() {
        let text = "accuracy = 0.84\nname = \"mlp\"\n[loss]\ntest = nan\ntrain = -inf\nn = 3\n";
        let found = pairs(Form::Toml, text);
        assert_eq!(found.len(), 4, "{found:?}");
        let value = |name: &str| found.iter().find(|f| f.0 == name).map(|f| f.1);
        assert!(value("loss.test").is_some_and(f64::is_nan));
        assert_eq!(value("loss.train"), Some(f64::NEG_INFINITY));
        assert_eq!(
            (value("accuracy"), value("loss.n")),
            (Some(0.84), Some(3.0))
        );
        let error = read_as(Form::Toml, "a = 1\nb = = 2\n")
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("line 2: ") && error.ends_with("; hint: accuracy = 0.84"),
            "{error}"
        );
        let whole =
            "[[metrics]]\nname = \"a\"\nlabel = \"A\"\nvalue = 1.5\nbetter = \"higher\"\nn = 7\n";
        assert_eq!(pairs(Form::Toml, whole), expected(&[("a", 1.5)]));
    }

    #[test]
    fn csv_has_names_above_or_before_its_numbers() {
        let csv = Form::Csv(b',');
        let two = expected(&[("accuracy", 0.84), ("loss", 0.3)]);
        assert_eq!(pairs(csv, "accuracy,loss\n0.5,0.9\n0.84,0.3\n"), two);
        assert_eq!(pairs(csv, "metric,value\naccuracy,0.84\nloss,0.3\n"), two);
        assert_eq!(pairs(csv, "model,accuracy\nmlp,0.84\n"), two[..1]);
        assert_eq!(pairs(csv, "accuracy, 0.84\nloss, 0.3\n"), two);
        assert_eq!(
            pairs(Form::Csv(b'\t'), "accuracy\tloss\r\n0.84\t0.3\r\n"),
            two
        );
        // A model's name is no number, and an empty field none that counts.
        let text = "\u{feff}model,\"test, all\",loss\nmlp,0.5,0.1\nmlp,0.75,\n";
        assert_eq!(
            pairs(csv, text),
            expected(&[("test, all", 0.75), ("loss", 0.1)])
        );
        assert!(pairs(csv, "a,b,c\nnan,inf,-Infinity\n")[0].1.is_nan());
        let error = |text: &str| read_as(csv, text).unwrap_err().to_string();
        assert!(error("").starts_with("it holds no number; hint: a line of names"));
        assert!(error("a,b\n").starts_with("it holds no number"));
        assert!(error("0.1,0.2\n0.3,0.4\n").starts_with("its first line holds numbers"));
        assert!(
            error("a,b,c\n1,2\n").contains("line: 2"),
            "{}",
            error("a,b,c\n1,2\n")
        );
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
