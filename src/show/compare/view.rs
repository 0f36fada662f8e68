//! What one side of a comparison is found to be.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use contract::metrics::{Better, Metric};
use serde_json::{Map, Value};

use super::Shown;
use crate::base::human;
use crate::base::secret;
use crate::pipeline::graph::Id;
use crate::pipeline::tables::Tables;
use crate::plan::Planner;
use crate::plan::project::Project;
use crate::show::check::{Baseline, Scale};
use crate::show::evidence;
use crate::show::table::Found;
use crate::show::table::versus::Number;

/// Names and values.
pub type Lines = BTreeMap<String, String>;

/// One side, its stages in the order of its pipeline.
#[derive(Debug, Default)]
pub struct View {
    pub stages: Vec<Seen>,
    /// False for a baseline, which holds numbers alone.
    pub has_settings: bool,
    pub remarks: Vec<String>,
}

/// What stands under one label: an instance, or several that are taken together.
#[derive(Debug)]
pub struct Seen {
    pub label: String,
    pub family: String,
    pub settings: Lines,
    /// Modules and files, with digests.
    pub code: Lines,
    pub numbers: Numbers,
}

#[derive(Debug)]
pub enum Numbers {
    Measured(Vec<Measured>),
    Stale(String),
    NotRun,
    /// It measures nothing.
    None,
}

/// One metric, of one run or as a mean of several.
#[derive(Debug, Clone)]
pub struct Measured {
    pub name: String,
    pub label: String,
    pub number: Number,
    /// True if its error is known.
    pub has_error: bool,
    pub runs: usize,
    pub n: Option<u64>,
    pub better: Better,
    pub protocol: Map<String, Value>,
}

impl Measured {
    pub fn base_label(&self) -> &str {
        let label = &self.label;
        label.split_once(" (bound").map_or(label, |(base, _)| base)
    }

    pub fn shown(&self) -> Shown {
        Shown::Measured {
            value: self.number.value,
            std_error: self.has_error.then_some(self.number.error),
            runs: self.runs,
            bound: self.number.bound,
            label: self.label.clone(),
            better: self.better,
        }
    }
}

/// Labels, and the instances under each.
pub type Scope = Vec<(String, Vec<Id>)>;

/// A side while it is looked at.
pub struct Sight<'p> {
    planner: Planner<'p>,
    tables: &'p Tables,
    scope: Scope,
}

impl<'p> Sight<'p> {
    /// Judges what the scope names.
    pub fn new(project: &'p mut Project, scope: Scope) -> Self {
        let ids: Vec<Id> = scope.iter().flat_map(|(_, ids)| ids.clone()).collect();
        let order = project.graph.with_needs(&ids);
        let mut planner = Planner::new(&project.graph, &mut project.store, &project.facts, false);
        planner.judge_all(&order);
        Self {
            planner,
            tables: &project.tables,
            scope,
        }
    }

    /// The files that runs were found to read, by label. What one side knows of them is looked at on both.
    pub fn files(&mut self) -> HashMap<String, BTreeSet<String>> {
        let mut files = HashMap::new();
        for (label, ids) in &self.scope {
            let found = ids.iter().flat_map(|id| self.planner.found_files(*id));
            files.insert(label.clone(), found.collect());
        }
        files
    }

    /// `files` are those of either side.
    pub fn view(mut self, files: &[&HashMap<String, BTreeSet<String>>]) -> View {
        let ids: Vec<Id> = self.scope.iter().flat_map(|(_, ids)| ids.clone()).collect();
        let mut found = evidence::of_judged(&self.planner, self.tables, &ids);
        let mut view = View {
            has_settings: true,
            ..View::default()
        };
        let mut imported: BTreeMap<String, usize> = BTreeMap::new();
        for result in found.values() {
            if let Found::Fresh(outcome) = result
                && let Some(origin) = &outcome.origin
            {
                *imported.entry(origin.clone()).or_default() += 1;
            }
        }
        for (origin, count) in imported {
            let results = human::count(count, "result");
            let sentence = format!("{results} imported from {origin}, not made here.");
            view.remarks.push(sentence);
        }
        for (label, ids) in std::mem::take(&mut self.scope) {
            let Some(first) = ids.first() else { continue };
            let graph = self.planner.graph;
            let (mut settings, mut code) = (Together::default(), Together::default());
            for id in &ids {
                let (told, mut own) = self.declared(*id);
                let read = files.iter().filter_map(|files| files.get(&label)).flatten();
                for path in read {
                    if let Some(digest) = self.planner.digest_now(path) {
                        own.insert(path.clone(), digest);
                    }
                }
                settings.add(told);
                code.add(own);
            }
            let found: Vec<Found> = ids
                .iter()
                .filter_map(|id| found.remove(&graph.stages[*id].name))
                .collect();
            view.stages.push(Seen {
                family: graph.stages[*first].family.clone(),
                settings: settings.lines(),
                code: code.lines(),
                numbers: numbers(&label, found, &mut view.remarks),
                label,
            });
        }
        view
    }

