//! Everything the report shows, read from the store; nothing here knows of HTML.

use contract::measured;
use contract::metrics::{self, Metric};

use super::facts::{environment, facts, warn};
use std::collections::BTreeMap;

use crate::base::human;
use crate::base::read;
use crate::pipeline::graph::Id;
use crate::pipeline::spec::Profile;
use crate::pipeline::tables::Tables;
use crate::plan::project::Project;
use crate::plan::{Planner, Verdict};
use crate::show::figures::{self, Picture};
use crate::show::history;
use crate::show::svg::{self, Drawing, State};
use crate::show::table::{Evidence, Table, build};
use crate::store::record::Record;

pub struct Report {
    pub title: String,
    pub profile: Profile,
    /// When the page was made, and by which version.
    pub made: String,
    pub tables: Vec<Table>,
    pub figures: Vec<Figure>,
    pub graph: Drawing,
    pub stages: Vec<Stage>,
    /// What the results were made with: `device` → `cpu (24 stages)`.
    pub environment: Vec<(String, String)>,
    /// What a reader should know before believing the numbers.
    pub warnings: Vec<String>,
}

pub struct Figure {
    pub name: String,
    pub title: String,
    pub panels: Vec<Panel>,
}

pub struct Panel {
    pub caption: String,
    pub stage: String,
    pub picture: Shown,
}

/// A picture, or why there is none.
pub enum Shown {
    Png(Vec<u8>),
    Svg(Vec<u8>),
    Graph,
    Words(String),
}

pub struct Stage {
    pub name: String,
    pub kind: String,
    pub state: State,
    /// Why it is not fresh.
    pub reasons: Vec<String>,
    pub needs: Vec<String>,
    pub users: Vec<String>,
    pub fingerprint: Option<String>,
    /// Where its result comes from, if it was not made here.
    pub origin: Option<String>,
    pub manifest: Vec<(String, String)>,
    pub record: Vec<(String, String)>,
    pub metrics: Vec<Metric>,
    pub curves: Vec<Drawing>,
}

pub fn gather(project: &mut Project, evidence: &Evidence) -> Report {
    let mut warnings = Vec::new();
    let mut tables = Vec::new();
    for decl in &project.tables.0 {
        match build(decl, evidence) {
            Ok(table) => tables.push(table),
            Err(error) => warnings.push(format!("{error:#}")),
        }
    }
    let title = match project.spec.title.is_empty() {
        true => project.spec.name.clone(),
        false => project.spec.title.clone(),
    };
    let profile = project.spec.profile.clone();
    let (declared, project_tables) = (project.figures.0.clone(), project.tables.clone());
    let order = project.graph.order.clone();
    let mut planner = project.planner();
    planner.judge_all(&order);
    let mut records = Vec::new();
    let ids = 0..planner.graph.stages.len();
    let stages: Vec<Stage> = ids
        .map(|id| stage(&planner, (id, &project_tables), &mut records, &mut warnings))
        .collect();
    let figures = declared.iter().map(|f| figure(&planner, f)).collect();
    warn(&profile, &stages, &records, &mut warnings);
    Report {
        graph: figures::graph(&planner, &title, true),
        title,
        profile,
        made: format!("{} by repro {}", human::now(), env!("CARGO_PKG_VERSION")),
        tables,
        figures,
        stages,
        environment: environment(&records),
        warnings,
    }
}

fn figure(planner: &Planner, decl: &crate::pipeline::figures::FigureDecl) -> Figure {
    let id = decl.id.get_ref();
    let name = match id.parse::<u32>() {
        Ok(number) => format!("Figure {number}"),
        Err(_) => String::new(),
    };
    let mut panels = Vec::new();
    if decl.graph {
        let (caption, stage) = (String::new(), String::new());
        let picture = Shown::Graph;
        panels.push(Panel {
            caption,
            stage,
            picture,
        });
    }
    for panel in &decl.panels {
        let Ok((id, output)) = panel.find(planner.graph) else {
            continue;
        };
        let (caption, stage) = (panel.caption.clone(), panel.stage.get_ref().clone());
        let picture = shown(planner, id, output);
        panels.push(Panel {
            caption,
            stage,
            picture,
        });
    }
    Figure {
        name,
        title: decl.title.clone(),
        panels,
    }
}

