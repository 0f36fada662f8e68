//! HTML: a table as a fragment for the report, and a page of tables of its own.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::layout::{Layout, Origin, Part, Text, code_spans};

/// How tables look, in a page of their own and in the report.
pub const STYLE: &str = include_str!("table.css");

/// A page with nothing but tables.
pub fn page(title: &str, layouts: &[(String, Layout)]) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main { @for (id, layout) in layouts { (table(id, layout, &|_, body| body)) } }
            }
        }
    }
    .into_string()
}

/// One table. `number` may wrap the text of a number, such as in a button that tells where it
/// comes from.
pub fn table(id: &str, layout: &Layout, number: &dyn Fn(Origin, Markup) -> Markup) -> Markup {
    html! {
        figure.table id=(format!("table-{id}")) {
            div.scroll tabindex="0" role="region" aria-label=(layout.title) {
                table {
                    caption {
                        @if let Some(number) = &layout.number { strong { (number) "." } " " }
                        (layout.title)
                    }
                    thead {
                        tr {
                            @for head in &layout.heads {
                                th scope="col" class=[head.numeric.then_some("n")] { (head.text) }
                            }
                        }
                    }
                    tbody {
                        @for line in &layout.lines {
                            tr class=[line.opens_group.then_some("group")] {
                                @for (i, text) in line.cells.iter().enumerate() {
                                    (cell(id, i, layout, text, number))
                                }
                            }
                        }
                    }
                }
            }
            @if !layout.notes.is_empty() || !layout.remarks.is_empty() {
                figcaption {
                    @if !layout.notes.is_empty() {
                        ol {
                            @for (i, note) in layout.notes.iter().enumerate() {
                                li id=(format!("table-{id}-note-{}", i + 1)) { (prose(note)) }
                            }
                        }
                    }
                    @for remark in &layout.remarks { p { (prose(remark)) } }
                }
            }
        }
    }
}

fn cell(
    id: &str,
    index: usize,
    layout: &Layout,
    text: &Text,
    number: &dyn Fn(Origin, Markup) -> Markup,
) -> Markup {
    let body = html! {
        @if text.strong { strong { (text.body) } } @else { (text.body) }
    };
    let body = match text.origin {
        Some(origin) if !text.body.is_empty() => number(origin, body),
        _ => body,
    };
    let marks = html! {
        @if !text.notes.is_empty() {
            sup {
                @for (i, n) in text.notes.iter().enumerate() {
                    @if i > 0 { "," }
                    a href=(format!("#table-{id}-note-{n}")) aria-label=(format!("note {n}")) { (n) }
                }
            }
        }
    };
    let class = match text.origin.map(|o| o.part) {
        Some(Part::Published) => "n published",
        Some(Part::Reproduced) if text.word => "n word",
        Some(Part::Reproduced) => "n reproduced",
        Some(Part::Difference) => "n difference",
        None => "",
    };
    let heads_row = text.origin.is_none() && !text.body.is_empty();
    html! {
        @if heads_row && !layout.heads[index].numeric { th scope="row" { (body) (marks) } }
        @else { td class=[(!class.is_empty()).then_some(class)] { (body) (marks) } }
    }
}

/// A sentence with its commands set as code.
pub fn prose(text: &str) -> Markup {
    html! {
        @for (code, part) in code_spans(text) {
            @if code { code { (part) } } @else { (part) }
        }
    }
}
