//! `{name}` in texts of the pipeline, and how to write braces that are the program's own.
//!
//! A name in braces is letters, digits, `_`, `-` and `.`, beginning with a letter or `_`, and nothing
//! else between the braces: `{print $1}`, `{"a": 1}`, `{a,b}`, `{}` and `{1..5}` are left alone, and so is
//! `${name}`, which a shell fills in. `{{name}}` stands for `{name}`: of several braces one goes away.

use std::ops::Range;

/// A name in braces.
#[derive(Debug, PartialEq)]
pub struct Hole<'t> {
    /// Where it stands, with its braces.
    pub range: Range<usize>,
    pub name: &'t str,
    /// How many on each side.
    pub braces: usize,
    /// What stands before it.
    pub before: Option<char>,
}

/// Every name in braces, from left to right.
pub fn holes(text: &str) -> Vec<Hole<'_>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(next) = text[at..].find('{') {
        let start = at + next;
        let inner = text[start..].trim_start_matches('{');
        let braces = text.len() - start - inner.len();
        let end = inner.find(|c| !is_part(c)).unwrap_or(inner.len());
        let (name, after) = inner.split_at(end);
        at = start + braces;
        let closing = after.len() - after.trim_start_matches('}').len();
        let before = text[..start].chars().next_back();
        let named = name.starts_with(|c: char| c.is_alphabetic() || c == '_')
            && !name.ends_with('.')
            && !name.contains("..");
        if named && closing >= braces && before != Some('$') {
            let range = start..start + 2 * braces + name.len();
            at = range.end;
            found.push(Hole {
                range,
                name,
                braces,
                before,
            });
        }
    }
    found
}

fn is_part(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.')
}

/// The text with some of its holes filled; those for which there is nothing stay.
pub fn replace(text: &str, mut with: impl FnMut(&Hole) -> Option<Vec<u8>>) -> Vec<u8> {
    let mut filled = Vec::with_capacity(text.len());
    let mut at = 0;
    for hole in holes(text) {
        if let Some(value) = with(&hole) {
            filled.extend_from_slice(&text.as_bytes()[at..hole.range.start]);
            filled.extend(value);
            at = hole.range.end;
        }
    }
    filled.extend_from_slice(&text.as_bytes()[at..]);
    filled
}

/// The same where values are texts.
pub fn replace_text(text: &str, mut with: impl FnMut(&Hole) -> Option<String>) -> String {
    let filled = replace(text, |hole| with(hole).map(String::into_bytes));
    String::from_utf8_lossy(&filled).into_owned()
}

impl Hole<'_> {
    /// It with so many braces.
    pub fn with(&self, braces: usize) -> String {
        let (open, close) = ("{".repeat(braces), "}".repeat(braces));
        format!("{open}{}{close}", self.name)
    }

    /// The text with one brace less, where it has several.
    pub fn literal(&self) -> Option<String> {
        (self.braces > 1).then(|| self.with(self.braces - 1))
    }
}

/// A value as text in which nothing is filled in later.
pub fn escape(value: &str) -> String {
    replace_text(value, |hole| Some(hole.with(hole.braces + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<(&str, usize)> {
        holes(text).iter().map(|h| (h.name, h.braces)).collect()
    }

    #[test]
    fn braces_of_programs_are_left_alone() {
        for text in [
            "awk '{print $1}'",
            "{\"a\": {\"b\": 1}}",
            "${x} ${seed:-0} a${x}b",
            "{a,b} {1..5} {} {0} { x } {x y}",
            "docker ps --format '{{.Names}}' {{json .}}",
            "a{3} {a..b} {x.} {",
            "f() { x; }",
        ] {
            assert_eq!(names(text), [], "{text}");
        }
    }

    #[test]
    fn names_in_braces_are_found() {
        assert_eq!(
            names("--in={in.x} {out.a-b}{seed}"),
            [("in.x", 1), ("out.a-b", 1), ("seed", 1)]
        );
        assert_eq!(names("{\"n\": {params.n}}"), [("params.n", 1)]);
        assert_eq!(
            names("{{name}} {{{name}}} {{name}"),
            [("name", 2), ("name", 3)]
        );
    }

    #[test]
    fn a_value_is_not_filled_twice() {
        let value = "{out.x} {{a}} ${b} {c d}";
        let text = escape(value);
        assert_eq!(
            replace_text(&text, |h| h.literal().or(Some("wrong".into()))),
            value
        );
    }
}
