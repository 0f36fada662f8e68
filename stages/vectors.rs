//! Kind `vectors`: images and a network to one feature vector for each image.

use anyhow::{Result, bail};

use crate::contract::{Input, Job, Output, Stage};
use crate::data::images::Images;
use crate::data::tensors::Number;
use crate::data::vectors::Vectors as Artifact;
use crate::features::{Params, choose};
use crate::models::extractor::Extractor;
use crate::nn::device;
use crate::train::batches::in_batches;

pub struct Vectors;

impl Stage for Vectors {
    const KIND: &'static str = "vectors";
    const ABOUT: &'static str = "One feature vector for each image";
    const INPUTS: &'static [Input] = &[
        Input::one("images", "images"),
        Input::one("extractor", "extractor"),
    ];
    const OUTPUTS: &'static [Output] = &[Output::new("vectors", "vectors", "vectors.safetensors")];
    type Params = Params;

    fn run(params: &Params, job: &mut Job) -> Result<()> {
        let device = device::open(&job.spec().device)?;
        let path = job.input("images")?.to_path_buf();
        let images = Images::load(&path)?;
        let chosen = choose(&path, images.n, params)?;
        let extractor = Extractor::load(job.input("extractor")?, &device)?;
        let d = extractor.width();
        let bytes = in_batches(job, chosen.len(), params.batch, 4 * d, |_, range| {
            let batch = &chosen[range];
            let pixels: Vec<&[u8]> = batch.iter().map(|&i| images.image(i)).collect();
            let features = extractor.features(&pixels, images.shape(), params.resize)?;
            if let Some(at) = features.iter().position(|v| !v.is_finite()) {
                let (feature, image) = (at % d, batch[at / d]);
                bail!(
                    "{}: feature {feature} of image {image} is {}",
                    path.display(),
                    features[at]
                );
            }
            Ok(f32::to_bytes(&features))
        })?;
        let vectors = Artifact {
            d,
            values: bytes.chunks_exact(4).map(f32::from_bytes).collect(),
            source: images.source,
            protocol: extractor.protocol(params.resize),
        };
        vectors.save(job.output("vectors")?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Interrupted;
    use crate::contract::testing::Bench;
    use crate::data::gaussian::Gaussian;
    use crate::features::Features;
    use crate::features::testing::inputs;
    use crate::metrics::moments::Moments;
    use serde_json::json;
    use std::path::Path;

    #[test]
    fn their_moments_are_those_of_the_features_and_interruptions_change_nothing() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let [images, network] = inputs(dir.path())?;
        let given: [(&str, &Path); 2] = [("images", &images), ("extractor", &network)];
        let params = json!({"batch": 50, "n": 200, "seed": 3, "resize": "tf-legacy"});
        let whole = Bench::new::<Vectors>(&given);
        whole.run::<Vectors>(&params)?;
        let vectors = Artifact::load(&whole.output::<Vectors>("vectors"))?;
        assert_eq!((vectors.n(), vectors.d), (200, 6));

        let features = Bench::new::<Features>(&given);
        features.run::<Features>(&params)?;
        let gaussian = Gaussian::load(&features.output::<Features>("gaussian"))?;
        let mut moments = Moments::new(vectors.d);
        for block in vectors.values.chunks(50 * vectors.d) {
            moments.push(block)?;
        }
        assert_eq!(moments.finish()?, (gaussian.mean, gaussian.cov));
        assert_eq!(vectors.protocol, gaussian.protocol);

        let mut broken = Bench::new::<Vectors>(&given);
        broken.spec().checkpoint_every.seconds = Some(0.0);
        let (mut job, _) = broken.job(Some(2));
        let error = Vectors::run(&serde_json::from_value(params.clone())?, &mut job).unwrap_err();
        assert!(error.is::<Interrupted>(), "{error:?}");
        let events = broken.run::<Vectors>(&params)?;
        assert!(events.contains(r#""event":"resumed""#), "{events}");
        assert_eq!(whole.bytes::<Vectors>(), broken.bytes::<Vectors>());
        Ok(())
    }
}
