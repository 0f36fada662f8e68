//! A comparison as text: three tables by the printers of all tables, and what else is to be said.

use anyhow::Result;

use super::{Comparison, Difference, Line, Shown, Verdict};
use crate::base::plain;
use crate::show::table::layout::{Head, Layout, Line as Row, Text, number};
use crate::show::table::{Format, csv, html, md, tex};

/// Characters of a value or a name in a table; JSON and CSV have them whole.
const LONG: usize = 60;
/// Of a digest, enough to tell two apart.
const DIGEST: usize = 8;

pub fn render(comparison: &Comparison, format: Format) -> Result<String> {
    Ok(match format {
        Format::Json => serde_json::to_string_pretty(comparison)? + "\n",
        Format::Csv => comma_separated(comparison)?,
        Format::Md => {
            let (layouts, remarks) = layouts(comparison);
            let mut parts: Vec<String> = layouts.iter().map(md::render).collect();
            if !remarks.is_empty() {
                parts.push(remarks.join("  \n") + "\n");
            }
            parts.join("\n")
        }
        Format::Tex => tex::render(&below_last(comparison)),
        Format::Html => {
            let title = comparison.sides.join(" and ");
            let ids = ["parameters", "code", "metrics"].map(str::to_owned);
            html::page(
                &title,
                &ids.into_iter()
                    .zip(below_last(comparison))
                    .collect::<Vec<_>>(),
            )
        }
    })
}

/// The tables, the remarks below the last.
fn below_last(comparison: &Comparison) -> Vec<Layout> {
    let (mut layouts, remarks) = layouts(comparison);
    if layouts.is_empty() {
        layouts.push(layout("Metrics", comparison, &METRICS, Vec::new()));
    }
    if let Some(last) = layouts.last_mut() {
        last.remarks = remarks;
    }
    layouts
}

/// Heads around those of the sides.
const PARAMETERS: [&str; 2] = ["stage", "parameter"];
const CODE: [&str; 2] = ["stage", "module or file"];
const METRICS: [&str; 4] = ["stage", "metric", "difference", "verdict"];

/// Tables of what there is to show, and sentences about the rest.
fn layouts(comparison: &Comparison) -> (Vec<Layout>, Vec<String>) {
    let mut layouts = Vec::new();
    let mut remarks = Vec::new();
    let mut section = |title: &str,
                       heads: &[&str],
                       what: &str,
                       found: &Option<Vec<Difference>>,
                       digests: bool| {
        match found.as_deref() {
            None => {}
            Some([]) => remarks.push(format!("{what} the same.")),
            Some(all) => {
                let rows = all.iter().map(|d| difference(d, digests)).collect();
                layouts.push(layout(title, comparison, heads, rows));
            }
        }
    };
    section(
        "Parameters",
        &PARAMETERS,
        "Parameters and commands are",
        &comparison.parameters,
        false,
    );
    section(
        "Code and files",
        &CODE,
        "Code and declared files are",
        &comparison.code,
        true,
    );
    if !comparison.metrics.is_empty() {
        let rows = comparison
            .metrics
            .iter()
            .map(|line| metric(line, &comparison.sides));
        layouts.push(layout("Metrics", comparison, &METRICS, rows.collect()));
        if comparison
            .metrics
            .iter()
            .any(|line| line.std_error.is_some())
        {
            let sentence = "± is the standard error, over examples or over runs; less than two of them decide nothing.";
            remarks.push(sentence.into());
        }
    }
    remarks.extend(comparison.remarks.clone());
    (layouts, remarks)
}

fn layout(title: &str, comparison: &Comparison, around: &[&str], lines: Vec<Vec<Text>>) -> Layout {
    let numeric = around.len() > 2;
    let head = |text: &str, numeric: bool| Head {
        text: name(text),
        numeric,
    };
    let mut heads: Vec<Head> = around[..2].iter().map(|text| head(text, false)).collect();
    heads.extend(comparison.sides.iter().map(|side| head(side, numeric)));
    let after = around[2..].iter();
    heads.extend(after.map(|text| head(text, *text == "difference")));
    Layout {
        number: None,
        title: title.into(),
        heads,
        lines: (lines.into_iter())
            .map(|cells| Row {
                opens_group: false,
                cells,
            })
            .collect(),
        notes: Vec::new(),
        remarks: Vec::new(),
    }
}

fn whole(body: String) -> Text {
    Text {
        body,
        ..Text::default()
    }
}

/// A name, as code where Markdown would read its characters as marks.
fn name(text: &str) -> String {
    let text = plain::line(text);
    match text.contains(['*', '_', '[', '<', '\\']) && !text.contains('`') {
        true => format!("`{}`", plain::cut(&text, LONG)),
        false => plain::cut(&text, LONG).into_owned(),
    }
}

fn difference(difference: &Difference, digests: bool) -> Vec<Text> {
    let side = |side: &Option<String>| match side {
        None => whole("-".into()),
        // What stands in the place of a digest, such as `unreadable`, is told in words.
        Some(digest)
            if digests && digest.len() > 40 && digest.bytes().all(|b| b.is_ascii_hexdigit()) =>
        {
            whole(digest[..DIGEST].into())
        }
        Some(value) => whole(name(value)),
    };
    let mut cells = vec![
        whole(name(&difference.stage)),
        whole(name(&difference.name)),
    ];
    cells.extend(difference.sides.iter().map(side));
    cells
}