    /// What a stage is told, and its code and files.
    fn declared(&mut self, id: Id) -> (Lines, Lines) {
        let manifest = self.planner.declared(id);
        let (mut told, mut code) = (Lines::new(), Lines::new());
        for (key, value) in manifest.iter() {
            let word = key.split(['.', '[']).next().unwrap_or(key);
            match word {
                // Inputs differ where what makes them does; the rest is not of the pipeline's making.
                "input" | "code" | "format" | "machine" | "from" => {}
                "file" | "environment" => {
                    let name = key.split_once('.').map_or(key, |(_, name)| name);
                    code.insert(name.into(), value.into());
                }
                _ if value.starts_with(secret::MARK) => {
                    // Whether it differs may be seen, what it is may not.
                    let kept = value.get(..secret::MARK.len() + 6).unwrap_or(secret::MARK);
                    told.insert(key.into(), kept.into());
                }
                _ => {
                    told.insert(key.into(), value.into());
                }
            }
        }
        let modules = self.planner.code(id).iter();
        code.extend(modules.map(|(name, digest)| (name.clone(), digest.clone())));
        (told, code)
    }
}

/// Lines of several instances: where they differ among themselves, all their values.
#[derive(Default)]
struct Together(BTreeMap<String, Vec<String>>);

impl Together {
    fn add(&mut self, lines: Lines) {
        for (key, value) in lines {
            let values = self.0.entry(key).or_default();
            if !values.contains(&value) {
                values.push(value);
            }
        }
    }

    fn lines(self) -> Lines {
        let joined = |(key, values): (String, Vec<String>)| (key, values.join(" | "));
        self.0.into_iter().map(joined).collect()
    }
}

/// One that is not fresh hides the numbers of all, as in a table.
fn numbers(label: &str, found: Vec<Found>, remarks: &mut Vec<String>) -> Numbers {
    let (mut runs, mut state) = (Vec::new(), None);
    for found in found {
        match found {
            Found::Fresh(outcome) => runs.push(outcome.metrics),
            Found::Stale(reason) => state = Some(Numbers::Stale(reason)),
            Found::LeftOut => {}
            Found::NotRun => {
                state = state.or(Some(Numbers::NotRun));
            }
        }
    }
    if let Some(state) = state {
        return state;
    }
    let Some(first) = runs.first() else {
        return Numbers::None;
    };
    let mut all = Vec::new();
    for metric in first {
        let same = runs
            .iter()
            .map(|run| run.iter().find(|m| m.name == metric.name));
        let Some(same) = same.collect::<Option<Vec<&Metric>>>() else {
            continue;
        };
        if same
            .iter()
            .any(|m| m.label != metric.label || m.protocol != metric.protocol)
        {
            remarks.push(format!(
                "{} of {label} was measured by different protocols.",
                metric.name
            ));
            continue;
        }
        all.push(measured(&same));
    }
    Numbers::Measured(all)
}

/// The mean of at least one run.
fn measured(runs: &[&Metric]) -> Measured {
    let first = runs[0];
    let k = runs.len() as f64;
    let mean = runs.iter().map(|m| m.value).sum::<f64>() / k;
    let error = match runs {
        [one] => one.std_error,
        _ => {
            let squares = runs.iter().map(|m| (m.value - mean).powi(2)).sum::<f64>();
            Some((squares / (k - 1.0) / k).sqrt())
        }
    };
    Measured {
        name: first.name.clone(),
        label: first.label.clone(),
        number: Number {
            value: mean,
            error: error.unwrap_or(0.0),
            bound: first.is_bound(),
        },
        has_error: error.is_some(),
        runs: runs.len(),
        n: first.n,
        better: first.better,
        protocol: first.protocol.clone(),
    }
}

impl View {
    /// The numbers of a baseline, under labels for its stages. Of one that is known to move from seed to seed
    /// that is the error.
    pub fn of_baseline(baseline: &Baseline, label: &dyn Fn(&str) -> String) -> Self {
        let mut view = Self::default();
        let mut groups: Vec<(String, Vec<Metric>)> = Vec::new();
        let mut places: HashMap<(String, String), usize> = HashMap::new();
        for entry in &baseline.0 {
            let spread = entry.spread.as_ref();
            let std_error = spread.map(|spread| match spread.scale {
                Scale::Log => spread.deviation * entry.value.abs(),
                Scale::Linear => spread.deviation,
            });
            let metric = Metric {
                name: entry.metric.clone(),
                label: entry.label.clone(),
                value: entry.value,
                std_error,
                n: entry.n,
                better: entry.better,
                unit: String::new(),
                protocol: Map::new(),
            };
            let label = label(&entry.stage);
            let place = (label.clone(), entry.metric.clone());
            let at = *places.entry(place).or_insert_with(|| {
                groups.push((label, Vec::new()));
                groups.len() - 1
            });
            groups[at].1.push(metric);
        }
        let mut stages: HashMap<String, usize> = HashMap::new();
        for (label, runs) in groups {
            let measured = measured(&runs.iter().collect::<Vec<_>>());
            let at = *stages.entry(label).or_insert_with_key(|label| {
                view.stages.push(Seen {
                    label: label.clone(),
                    family: label.split('@').next().unwrap_or_default().into(),
                    settings: Lines::new(),
                    code: Lines::new(),
                    numbers: Numbers::Measured(Vec::new()),
                });
                view.stages.len() - 1
            });
            if let Numbers::Measured(all) = &mut view.stages[at].numbers {
                all.push(measured);
            }
        }
        view
    }

    /// Keeps what the test says of label and family.
    pub fn keep(&mut self, keep: &dyn Fn(&str, &str) -> bool) {
        self.stages.retain(|seen| keep(&seen.label, &seen.family));
    }
}
