//! What stages, axes' values, ports and profiles may be called: names become part of messages, file
//! names, variables and lines that people copy to a shell.

use crate::plain;

/// Longer names fit no line, and with what is added no file name.
const LONG: usize = 100;
/// A value may be a path or a sentence.
const LONG_VALUE: usize = 500;

/// What is wrong with a name, if anything. `taken` has a meaning of its own where the name stands.
pub fn problem(name: &str, taken: &[char]) -> Option<String> {
    let dash = name.starts_with('-').then(|| "it begins with `-`".into());
    dash.or_else(|| problem_within(name, taken, LONG))
}

fn problem_within(name: &str, taken: &[char], most: usize) -> Option<String> {
    if name.is_empty() {
        return Some("it is empty".into());
    }
    if name.chars().count() > most {
        return Some(format!("it is longer than {most} characters"));
    }
    if let Some(c) = name.chars().find(|c| c.is_control() || plain::is_odd(*c)) {
        return Some(format!("it holds U+{:04X}, which does not print", c as u32));
    }
    if let Some(c) = name.chars().find(|c| taken.contains(c)) {
        return Some(format!("it holds `{c}`"));
    }
    (name.trim() != name).then(|| "it begins or ends with a space".into())
}

/// The same of the value of an axis, which may be a negative number.
pub fn label_problem(label: &str) -> Option<String> {
    problem_within(label, &[], LONG_VALUE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_print_fit_a_line_and_are_no_options() {
        for good in ["glow", "fit-0_1", "größe", "a b", "α"] {
            assert_eq!(problem(good, &['@']), None, "{good}");
        }
        let long = "x".repeat(101);
        for bad in [
            "",
            "a\0b",
            "a\nb",
            "\u{1b}[2J",
            "\u{202e}",
            "-x",
            " x",
            "a@b",
            &long,
        ] {
            assert!(problem(bad, &['@']).is_some(), "{bad:?}");
        }
        assert_eq!(
            (label_problem("-0.5"), label_problem("")),
            (None, Some("it is empty".into()))
        );
    }
}
