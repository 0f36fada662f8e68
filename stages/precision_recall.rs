//! Kind `precision-recall`: how much of two sets of images overlaps, by their features.

use anyhow::Result;
use contract::metrics::{self, Better, Metric};
use contract::{Input, Job, Output, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::data::vectors::Vectors;
use crate::metrics::neighbours::precision_and_recall;

pub struct PrecisionRecall;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// A ball around a vector reaches to its neighbour of this rank; the usual choice is 3.
    pub neighbours: usize,
}

impl Stage for PrecisionRecall {
    const KIND: &'static str = "precision-recall";
    const ABOUT: &'static str = "Improved precision and recall of two sets of images' features";
    const INPUTS: &'static [Input] =
        &[Input::one("real", "vectors"), Input::one("fake", "vectors")];
    const OUTPUTS: &'static [Output] = &[Output::new("metrics", "metrics", "metrics.json")];
    type Params = Params;

    fn run(params: &Params, job: &mut Job) -> Result<()> {
        let real = Vectors::load(job.input("real")?)?;
        let fake = Vectors::load(job.input("fake")?)?;
        metrics::save(job.output("metrics")?, &overlap(&real, &fake, params)?)
    }
}

/// Precision and recall with their protocol; an error where the two were not measured alike.
pub fn overlap(real: &Vectors, fake: &Vectors, params: &Params) -> Result<[Metric; 2]> {
    let mut protocol = real.against(fake)?;
    protocol.insert("neighbours".into(), json!(params.neighbours));
    let found = precision_and_recall(&real.values, &fake.values, real.d, params.neighbours)?;
    // A share of independent images; the balls, which depend on all of them, are taken as given.
    let error = |share: f64, n: usize| Some((share * (1.0 - share) / n as f64).sqrt());
    let metric = |name: &str, value: f64, n: usize| Metric {
        name: name.into(),
        label: real.protocol.label_of(name, name),
        value,
        std_error: error(value, n),
        n: Some(n as u64),
        better: Better::Higher,
        unit: String::new(),
        protocol: protocol.clone(),
    };
    Ok([
        metric("precision", found.precision, fake.n()),
        metric("recall", found.recall, real.n()),
    ])
}
