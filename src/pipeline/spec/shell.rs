//! Where in a line of shell something stands, and how a value is written there so that the
//! program sees just that value.

use std::ops::Range;

/// What surrounds a place in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context {
    /// Outside of quotes.
    Bare,
    /// Between `"` and `"`.
    Double,
    /// Between `'` and `'`.
    Single,
    /// Between `$'` and `'`.
    Ansi,
    /// In a here-document, with or without what a shell fills in.
    Here {
        expanded: bool,
    },
    Comment,
}

/// The context of each of these ranges, which stand from left to right and are passed over.
pub fn contexts(line: &str, ranges: &[Range<usize>]) -> Vec<Context> {
    let mut scan = Scan {
        bytes: line.as_bytes(),
        at: 0,
        ranges,
        found: Vec::with_capacity(ranges.len()),
        open: Vec::new(),
        here: Vec::new(),
    };
    scan.run();
    // What the scan has lost its way before.
    scan.found.resize(ranges.len(), Context::Bare);
    scan.found
}

/// A value for a place in such a context.
pub fn quote(value: &[u8], context: Context) -> Vec<u8> {
    let escape = |signs: &[u8]| {
        let mut text = Vec::with_capacity(value.len() + 2);
        for byte in value {
            if signs.contains(byte) {
                text.push(b'\\');
            }
            text.push(*byte);
        }
        text
    };
    match context {
        Context::Bare if is_plain(value) => value.to_vec(),
        Context::Bare => [b"'", &single(value)[..], b"'"].concat(),
        Context::Double => escape(b"\\\"$`"),
        Context::Single => single(value),
        Context::Ansi => escape(b"\\'"),
        Context::Here { expanded: true } => escape(b"\\$`"),
        Context::Here { expanded: false } => value.to_vec(),
        Context::Comment => value.split(|b| *b == b'\n').collect::<Vec<_>>().join(&b' '),
    }
}

/// True if no shell sees more in it than a word.
fn is_plain(value: &[u8]) -> bool {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"@%+=:,./_-".contains(b);
    !value.is_empty() && value.iter().all(plain)
}

fn single(value: &[u8]) -> Vec<u8> {
    value
        .split(|b| *b == b'\'')
        .collect::<Vec<_>>()
        .join(&b"'\\''"[..])
}

/// What is open at a place.
#[derive(Clone, Copy, PartialEq)]
enum Open {
    Double,
    Single,
    Ansi,
    Paren,
    Backtick,
}

struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
    ranges: &'a [Range<usize>],
    found: Vec<Context>,
    open: Vec<Open>,
    /// Here-documents whose text begins on the next line: the word that ends it, whether tabs before that are
    /// passed over, whether a shell fills anything in.
    here: Vec<(Vec<u8>, bool, bool)>,
}

