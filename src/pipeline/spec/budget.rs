//! How much a pipeline may come to: a few lines can ask for a billion instances, and parameters that
//! contain other stages' twice over double with every step. Each limit is far above what people write.

use crate::base::diag::{Diagnostic, Source};

/// Instances of all stages.
pub const INSTANCES: usize = 100_000;
/// Values and bytes of text, over all instances.
pub const VALUES: usize = 10_000_000;
/// Tables in tables, lists in lists, keys with dots, stages whose parameters contain another's.
pub const DEPTH: usize = 64;
/// Inputs over all instances, and names that may be compared to find them.
pub const INPUTS: usize = 2_000_000;
pub const LOOKS: usize = 20_000_000;

/// What may still be used of [`VALUES`].
pub struct Budget(usize);

impl Default for Budget {
    fn default() -> Self {
        Self(VALUES)
    }
}

impl Budget {
    /// False if more has been asked for than there is.
    pub fn take(&mut self, amount: usize) -> bool {
        self.0 = self.0.saturating_sub(amount);
        self.0 > 0
    }
}

/// Fails at the first place that lies too deep. The parser itself would need as much stack as there
/// are levels, so this looks at the text: keys with dots count, and open brackets.
pub fn check_depth(source: &Source) -> Result<(), Diagnostic> {
    let text = source.text().as_bytes();
    let (mut open, mut dots) = (0_usize, 0_usize);
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b'#' => {
                at += text[at..]
                    .iter()
                    .position(|b| *b == b'\n')
                    .unwrap_or(text.len() - at)
            }
            quote @ (b'"' | b'\'') => {
                at = end_of_string(text, at, quote);
                continue;
            }
            b'[' | b'{' => (open, dots) = (open + 1, 0),
            b']' | b'}' => (open, dots) = (open.saturating_sub(1), 0),
            b'=' | b',' | b'\n' => dots = 0,
            b'.' => dots += 1,
            _ => {}
        }
        if open + dots > DEPTH {
            let message = format!("this lies more than {DEPTH} levels deep, the limit");
            return Err(source.error(&(at..at + 1), message));
        }
        at += 1;
    }
    Ok(())
}

/// After the closing quotes, or where a line ends without them.
fn end_of_string(text: &[u8], start: usize, quote: u8) -> usize {
    let triple = text[start..].starts_with(&[quote; 3]);
    let mut at = start + if triple { 3 } else { 1 };
    while at < text.len() {
        match text[at] {
            b'\\' if quote == b'"' => at += 2,
            b'\n' if !triple => return at,
            b if b == quote && !triple => return at + 1,
            b if b == quote && text[at..].starts_with(&[quote; 3]) => return at + 3,
            _ => at += 1,
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn depth(text: &str) -> Result<(), String> {
        check_depth(&Source::new("p", text.into())).map_err(|e| e.to_string())
    }

    #[test]
    fn what_lies_deep_is_found_before_it_is_parsed() {
        let too_deep = "this lies more than 64 levels deep, the limit";
        for text in [
            format!("a = {}", "[".repeat(200_000)),
            format!("a{} = 1", ".a".repeat(200_000)),
            format!("[a{}]", ".a".repeat(200_000)),
            format!("a = {}", "{ b = ".repeat(100_000)),
            format!("# x\n'it\"' = \"]]\" \nb{} = 1", ".\"x\"".repeat(100)),
        ] {
            assert!(
                depth(&text).is_err_and(|e| e.contains(too_deep)),
                "{}",
                &text[..20]
            );
        }
        assert_eq!(
            depth(&format!("a = {}{}", "[".repeat(60), "]".repeat(60))),
            Ok(())
        );
    }

    #[test]
    fn dots_and_brackets_in_texts_and_numbers_do_not_count() {
        let dots = ".".repeat(300);
        let open = "[".repeat(300);
        for text in [
            format!("a = \"{dots}{open}\"\nb = '{open}'\n# {open}"),
            format!("a = \"\"\"\n{open}\"\n\\\"\"\"\"\nb = '''{open}\n'{open}'''"),
            format!("a = [{}]", "1.5, ".repeat(300)),
            "a = 1.5\n".repeat(300),
            format!("a = \"{open}\\\\\" # \"{open}"),
        ] {
            assert_eq!(depth(&text), Ok(()), "{}", &text[..20]);
        }
    }
}
