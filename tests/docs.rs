//! The documents tell the truth: each command in them runs, and says what they print.

mod common;

use common::{Space, installed};

/// Runs the `console` blocks of a document one after the other. `…` stands for anything, a line of
/// it for any number of lines; `[exit N]` ends a command that fails.
fn follow(document: &str) {
    if installed("python3", document).is_none() {
        return;
    }
    let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let space = Space::new("");
    for file in std::fs::read_dir(docs.join("own-paper"))
        .unwrap()
        .map(Result::unwrap)
    {
        if file.file_type().unwrap().is_file() {
            std::fs::copy(file.path(), space.path(&file.file_name().to_string_lossy())).unwrap();
        }
    }
    let text = std::fs::read_to_string(docs.join(document)).unwrap();
    let mut commands = 0;
    for block in text.split("```console\n").skip(1) {
        let block = block.split("```").next().unwrap();
        for command in block.split("$ ").skip(1) {
            let (line, expected) = command.split_once('\n').unwrap();
            let code = expected
                .lines()
                .find_map(|l| l.strip_prefix("[exit ")?.strip_suffix(']'));
            let said = space
                .shell(line)
                .ends(code.map_or(0, |c| c.parse().unwrap()));
            let (out, err) = (said.out, said.err);
            let printed: Vec<&str> = out.lines().chain(err.lines()).map(str::trim_end).collect();
            let mut at = 0;
            for wanted in expected.lines().map(str::trim_end) {
                if ["", "…"].contains(&wanted) || wanted.starts_with("[exit ") {
                    continue;
                }
                let found = printed[at..].iter().position(|line| fits(wanted, line));
                let Some(found) = found else {
                    panic!("{document}: after `{line}` nothing says\n{wanted}\nin\n{out}{err}");
                };
                at += found + 1;
            }
            commands += 1;
        }
    }
    assert!(commands > 3, "{document} shows {commands} commands");
}

/// True if the line is the wanted one, its `…` standing for anything.
fn fits(wanted: &str, line: &str) -> bool {
    let parts: Vec<&str> = wanted.split('…').collect();
    let (first, last) = (parts[0], parts[parts.len() - 1]);
    if parts.len() == 1 {
        return line == wanted;
    }
    line.starts_with(first) && line.ends_with(last) && parts.iter().all(|part| line.contains(part))
}

#[test]
fn the_tutorial() {
    follow("tutorial.md");
}

#[test]
fn declaring_your_own_paper() {
    follow("your-own-paper.md");
}

#[test]
fn the_reference_of_kinds_is_what_the_binary_says() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/kinds.md");
    let said = Space::new("").repro("kinds").ends(0).out;
    let text = format!("# Kinds\n\n{KINDS}\n{said}");
    if std::env::var_os("REPRO_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert!(
        std::fs::read_to_string(&path).unwrap_or_default() == text,
        "docs/kinds.md is out of date: REPRO_BLESS=1 cargo test --release --test docs"
    );
}

const KINDS: &str = "\
What a stage of each kind reads, makes and takes as parameters. `repro kinds` prints this page, and
a test keeps it true. Beside these there is `command`, any program: see [pipeline.md](pipeline.md).
";
