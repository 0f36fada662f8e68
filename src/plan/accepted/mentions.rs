//! Files that a text of code may bring in: what an accepted change imports anew must count from then
//! on, and there is no run that would show it. Too many are harmless, too few are not.

use std::collections::BTreeSet;

/// Paths, relative to the project, that the text of `file` may name: words and parts of dotted names,
/// seen from the project's folder, from the file's own, and from `folders`. They need not exist.
pub fn mentioned(file: &str, text: &str, folders: &[String]) -> BTreeSet<String> {
    let own = file.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut bases = vec!["".to_owned(), own.to_owned()];
    bases.extend(folders.iter().cloned());
    let mut found = BTreeSet::new();
    for word in words(text) {
        let dots = word.len() - word.trim_start_matches('.').len();
        let plain = &word[dots..];
        // `.x` and `..x` of Python climb from the file's folder.
        if dots > 0 && !plain.starts_with('/') {
            let mut folder = own;
            for _ in 1..dots {
                folder = folder.rsplit_once('/').map_or("", |(above, _)| above);
            }
            forms(folder, plain, &mut found);
        }
        for base in &bases {
            forms(base, &word, &mut found);
        }
    }
    found
}

/// Words, and for `from a import b, c` also `a.b` and `a.c`.
fn words(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_alphanumeric() || "_./-".contains(c);
    let mut words = BTreeSet::new();
    // An import may go on over lines within parentheses.
    let joined = text.replace("\\\n", " ");
    let mut module: Option<(String, bool)> = None;
    for line in joined.lines() {
        let line = line.split('#').next().unwrap_or(line);
        let found: Vec<&str> = line
            .split(|c| !is_part(c))
            .filter(|w| !w.is_empty())
            .collect();
        words.extend(
            found
                .iter()
                .filter(|w| w.len() < 200)
                .map(|w| (*w).to_owned()),
        );
        if let Some((_, false)) = module {
            module = None;
        }
        let mut names = &found[..];
        if let ["from", from, "import", rest @ ..] = names {
            module = Some(((*from).to_owned(), line.contains('(')));
            names = rest;
        }
        if let Some((from, open)) = &mut module {
            let dot = if from.ends_with('.') { "" } else { "." };
            words.extend(names.iter().map(|name| format!("{from}{dot}{name}")));
            *open &= !line.contains(')');
        }
    }
    words
}

fn forms(base: &str, word: &str, found: &mut BTreeSet<String>) {
    let mut add = |path: String| {
        if let Some(path) = normal(base, &path) {
            found.insert(path);
        }
    };
    add(word.to_owned());
    if !word.contains('/') {
        let path = word.trim_matches('.').replace('.', "/");
        let mut part = path.as_str();
        while !part.is_empty() {
            add(format!("{part}.py"));
            add(format!("{part}/__init__.py"));
            part = part.rsplit_once('/').map_or("", |(above, _)| above);
        }
    }
}

/// The path without `.` and `..`; nothing if it leads out of the project.
fn normal(base: &str, path: &str) -> Option<String> {
    if path.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_and_words_name_files() {
        let names = |file: &str, text: &str, path: &str| {
            mentioned(file, text, &["lib".into()]).contains(path)
        };
        assert!(names("train.py", "import more", "more.py"));
        assert!(names("train.py", "import more", "lib/more.py"));
        assert!(names("pkg/a.py", "from . import more", "pkg/more.py"));
        assert!(names("pkg/sub/a.py", "from ..more import x", "pkg/more.py"));
        assert!(names(
            "a.py",
            "from pkg import (\n    one,\n    two,\n)\n",
            "pkg/two.py"
        ));
        assert!(names("a.py", "import pkg.deep.m as m", "pkg/deep/m.py"));
        assert!(names("a.py", "import pkg.deep.m", "pkg/__init__.py"));
        assert!(names(
            "s/run.sh",
            ". ./env.sh; sh ../tools/go.sh",
            "s/env.sh"
        ));
        assert!(names("s/run.sh", "sh ../tools/go.sh", "tools/go.sh"));
        assert!(names("a.R", "source('R/helpers.R')", "R/helpers.R"));
        assert!(!names("a.py", "import more", "most.py"));
        assert!(!names("a.py", "x = '/etc/passwd'", "etc/passwd"));
    }
}
