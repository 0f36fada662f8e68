//! The part of the report about each stage: verdict, curves, manifest and record.

use maud::{Markup, html};

use super::cells::link;
use super::gather::Stage;
use crate::show::figures::anchor;
use crate::show::svg::{self, State};
use crate::show::table::layout::thousands;

pub fn section(stage: &Stage) -> Markup {
    let (mark, word) = match stage.state {
        State::Fresh => ("●", "fresh"),
        State::Stale => ("◐", "stale"),
        State::Absent => ("○", "not run"),
    };
    html! {
        details.stage {
            summary id=(anchor(&stage.name)) {
                span class=(format!("verdict {}", stage.state.word())) {
                    span aria-hidden="true" { (mark) } " " (word)
                }
                span.title { (stage.name) }
                @if stage.kind != stage.name { span.kind { (stage.kind) } }
                @for metric in stage.metrics.iter().take(1) {
                    span.value { (metric.label) " " (short(metric.value)) }
                }
            }
            @for reason in &stage.reasons { p.reason { (reason) } }
            (relatives("reads", &stage.needs))
            (relatives("read by", &stage.users))
            @if !stage.curves.is_empty() {
                div.curves { @for curve in &stage.curves { (svg::inline(curve, "img")) } }
            }
            @if !stage.metrics.is_empty() {
                h3 { "Metrics" }
                table.pairs {
                    @for metric in &stage.metrics {
                        tr {
                            th scope="row" { (metric.label) }
                            td {
                                (metric.value) " " (metric.unit)
                                @if let Some(n) = metric.n { " (n = " (thousands(n)) ")" }
                            }
                        }
                    }
                }
            }
            @if let Some(origin) = &stage.origin {
                p.reason { "Imported from " (origin) ": not made here." }
            }
            @if let Some(fingerprint) = &stage.fingerprint {
                h3 { "Record" }
                (pairs("record", &stage.record))
                h3 { "Manifest" }
                p.soft { "Everything the result depends on. Its hash is the fingerprint "
                    code { (fingerprint) } "." }
                (pairs("manifest", &stage.manifest))
            }
        }
    }
}

fn relatives(what: &str, names: &[String]) -> Markup {
    html! {
        @if !names.is_empty() {
            p.soft {
                (what) " "
                @for (i, name) in names.iter().enumerate() {
                    @if i > 0 { ", " }
                    (link(name))
                }
            }
        }
    }
}

pub fn pairs(what: &str, pairs: &[(String, String)]) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label=(what) {
            table.pairs {
                @for (key, value) in pairs { tr { th scope="row" { (key) } td { (value) } } }
            }
        }
    }
}

/// Four significant digits for the summary line.
fn short(value: f64) -> String {
    let digits = match value.abs() {
        0.0 => 0,
        size => (3 - size.log10().floor() as i32).clamp(0, 6) as usize,
    };
    format!("{value:.digits$}")
}
