//! A build without kinds: they compute with nothing and read nothing.

use std::path::Path;

use serde::Serialize;

use crate::pipeline::kinds;

#[derive(Serialize)]
pub struct Kinds {}

impl Kinds {
    pub fn look(_: &[&Path]) -> Self {
        Self {}
    }

    pub fn problems(&self, _: bool) -> Vec<String> {
        Vec::new()
    }

    pub fn computes_with(&self) -> Vec<(String, String)> {
        let text = format!("none in this build; hint: {}", kinds::HINT);
        vec![("kinds".into(), text)]
    }

    pub fn files(&self) -> Vec<String> {
        Vec::new()
    }
}
