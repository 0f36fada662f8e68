//! What stages, axes' values, ports and profiles may be called: names become part of messages, file
//! names, variables and lines that people copy to a shell.
//!
//! Names of instances: `glow@cifar10,0`. A value that could be taken for something else, such as one
//! with a comma, stands in quotes: `fit@"a,b",0`.

use std::borrow::Cow;

use crate::base::plain;

/// Longer names fit no line, and with what is added no file name.
const LONG: usize = 100;
/// A value may be a path or a sentence.
const LONG_VALUE: usize = 500;

/// What is wrong with a name, if anything. `taken` has a meaning of its own where the name stands.
pub fn problem(name: &str, taken: &[char]) -> Option<String> {
    let dash = name.starts_with('-').then(|| "it begins with `-`".into());
    dash.or_else(|| problem_within(name, taken))
}

fn problem_within(name: &str, taken: &[char]) -> Option<String> {
    if name.is_empty() {
        return Some("it is empty".into());
    }
    if let Some(why) = unprintable(name, LONG) {
        return Some(why);
    }
    if let Some(c) = name.chars().find(|c| taken.contains(c)) {
        return Some(format!("it holds `{c}`"));
    }
    (name.trim() != name).then(|| "it begins or ends with a space".into())
}

fn unprintable(text: &str, most: usize) -> Option<String> {
    if text.chars().count() > most {
        return Some(format!("it is longer than {most} characters"));
    }
    let odd = text.chars().find(|c| c.is_control() || plain::is_odd(*c))?;
    let code = odd as u32;
    Some(format!("it holds U+{code:04X}, which does not print"))
}

/// The same of the value of an axis, which may be any text that prints: where it could be taken for
/// something else it stands in quotes.
pub fn label_problem(label: &str) -> Option<String> {
    unprintable(label, LONG_VALUE)
}

/// A value of an axis as part of a name.
pub fn quoted(value: &str) -> Cow<'_, str> {
    let odd = |c: char| matches!(c, ',' | '*' | '"' | '\\') || c.is_control();
    match value.is_empty() || value.trim() != value || value.contains(odd) {
        true => serde_json::Value::from(value).to_string().into(),
        false => value.into(),
    }
}

/// The value that such a part stands for.
fn unquoted(part: &str) -> Cow<'_, str> {
    match part.starts_with('"').then(|| serde_json::from_str(part)) {
        Some(Ok(value)) => Cow::Owned(value),
        _ => part.into(),
    }
}

/// The parts of what stands behind `@`.
pub fn split(values: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut inside, mut escaped) = (0, false, false);
    for (at, c) in values.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if inside => escaped = true,
            '"' if inside || at == start => inside = !inside,
            ',' if !inside => {
                parts.push(&values[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&values[start..]);
    parts
}

/// True if an instance's name fits a pattern in which `*` stands for any value of an axis. A number
/// may be written in another way.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (Some((stage, wanted)), Some((family, values))) =
        (pattern.split_once('@'), name.split_once('@'))
    else {
        return pattern == name;
    };
    if stage != family {
        return false;
    }
    let (wanted, values) = (split(wanted), split(values));
    let number = |text: &str| text.parse::<f64>().ok();
    let fits = |(w, v): (&&str, &&str)| {
        let same = *w == "*" || w == v || unquoted(w) == unquoted(v);
        same || number(w).is_some_and(|w| number(v) == Some(w))
    };
    wanted.len() == values.len() && wanted.iter().zip(&values).all(fits)
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
        for good in ["-0.5", "", " x", "a@b", &long] {
            assert_eq!(label_problem(good), None, "{good:?}");
        }
        let odd = Some("it holds U+202E, which does not print".into());
        assert_eq!(label_problem("\u{202e}"), odd);
    }

    #[test]
    fn values_in_names_stay_readable_and_apart() {
        let values = [
            "0.1",
            "a b",
            "a,b",
            "*",
            "",
            " a",
            "say \"x\"",
            "a\\b",
            "a\nb",
            "org/model",
            "a=b",
        ];
        let names = values.map(|v| quoted(v).into_owned());
        assert_eq!(names[..4], ["0.1", "a b", "\"a,b\"", "\"*\""]);
        assert_eq!(split(&names.join(",")), names);
        for (value, name) in values.iter().zip(&names) {
            assert_eq!(unquoted(name), *value);
        }
    }

    #[test]
    fn patterns_fit_names() {
        assert!(matches("fit@*,1", "fit@\"a,b\",1"));
        assert!(matches("fit@\"a,b\",*", "fit@\"a,b\",1"));
        assert!(matches("fit@1e-4", "fit@0.0001"));
        assert!(matches("fit@\"x\"", "fit@x"));
        assert!(!matches("fit@\"*\"", "fit@a"));
        assert!(!matches("fit@a", "fit@a,b"));
        assert!(matches("fit", "fit") && !matches("fit", "fit@a"));
    }
}
