//! Placeholders of a command, and what they stand for in one execution.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

/// What placeholders stand for in one execution.
pub struct Fill<'a> {
    pub inputs: &'a BTreeMap<String, Vec<PathBuf>>,
    pub outputs: &'a BTreeMap<String, PathBuf>,
    pub params: &'a Json,
    pub params_file: &'a Path,
    pub depfile: &'a Path,
    pub threads: usize,
}

/// What stands in `{…}`, as far as it looks like one of ours: other braces belong to the program.
pub fn placeholders(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (open, _) in text.match_indices('{') {
        let inner = &text[open + 1..];
        let Some(close) = inner.find('}') else { break };
        let name = &inner[..close];
        let ours = ["in.", "out.", "params."]
            .iter()
            .any(|p| name.starts_with(p))
            || ["params", "depfile", "threads"].contains(&name);
        if ours && !name.contains(char::is_whitespace) {
            found.push(name);
        }
    }
    found
}

/// The text of a scalar parameter at a dotted path.
pub fn scalar(params: &Json, path: &str) -> Option<String> {
    let value = path.split('.').try_fold(params, |at, key| at.get(key))?;
    match value {
        Json::String(text) => Some(text.clone()),
        Json::Number(_) | Json::Bool(_) => Some(value.to_string()),
        _ => None,
    }
}

impl Fill<'_> {
    /// One argument; one that is nothing but an input of several files becomes several.
    pub fn argument(&self, text: &str) -> Vec<String> {
        let whole = text.strip_prefix('{').and_then(|t| t.strip_suffix('}'));
        if let Some(files) = whole
            .and_then(|w| w.strip_prefix("in."))
            .and_then(|p| self.inputs.get(p))
        {
            return files.iter().map(|f| f.display().to_string()).collect();
        }
        vec![self.replace(text, |value| value.join(" "))]
    }

    /// A line for the shell, with every value quoted.
    pub fn line(&self, text: &str) -> String {
        let quote = |value: &String| format!("'{}'", value.replace('\'', "'\\''"));
        self.replace(text, |values| {
            values.iter().map(quote).collect::<Vec<_>>().join(" ")
        })
    }

    fn replace(&self, text: &str, join: impl Fn(Vec<String>) -> String) -> String {
        let mut filled = text.to_owned();
        for name in placeholders(text) {
            if let Some(value) = self.value(name) {
                filled = filled.replace(&format!("{{{name}}}"), &join(value));
            }
        }
        filled
    }

    fn value(&self, name: &str) -> Option<Vec<String>> {
        let path = |p: &Path| vec![p.display().to_string()];
        match name.split_once('.') {
            None if name == "params" => Some(path(self.params_file)),
            None if name == "depfile" => Some(path(self.depfile)),
            None => Some(vec![self.threads.to_string()]),
            Some(("out", port)) => self.outputs.get(port).map(|p| path(p)),
            Some(("in", port)) => {
                let files = self.inputs.get(port)?;
                Some(files.iter().map(|f| f.display().to_string()).collect())
            }
            Some((_, param)) => scalar(self.params, param).map(|v| vec![v]),
        }
    }
}
