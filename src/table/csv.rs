//! CSV: one line for each cell, so that any number of tables is one file with one head.

use anyhow::Result;

use super::content::{Cell, Reproduced, SpreadOf, Table};

const HEAD: [&str; 21] = [
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
                writer.write_record(record)?;
            }
        }
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
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
        let mut fields = vec![String::new(); 12];
        fields[0] = text(state);
        fields[9] = text(profile);
        fields[11] = text(stage);
        fields
    };
    match &cell.reproduced {
        None => vec![String::new(); 12],
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
        ],
    }
}
