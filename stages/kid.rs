//! Kind `kid`: the kernel distance between the features of two sets of images.

use anyhow::{Result, ensure};
use contract::metrics::{self, Better, Metric};
use contract::{Input, Job, Output, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::data::vectors::Vectors;
use crate::metrics::kid::{Subsets, kid};
use crate::nn::noise::Noise;

pub struct Kid;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    pub seed: u64,
    /// The usual choice is 100 subsets of 1,000 images.
    pub subsets: Subsets,
}

impl Stage for Kid {
    const KIND: &'static str = "kid";
    const ABOUT: &'static str = "Kernel distance between the features of two sets of images";
    const INPUTS: &'static [Input] =
        &[Input::one("real", "vectors"), Input::one("fake", "vectors")];
    const OUTPUTS: &'static [Output] = &[Output::new("metrics", "metrics", "metrics.json")];
    type Params = Params;

    fn run(params: &Params, job: &mut Job) -> Result<()> {
        let real = Vectors::load(job.input("real")?)?;
        let fake = Vectors::load(job.input("fake")?)?;
        metrics::save(job.output("metrics")?, &[distance(&real, &fake, params)?])
    }
}

/// The distance with its protocol; an error where the two were not measured alike.
pub fn distance(real: &Vectors, fake: &Vectors, params: &Params) -> Result<Metric> {
    let mut protocol = real.against(fake)?;
    protocol.insert("kernel".into(), json!("(x y / d + 1)^3"));
    protocol.insert("subsets".into(), json!(params.subsets));
    let noise = Noise::new(params.seed, "kid");
    let (value, std_error) = kid(&real.values, &fake.values, real.d, params.subsets, &noise)?;
    ensure!(value.is_finite(), "the kernel distance is {value}");
    Ok(Metric {
        name: "kid".into(),
        label: real.protocol.label_of("KID", "Kernel distance"),
        value,
        std_error,
        n: Some(fake.n() as u64),
        better: Better::Lower,
        unit: String::new(),
        protocol,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::protocol::{Protocol, UINT8};
    use crate::precision_recall::PrecisionRecall;
    use contract::testing::Bench;
    use serde_json::Value;

    fn vectors(seed: u64, n: usize, label: &str) -> Vectors {
        Vectors {
            d: 4,
            values: Noise::new(seed, "vectors").at(0).normals(4 * n),
            source: Some("cifar10 test".into()),
            protocol: Protocol {
                label: label.into(),
                extractor: "network".into(),
                digest: "00".into(),
                resize: "tf-legacy".into(),
                pixels: UINT8.into(),
                dtype: "f32".into(),
            },
        }
    }

    /// Both kinds on the same vectors: what they measure has a name, a protocol and an error.
    #[test]
    fn numbers_say_how_they_were_measured() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let (real, fake) = (dir.path().join("real"), dir.path().join("fake"));
        vectors(1, 60, "FID").save(&real)?;
        vectors(2, 50, "FID").save(&fake)?;
        let given = [("real", real.as_path()), ("fake", fake.as_path())];
        let metrics = |text: String| -> Result<Vec<Value>> {
            let all: Value = serde_json::from_str(&text)?;
            Ok(all["metrics"].as_array().unwrap().clone())
        };
        let bench = Bench::new::<Kid>(&given);
        bench.run::<Kid>(&json!({"seed": 0, "subsets": {"count": 10, "size": 20}}))?;
        let path = bench.output::<Kid>("metrics");
        let [kid] = &metrics(std::fs::read_to_string(path)?)?[..] else {
            panic!("one number")
        };
        assert_eq!((&kid["label"], &kid["n"]), (&json!("KID"), &json!(50)));
        assert!(kid["std_error"].as_f64() > Some(0.0));
        let protocol = json!({
            "extractor": "network", "digest": "00", "resize": "tf-legacy", "pixels": "uint8",
            "dtype": "f32", "reference": "cifar10 test", "n_reference": 60, "kernel": "(x y / d + 1)^3",
            "subsets": {"count": 10, "size": 20},
        });
        assert_eq!(kid["protocol"], protocol);

        let bench = Bench::new::<PrecisionRecall>(&given);
        bench.run::<PrecisionRecall>(&json!({"neighbours": 3}))?;
        let path = bench.output::<PrecisionRecall>("metrics");
        let [precision, recall] = &metrics(std::fs::read_to_string(path)?)?[..] else {
            panic!("two numbers")
        };
        assert_eq!(
            (&precision["label"], &precision["n"]),
            (&json!("precision"), &json!(50))
        );
        assert_eq!(
            (&recall["label"], &recall["n"]),
            (&json!("recall"), &json!(60))
        );
        assert_eq!(recall["protocol"]["neighbours"], 3);
        Ok(())
    }

    #[test]
    fn different_features_are_not_compared() {
        let (real, fake) = (
            vectors(1, 60, "FID"),
            vectors(2, 50, "Fréchet distance (other)"),
        );
        let params: Params =
            serde_json::from_value(json!({"seed": 0, "subsets": {"count": 1, "size": 9}})).unwrap();
        let error = distance(&real, &fake, &params).unwrap_err().to_string();
        assert!(
            error.starts_with("real and fake features are not comparable: label"),
            "{error}"
        );
    }
}