fn metric(line: &Line, sides: &[String; 2]) -> Vec<Text> {
    let digits = digits(line);
    let mut cells = vec![whole(name(&line.stage)), whole(name(&line.metric))];
    for (i, shown) in line.sides.iter().enumerate() {
        let strong = matches!(line.verdict, Some(Verdict::Better { side, .. }) if side == i);
        cells.push(side(shown, digits, strong));
    }
    let difference = line.difference.map_or(String::new(), |d| {
        let value = number(d, digits);
        let sign = if d > 0.0 { "+" } else { "" };
        format!("{sign}{value}{}", error(line.std_error, digits))
    });
    cells.push(whole(difference));
    let named = sides.each_ref().map(|side| name(side));
    let verdict = line.verdict.as_ref().map(|v| v.sentence(&named));
    cells.push(whole(verdict.unwrap_or_default()));
    cells
}

fn side(shown: &Shown, digits: usize, strong: bool) -> Text {
    let word = |body: &str| Text {
        body: body.into(),
        word: true,
        ..Text::default()
    };
    match shown {
        Shown::Measured {
            value,
            std_error,
            runs,
            bound,
            better,
            ..
        } => {
            let bound = if *bound {
                format!("{} ", better.bound_sign())
            } else {
                String::new()
            };
            let runs = if *runs > 1 {
                format!(" ({runs} runs)")
            } else {
                String::new()
            };
            let value = number(*value, digits);
            Text {
                body: format!("{bound}{value}{}{runs}", error(*std_error, digits)),
                strong,
                ..Text::default()
            }
        }
        Shown::Stale { .. } => word("stale"),
        Shown::NotRun => word("not run"),
        Shown::Absent => whole("-".into()),
    }
}

fn error(std_error: Option<f64>, digits: usize) -> String {
    std_error.map_or(String::new(), |e| format!(" ± {}", number(e, digits)))
}

/// Behind the point: four digits of the larger number, and two of the difference and of its error.
fn digits(line: &Line) -> usize {
    let values = line.sides.iter().filter_map(|shown| match shown {
        Shown::Measured { value, .. } => Some(value.abs()),
        _ => None,
    });
    let largest = values.filter(|v| v.is_finite()).fold(0.0, f64::max);
    let behind = |value: f64, wanted: i32| match value.is_finite() && value > 0.0 {
        true => (wanted - 1 - value.log10().floor() as i32).clamp(0, 12),
        false => 0,
    };
    let difference = line.difference.map_or(0, |d| behind(d.abs(), 2));
    let error = line.std_error.map_or(0, |e| behind(e, 2));
    behind(largest, 4).max(difference).max(error) as usize
}

impl Verdict {
    /// What it means in words; `sides` are their names.
    pub fn sentence(&self, sides: &[String; 2]) -> String {
        let errors = |errors: &Option<f64>| match errors {
            Some(errors) => format!(" ({errors:.1} standard errors)"),
            None => String::new(),
        };
        match self {
            Verdict::Same => "the same".into(),
            Verdict::Better { side, errors: e } => {
                format!("{} is better{}", sides[*side], errors(e))
            }
            Verdict::Undecided { errors: e } => format!("undecided{}", errors(e)),
            Verdict::Unlike { why } => format!("unlike: {why}"),
            Verdict::NoNumber => "one is no number".into(),
        }
    }
}

const HEAD: [&str; 12] = [
    "section",
    "stage",
    "name",
    "first",
    "first_error",
    "first_state",
    "second",
    "second_error",
    "second_state",
    "difference",
    "difference_error",
    "verdict",
];

fn comma_separated(comparison: &Comparison) -> Result<String> {
    let mut writer = ::csv::Writer::from_writer(Vec::new());
    writer.write_record(HEAD)?;
    let mut record =
        |fields: [String; 12]| writer.write_record(fields.map(|f| csv::harmless(&f).into_owned()));
    let sections = [
        ("parameters", &comparison.parameters),
        ("code", &comparison.code),
    ];
    for (section, differences) in sections {
        for difference in differences.iter().flatten() {
            let mut fields: [String; 12] = Default::default();
            fields[0] = section.into();
            fields[1] = difference.stage.clone();
            fields[2] = difference.name.clone();
            for (i, side) in difference.sides.iter().enumerate() {
                fields[3 + 3 * i] = side.clone().unwrap_or_default();
                fields[5 + 3 * i] = if side.is_some() { "there" } else { "absent" }.into();
            }
            record(fields)?;
        }
    }
    for line in &comparison.metrics {
        let mut fields: [String; 12] = Default::default();
        let number = |value: Option<f64>| value.map_or(String::new(), |v| v.to_string());
        fields[0] = "metrics".into();
        fields[1] = line.stage.clone();
        fields[2] = line.metric.clone();
        for (i, shown) in line.sides.iter().enumerate() {
            let (value, error, state) = match shown {
                Shown::Measured {
                    value, std_error, ..
                } => (Some(*value), *std_error, "measured"),
                Shown::Stale { .. } => (None, None, "stale"),
                Shown::NotRun => (None, None, "not-run"),
                Shown::Absent => (None, None, "absent"),
            };
            fields[3 + 3 * i] = number(value);
            fields[4 + 3 * i] = number(error);
            fields[5 + 3 * i] = state.into();
        }
        fields[9] = number(line.difference);
        fields[10] = number(line.std_error);
        let verdict = line.verdict.as_ref();
        fields[11] = verdict.map_or(String::new(), |v| v.sentence(&comparison.sides));
        record(fields)?;
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}
