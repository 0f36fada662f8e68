//! Kind `features`: images and a network to the mean and covariance of the network's features.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use contract::{Event, Input, Interrupted, Job, Output, Progress, Stage};
use half::bf16;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::any_images::AnyImages;
use crate::data::gaussian::Gaussian;
use crate::data::protocol::{Protocol, UINT8};
use crate::data::tensors::{self, Entry, Number, TensorFile};
use crate::metrics::moments::Moments;
use crate::metrics::resize::Resize;
use crate::metrics::stretch::Stretch;
use crate::models::extractor::Extractor;
use crate::nn::device;
use crate::nn::noise::Noise;

pub struct Features;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Images at a time.
    pub batch: usize,
    /// How many images, chosen at random where there are more; 0: all.
    pub n: usize,
    pub seed: u64,
    pub resize: Resize,
    pub stretch: Stretch,
}

impl Stage for Features {
    const KIND: &'static str = "features";
    const ABOUT: &'static str = "Mean and covariance of images' features";
    const INPUTS: &'static [Input] = &[
        Input::one("images", "images"),
        Input::one("extractor", "extractor"),
    ];
    const OUTPUTS: &'static [Output] =
        &[Output::new("gaussian", "gaussian", "gaussian.safetensors")];
    type Params = Params;

    fn run(params: &Params, job: &mut Job) -> Result<()> {
        let device = device::open(&job.spec().device)?;
        let path = job.input("images")?.to_path_buf();
        let images = AnyImages::load(&path)?;
        let chosen = subset(&path, images.n(), params)?;
        let extractor = Extractor::load(job.input("extractor")?, &device)?;

        let mut walk = Walk::resume(job)?;
        while walk.done < chosen.len() {
            if job.checkpoint_due() {
                walk.checkpoint(job)?;
                if job.should_stop() {
                    return Err(Interrupted.into());
                }
            }
            let end = (walk.done + params.batch).min(chosen.len());
            let batch = &chosen[walk.done..end];
            let features = extract(&extractor, &images, batch, params)?;
            let d = features.len() / batch.len();
            let moments = walk.moments.get_or_insert_with(|| Moments::new(d));
            moments
                .push(&features)
                .with_context(|| path.display().to_string())?;
            walk.vectors
                .extend(features.into_iter().map(bf16::from_f32));
            walk.done = end;
            job.progress(Progress {
                done: end as u64,
                total: chosen.len() as u64,
                unit: "image".into(),
                ..Progress::default()
            });
        }

        let moments = walk.moments.context("no images to take features of")?;
        let (mean, cov) = moments
            .finish()
            .with_context(|| path.display().to_string())?;
        if moments.n() <= mean.len() {
            job.note(format!(
                "{} images for {} features: the covariance is singular and the distance biased",
                moments.n(),
                mean.len()
            ));
        }
        let gaussian = Gaussian {
            n: moments.n(),
            mean,
            cov,
            vectors: walk.vectors,
            source: images.source(),
            protocol: protocol(&extractor, &images, params),
        };
        gaussian.save(job.output("gaussian")?)
    }
}

/// The chosen ones of a file's images, in file order, so that reading stays sequential.
pub fn subset(path: &Path, available: usize, params: &Params) -> Result<Vec<usize>> {
    ensure!(params.batch > 0, "params.batch is 0");
    ensure!(
        params.n <= available,
        "{} holds {available} images, params.n asks for {}; hint: make more samples or lower n",
        path.display(),
        params.n
    );
    if params.n == 0 || params.n == available {
        return Ok((0..available).collect());
    }
    let order = Noise::new(params.seed, "features.choice")
        .at(0)
        .permutation(available);
    let mut chosen: Vec<usize> = order[..params.n].iter().map(|&i| i as usize).collect();
    chosen.sort_unstable();
    Ok(chosen)
}

/// Feature vectors, laid end to end, of the chosen ones of a set. Floats are resized on the host, since
/// the kernel for GPUs reads bytes.
pub fn extract(
    extractor: &Extractor,
    images: &AnyImages,
    chosen: &[usize],
    params: &Params,
) -> Result<Vec<f32>> {
    let (shape, resize) = (images.shape(), params.resize);
    if let (AnyImages::Bytes(images), Stretch::None) = (images, params.stretch) {
        let batch: Vec<&[u8]> = chosen.iter().map(|&i| images.image(i)).collect();
        return extractor.features(&batch, shape, resize);
    }
    let stretched = chosen.iter().map(|&i| {
        let mut image = images.floats(i);
        params.stretch.apply(&mut image);
        image
    });
    let stretched: Vec<Vec<f32>> = stretched.collect();
    let batch: Vec<&[f32]> = stretched.iter().map(Vec::as_slice).collect();
    extractor.of_pixels(resize.apply(&batch, shape, extractor.side()), resize)
}

/// How features that [`extract`] gives are to be labelled.
pub fn protocol(extractor: &Extractor, images: &AnyImages, params: &Params) -> Protocol {
    let kept = match images {
        AnyImages::Bytes(_) => UINT8,
        AnyImages::Floats(_) => "float",
    };
    let pixels = match params.stretch {
        Stretch::None => kept.into(),
        Stretch::MinMax => format!("{kept} stretched min-max"),
    };
    Protocol {
        pixels,
        ..extractor.protocol(params.resize)
    }
}

