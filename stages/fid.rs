//! Kind `fid`: the Fréchet distance between the features of two sets of images.

use anyhow::Result;
use contract::metrics::{self, Better, Metric};
use contract::{Input, Job, Output, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::gaussian::Gaussian;
use crate::metrics::frechet::Pair;

pub struct Fid;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {}

impl Stage for Fid {
    const KIND: &'static str = "fid";
    const ABOUT: &'static str = "Fréchet distance between the features of two sets of images";
    const INPUTS: &'static [Input] = &[
        Input::one("real", "gaussian"),
        Input::one("fake", "gaussian"),
    ];
    const OUTPUTS: &'static [Output] = &[Output::new("metrics", "metrics", "metrics.json")];
    type Params = Params;

    fn run(_: &Params, job: &mut Job) -> Result<()> {
        let real = Gaussian::load(job.input("real")?)?;
        let fake = Gaussian::load(job.input("fake")?)?;
        let metric = distance(&real, &fake)?;
        metrics::save(job.output("metrics")?, &[metric])
    }
}

/// The distance with its protocol; an error where the two were not measured alike. Its standard
/// error is over the images of `fake`; the reference is part of the protocol.
pub fn distance(real: &Gaussian, fake: &Gaussian) -> Result<Metric> {
    let source = real.source.as_deref();
    let protocol = real.protocol.against(&fake.protocol, source, real.n)?;
    let (reference, measured) = (
        (&real.mean[..], &real.cov[..]),
        (&fake.mean[..], &fake.cov[..]),
    );
    let pair = Pair::new(reference, measured)?;
    let std_error = match fake.vectors.is_empty() {
        true => None,
        false => Some(pair.std_error(&fake.vectors)?),
    };
    Ok(Metric {
        name: "frechet".into(),
        label: real.protocol.label.clone(),
        value: pair.distance()?,
        std_error,
        n: Some(fake.n as u64),
        better: Better::Lower,
        unit: String::new(),
        protocol,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::protocol::{Protocol, UINT8};
    use contract::testing::Bench;
    use serde_json::{Value, json};

    fn gaussian(mean: f64, resize: &str) -> Gaussian {
        Gaussian {
            n: 10,
            mean: vec![mean, 0.0],
            cov: vec![1.0, 0.0, 0.0, 1.0],
            vectors: Vec::new(),
            source: Some("cifar10 test".into()),
            protocol: Protocol {
                label: "FID".into(),
                extractor: "inception-2015-12-05".into(),
                digest: "6726825d".into(),
                resize: resize.into(),
                pixels: UINT8.into(),
                dtype: "f32".into(),
            },
        }
    }

    #[test]
    fn the_metric_says_how_it_was_measured() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let (real, fake) = (dir.path().join("real"), dir.path().join("fake"));
        gaussian(0.0, "tf-legacy").save(&real)?;
        gaussian(3.0, "tf-legacy").save(&fake)?;
        let bench = Bench::new::<Fid>(&[("real", &real), ("fake", &fake)]);
        bench.run::<Fid>(&json!({}))?;
        let text = std::fs::read_to_string(bench.output::<Fid>("metrics"))?;
        let metric = &serde_json::from_str::<Value>(&text)?["metrics"][0];
        assert!((metric["value"].as_f64().unwrap() - 9.0).abs() < 1e-9);
        assert_eq!(metric["label"], "FID");
        let protocol = json!({
            "extractor": "inception-2015-12-05", "digest": "6726825d", "resize": "tf-legacy",
            "pixels": "uint8", "dtype": "f32", "reference": "cifar10 test", "n_reference": 10,
        });
        assert_eq!(metric["protocol"], protocol);
        Ok(())
    }

    #[test]
    fn different_protocols_are_not_mixed() {
        let error = distance(&gaussian(0.0, "tf-legacy"), &gaussian(0.0, "clean")).unwrap_err();
        let text =
            r#"real and fake features are not comparable: resize is "tf-legacy" and "clean""#;
        assert_eq!(error.to_string(), text);
    }
}
