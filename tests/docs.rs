//! The documents tell the truth: each command in them runs, and says what they print.

mod common;

use clap::Parser;
use clap::error::ErrorKind;
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
    let commands = commands(&text);
    assert!(commands.len() > 3, "{document} shows {commands:?}");
    for (line, expected) in commands {
        let code = expected
            .lines()
            .find_map(|l| l.strip_prefix("[exit ")?.strip_suffix(']'));
        let said = space
            .shell(&line)
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
    }
}

/// The commands of the `console` blocks of a page, without their comments, and what stands below
/// each.
fn commands(page: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for block in page.split("```console\n").skip(1) {
        let block = block.split("```").next().unwrap();
        for command in block.split("$ ").skip(1) {
            let (line, expected) = command.split_once('\n').unwrap();
            let line = line.split(" # ").next().unwrap().trim();
            found.push((line.to_owned(), expected.to_owned()));
        }
    }
    found
}

/// README.md and docs/*.md: their names and texts.
fn pages() -> Vec<(String, String)> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = std::fs::read_dir(root.join("docs"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    docs.chain([root.join("README.md")])
        .filter(|path| path.extension().is_some_and(|e| e == "md"))
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect()
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

#[cfg(feature = "kinds")]
#[test]
fn the_change_that_the_readme_suggests() {
    let space = Space::new(include_str!("../pipeline.toml"));
    let readme = include_str!("../README.md");
    let change = commands(readme)
        .into_iter()
        .find(|(line, _)| line.contains("--set"));
    let change = change.unwrap().0;
    let change = change.strip_prefix("cargo run --release -- ").unwrap();
    let (before, set) = change.split_once(" --set ").unwrap();
    // As the README has it, but for one epoch instead of many and one stage instead of all.
    let brief = "--set vae.train.epochs=1 --stage vae@cifar10";
    space.repro(&format!("{before} {brief}")).ends(0);
    let said = space
        .repro(&format!("{before} {brief} --set {set}"))
        .ends(0);
    let why = (said.out.lines()).find_map(|line| line.split_once("params.train.optim.lr: "));
    let why = format!("`params.train.optim.lr: {}`", why.unwrap().1.trim());
    assert!(readme.contains(&why), "the README does not say {why}");
}

/// What the tests do not follow, because it is long or fetches gigabytes, is run by the scripts.
#[test]
fn every_command_shown_is_run_somewhere() {
    let followed = ["tutorial.md", "your-own-paper.md"];
    let scripts = [include_str!("../.ci/run"), include_str!("../.ci/weekly")].concat();
    for (name, text) in pages() {
        for (line, _) in commands(&text) {
            let run = followed.contains(&name.as_str())
                || scripts.lines().any(|l| l.trim() == line)
                || line.contains("--set"); // the test above
            assert!(run, "{name} shows `{line}`, which nothing runs");
        }
    }
}

#[test]
fn every_command_named_exists_with_its_options() {
    let mut count = 0;
    for (name, text) in pages() {
        let code = text.split('`').skip(1).step_by(2);
        for line in code.filter(|c| c.starts_with("repro ") && !c.contains('\n')) {
            let words = line.replace('\\', "").replace(" …", " because");
            match repro::cmd::Cli::try_parse_from(words.split_whitespace()) {
                Ok(_) => {}
                // Named, not shown with all it takes.
                Err(e) if e.kind() == ErrorKind::MissingRequiredArgument => {}
                Err(e) => panic!("{name}: `{line}`: {e}"),
            }
            count += 1;
        }
    }
    assert!(count > 20, "{count} commands");
}

#[cfg(feature = "kinds")]
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

#[cfg(feature = "kinds")]
const KINDS: &str = "\
What a stage of each kind reads, makes and takes as parameters. `repro kinds` prints this page, and
a test keeps it true. Beside these there is `command`, any program: see [pipeline.md](pipeline.md).
";
