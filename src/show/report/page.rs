//! The report as HTML: one file, no network, readable without scripts.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::cells;
use super::gather::{Figure, Panel, Report, Shown};
use super::stages::{pairs, section};
use crate::show::svg::{self, State};
use crate::show::table::html::{STYLE as TABLE_STYLE, prose};

/// Opens the part of the page that a link leads to, and all of them for printing.
const SCRIPT: &str = include_str!("page.js");
const STYLE: &str = include_str!("page.css");

pub fn page(report: &Report) -> String {
    let count = |state: State| report.stages.iter().filter(|s| s.state == state).count();
    let html = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (report.title) " – reproduction" }
                style { (PreEscaped(TABLE_STYLE)) (PreEscaped(svg::STYLE)) (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#tables" { "To the tables" }
                header {
                    p.kicker { "Reproduction report" }
                    h1 { (report.title) }
                    p.soft {
                        "Profile " strong { (report.profile.name) }
                        @if !report.profile.about.is_empty() { ": " (report.profile.about) }
                    }
                    ul.counts aria-label="stages" {
                        (tally(count(State::Fresh), "fresh", "fresh", "●"))
                        (tally(count(State::Stale), "stale", "stale", "◐"))
                        (tally(count(State::Absent), "not run", "absent", "○"))
                    }
                    nav aria-label="sections" {
                        @if !report.tables.is_empty() { a href="#tables" { "Tables" } }
                        @if !report.figures.is_empty() { a href="#figures" { "Figures" } }
                        a href="#graph" { "Graph" }
                        a href="#stages" { "Stages" }
                        a href="#environment" { "Environment" }
                    }
                }
                main {
                    @if !report.warnings.is_empty() {
                        aside.warnings aria-label="warnings" {
                            h2 { "Before you read the numbers" }
                            ul { @for warning in &report.warnings { li { (prose(warning)) } } }
                        }
                    }
                    @if !report.tables.is_empty() {
                        section id="tables" {
                            h2 { "Tables" }
                            p.soft { "Published numbers are grey, reproduced ones coloured. Choose a \
                                number to see where it comes from." }
                            @for table in &report.tables { (cells::table(table)) }
                        }
                    }
                    @if !report.figures.is_empty() {
                        section id="figures" {
                            h2 { "Figures" }
                            @for figure in &report.figures { (shown(figure)) }
                        }
                    }
                    section id="graph" {
                        h2 { "Graph" }
                        p.soft { "A box is a stage, a mark in it an instance: a disc if it is fresh, \
                            a ring if not. A box leads to its stage." }
                        div.scroll tabindex="0" role="region" aria-label="graph of stages" {
                            (svg::inline(&report.graph, "group"))
                        }
                    }
                    section id="stages" {
                        h2 { "Stages" }
                        @for stage in &report.stages { (section(stage)) }
                    }
                    section id="environment" {
                        h2 { "Environment" }
                        (pairs("environment", &report.environment))
                    }
                }
                footer { p.soft { "Made " (report.made) "." } }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    html.into_string()
}

fn tally(n: usize, word: &str, class: &str, mark: &str) -> Markup {
    html! {
        @if n > 0 {
            li class=(format!("verdict {class}")) { span aria-hidden="true" { (mark) } " " (n) " " (word) }
        }
    }
}

fn shown(figure: &Figure) -> Markup {
    html! {
        figure.picture {
            div.panels { @for panel in &figure.panels { (picture(figure, panel)) } }
            figcaption {
                @if !figure.name.is_empty() { strong { (figure.name) "." } " " }
                (figure.title)
            }
        }
    }
}

fn picture(figure: &Figure, panel: &Panel) -> Markup {
    let alt = match panel.caption.is_empty() {
        true => figure.title.clone(),
        false => format!("{}: {}", figure.title, panel.caption),
    };
    let image = |kind: &str, bytes: &[u8]| {
        html! { img alt=(alt) src=(format!("data:image/{kind};base64,{}", base64(bytes))); }
    };
    html! {
        div.panel {
            @match &panel.picture {
                Shown::Png(bytes) => { (image("png", bytes)) }
                Shown::Svg(bytes) => { (image("svg+xml", bytes)) }
                Shown::Graph => { p { a href="#graph" { "The graph of stages, below" } } }
                Shown::Words(words) => { p.word { (words) } }
            }
            @if !panel.stage.is_empty() {
                p.caption { (panel.caption) " " span.soft { (cells::link(&panel.stage)) } }
            }
        }
    }
}

/// As data URLs want it (RFC 4648).
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, b| bits << 8 | u32::from(*b));
        let bits = bits << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * i) & 63) as usize];
            text.push(if i <= chunk.len() {
                letter as char
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_of_the_standard() {
        let examples = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ];
        for (plain, coded) in examples {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
