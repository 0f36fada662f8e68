//! The files that a program says it has read, in the syntax of Makefiles, as make, GCC, Clang,
//! ninja and the compilers of ARM and TI write it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One word of a line.
#[derive(Default)]
struct Word {
    name: Vec<u8>,
    /// As it is written, where that may be the name as well.
    raw: Vec<u8>,
    /// Where a colon without a space behind it may end a target.
    colon: Option<usize>,
}

/// What rules depend on: `target: a b \` and so on. A line without a colon is a list of names.
/// Where a word can be read in two ways both are returned: only one of them will be there.
pub fn parse(bytes: &[u8]) -> Vec<PathBuf> {
    let mut names: Vec<Vec<u8>> = Vec::new();
    let mut rules = false;
    for line in lines(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)) {
        // The recipe of a rule.
        if rules && line.first() == Some(&b'\t') {
            continue;
        }
        let (words, rule) = words(&line);
        rules |= rule;
        for (i, word) in words.into_iter().enumerate() {
            if let (0, false, Some(at)) = (i, rule, word.colon) {
                names.push(word.name[at + 1..].to_vec());
            }
            names.extend([word.raw, word.name]);
        }
    }
    names.retain(|name| !name.is_empty() && name != b"|");
    names.sort();
    names.dedup();
    let paths = names.into_iter().map(OsString::from_vec);
    paths.map(PathBuf::from).collect()
}

/// Lines, with those that a backslash continues joined.
fn lines(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut lines = vec![Vec::new()];
    for line in bytes.split(|b| *b == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let last = lines.len() - 1;
        match line.strip_suffix(b"\\") {
            Some(part) => {
                lines[last].extend_from_slice(part);
                lines[last].push(b' ');
            }
            None => {
                lines[last].extend_from_slice(line);
                lines.push(Vec::new());
            }
        }
    }
    lines
}

/// The words of a line, without the targets if it is a rule.
fn words(line: &[u8]) -> (Vec<Word>, bool) {
    let mut words = Vec::new();
    let mut word = Word::default();
    let mut rule = false;
    let mut at = 0;
    let ends = |at: usize| line.get(at).is_none_or(u8::is_ascii_whitespace);
    while at < line.len() {
        match line[at] {
            b'#' if word.name.is_empty() => break,
            b'"' if word.name.is_empty() && line[at + 1..].contains(&b'"') => {
                let quoted = line[at + 1..]
                    .split(|b| *b == b'"')
                    .next()
                    .unwrap_or_default();
                word.name = dollars(quoted);
                word.raw = quoted.to_vec();
                at += quoted.len() + 2;
                continue;
            }
            b'\\' => {
                let count = line[at..].iter().take_while(|b| **b == b'\\').count();
                at += count;
                let (kept, next) = match line.get(at) {
                    // Half of them stand for backslashes; an odd one makes the space part of the name.
                    Some(space @ (b' ' | b'\t')) if count % 2 == 1 => (count / 2, Some(*space)),
                    Some(b'#') => (count - 1, Some(b'#')),
                    Some(b':') if !ends(at + 1) => (count - 1, Some(b':')),
                    _ => (count, None),
                };
                word.name.extend(std::iter::repeat_n(b'\\', kept));
                if let Some(next) = next {
                    word.name.push(next);
                    at += 1;
                }
                continue;
            }
            b'$' if line.get(at + 1) == Some(&b'$') => {
                word.name.push(b'$');
                at += 1;
            }
            b':' if ends(at + 1) => {
                rule = true;
                words.clear();
                word = Word::default();
            }
            b':' => {
                // `C:\` and `C:/` begin names on other systems.
                let drive = word.name.len() == 1 && matches!(line[at + 1], b'/' | b'\\');
                if !drive && word.colon.is_none() {
                    word.colon = Some(word.name.len());
                }
                word.name.push(b':');
            }
            space if space.is_ascii_whitespace() => words.push(std::mem::take(&mut word)),
            other => word.name.push(other),
        }
        at += 1;
    }
    words.push(word);
    (words, rule)
}

fn dollars(quoted: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(quoted.len());
    let mut rest = quoted;
    while let [first, after @ ..] = rest {
        plain.push(*first);
        rest = match (first, after) {
            (b'$', [b'$', left @ ..]) => left,
            _ => after,
        };
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[track_caller]
    fn holds(text: &[u8], names: &[&str]) {
        let found = parse(text);
        let found: Vec<_> = found
            .iter()
            .map(|p| p.to_string_lossy().into_owned())
            .collect();
        let mut names = names.to_vec();
        names.sort_unstable();
        assert_eq!(found, names, "{}", text.escape_ascii());
    }

    #[test]
    fn rules_of_make_and_compilers() {
        holds(
            b"out.o: a.c \\\n b.h dir/c\\ d.h\n",
            &["a.c", "b.h", "dir/c d.h"],
        );
        holds(b"out.o: a.c \\\r\n b.h\r\n", &["a.c", "b.h"]);
        holds(b"out.o : a.c\tb.h", &["a.c", "b.h"]);
        holds(b"out.o out.d &: a.c", &["a.c"]);
        holds(b"out.o:: a.c | folder", &["a.c", "folder"]);
        holds(b"a.o: a.c\nb.o: b.c\n\na.c:\nb.c:\n", &["a.c", "b.c"]);
        holds(b"a.o: a.c\n\tcc -c a.c -o a.o\n", &["a.c"]);
        holds(b"# made by cc\na.o: a.c # the last\n", &["a.c"]);
        holds(b"\xef\xbb\xbfa.o: a.c \\", &["a.c"]);
        holds(b"a.o: \\\n\\\n  a.c\n", &["a.c"]);
        holds(b"header.h:\n", &[]);
        holds(b"", &[]);
    }

    #[test]
    fn signs_as_gcc_and_ninja_escape_them() {
        holds(
            b"x: do$$lar.csv ha\\#sh.csv co\\:lon.csv",
            &["co:lon.csv", "do$lar.csv", "ha#sh.csv"],
        );
        holds(b"x: a\\ \\ b c\\\\ d", &["a  b", "c\\\\", "d"]);
        holds(b"x: a\\\\\\ b", &["a\\ b"]);
        holds(
            b"x: back\\slash a[1]{2}*?~'.c",
            &["a[1]{2}*?~'.c", "back\\slash"],
        );
        holds(b"x: $(VAR) a$b", &["$(VAR)", "a$b"]);
    }

    #[test]
    fn names_in_quotes_and_with_drives() {
        holds(b"out: \"d ir/b c.csv\" e", &["d ir/b c.csv", "e"]);
        holds(b"\"out file.o\": \"a b.c\"\r\n", &["a b.c"]);
        holds(
            b"c:\\x\\out.o: c:\\x\\a.c D:/b.h",
            &["D:/b.h", "c:\\x\\a.c"],
        );
        holds(b"c:/x/out.o: a.c", &["a.c"]);
    }

    #[test]
    fn lists_of_names_and_bytes() {
        holds(b"a.csv\nb.csv\n", &["a.csv", "b.csv"]);
        holds(b"a.o:a.c b.c", &["a.c", "a.o:a.c", "b.c"]);
        holds(b"x: run:1/a.csv", &["run:1/a.csv"]);
        let found = parse(b"x: caf\xe9.csv");
        assert_eq!(found[0].as_os_str().as_bytes(), b"caf\xe9.csv");
    }
}
