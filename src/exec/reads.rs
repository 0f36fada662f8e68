//! Files that a program itself says it has read, in a depfile.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result};

/// A text, if it is there.
pub fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// The prerequisites in a Makefile's syntax: `target: a b \` and so on; `\ ` is a space in a name.
/// A text without a colon is a list of names.
pub fn parse_depfile(text: &str) -> Vec<String> {
    let joined = text.replace("\\\r\n", " ").replace("\\\n", " ");
    let mut names = Vec::new();
    for line in joined.lines() {
        let rest = match line.find(": ") {
            Some(at) => &line[at + 2..],
            None => line.strip_suffix(':').map_or(line, |_| ""),
        };
        let mut name = String::new();
        let mut escaped = false;
        for c in rest.chars().chain([' ']) {
            match c {
                '\\' if !escaped => escaped = true,
                c if c.is_whitespace() && !escaped => {
                    if !name.is_empty() {
                        names.push(std::mem::take(&mut name));
                    }
                }
                c => {
                    if escaped && !c.is_whitespace() && c != '\\' && c != '#' {
                        name.push('\\');
                    }
                    escaped = false;
                    name.push(c);
                }
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depfiles_as_compilers_write_them() {
        assert_eq!(
            parse_depfile("out.o: a.c \\\n b.h dir/c\\ d.h\n"),
            ["a.c", "b.h", "dir/c d.h"]
        );
        assert_eq!(parse_depfile("a.csv\nb.csv\n"), ["a.csv", "b.csv"]);
        assert_eq!(parse_depfile("header.h:\n"), Vec::<String>::new());
    }
}