impl Scan<'_> {
    fn run(&mut self) {
        while self.at < self.bytes.len() {
            let context = match self.open.last() {
                Some(Open::Double) => Context::Double,
                Some(Open::Single) => Context::Single,
                Some(Open::Ansi) => Context::Ansi,
                Some(Open::Paren | Open::Backtick) | None => Context::Bare,
            };
            if self.passes(context) {
                continue;
            }
            self.step(context);
        }
    }

    /// Notes a range that begins here and goes behind it.
    fn passes(&mut self, context: Context) -> bool {
        let range = self.ranges.get(self.found.len());
        let begins = range.filter(|r| r.start <= self.at).cloned();
        if let Some(range) = &begins {
            self.found.push(context);
            self.at = range.end.max(self.at);
        }
        begins.is_some()
    }

    fn step(&mut self, context: Context) {
        let byte = self.bytes[self.at];
        let before = self.at.checked_sub(1).map(|i| self.bytes[i]);
        let after = self.bytes.get(self.at + 1).copied();
        self.at += 1;
        match (context, byte) {
            (Context::Single, b'\'') | (Context::Ansi, b'\'') | (Context::Double, b'"') => {
                self.open.pop();
            }
            (Context::Single, _) => {}
            (_, b'\\') => self.skip(),
            (Context::Ansi, _) => {}
            (_, b'`') => match self.open.last() {
                Some(Open::Backtick) => {
                    self.open.pop();
                }
                _ => self.open.push(Open::Backtick),
            },
            (_, b'$') if after == Some(b'(') => {
                self.at += 1;
                self.open.push(Open::Paren);
            }
            (Context::Double, _) => {}
            (_, b'"') => self.open.push(Open::Double),
            (_, b'\'') if before == Some(b'$') => self.open.push(Open::Ansi),
            (_, b'\'') => self.open.push(Open::Single),
            (_, b'(') => self.open.push(Open::Paren),
            (_, b')') if self.open.last() == Some(&Open::Paren) => {
                self.open.pop();
            }
            (_, b'#') if before.is_none_or(|b| b.is_ascii_whitespace() || b";&|(".contains(&b)) => {
                while self.at < self.bytes.len() && self.bytes[self.at] != b'\n' {
                    if !self.passes(Context::Comment) {
                        self.at += 1;
                    }
                }
            }
            (_, b'<') if after == Some(b'<') => self.announce(),
            (_, b'\n') => self.documents(),
            _ => {}
        }
    }

    /// Passes over what a backslash takes its meaning from, unless a range begins there.
    fn skip(&mut self) {
        let range = self.ranges.get(self.found.len());
        if range.is_none_or(|r| r.start > self.at) {
            self.at += 1;
        }
    }

    /// `<<EOF`, `<<-EOF`, `<<'EOF'`; but `<<<` is something else.
    fn announce(&mut self) {
        self.at += 1;
        if self.bytes.get(self.at) == Some(&b'<') {
            self.at += 1;
            return;
        }
        let tabs = self.bytes.get(self.at) == Some(&b'-');
        self.at += usize::from(tabs);
        while self.bytes.get(self.at) == Some(&b' ') {
            self.at += 1;
        }
        let rest = &self.bytes[self.at..];
        let ends = |b: &u8| b.is_ascii_whitespace() || b";&|<>()".contains(b);
        let word = &rest[..rest.iter().position(ends).unwrap_or(rest.len())];
        let quotes = |b: &u8| b"'\"\\".contains(b);
        let expanded = !word.iter().any(quotes);
        let word: Vec<u8> = word.iter().copied().filter(|b| !quotes(b)).collect();
        // `1 << 2` in arithmetic is no here-document.
        if word.first().is_some_and(|b| !b.is_ascii_digit()) {
            self.here.push((word, tabs, expanded));
        }
    }

    /// The texts of the here-documents that the line before has announced.
    fn documents(&mut self) {
        for (word, tabs, expanded) in std::mem::take(&mut self.here) {
            while self.at < self.bytes.len() {
                let rest = &self.bytes[self.at..];
                let len = rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
                let end = self.at + len;
                let mut line = &rest[..len];
                while let (true, Some((b'\t', after))) = (tabs, line.split_first()) {
                    line = after;
                }
                let last = line == word;
                while self.at < end {
                    if !self.passes(Context::Here { expanded }) {
                        self.at += 1;
                    }
                }
                self.at += 1;
                if last {
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::braces;
    use super::*;

    const SIGNS: &[u8] = b"it's \"a\" $HOME `id` \\ {x}\n#;";

    /// The line with `{x}` filled.
    fn filled(line: &str, value: &[u8]) -> Vec<u8> {
        let holes = braces::holes(line);
        let ranges: Vec<_> = holes.iter().map(|h| h.range.clone()).collect();
        let mut contexts = contexts(line, &ranges).into_iter();
        braces::replace(line, |_| Some(quote(value, contexts.next()?)))
    }

    #[test]
    fn a_shell_sees_the_value_wherever_it_stands() {
        for line in [
            "printf %s {x}",
            "printf %s \"{x}\"",
            "printf %s '{x}'",
            "printf %s ''{x}\"\"",
            "printf %s \"$(printf %s {x})\"",
            "printf %s \"$(printf %s \"{x}\")\"",
            "printf %s \"it's ${none:-}\"'\"'{x} | tail -c +7",
            "# don't {x}\nprintf %s {x}",
            "echo $# >/dev/null; printf %s {x} # {x}'",
            "printf %s \\'\\\"\"{x}\" | tail -c +3",
            "if true; then (printf %s {x}); fi",
            "cat <<EOF | head -c -1\n{x}\nEOF",
            "cat <<'E' | head -c -1\n{x}\nE\nprintf %s '' {x} >/dev/null",
            "cat <<-E | head -c -1\n{x}\n\tE\n",
            "cat <<<'' >/dev/null; printf %s {x}",
            "x=$((1 << 2)); printf %s {x}",
        ] {
            let sh = match line.contains("<<<") {
                true => "bash",
                false => "sh",
            };
            let script = std::str::from_utf8(&filled(line, SIGNS)).map(str::to_owned);
            let script = script.expect("it is text");
            let output = std::process::Command::new(sh)
                .args(["-c", &script])
                .output();
            let Ok(output) = output else { continue };
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(
                said.as_bytes().starts_with(SIGNS),
                "{line}\n{script}\n{said}"
            );
        }
    }

    #[test]
    fn plain_values_stay_as_they_are() {
        assert_eq!(
            filled("a {x} \"{x}\"", b"/a/b-1.0"),
            b"a /a/b-1.0 \"/a/b-1.0\""
        );
        assert_eq!(filled("$(({x} + 1))", b"3"), b"$((3 + 1))");
        assert_eq!(filled("echo {x}", b""), b"echo ''");
    }
}
