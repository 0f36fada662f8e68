//! Everything a result depends on, as lines of text: the hash of the text decides, the difference
//! of two texts explains.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use crate::digest::Fingerprint;

/// `params.optim.lr` → `0.0001`, `input.images` → a digest, `code.nn::conv` → a digest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest(BTreeMap<String, String>);

/// A change of the format would change every fingerprint, so it says which it is.
const FORMAT: &str = "1";

impl Manifest {
    pub fn new(kind: &str) -> Self {
        let mut manifest = Self::default();
        manifest.add("format", FORMAT);
        manifest.add("kind", kind);
        manifest
    }

    pub fn add(&mut self, key: impl Into<String>, value: impl fmt::Display) {
        let (mut key, mut value) = (key.into(), value.to_string());
        // One line an entry, whatever it says, and no two entries that read the same.
        if value.contains(['\\', '\n']) {
            value = value.replace('\\', "\\\\").replace('\n', "\\n");
        }
        if key.contains(['\\', '\n']) || key.contains(": ") {
            key = key.replace('\\', "\\\\").replace('\n', "\\n");
            key = key.replace(": ", "\\c ");
        }
        self.0.insert(key, value);
    }

    /// Adds a JSON value as one line for each leaf.
    pub fn flatten(&mut self, key: &str, value: &Value) {
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                for (name, field) in fields {
                    self.flatten(&format!("{key}.{name}"), field);
                }
            }
            Value::Array(items) if items.iter().any(|i| i.is_object() || i.is_array()) => {
                for (i, item) in items.iter().enumerate() {
                    self.flatten(&format!("{key}.{i}"), item);
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

    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.to_string())
    }

    /// The inverse of the text.
    pub fn parse(text: &str) -> Self {
        let lines = text.split('\n').filter_map(|line| line.split_once(": "));
        Self(lines.map(|(k, v)| (k.into(), v.into())).collect())
    }

    /// One sentence for each difference, in the words `status` prints.
    pub fn changes_since(&self, old: &Manifest) -> Vec<String> {
        let mut keys: Vec<&String> = old.0.keys().chain(self.0.keys()).collect();
        keys.sort();
        keys.dedup();
        let mut changes = Vec::new();
        for key in keys {
            let (was, is) = (old.get(key), self.get(key));
            if was == is {
                continue;
            }
            let change = match (key.split_once('.'), was, is) {
                (Some(("input", port)), Some(_), Some(_)) => format!("input {port} changed"),
                (Some(("code", module)), Some(_), Some(_)) => format!("code {module} changed"),
                (Some(("file", path)), Some(_), Some(_)) => format!("file {path} changed"),
                (Some(("read", path)), Some(_), Some(_)) => format!("file {path} changed"),
                (None, Some(_), Some(_)) if key == "data" => {
                    "its files in the folder of --data changed".into()
                }
                (None, None, Some(_)) if key == "data" => {
                    "its files come from the folder of --data".into()
                }
                (None, Some(_), None) if key == "data" => {
                    "its files came from a folder of --data".into()
                }
                (Some(("code" | "file" | "read", name)), None, _) => format!("{name} is new"),
                (Some(("code" | "file" | "read", name)), _, None) => format!("{name} is gone"),
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
            writeln!(f, "{key}: {value}")?;
        }
        Ok(())
    }
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
            manifest.to_string()
        };
        assert_ne!(text("file.a: b", "c"), text("file.a", "b: c"));
        assert_ne!(text("file.a\nb", "c"), text("file.a\\nb", "c"));
        assert_ne!(text("a", "b\r"), text("a", "b"));
    }
}
