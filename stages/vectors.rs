//! Kind `vectors`: images and a network to one feature vector for each image.

use anyhow::{Result, bail};
use contract::{Input, Job, Output, Stage};

use crate::data::any_images::AnyImages;
use crate::data::tensors::Number;
use crate::data::vectors::Vectors as Artifact;
use crate::features::{Params, extract, protocol, subset};
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
        let images = AnyImages::load(&path)?;
        let chosen = subset(&path, images.n(), params)?;
        let extractor = Extractor::load(job.input("extractor")?, &device)?;
        let d = extractor.width();
        let bytes = in_batches(job, chosen.len(), params.batch, 4 * d, |_, range| {
            let batch = &chosen[range];
            let features = extract(&extractor, &images, batch, params)?;
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
            source: images.source(),
            protocol: protocol(&extractor, &images, params),
        };
        vectors.save(job.output("vectors")?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::any_images::Floats;
    use crate::data::gaussian::Gaussian;
    use crate::data::images::Images;
    use crate::features::Features;
    use crate::features::testing::inputs;
    use crate::metrics::moments::Moments;
    use contract::Interrupted;
    use contract::testing::Bench;
    use serde_json::json;
    use std::path::{Path, PathBuf};

    #[test]
    fn their_moments_are_those_of_the_features_and_interruptions_change_nothing() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let [images, network] = inputs(dir.path())?;
        let given: [(&str, &Path); 2] = [("images", &images), ("extractor", &network)];
        let params =
            json!({"batch": 50, "n": 200, "seed": 3, "resize": "tf-legacy", "stretch": "none"});
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

    /// Floats are seen as bytes of the same values, and a stretched image whatever its scale and offset were.
    /// The last image has one value and stays.
    #[test]
    fn floats_and_stretched_images_are_seen_alike() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let [images, network] = inputs(dir.path())?;
        let bytes = Images::load(&images)?;
        let plain = vec![70; bytes.dims()];
        let pixels = [&bytes.pixels()[..20 * bytes.dims()], &plain].concat();
        let bytes = Images::new(bytes.shape(), pixels, None)?;
        bytes.save(&images)?;
        let scaled = |factor: f32, offset: f32| -> Result<PathBuf> {
            let path = dir.path().join(format!("{factor}"));
            let values = bytes
                .pixels()
                .iter()
                .map(|&v| factor * f32::from(v) + offset);
            let values = f32::to_bytes(&values.collect::<Vec<_>>());
            Floats::save(&path, bytes.shape(), &values)?;
            Ok(path)
        };
        let see = |images: &Path, stretch: &str| -> Result<Artifact> {
            let bench = Bench::new::<Vectors>(&[("images", images), ("extractor", &network)]);
            bench.run::<Vectors>(&json!({
                "batch": 8, "n": 0, "seed": 0, "resize": "tf-legacy", "stretch": stretch,
            }))?;
            Artifact::load(&bench.output::<Vectors>("vectors"))
        };
        let (as_bytes, as_floats) = (see(&images, "none")?, see(&scaled(1.0, 0.0)?, "none")?);
        assert_eq!(as_bytes.values, as_floats.values);
        let kept = [&as_bytes, &as_floats].map(|v| v.protocol.pixels.as_str());
        assert_eq!(kept, ["uint8", "float"]);

        let other = scaled(0.25, 96.0)?;
        let (stretched, same) = (see(&images, "min-max")?, see(&other, "min-max")?);
        let last = 20 * as_bytes.d;
        assert_eq!(stretched.values[..last], same.values[..last]);
        assert_ne!(stretched.values[..last], as_bytes.values[..last]);
        assert_eq!(stretched.values[last..], as_bytes.values[last..]);
        let kept = [&stretched, &same].map(|v| v.protocol.pixels.as_str());
        assert_eq!(kept, ["uint8 stretched min-max", "float stretched min-max"]);
        Ok(())
    }
}
