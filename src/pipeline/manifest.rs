//! Everything a result depends on, as lines of text: the hash of the text decides, the difference
//! of two texts explains.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use crate::base::digest::Fingerprint;
use crate::base::secret;

/// `params.optim.lr` → `0.0001`, `input.images` → a digest, `code.nn::conv` → a digest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest(BTreeMap<String, String>);

/// Beginnings of the lines of a manifest that stand for reads.
pub const READS: [&str; 7] = [
    "read",
    "absent",
    "there",
    "names",
    "importable",
    "imports",
    "link",
];

/// A change of the format changes every fingerprint, so it says which it is.
const FORMAT: &str = "2";

impl Manifest {
    pub fn new(kind: &str) -> Self {
        let mut manifest = Self::default();
        manifest.add("format", FORMAT);
        manifest.add("kind", kind);
        manifest
    }

    pub fn add(&mut self, key: impl Into<String>, value: impl fmt::Display) {
        self.0.insert(key.into(), value.to_string());
    }

    /// Adds a JSON value as one line for each leaf. No two values have the same lines: a key that
    /// could be taken for something else stands in quotes, an item of a list has its number in
    /// brackets, and what is empty or a string says so.
    pub fn flatten(&mut self, key: &str, value: &Value) {
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                for (name, field) in fields {
                    self.flatten(&format!("{key}.{}", part(name)), field);
                }
            }
            Value::Array(items) if items.iter().any(|i| i.is_object() || i.is_array()) => {
                for (i, item) in items.iter().enumerate() {
                    self.flatten(&format!("{key}[{i}]"), item);
                }
            }
            leaf => self.add(key, leaf),
        }
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// The same without one line.
    pub fn without(&self, key: &str) -> Self {
        let mut rest = self.clone();
        rest.0.remove(key);
        rest
    }

    /// Takes lines away.
    pub fn remove(&mut self, which: impl Fn(&str) -> bool) {
        self.0.retain(|key, _| !which(key));
    }

    /// The same without what a run was found to read.
    pub fn declared(&self) -> Self {
        let is_read =
            |key: &str| key == "reads" || READS.contains(&key.split('.').next().unwrap_or(key));
        let kept = self.0.iter().filter(|(key, _)| !is_read(key));
        Self(kept.map(|(k, v)| (k.clone(), v.clone())).collect())
    }

    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.to_string())
    }

    /// The inverse of the text.
    pub fn parse(text: &str) -> Self {
        let lines = text.split('\n').filter_map(|line| line.split_once(": "));
        Self(lines.map(|(k, v)| (unescape(k), unescape(v))).collect())
    }

    /// One sentence for each difference, in the words `status` prints.
    pub fn changes_since(&self, old: &Manifest) -> Vec<String> {
        if self.get("format") != old.get("format") {
            return vec![
                "it was made by another version of repro, which noted causes otherwise".into(),
            ];
        }
        let mut keys: Vec<&String> = old.0.keys().chain(self.0.keys()).collect();
        keys.sort();
        keys.dedup();
        let mut changes = Vec::new();
        // Code has words of its own, see `Planner`.
        for key in keys.into_iter().filter(|key| *key != "code") {
            let (was, is) = (old.get(key), self.get(key));
            if was == is {
                continue;
            }
            let change = match (key.split_once('.'), was, is) {
                (Some(("input", port)), Some(_), Some(_)) => format!("input {port} changed"),
                (Some(("file", path)), Some(_), Some(_)) => format!("file {path} changed"),
                (Some(("environment", path)), Some(_), Some(_)) => {
                    format!("environment {path} changed")
                }
                (None, Some(_), Some(_)) if key == "data" => {
                    "its files in the folder of --data changed".into()
                }
                (None, None, Some(_)) if key == "data" => {
                    "its files come from the folder of --data".into()
                }
                (None, Some(_), None) if key == "data" => {
                    "its files came from a folder of --data".into()
                }
                (Some(("file", name)), None, _) => format!("{name} is new"),
                (Some(("file", name)), _, None) => format!("{name} is gone"),
                // Digests of what is kept from view tell nothing.
                (_, Some(was), Some(is))
                    if [was, is].into_iter().all(|v| v.starts_with(secret::MARK)) =>
                {
                    format!("{key} changed")
                }
                (_, Some(was), Some(is)) => format!("{key}: {was} -> {is}"),
                (_, None, Some(is)) => format!("{key}: {is} is new"),
                (_, Some(was), None) => format!("{key}: {was} is gone"),
                (_, None, None) => continue,
            };
            changes.push(change);
        }
        changes
    }
}

impl fmt::Display for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, value) in &self.0 {
            writeln!(
                f,
                "{}: {}",
                escape(key).replace(": ", "\\c "),
                escape(value)
            )?;
        }
        Ok(())
    }
}

/// A name as part of a key, such as `lr` of `params.optim.lr`: as it is if nothing in it could be taken
/// for something else, else in quotes.
pub fn part(name: &str) -> Cow<'_, str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    match !name.is_empty() && name.bytes().all(plain) {
        true => name.into(),
        false => Value::from(name).to_string().into(),
    }
}