fn shown(planner: &Planner, id: Id, output: usize) -> Shown {
    match figures::picture(planner, id, output) {
        Picture::NotRun => Shown::Words("not run".into()),
        Picture::Stale(reason) => Shown::Words(format!("stale: {reason}")),
        Picture::File(path) => match read::bytes(&path, read::TOLD) {
            Err(e) => Shown::Words(format!("cannot read {}: {e}", path.display())),
            Ok(bytes) if bytes.starts_with(b"\x89PNG") => Shown::Png(bytes),
            Ok(bytes) if path.extension().is_some_and(|e| e == "svg") => Shown::Svg(bytes),
            Ok(_) => Shown::Words(format!("{} is neither PNG nor SVG", path.display())),
        },
    }
}

fn stage(
    planner: &Planner,
    (id, tables): (Id, &Tables),
    records: &mut Vec<(String, Record)>,
    warnings: &mut Vec<String>,
) -> Stage {
    let node = &planner.graph.stages[id];
    let name = |id: &Id| planner.graph.stages[*id].name.clone();
    let known = || planner.known(id);
    let (state, reasons) = match planner.verdict(id) {
        Some(Verdict::Fresh(_)) => (State::Fresh, Vec::new()),
        Some(Verdict::Stale(reasons)) if known() => (State::Stale, reasons.clone()),
        Some(Verdict::Waits(ids)) if known() => {
            let names: Vec<String> = ids.iter().map(name).collect();
            (
                State::Stale,
                vec![format!("waits for {}", names.join(", "))],
            )
        }
        _ => (State::Absent, Vec::new()),
    };
    let mut stage = Stage {
        name: node.name.clone(),
        kind: node.kind.name().into(),
        state,
        reasons,
        needs: node.needs().iter().map(name).collect(),
        users: node.users.iter().map(name).collect(),
        fingerprint: None,
        origin: None,
        manifest: Vec::new(),
        record: Vec::new(),
        metrics: Vec::new(),
        curves: Vec::new(),
    };
    let Some(entry) = planner.result(id) else {
        return stage;
    };
    stage.fingerprint = Some(entry.fp.to_string());
    stage.origin.clone_from(&entry.origin);
    if let Some(manifest) = planner.store.manifest(&entry.fp) {
        stage.manifest = manifest.iter().map(|(k, v)| (k.into(), v.into())).collect();
    }
    match planner.store.record(&entry.fp) {
        Ok(record) => {
            stage.record = facts(&record, &entry.device);
            records.push((entry.device.clone(), record));
        }
        Err(error) => warnings.push(format!("{}: {error:#}", node.name)),
    }
    for (i, output) in node.outputs.iter().enumerate() {
        let Some(made) = planner.made(id, i) else {
            continue;
        };
        let path = planner.store.output(&entry.fp, made);
        let read = match output.holds.as_str() {
            metrics::HOLDS => {
                measured::load(&path, &|metric| tables.better(metric)).map(|m| stage.metrics = m)
            }
            contract::history::HOLDS => history::load(&path).map(|curves| {
                let charts = curves
                    .iter()
                    .map(|(what, p)| svg::curve(&node.name, what, p));
                stage.curves.extend(charts);
            }),
            _ => Ok(()),
        };
        if let Err(error) = read {
            warnings.push(format!("{}: {error:#}", node.name));
        }
    }
    let rates = history::throughput(&planner.store.result(&entry.fp).join("log"));
    if !rates.is_empty() {
        let places = BTreeMap::from([(String::new(), rates)]);
        let chart = svg::curve(&node.name, history::THROUGHPUT, &places);
        stage.curves.push(chart);
    }
    stage
}