/// How far the images were walked through. Moments are summed in order, so an interrupted walk
/// ends with the numbers of an uninterrupted one.
#[derive(Default)]
struct Walk {
    done: usize,
    moments: Option<Moments>,
    /// See [`Gaussian::vectors`].
    vectors: Vec<bf16>,
}

impl Walk {
    fn file(job: &Job) -> PathBuf {
        job.spec().checkpoint.join("moments.safetensors")
    }

    fn vectors_file(job: &Job) -> PathBuf {
        job.spec().checkpoint.join("vectors.safetensors")
    }

    fn resume(job: &mut Job) -> Result<Self> {
        let file = Self::file(job);
        if !file.exists() {
            return Ok(Self::default());
        }
        let moments = Moments::load(&file)?;
        // Written before the moments, so that there may be more of them.
        let list = TensorFile::open(&Self::vectors_file(job))?;
        let (shape, mut vectors) = list.numbers::<bf16>("vectors", 2)?;
        ensure!(
            shape[0] >= moments.n(),
            "BUG: {} vectors for {} images",
            shape[0],
            moments.n()
        );
        vectors.truncate(moments.n() * shape[1]);
        job.say(&Event::Resumed {
            at: moments.n() as u64,
            unit: "image".into(),
        });
        Ok(Self {
            done: moments.n(),
            moments: Some(moments),
            vectors,
        })
    }

    fn checkpoint(&self, job: &mut Job) -> Result<()> {
        if let Some(moments) = &self.moments {
            let file = Self::file(job);
            std::fs::create_dir_all(&job.spec().checkpoint)
                .with_context(|| format!("cannot make {}", job.spec().checkpoint.display()))?;
            let bytes = bf16::to_bytes(&self.vectors);
            let vectors = Entry {
                name: "vectors",
                dtype: bf16::DTYPE,
                shape: vec![self.done, self.vectors.len() / self.done.max(1)],
                bytes: &bytes,
            };
            tensors::save(&Self::vectors_file(job), &[vectors], &self.done)?;
            moments.save(&file)?;
        }
        job.checkpointed(self.done as u64);
        Ok(())
    }
}

#[cfg(test)]
pub mod testing {
    use super::*;
    use crate::data::embedded::{self, Look};
    use crate::models::classifier::{self, Classifier};
    use crate::models::extractor::Config;
    use crate::nn::weights::Weights;
    use candle_core::{DType, Device};

    /// 300 images and an untrained network.
    pub fn inputs(dir: &Path) -> Result<[PathBuf; 2]> {
        let paths = [dir.join("images"), dir.join("network")];
        let (images, _) = embedded::load(Look::TwoTone { seed: 1 })?;
        images.select(0..300).save(&paths[0])?;
        let weights = Weights::new(1, DType::F32, &Device::Cpu);
        let config = classifier::Config {
            width: 2,
            features: 6,
        };
        Classifier::new(&config, &weights)?;
        weights.save(&paths[1], &Config::Classifier(config))?;
        Ok(paths)
    }
}

#[cfg(test)]
mod tests {
    use super::testing::inputs;
    use super::*;
    use contract::testing::Bench;
    use serde_json::json;

    #[test]
    fn an_interrupted_walk_ends_with_the_same_bytes() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let [images, network] = inputs(dir.path())?;
        let given: [(&str, &Path); 2] = [("images", &images), ("extractor", &network)];
        let params =
            json!({"batch": 50, "n": 200, "seed": 3, "resize": "tf-legacy", "stretch": "none"});

        let whole = Bench::new::<Features>(&given);
        whole.run::<Features>(&params)?;
        let mut broken = Bench::new::<Features>(&given);
        broken.spec().checkpoint_every.seconds = Some(0.0);
        let (mut job, _) = broken.job(Some(2));
        let error = Features::run(&serde_json::from_value(params.clone())?, &mut job).unwrap_err();
        assert!(error.is::<Interrupted>(), "{error:?}");
        let events = broken.run::<Features>(&params)?;
        assert!(events.contains(r#""event":"resumed""#), "{events}");
        assert_eq!(whole.bytes::<Features>(), broken.bytes::<Features>());

        let gaussian = Gaussian::load(&whole.output::<Features>("gaussian"))?;
        assert_eq!((gaussian.n, gaussian.mean.len()), (200, 6));
        assert_eq!(gaussian.vectors.len(), 200 * 6);
        assert_eq!(
            gaussian.protocol.label,
            "Fréchet distance (classifier features)"
        );
        Ok(())
    }

    #[test]
    fn too_many_or_too_few_images_are_errors_with_the_file() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let [images, network] = inputs(dir.path())?;
        let bench = Bench::new::<Features>(&[("images", &images), ("extractor", &network)]);
        let run = |n| {
            let params = json!({
                "batch": 50, "n": n, "seed": 3, "resize": "clean", "stretch": "none",
            });
            format!("{:#}", bench.run::<Features>(&params).unwrap_err())
        };
        assert!(run(301).contains("images holds 300 images, params.n asks for 301"));
        assert!(
            run(1).contains("images: 1 images are too few for a covariance"),
            "{}",
            run(1)
        );
        Ok(())
    }
}
