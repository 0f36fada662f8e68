//! Names of instances: `glow@cifar10,0`. A value that could be taken for something else, such as one
//! with a comma, stands in quotes: `fit@"a,b",0`.

use std::borrow::Cow;

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
