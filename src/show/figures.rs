//! Figures as they are now: pictures of stages, and the graph drawn.

use std::collections::HashSet;
use std::path::PathBuf;

use crate::base::digest::Digest;
use crate::pipeline::graph::Id;
use crate::plan::{Planner, Verdict};
use crate::show::svg::{self, Drawing, Node, State};

/// A picture as it is now.
pub enum Picture {
    File(PathBuf),
    Stale(String),
    NotRun,
}

/// What the store has of an output.
pub fn picture(planner: &Planner, id: Id, output: usize) -> Picture {
    match planner.verdict(id) {
        Some(Verdict::Fresh(fp)) => match planner.made(id, output) {
            Some(made) => Picture::File(planner.store.output(fp, made)),
            None => Picture::Stale("its result is gone".into()),
        },
        _ if !planner.known(id) => Picture::NotRun,
        Some(Verdict::Stale(reasons)) => Picture::Stale(reasons.join("; ")),
        Some(Verdict::Waits(ids)) => {
            let names: Vec<&str> = ids
                .iter()
                .map(|i| planner.graph.stages[*i].name.as_str())
                .collect();
            Picture::Stale(format!("waits for {}", names.join(", ")))
        }
        None => Picture::NotRun,
    }
}

/// What makes a drawing more than a picture, if anything does: a browser that opens the file would run
/// or fetch it.
pub fn acts(svg: &[u8]) -> Option<&'static str> {
    let text = String::from_utf8_lossy(svg).to_lowercase();
    // Spaces, line feeds and slashes part attributes.
    let handler = text.match_indices("on").any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let parted =
            before.is_some_and(|c| c.is_whitespace() || c.is_control() || "/\"'".contains(c));
        let name = text[at..].trim_start_matches(|c: char| c.is_ascii_alphabetic());
        parted && name.trim_start().starts_with('=') && name.len() < text.len() - at - 2
    });
    let signs = [
        ("<script", "a script"),
        ("<foreignobject", "a page"),
        ("<iframe", "a page"),
        ("<object", "a page"),
        ("<embed", "a page"),
        ("<!entity", "entities"),
        ("<?xml-stylesheet", "a style from elsewhere"),
        ("@import", "a style from elsewhere"),
    ];
    // However a script's address is written, it begins with none of these.
    let link = text.split("href").skip(1).any(|rest| {
        let value = rest.trim_start().strip_prefix('=').map(str::trim_start);
        let value = value.map(|v| v.trim_start_matches(['"', '\'']));
        let good = ["#", "data:image/", "http://", "https://"];
        value.is_some_and(|v| !good.iter().any(|start| v.starts_with(start)))
    });
    if handler || link {
        return Some("a script");
    }
    let found = signs.into_iter().find(|(sign, _)| text.contains(sign));
    found.map(|(_, what)| what)
}

/// Boxes, and inputs of all stages, beyond which a drawing shows nothing and takes for ever.
const DRAWN: usize = 400;
const WAYS: usize = 100_000;

/// The graph of stages, a box for all instances of one. `link` makes boxes lead to `#stage-NAME`.
pub fn graph(planner: &Planner, title: &str, link: bool) -> Drawing {
    let stages = &planner.graph.stages;
    let names: HashSet<&str> = stages.iter().map(|s| s.family.as_str()).collect();
    let ways: usize = stages
        .iter()
        .map(|s| s.inputs.iter().map(|i| i.from.len()).sum::<usize>())
        .sum();
    if names.len() > DRAWN || ways > WAYS {
        let name = format!("{} stages: too many to draw", names.len());
        let node = Node {
            name,
            kind: String::new(),
            states: Vec::new(),
            link: None,
        };
        return svg::graph(title, &[node], &[]);
    }
    let mut families: Vec<&str> = Vec::new();
    let mut nodes: Vec<Node> = Vec::new();
    let mut family_of = Vec::with_capacity(stages.len());
    for (id, stage) in stages.iter().enumerate() {
        let at = families
            .iter()
            .position(|f| *f == stage.family)
            .unwrap_or_else(|| {
                families.push(&stage.family);
                nodes.push(Node {
                    name: stage.family.clone(),
                    kind: stage.kind.name().into(),
                    states: Vec::new(),
                    link: link.then(|| format!("#{}", anchor(&stage.name))),
                });
                families.len() - 1
            });
        nodes[at].states.push(match planner.verdict(id) {
            Some(Verdict::Fresh(_)) => State::Fresh,
            _ if planner.known(id) => State::Stale,
            _ => State::Absent,
        });
        family_of.push(at);
    }
    let mut edges: Vec<(usize, usize)> = Vec::new();
    for (id, stage) in stages.iter().enumerate() {
        for need in stage.needs() {
            let edge = (family_of[need], family_of[id]);
            // Instances of one stage may read each other; a box has no edge to itself.
            if edge.0 != edge.1 && !edges.contains(&edge) {
                edges.push(edge);
            }
        }
    }
    svg::graph(title, &nodes, &edges)
}

