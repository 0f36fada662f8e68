//! CSV: one line for each cell, so that any number of tables is one file with one head.

use std::borrow::Cow;

use anyhow::Result;

use super::content::{Cell, Reproduced, SpreadOf, Table};

const HEAD: [&str; 22] = [
    "table",
    "group",
    "row",
    "column",
    "metric",
    "published_label",
    "published",
    "published_bound",
    "source",
    "state",
    "label",
    "value",
    "bound",
    "spread",
    "spread_of",
    "runs",
    "n",
    "device",
    "profile",
    "difference",
    "stage",
    "imported_from",
];

pub fn render(tables: &[Table]) -> Result<String> {
    let mut writer = ::csv::Writer::from_writer(Vec::new());
    writer.write_record(HEAD)?;
    for table in tables {
        for row in &table.rows {
            for (column, cell) in table.columns.iter().zip(&row.cells) {
                if cell.published.is_none() && cell.reproduced.is_none() {
                    continue;
                }
                let mut record: Vec<String> =
                    [&table.id, &row.group, &row.name, &column.id, &column.metric]
                        .map(Clone::clone)
                        .into();
                record.extend(published(cell, column.published.as_deref()));
                record.extend(reproduced(cell, &table.profile.name));
                let record: Vec<_> = record.iter().map(|field| harmless(field)).collect();
                writer.write_record(record.iter().map(|field| field.as_bytes()))?;
            }
        }
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}

/// A spreadsheet takes a field that begins so for a formula, which may start programs and call hosts.
/// An apostrophe tells it that this is text.
pub fn harmless(field: &str) -> Cow<'_, str> {
    let formula = field.starts_with(['=', '+', '-', '@', '\t', '\r', '＝', '＋', '－', '＠']);
    match formula && field.parse::<f64>().is_err() {
        true => Cow::Owned(format!("'{field}")),
        false => Cow::Borrowed(field),
    }
}

fn published(cell: &Cell, label: Option<&str>) -> [String; 4] {
    match &cell.published {
        Some(p) => [
            label.unwrap_or_default().into(),
            p.value.to_string(),
            p.bound.to_string(),
            p.source.clone(),
        ],
        None => Default::default(),
    }
}

fn reproduced(cell: &Cell, profile: &str) -> Vec<String> {
    let text = |t: &str| t.to_owned();
    let optional = |value: Option<String>| value.unwrap_or_default();
    let unmeasured = |state: &str, stage: &str| {
        let mut fields = vec![String::new(); 13];
        fields[0] = text(state);
        fields[9] = text(profile);
        fields[11] = text(stage);
        fields
    };
    match &cell.reproduced {
        None => vec![String::new(); 13],
        Some(Reproduced::Stale { stage, .. }) => unmeasured("stale", stage),
        Some(Reproduced::NotRun { stage }) => unmeasured("not-run", stage),
        Some(Reproduced::Measured(m)) => vec![
            text("measured"),
            m.label.clone(),
            m.value.to_string(),
            m.bound.to_string(),
            optional(m.spread.as_ref().map(|s| s.value.to_string())),
            optional(m.spread.as_ref().map(|s| match s.of {
                SpreadOf::Runs => text("runs"),
                SpreadOf::Examples => text("examples"),
            })),
            m.runs.len().to_string(),
            optional(m.n.map(|n| n.to_string())),
            m.device.clone(),
            text(profile),
            optional(cell.difference.map(|d| d.to_string())),
            m.runs
                .iter()
                .map(|r| r.stage.as_str())
                .collect::<Vec<_>>()
                .join(" "),
            m.origins().join("; "),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::harmless;

    #[test]
    fn a_formula_is_told_to_be_text_and_a_number_stays_one() {
        assert_eq!(
            harmless("=HYPERLINK(\"http://x\")"),
            "'=HYPERLINK(\"http://x\")"
        );
        assert_eq!(
            (&*harmless("@SUM(1)"), &*harmless("-1+2")),
            ("'@SUM(1)", "'-1+2")
        );
        assert_eq!((&*harmless("-0.5"), &*harmless("FID")), ("-0.5", "FID"));
    }
}
