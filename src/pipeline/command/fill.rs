//! Placeholders of a command, and what they stand for in one execution.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use crate::pipeline::spec::braces::{self, Hole};
use crate::pipeline::spec::shell::{self, Context};

/// What placeholders stand for in one execution.
pub struct Fill<'a> {
    pub inputs: &'a BTreeMap<String, Vec<PathBuf>>,
    pub outputs: &'a BTreeMap<String, PathBuf>,
    pub params: &'a Json,
    pub params_file: &'a Path,
    pub inputs_file: &'a Path,
    pub depfile: &'a Path,
    pub threads: usize,
}

/// Names that stand for one thing each.
pub const SINGLE: [&str; 4] = ["params", "inputs", "depfile", "threads"];

/// The text of a scalar parameter at a dotted path.
pub fn scalar(params: &Json, path: &str) -> Option<String> {
    match find(params, path)? {
        Json::String(text) => Some(text.clone()),
        value @ (Json::Number(_) | Json::Bool(_)) => Some(value.to_string()),
        _ => None,
    }
}

/// What stands at a dotted path.
pub fn find<'p>(params: &'p Json, path: &str) -> Option<&'p Json> {
    path.split('.').try_fold(params, |at, key| at.get(key))
}

impl Fill<'_> {
    /// One argument; one that is nothing but an input of several files becomes several.
    pub fn argument(&self, text: &str) -> Vec<OsString> {
        if let [hole] = &braces::holes(text)[..]
            && hole.range == (0..text.len())
            && hole.braces == 1
            && let Some(files) = hole
                .name
                .strip_prefix("in.")
                .and_then(|p| self.inputs.get(p))
        {
            return files.iter().map(|f| f.clone().into_os_string()).collect();
        }
        vec![self.text(text)]
    }

    /// A text that no shell sees.
    pub fn text(&self, text: &str) -> OsString {
        let filled = braces::replace(text, |hole| match hole.literal() {
            Some(literal) => Some(literal.into_bytes()),
            None => Some(self.values(hole)?.join(&b' ')),
        });
        OsString::from_vec(filled)
    }

    /// A line for the shell, with every value quoted as its place wants it.
    pub fn line(&self, line: &str) -> OsString {
        let holes = braces::holes(line);
        let ranges: Vec<_> = holes.iter().map(|h| h.range.clone()).collect();
        let mut contexts = shell::contexts(line, &ranges).into_iter();
        let filled = braces::replace(line, |hole| {
            let context = contexts.next().unwrap_or(Context::Bare);
            if let Some(literal) = hole.literal() {
                return Some(literal.into_bytes());
            }
            let values = self.values(hole)?;
            let quoted: Vec<_> = values.iter().map(|v| shell::quote(v, context)).collect();
            Some(quoted.join(&b' '))
        });
        OsString::from_vec(filled)
    }

    fn values(&self, hole: &Hole) -> Option<Vec<Cow<'_, [u8]>>> {
        let path = |path: &'_ Path| vec![Cow::Owned(path.as_os_str().as_bytes().to_vec())];
        match hole.name.split_once('.') {
            None => match hole.name {
                "params" => Some(path(self.params_file)),
                "inputs" => Some(path(self.inputs_file)),
                "depfile" => Some(path(self.depfile)),
                "threads" => Some(vec![Cow::Owned(self.threads.to_string().into_bytes())]),
                _ => None,
            },
            Some(("out", port)) => self.outputs.get(port).map(|p| path(p)),
            Some(("in", port)) => {
                let files = self.inputs.get(port)?.iter();
                Some(files.map(|f| f.as_os_str().as_bytes().into()).collect())
            }
            Some(("params", param)) => {
                let text = scalar(self.params, param)?;
                Some(vec![Cow::Owned(text.into_bytes())])
            }
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_ours_is_filled_once_and_the_rest_stays() {
        let inputs = BTreeMap::from([
            ("x".to_owned(), vec![PathBuf::from("/a b")]),
            ("xs".to_owned(), vec!["/a".into(), "/it's".into()]),
        ]);
        let outputs = BTreeMap::from([("y".to_owned(), PathBuf::from("/{in.x}"))]);
        let fill = Fill {
            inputs: &inputs,
            outputs: &outputs,
            params: &json!({"lr": 0.1, "s": "{out.y} {params.lr}"}),
            params_file: Path::new("/p"),
            inputs_file: Path::new("/i"),
            depfile: Path::new("/d"),
            threads: 2,
        };
        assert_eq!(fill.argument("{in.xs}"), ["/a", "/it's"]);
        assert_eq!(fill.argument("-l{params.lr}"), ["-l0.1"]);
        assert_eq!(
            fill.argument("{params.s}{out.y}"),
            ["{out.y} {params.lr}/{in.x}"]
        );
        assert_eq!(
            fill.argument("{{in.x}} {print $1} ${lr}"),
            ["{in.x} {print $1} ${lr}"]
        );
        let line = "cat {in.xs} \"{in.x}\" > '{out.y}' {params} {inputs} {depfile} {threads}";
        assert_eq!(
            fill.line(line),
            "cat /a '/it'\\''s' \"/a b\" > '/{in.x}' /p /i /d 2"
        );
    }
}