/// `Glow (T = 0.7)` as part of a file's name: `glow-t-0.7`.
pub fn slug(text: &str) -> String {
    let mut slug = String::new();
    for c in text.to_lowercase().chars() {
        if c.is_alphanumeric() || (c == '.' && !slug.is_empty()) {
            slug.push(c);
        } else if !slug.ends_with('-') && !slug.is_empty() {
            slug.push('-');
        }
    }
    slug.trim_end_matches(['-', '.']).into()
}

/// Where a stage stands in a page. No two stages share one, unlike a slug.
pub fn anchor(stage: &str) -> String {
    let mut anchor = String::from("stage-");
    for c in stage.chars() {
        match c {
            c if c.is_alphanumeric() || "-_.@=".contains(c) => anchor.push(c),
            c => anchor += &format!("~{:x}~", u32::from(c)),
        }
    }
    anchor
}

/// Longer names of files are cut: file systems take 255 bytes.
const LONGEST: usize = 160;

/// Names of files that are written into one folder.
#[derive(Debug, Default)]
pub struct FileNames(HashSet<String>);

impl FileNames {
    /// A name from a text, ending with `extension`. Where it had to be cut, or another text has
    /// taken it, a digest of `whole` tells them apart.
    pub fn choose(&mut self, text: &str, whole: &str, extension: &str) -> String {
        let mut end = text.len().min(LONGEST);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let plain = format!("{text}.{extension}");
        // There are file systems to which letters are the same in upper and lower case.
        if end == text.len() && self.0.insert(plain.to_lowercase()) {
            return plain;
        }
        let digest = Digest::of(whole.as_bytes()).to_string();
        let told = format!("{}-{}.{extension}", &text[..end], &digest[..8]);
        self.0.insert(told.to_lowercase());
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawing_that_does_something_is_told_from_a_picture() {
        for bad in [
            "<svg onload=\"alert(1)\">",
            "<svg><SCRIPT>1</SCRIPT>",
            "<a href=\"javascript:x\">",
            "<svg/onclick = 'x'>",
            "<foreignObject>",
            "<!ENTITY x SYSTEM \"file:///etc/passwd\">",
        ] {
            assert!(acts(bad.as_bytes()).is_some(), "{bad}");
        }
        for good in [
            "<svg xmlns=\"http://www.w3.org/2000/svg\"><text>once upon a = b</text>",
            "<text>on = 3</text><use xlink:href=\"#a\"/>",
            "<desc>description: accuracy</desc>",
        ] {
            assert_eq!(acts(good.as_bytes()), None, "{good}");
        }
    }

    #[test]
    fn no_two_files_or_places_in_a_page_share_a_name() {
        let mut names = FileNames::default();
        let mut choose = |stage: &str| names.choose(&slug(stage), stage, "svg");
        assert_eq!(choose("fit-a"), "fit-a.svg");
        let other = choose("fit_a");
        assert!(other.starts_with("fit-a-") && other.len() == 18, "{other}");
        assert_ne!(choose("fit@A"), choose("fit@a"));
        let long = |end: &str| "é".repeat(200) + end;
        let (one, two) = (choose(&long("1")), choose(&long("2")));
        assert!(one != two && one.len() < 255, "{one}");
        assert_eq!(anchor("vae@cifar10"), "stage-vae@cifar10");
        assert_ne!(anchor("fit a"), anchor("fit-a"));
    }

    #[test]
    fn captions_become_names_of_files() {
        assert_eq!(slug("Glow (T = 0.7)"), "glow-t-0.7");
        assert_eq!(slug("vae@cifar10,2nd-vae"), "vae-cifar10-2nd-vae");
        assert_eq!(slug("../etc"), "etc");
    }
}
