//! What a run was found to read, in groups that a person can take in.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::base::human;
use crate::base::plain;
use crate::store::observed::{Read, What, is_code};
use crate::store::record::Seen;

/// Names shown of a group.
const SHOWN: usize = 3;

/// One line a group; with `all`, a line for each read.
pub fn text(reads: &[Read], seen: Option<&Seen>, all: bool) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string cannot fail. Names of files are anything.
        let _ = writeln!(text, "{name:<10}{}", plain::line(&value));
    };
    if all {
        for read in reads {
            let (key, _) = read.line();
            let names = match (read.what, &read.names[..]) {
                (_, []) => String::new(),
                (What::Imports, names) => format!(" for {}", names.join(" ")),
                (_, names) => format!(" but its own {}", names.join(" ")),
            };
            let (what, path) = key.split_once('.').unwrap_or((&key, ""));
            let path = if path.is_empty() { "." } else { path };
            line("read", format!("{what} {path} {}{names}", read.digest));
        }
    } else {
        groups(reads, &mut line);
    }
    let Some(seen) = seen else { return text };
    if !seen.packages.is_empty() {
        let packages = seen
            .packages
            .iter()
            .map(|(name, version)| format!("{name} {version}"));
        let count = human::count(seen.packages.len(), "package");
        line("environment", format!(" {count}: {}", first(packages, all)));
    }
    if !seen.outside.is_empty() {
        let files = human::count(seen.outside.values().sum(), "file");
        let folders = first(seen.outside.keys().cloned(), all);
        line("outside", format!("{files} in {folders}, not counted"));
    }
    if !seen.wrote.is_empty() {
        let files = human::count(seen.wrote.len(), "file");
        let names = first(seen.wrote.iter().cloned(), all);
        let are = if seen.wrote.len() == 1 {
            "that is no output"
        } else {
            "that are no outputs"
        };
        line("wrote", format!("{files} {are}: {names}"));
    }
    if !seen.results.is_empty() {
        let names = first(seen.results.iter().cloned(), all);
        line(
            "results",
            format!("{names}, which are no inputs and do not count"),
        );
    }
    if seen.ignored > 0 {
        let files = human::count(seen.ignored, "file");
        line("ignored", format!("{files} that `ignore` takes out"));
    }
    if !seen.network.is_empty() {
        line("network", first(seen.network.iter().cloned(), all));
    }
    if seen.gpu {
        line("gpu", "it opened one".into());
    }
    if seen.apart {
        line(
            "container",
            "part of it ran in one, where its reads are not seen".into(),
        );
    }
    if seen.lost > 0 {
        let calls = human::count(seen.lost, "call");
        line("lost", format!("what {calls} read could not be seen"));
    }
    if !seen.observed {
        let sentence = "what it read was not watched: only what is declared or reported counts";
        line("watched", format!("no: {sentence}"));
    }
    text
}

fn groups(reads: &[Read], line: &mut impl FnMut(&str, String)) {
    let of = |what: What| reads.iter().filter(move |read| read.what == what);
    let (code, data): (Vec<&Read>, Vec<&Read>) =
        of(What::Content).partition(|read| is_code(&read.path));
    if !code.is_empty() {
        let names = first(code.iter().map(|read| read.path.clone()), false);
        line(
            "code",
            format!("{}: {names}", human::count(code.len(), "file")),
        );
    }
    let mut folders: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for read in &data {
        let (folder, name) = read.path.rsplit_once('/').unwrap_or(("", &read.path));
        folders.entry(folder).or_default().push(name);
    }
    if !folders.is_empty() {
        let told = folders
            .iter()
            .map(|(folder, names)| match (*folder, &names[..]) {
                ("", [name]) => (*name).to_owned(),
                (folder, [name]) => format!("{folder}/{name}"),
                ("", names) => format!("{} here", human::count(names.len(), "file")),
                (folder, names) => format!("{} in {folder}/", human::count(names.len(), "file")),
            });
        line("data", first(told, false));
    }
    let listed = of(What::Names).map(|read| match read.path.as_str() {
        "" => "the project's folder".to_owned(),
        path => format!("{path}/"),
    });
    let listed: Vec<String> = listed.collect();
    if !listed.is_empty() {
        line("listed", first(listed.into_iter(), false));
    }
    let absent: Vec<String> = of(What::Absent).map(|read| read.path.clone()).collect();
    if !absent.is_empty() {
        line(
            "missing",
            format!(
                "{} (counts if it appears)",
                first(absent.into_iter(), false)
            ),
        );
    }
    let there: Vec<String> = of(What::There).map(|read| read.path.clone()).collect();
    if !there.is_empty() {
        line(
            "asked for",
            format!("{} (counts if it goes)", first(there.into_iter(), false)),
        );
    }
    let links: Vec<String> = of(What::Link).map(|read| read.path.clone()).collect();
    if !links.is_empty() {
        line("links", first(links.into_iter(), false));
    }
}

/// `a, b, c and 4 more`.
fn first(names: impl Iterator<Item = String>, all: bool) -> String {
    let names: Vec<String> = names.collect();
    let shown = if all { names.len() } else { SHOWN };
    match names.len().checked_sub(shown) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..shown].join(", ")),
    }
}
