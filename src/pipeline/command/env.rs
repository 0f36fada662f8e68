//! The environment that a command declares: `NAME` counts, `NAME=value` is set and counts.

use std::ffi::OsString;
use std::ops::Range;
use std::path::Path;

use super::Declared;
use crate::base::diag::Diagnostic;
use crate::base::files;
use crate::base::secret::{self, Key};
use crate::pipeline::manifest::{Manifest, part};
use crate::pipeline::spec::{Instance, Spec};

#[derive(Debug, Clone)]
pub struct Variable {
    pub name: String,
    /// What it is set to, placeholders not yet filled; otherwise it is passed on.
    pub value: Option<String>,
    pub span: Range<usize>,
}

impl Variable {
    /// What a command has of it from the runner.
    pub fn inherited(&self) -> Option<OsString> {
        std::env::var_os(&self.name)
    }

    /// Adds its value to what counts: the same text for the same bytes, whoever has set it; of one
    /// that may be a secret, a digest.
    pub fn describe(&self, manifest: &mut Manifest, key: &Key) {
        let value = match &self.value {
            Some(value) => Some(value.into()),
            None => self.inherited(),
        };
        let text = value.map_or("not set".into(), |v| {
            let value = files::text(Path::new(&v));
            secret::told(&self.name, &value, format!("{value:?}"), key)
        });
        manifest.add(format!("env.{}", part(&self.name)), text);
    }
}

/// The variables, if each can be what the program gets.
pub fn read(
    spec: &Spec,
    instance: &Instance,
    declared: Vec<Declared>,
) -> Result<Vec<Variable>, Diagnostic> {
    let mut variables: Vec<Variable> = Vec::with_capacity(declared.len());
    for Declared { text, span } in declared {
        let wrong = |what: &str, hint: &str| {
            let message = format!("stage `{}`: `env`: {what}", instance.name);
            Err(spec.error(&span, message).hint(hint))
        };
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text.as_str(), None),
        };
        if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
            let what = format!("`{text}` names no variable");
            return wrong(
                &what,
                "write \"NAME=value\", or \"NAME\" to have its value count",
            );
        }
        if text.contains('\0') {
            return wrong(&format!("{name} cannot hold a NUL"), "no variable can");
        }
        if name.starts_with("REPRO_") {
            let what = format!("{name} is set by `repro` itself");
            return wrong(
                &what,
                "names that begin with REPRO_ tell the program where things are",
            );
        }
        if name == "CUDA_VISIBLE_DEVICES" && instance.resources.gpus() > 0 {
            let what = format!("{name} is set to the GPUs that `resources.gpu` asks for");
            return wrong(&what, "leave one of the two out");
        }
        if variables.iter().any(|v| v.name == name) {
            return wrong(
                &format!("{name} stands here twice"),
                "a variable has one value",
            );
        }
        let name = name.to_owned();
        variables.push(Variable { name, value, span });
    }
    Ok(variables)
}