/// One line, whatever it says, and no two texts that read the same.
fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(|c: char| c == '\\' || c.is_control()) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            c if c.is_control() => escaped.extend(c.escape_unicode()),
            c => escaped.push(c),
        }
    }
    escaped.into()
}

/// The inverse; a backslash that begins nothing known stands for itself.
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        plain.push_str(&rest[..at]);
        let escape = &rest[at..];
        let code = escape.strip_prefix("\\u{").and_then(|e| e.split_once('}'));
        let control = code.and_then(|(hex, _)| char::from_u32(u32::from_str_radix(hex, 16).ok()?));
        let (c, len) = match (escape.as_bytes().get(1), control, code) {
            (Some(b'\\'), ..) => ('\\', 2),
            (Some(b'n'), ..) => ('\n', 2),
            (Some(b'c'), ..) => (':', 2),
            // Only what `escape` writes, so that the text comes back as it was.
            (Some(b'u'), Some(c), Some((hex, _))) if c.is_control() && c != '\n' => {
                (c, "\\u{}".len() + hex.len())
            }
            _ => ('\\', 1),
        };
        plain.push(c);
        rest = &escape[len..];
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn manifest(params: Value) -> Manifest {
        let mut manifest = Manifest::new("vae");
        manifest.flatten("params", &params);
        manifest
    }

    #[test]
    fn a_change_is_told_in_words() {
        let old = manifest(json!({"optim": {"lr": 1e-4}, "epochs": 3}));
        let new = manifest(json!({"optim": {"lr": 3e-4}, "epochs": 3}));
        assert_eq!(
            new.changes_since(&old),
            ["params.optim.lr: 0.0001 -> 0.0003"]
        );
        assert_ne!(old.fingerprint(), new.fingerprint());
    }

    #[test]
    fn the_order_of_keys_does_not_matter_and_the_text_comes_back() {
        let a = manifest(json!({"a": 1, "b": {"c": "x\ny"}}));
        let b = manifest(json!({"b": {"c": "x\ny"}, "a": 1}));
        assert_eq!(a.fingerprint(), b.fingerprint());
        assert_eq!(Manifest::parse(&a.to_string()), a);
    }

    #[test]
    fn what_stands_for_something_else_reads_differently() {
        let text = |key: &str, value: &str| {
            let mut manifest = Manifest::default();
            manifest.add(key, value);
            assert_eq!(Manifest::parse(&manifest.to_string()), manifest);
            assert_eq!(manifest.to_string().lines().count(), 1);
            manifest.to_string()
        };
        assert_ne!(text("file.a: b", "c"), text("file.a", "b: c"));
        assert_ne!(text("file.a\nb", "c"), text("file.a\\nb", "c"));
        assert_ne!(text("file.a\\c b", "c"), text("file.a: b", "c"));
        assert_ne!(text("a", "b\r"), text("a", "b"));
        assert_eq!(text("a", "\u{1b}[1m"), "a: \\u{1b}[1m\n");
        assert_ne!(text("a", "\\u{1b}"), text("a", "\u{1b}"));
    }

    #[test]
    fn no_two_parameters_look_alike() {
        let all = [
            json!({}),
            json!({"optim": {"lr": 1}}),
            json!({"optim.lr": 1}),
            json!({"optim\".\"lr": 1}),
            json!({"optim": {"": {"lr": 1}}}),
            json!({"l": [{"n": 1}, {"n": 2}]}),
            json!({"l": {"0": {"n": 1}, "1": {"n": 2}}}),
            json!({"l[0]": {"n": 1}, "l[1]": {"n": 2}}),
            json!({"l": [[1], [2]]}),
            json!({"l": [1, 2]}),
            json!({"l": "[1,2]"}),
            json!({"l": ["1", "2"]}),
            json!({"l": []}),
            json!({"l": {}}),
            json!({"l": [{}]}),
            json!({"l": [[]]}),
            json!({"l": "{}"}),
            json!({"l": ""}),
            json!({"l": null}),
            json!({"l": "null"}),
            json!({"l": 1}),
            json!({"l": 1.0}),
            json!({"l": "1"}),
            json!({"l": true}),
            json!({"l": "true"}),
            json!({"l\nm": 1}),
            json!({"l\\nm": 1}),
            json!({"l: 1": 1}),
            json!({"": 1}),
            json!({"ö": 1}),
        ];
        let texts = all.map(|params| manifest(params).to_string());
        for (i, text) in texts.iter().enumerate() {
            assert!(!texts[..i].contains(text), "{text} stands for two");
            assert_eq!(Manifest::parse(text).to_string(), *text);
        }
        assert!(texts[1].contains("params.optim.lr: 1\n"), "{}", texts[1]);
        assert!(texts[5].contains("params.l[1].n: 2\n"), "{}", texts[5]);
        assert!(
            texts[2].contains("params.\"optim.lr\": 1\n"),
            "{}",
            texts[2]
        );
    }

    #[test]
    fn results_of_another_format_are_told_to_be_that() {
        let new = manifest(json!({"l": 1}));
        let old = Manifest::parse("format: 1\nkind: vae\nparams.l: 1\n");
        let says = "it was made by another version of repro, which noted causes otherwise";
        assert_eq!(new.changes_since(&old), [says]);
    }
}
