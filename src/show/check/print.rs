//! A check's outcome as text for people, JUnit XML for CI systems and GitHub annotations.

use super::claims::{Held, Holds};
use super::compare::{Line, Report, Verdict};
use std::ops::Range;

use crate::base::diag::Source;
use crate::base::human;
use crate::base::plain;

/// The numbers that moved or fail, aligned, and a sentence that counts all.
pub fn text(report: &Report) -> String {
    let moved: Vec<&Line> = report
        .lines
        .iter()
        .filter(|l| l.verdict != Verdict::Same)
        .collect();
    let mut rows = vec![
        [
            "verdict",
            "stage",
            "metric",
            "baseline",
            "now",
            "change",
            "tolerance",
            "where",
        ]
        .map(String::from),
    ];
    for line in &moved {
        let change = line.baseline.zip(line.now).map(|(was, is)| {
            let change = number(is - was);
            if is >= was {
                format!("+{change}")
            } else {
                change
            }
        });
        let place = match (line.verdict.reason(), line.cells.is_empty()) {
            (Some(reason), true) => reason.into(),
            (Some(reason), false) => format!("{}: {reason}", line.cells.join("; ")),
            (None, _) => line.cells.join("; "),
        };
        let place = match &line.imported {
            Some(origin) => format!("{place}; imported from {origin}"),
            None => place,
        };
        let place = plain::line(place.trim_start_matches("; ")).into_owned();
        let optional = |value: Option<f64>| value.map_or("-".into(), number);
        rows.push([
            line.verdict.word().into(),
            plain::line(&line.stage).into_owned(),
            plain::line(&line.metric).into_owned(),
            optional(line.baseline),
            optional(line.now),
            change.unwrap_or_else(|| "-".into()),
            optional(line.tolerance),
            place,
        ]);
    }
    let mut out = String::new();
    if !moved.is_empty() {
        out += &aligned(&rows);
        out.push('\n');
    }
    let width = report.claims.iter().map(|held| word(held).len()).max();
    let width = width.unwrap_or(0);
    for held in &report.claims {
        out += &format!("{:width$}  {}\n", word(held), held.sentence());
    }
    if !report.claims.is_empty() {
        out.push('\n');
    }
    out + &summary(report) + "\n"
}

fn word(held: &Held) -> &'static str {
    match held.holds {
        Holds::Yes => "holds",
        Holds::No if !held.binds => "no",
        Holds::No => "FAILS",
        Holds::Undecided { .. } => "undecided",
        Holds::Unknown { .. } if !held.binds => "unknown",
        Holds::Unknown { .. } => "UNKNOWN",
    }
}

fn aligned(rows: &[[String; 8]]) -> String {
    let width = |i: usize| rows.iter().map(|r| r[i].chars().count()).max().unwrap_or(0);
    let widths: [usize; 8] = std::array::from_fn(width);
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (i, (cell, width)) in row.iter().zip(widths).enumerate() {
            let pad = " ".repeat(width - cell.chars().count());
            let numeric = (3..7).contains(&i);
            line += &if numeric {
                format!("{pad}{cell}  ")
            } else {
                format!("{cell}{pad}  ")
            };
        }
        out += line.trim_end();
        out.push('\n');
    }
    out
}

/// `quick: 27 numbers, 25 the same, 1 within tolerance, 1 worse`.
pub fn summary(report: &Report) -> String {
    let mut parts = vec![format!(
        "{}: {}",
        report.profile,
        human::count(report.lines.len(), "number")
    )];
    let words = [
        "same", "within", "BETTER", "WORSE", "MISSING", "STALE", "CHANGED", "new",
    ];
    let said = [
        "the same",
        "within tolerance",
        "better beyond it (`repro check --accept-better` takes them as they are)",
        "worse",
        "missing",
        "stale",
        "not comparable",
        "new (`repro check --update` adds them)",
    ];
    for (word, say) in words.iter().zip(said) {
        let count = report
            .lines
            .iter()
            .filter(|l| l.verdict.word() == *word)
            .count();
        if count > 0 {
            parts.push(format!("{count} {say}"));
        }
    }
    let imported = report.lines.iter().filter(|l| l.imported.is_some()).count();
    if imported > 0 {
        parts.push(format!("{imported} imported, not made here"));
    }
    let claims = &report.claims;
    if !claims.is_empty() {
        let hold = claims.iter().filter(|c| c.holds == Holds::Yes).count();
        let count = human::count(claims.len(), "claim");
        parts.push(match hold == claims.len() {
            true => format!("{count} holding"),
            false => format!("{hold} of {count} holding"),
        });
        let undecided = |c: &&Held| matches!(c.holds, Holds::Undecided { .. });
        match claims.iter().filter(undecided).count() {
            0 => {}
            n => parts.push(format!("{n} undecided")),
        }
    }
    parts.join(", ")
}

