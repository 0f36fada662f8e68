//! The last lines of a log, fit to be shown.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

const LINES: usize = 5;

/// Characters of a line that are shown, its end rather than its beginning.
const WIDTH: usize = 400;

/// Bytes of the log that are looked at, however long it is.
const END: u64 = 64 << 10;

pub fn last_lines(log: &Path) -> Vec<String> {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(END)))?;
        let mut end = Vec::new();
        file.take(END).read_to_end(&mut end)?;
        Ok(end)
    };
    let end = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&end);
    let lines = text.lines().map(shown).filter(|line| !line.is_empty());
    let lines: Vec<String> = lines.collect();
    lines[lines.len().saturating_sub(LINES)..].to_vec()
}

/// A line as it would stand on a terminal, without what would do more there than stand: after a
/// carriage return only what was written last.
fn shown(line: &str) -> String {
    let line = line.trim_end_matches('\r');
    let line = line.rsplit('\r').next().unwrap_or(line);
    let mut text = String::new();
    let mut rest = line.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\x1b' => skip_sequence(&mut rest),
            '\t' => text.push(' '),
            c if c.is_control() => {}
            // These turn the direction in which a line is read.
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {}
            c => text.push(c),
        }
    }
    let text = text.trim_end();
    match text.char_indices().rev().nth(WIDTH - 1) {
        Some((at, _)) if at > 0 => format!("…{}", &text[at..]),
        _ => text.into(),
    }
}

/// What follows an escape: `[` up to a letter, or a text such as a window's title up to a bell.
fn skip_sequence(rest: &mut std::iter::Peekable<std::str::Chars>) {
    match rest.next() {
        Some('[') => {
            rest.find(|c| ('@'..='~').contains(c));
        }
        Some(']' | 'P' | '_' | '^' | 'X') => {
            let end = rest.find(|c| *c == '\x07' || *c == '\x1b');
            if end == Some('\x1b') {
                rest.next_if_eq(&'\\');
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_does_nothing_to_the_terminal() {
        assert_eq!(
            shown("\x1b[2J\x1b]0;title\x07\x1b[31mred\x1b[0m\u{202e}"),
            "red"
        );
        assert_eq!(shown("\x1b]0;title\x1b\\a\tb\x08\u{9b}"), "a b");
        assert_eq!(shown(" 10%\r 20%\r"), " 20%");
        assert_eq!(shown("\x1b["), "");
    }

    #[test]
    fn the_end_of_a_long_line_is_shown() {
        let line = "é".repeat(10_000) + "end";
        let line = shown(&line);
        assert_eq!(line.chars().count(), WIDTH + 1);
        assert!(line.starts_with('…') && line.ends_with("end"));
    }

    #[test]
    fn a_log_of_any_length_has_five_last_lines() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let log = dir.path().join("log");
        std::fs::write(&log, "x\n".repeat(100_000) + "\n1\n2\n\n3\n4\n5\n")?;
        assert_eq!(last_lines(&log), ["1", "2", "3", "4", "5"]);
        assert_eq!(last_lines(&dir.path().join("none")), [""; 0]);
        Ok(())
    }
}
