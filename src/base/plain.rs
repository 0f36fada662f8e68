//! Text of others made fit for a terminal and for the files we write: a name, a title or a log may
//! hold characters that move the cursor, rename the window or turn the reading order around.

use std::borrow::Cow;

/// Control characters but for line feed and tab, marks that turn the direction of text, and
/// separators that some programs take for a line feed.
pub fn is_odd(c: char) -> bool {
    matches!(c,
        '\u{0}'..='\u{8}' | '\u{b}'..='\u{1f}' | '\u{7f}'..='\u{9f}'
        | '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}' | '\u{fffe}' | '\u{ffff}'
        | '\u{e0000}'..='\u{e007f}')
}

/// The same text with odd characters written out as JSON writes them, so that JSON stays JSON.
pub fn clean(text: &str) -> Cow<'_, str> {
    if !text.contains(is_odd) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_odd(c) {
            true => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    out += &format!("\\u{unit:04x}");
                }
            }
            false => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// The same on one line: what stands in a row of a table must not begin another.
pub fn line(text: &str) -> Cow<'_, str> {
    if !text.contains(['\n', '\t', '\r']) {
        return clean(text);
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    Cow::Owned(clean(&words.join(" ")).into_owned())
}

/// At most so many characters, the end told by `…`.
pub fn cut(text: &str, most: usize) -> Cow<'_, str> {
    match text.char_indices().nth(most) {
        Some((at, _)) => Cow::Owned(format!("{}…", &text[..at])),
        None => Cow::Borrowed(text),
    }
}

/// A program's output without colours and other sequences for a terminal. A carriage return, with
/// which progress bars begin anew, ends the line.
pub fn unstyled(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' => match rest.next() {
                // Parameters, then one letter.
                Some('[') => {
                    while rest
                        .next_if(|c| !('@'..='~').contains(c) && *c != '\n')
                        .is_some()
                    {}
                }
                // A text for the terminal itself, ended by a bell or by ESC \.
                Some(']' | 'P' | '^' | '_' | 'X') => {
                    while rest
                        .next_if(|c| !matches!(c, '\u{7}' | '\u{1b}' | '\n'))
                        .is_some()
                    {}
                    if rest.next_if_eq(&'\u{1b}').is_none() {
                        rest.next_if_eq(&'\u{7}');
                        continue;
                    }
                    rest.next_if_eq(&'\\');
                    continue;
                }
                _ => continue,
            },
            '\r' => {
                if rest.peek() != Some(&'\n') {
                    out.push('\n');
                }
                continue;
            }
            c => {
                out.push(c);
                continue;
            }
        }
        // The letter that ends a sequence with parameters.
        rest.next_if(|c| *c != '\n');
    }
    match clean(&out) {
        Cow::Borrowed(_) => out,
        Cow::Owned(text) => text,
    }
}

/// A word as a shell reads it back, for commands that a person may copy.
pub fn quoted(word: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_alphanumeric() || "-_.,@/:+=%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => Cow::Borrowed(word),
        false => Cow::Owned(format!("'{}'", line(word).replace('\'', "'\\''"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_characters_are_written_out_and_json_stays_json() {
        assert_eq!(clean("plain ß\n\tx"), "plain ß\n\tx");
        assert_eq!(
            clean("a\u{1b}[2J\u{9b}b\u{202e}"),
            "a\\u001b[2J\\u009bb\\u202e"
        );
        let json = clean("\"\u{9b}\u{e0001}\"").into_owned();
        let back: String = serde_json::from_str(&json).expect("JSON");
        assert_eq!(back, "\u{9b}\u{e0001}");
        assert_eq!(line("a\r\n# b\t c"), "a # b c");
        assert_eq!(line("a\u{2028}b"), "a\\u2028b");
    }

    #[test]
    fn a_log_loses_its_colours_and_keeps_its_words() {
        let log = "\u{1b}[31mred\u{1b}[0m\u{1b}]0;owned\u{7} x\r10%\r20%\r\ny\u{1b}]52;c;QQ==\u{1b}\\z\u{8}";
        assert_eq!(unstyled(log), "red x\n10%\n20%\nyz\\u0008");
        assert_eq!(unstyled("\u{1b}[31\nnext"), "\nnext");
        assert_eq!(unstyled("end\u{1b}"), "end");
    }

    #[test]
    fn what_a_person_may_copy_is_one_word() {
        assert_eq!(quoted("glow@cifar10,0.5"), "glow@cifar10,0.5");
        assert_eq!(quoted("a; rm -rf ~"), "'a; rm -rf ~'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
        assert_eq!(cut("äöü", 2), "äö…");
        assert_eq!(cut("äö", 2), "äö");
    }
}