/// Five significant digits: enough to see a change, few enough to read.
pub fn number(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let digits = (4 - value.abs().log10().floor() as i32).clamp(0, 9) as usize;
    let text = format!("{value:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').into(),
        false => text,
    }
}

/// One sentence about one failure.
fn sentence(line: &Line) -> String {
    let what = format!("{} {}", line.stage, line.metric);
    let text = match (&line.verdict, line.baseline, line.now, line.tolerance) {
        (Verdict::Worse, Some(was), Some(is), Some(tolerance)) => format!(
            "{what} got worse: {} -> {}, tolerance {}",
            number(was),
            number(is),
            number(tolerance)
        ),
        (Verdict::Better, Some(was), Some(is), Some(tolerance)) => format!(
            "{what} got better than its tolerance allows: {} -> {}, tolerance {}; a slip looks \
             like a gain: `repro check --accept-better` takes it into the baseline",
            number(was),
            number(is),
            number(tolerance)
        ),
        (verdict, ..) => {
            let reason = verdict.reason().unwrap_or_default();
            format!("{what} is {}: {reason}", verdict.word().to_lowercase())
        }
    };
    if line.cells.is_empty() {
        text
    } else {
        format!("{text} ({})", line.cells.join("; "))
    }
}

/// JUnit XML: a test case for each number and each claim.
pub fn junit(report: &Report) -> String {
    let broken = report.claims.iter().filter(|c| c.fails()).count();
    let failures = report.failures().count() + broken;
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n  <testsuite name=\"{}\" \
         tests=\"{}\" failures=\"{failures}\" errors=\"0\">\n",
        xml(&format!("repro check, profile {}", report.profile)),
        report.lines.len() + report.claims.len(),
    );
    for line in &report.lines {
        let case = format!(
            "classname=\"{}\" name=\"{}\"",
            xml(&line.stage),
            xml(&line.metric)
        );
        out += &match line.verdict.fails() {
            true => format!(
                "    <testcase {case}><failure message=\"{}\"/></testcase>\n",
                xml(&sentence(line))
            ),
            false => format!("    <testcase {case}/>\n"),
        };
    }
    for held in &report.claims {
        let case = format!("classname=\"claims\" name=\"{}\"", xml(&held.name));
        out += &match held.fails() {
            true => {
                let message = xml(&held.sentence());
                format!("    <testcase {case}><failure message=\"{message}\"/></testcase>\n")
            }
            false => format!("    <testcase {case}/>\n"),
        };
    }
    out + "  </testsuite>\n</testsuites>\n"
}

fn xml(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            c if c.is_control() || plain::is_odd(c) => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// Workflow commands that GitHub shows beside the lines of the baseline and of the pipeline.
pub fn github(report: &Report, baseline: &Source, pipeline: &Source) -> String {
    let mut out = String::new();
    let mut say = |source: &Source, span: Option<&Range<usize>>, message: String| {
        let line = span.map_or(1, |s| source.line(s.start));
        let message = plain::line(&message).replace('%', "%25");
        let file = plain::line(source.name()).replace('%', "%25");
        let file = file.replace(':', "%3A").replace(',', "%2C");
        out += &format!("::error file={file},line={line},title=repro check::{message}\n");
    };
    for line in report.failures() {
        say(baseline, line.span.as_ref(), sentence(line));
    }
    for held in report.claims.iter().filter(|c| c.fails()) {
        say(pipeline, Some(&held.span), held.sentence());
    }
    out
}
