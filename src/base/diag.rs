//! What is wrong with a request: one sentence, where in pipeline.toml, and a hint.

use std::fmt;
use std::ops::Range;

use crate::base::plain;

/// An error that the person can mend: exit code 2.
#[derive(Debug, Clone, PartialEq)]
pub struct Diagnostic {
    /// `pipeline.toml:12:5`, `--set glow.epochs=x`; empty if it concerns no place.
    pub place: String,
    pub message: String,
    pub hint: Option<String>,
}

impl Diagnostic {
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            place: String::new(),
            message: message.into(),
            hint: None,
        }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.place.is_empty() {
            write!(f, "{}: ", self.place)?;
        }
        write!(f, "{}", plain::cut(&self.message, SENTENCE))?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Diagnostic {}

/// The texts that spans point into: the pipeline file, then each `--set`, one after the other.
#[derive(Debug, Clone)]
pub struct Source {
    name: String,
    text: String,
    /// Where each `--set` begins, and how it was written.
    overrides: Vec<(usize, String)>,
}

impl Source {
    pub fn new(name: impl Into<String>, text: String) -> Self {
        Self {
            name: name.into(),
            text,
            overrides: Vec::new(),
        }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// A span that stands for the whole of one `--set`.
    pub fn add_override(&mut self, written: &str) -> Range<usize> {
        let start = self.text.len() + 1 + self.overrides.len();
        self.overrides.push((start, format!("--set {written}")));
        start..start
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The line of a place, from 1.
    pub fn line(&self, at: usize) -> usize {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        before.iter().filter(|b| **b == b'\n').count() + 1
    }

    /// `pipeline.toml:LINE:COL`, both from 1; columns count characters.
    pub fn place(&self, span: &Range<usize>) -> String {
        if let Some((_, written)) = self.overrides.iter().find(|(at, _)| *at == span.start) {
            return written.clone();
        }
        let mut at = span.start.min(self.text.len());
        while !self.text.is_char_boundary(at) {
            at -= 1;
        }
        let before = &self.text[..at];
        let line = self.line(at);
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        format!("{}:{line}:{column}", self.name)
    }

    pub fn error(&self, span: &Range<usize>, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            place: self.place(span),
            message: message.into(),
            hint: None,
        }
    }
}

/// Characters of a message: what it quotes may be the whole of a file.
const SENTENCE: usize = 2000;

/// Bytes of names, and how many of them, that are compared with one that does not exist.
const LONG: usize = 400;
const MANY: usize = 20_000;

fn short<'a>(names: impl IntoIterator<Item = &'a str>) -> impl Iterator<Item = &'a str> {
    let short = |name: &&str| name.len() <= LONG;
    names.into_iter().filter(short).take(MANY)
}

/// The nearest name, if one is near enough to have been meant.
pub fn nearest<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Comparing takes the product of both lengths.
    let wrong = plain::cut(wrong, LONG);
    let near = short(names).map(|name| (strsim::damerau_levenshtein(&wrong, name), name));
    let (distance, name) = near.min()?;
    (distance <= 1 + name.len() / 3).then_some(name)
}

/// A hint for a name that does not exist: the nearest one that does, else all of them.
pub fn suggest<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = short(names).collect();
    match nearest(wrong, names.iter().copied()) {
        Some(name) => format!("did you mean `{name}`?"),
        None if names.is_empty() => "there are none".into(),
        None if names.len() > 20 => format!("one of {}, …", names[..20].join(", ")),
        None => format!("one of {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters_from_one() {
        let source = Source::new("p.toml", "a = 1\nß = x\n".into());
        assert_eq!(source.place(&(0..1)), "p.toml:1:1");
        let x = source.text().find('x').expect("it is there");
        assert_eq!(source.place(&(x..x + 1)), "p.toml:2:5");
        assert_eq!(source.place(&(999..999)), "p.toml:3:1");
    }

    #[test]
    fn a_slip_of_the_finger_is_corrected() {
        assert_eq!(
            suggest("epohcs", ["epochs", "batch"]),
            "did you mean `epochs`?"
        );
        assert_eq!(suggest("zzz", ["epochs", "batch"]), "one of epochs, batch");
    }
}
