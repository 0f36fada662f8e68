//! Kind `dataset`: a public (or a user's own) data set to train, validation and test images.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use contract::{Input, Job, Output, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::images::Images;
use crate::data::jpeg;
use crate::data::source::{Source, Splits};

pub struct Dataset;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    source: Source,
    /// Images held out of the end of the training split; 0: the source's own validation split. `all` has
    /// them too.
    valid: usize,
    /// How many of the training images to keep, from the front; 0: all.
    train: usize,
    /// How many of the test images to keep, from the front; 0: all.
    test: usize,
    /// Every image is written as a JPEG file of this quality, 1 to 100, and read back, before any `pad`;
    /// 0: images as published. 75 is Dai & Wipf's (A24).
    jpeg_quality: u8,
    /// Rows and columns of zeros on each side of every image, which all that reads them keeps:
    /// 2 makes 32x32 of Fashion-MNIST's 28x28 (A35).
    pad: usize,
}

impl Stage for Dataset {
    const KIND: &'static str = "dataset";
    const ABOUT: &'static str =
        "Train, validation and test images as uint8; all of the training split, too";
    const INPUTS: &'static [Input] = &[];
    const OUTPUTS: &'static [Output] = &[
        Output::new("train", "images", "train.safetensors"),
        Output::new("all", "images", "all.safetensors"),
        Output::new("valid", "images", "valid.safetensors"),
        Output::new("test", "images", "test.safetensors"),
    ];
    type Params = Params;

    fn data(params: &Params, folder: &Path) -> Vec<PathBuf> {
        params.source.data(folder)
    }

    fn run(params: &Params, job: &mut Job) -> Result<()> {
        let name = params.source.name();
        ensure!(
            params.jpeg_quality <= 100,
            "params.jpeg_quality = {} is no quality of a JPEG file; hint: 1 to 100, or 0 for \
             images as published",
            params.jpeg_quality
        );
        let Splits { train, valid, test } = params.source.load(job)?;
        let (train, valid, all) = match (valid, params.valid) {
            (Some(valid), 0) => (keep(train, params.train, name, "train")?, valid, None),
            (_, n) => {
                ensure!(
                    n < train.n,
                    "params.valid = {n} leaves nothing of the {} training images of {name}",
                    train.n
                );
                let cut = train.n - n;
                let kept = keep(front(&train, cut), params.train, name, "train")?;
                let all = train.select((0..kept.n).chain(cut..train.n));
                (kept, train.select(cut..train.n), Some(all))
            }
        };
        let splits = [
            ("train", Some(train)),
            ("all", all),
            ("valid", Some(valid)),
            ("test", Some(keep(test, params.test, name, "test")?)),
        ];
        for (port, images) in splits {
            let Some(mut images) = images else {
                // Nothing is held out of it.
                let (from, to) = (job.output("train")?, job.output(port)?);
                std::fs::copy(from, to).with_context(|| to.display().to_string())?;
                continue;
            };
            let mut about = name.to_owned();
            if params.jpeg_quality > 0 {
                images = jpeg::round_trip(&images, params.jpeg_quality, job)?;
                about += &format!(" as JPEG {}", params.jpeg_quality);
            }
            if params.pad > 0 {
                let [height, width, _] = images.shape();
                ensure!(
                    params.pad < height.min(width),
                    "params.pad = {} is no frame for images of {height}x{width}; hint: 2 makes \
                     32x32 of 28x28",
                    params.pad
                );
                images = images.padded(params.pad);
                about += &format!(" padded to {}x{}", images.height, images.width);
            }
            images.source = Some(format!("{about} {port}"));
            images.save(job.output(port)?)?;
        }
        Ok(())
    }
}

fn keep(images: Images, n: usize, name: &str, split: &str) -> Result<Images> {
    ensure!(
        n <= images.n,
        "params.{split} = {n}, but {name} has {} {split} images",
        images.n
    );
    Ok(match n {
        0 => images,
        n => front(&images, n),
    })
}

fn front(images: &Images, n: usize) -> Images {
    images.select(0..n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::testing::Bench;
    use serde_json::json;

    #[test]
    fn validation_images_come_from_the_end_of_the_training_split() -> Result<()> {
        let source = json!({"kind": "embedded", "look": {"kind": "grey"}});
        let bench = Bench::new::<Dataset>(&[]);
        let padded = |valid, train, test, pad| {
            let params = json!({
                "source": source, "valid": valid, "train": train, "test": test,
                "jpeg_quality": 0, "pad": pad,
            });
            bench.run::<Dataset>(&params)
        };
        let run = |valid, train, test| padded(valid, train, test, 0);
        let load = |port| Images::load(&bench.output::<Dataset>(port));
        run(0, 0, 0)?;
        let all = load("train")?.pixels().to_vec();
        assert_eq!(
            (load("train")?.n, load("valid")?.n, load("test")?.n),
            (6000, 0, 1000)
        );
        assert!(load("all")?.pixels() == all);

        run(500, 40, 30)?;
        let (train, valid, test) = (load("train")?, load("valid")?, load("test")?);
        assert_eq!((train.n, valid.n, test.n), (40, 500, 30));
        assert_eq!(train.pixels(), &all[..40 * 784]);
        assert_eq!(valid.pixels(), &all[5500 * 784..]);
        let both = [train.pixels(), valid.pixels()].concat();
        assert!(load("all")?.pixels() == both);
        assert_eq!(
            test.source.as_deref(),
            Some("fashion-mnist subset (grey) test")
        );

        // Another frame is another reference, which no column mixes with the first.
        padded(500, 40, 30, 2)?;
        let wide = load("test")?;
        assert_eq!(wide.shape(), [32, 32, 1]);
        assert_eq!(
            wide.source.as_deref(),
            Some("fashion-mnist subset (grey) padded to 32x32 test")
        );
        assert_eq!(wide.pixels(), test.padded(2).pixels());

        let error = padded(500, 40, 30, 28).unwrap_err().to_string();
        assert!(
            error.starts_with("params.pad = 28 is no frame for images of 28x28"),
            "{error}"
        );

        let error = run(6000, 0, 0).unwrap_err().to_string();
        assert!(
            error.starts_with("params.valid = 6000 leaves nothing of the 6000"),
            "{error}"
        );
        Ok(())
    }
    #[test]
    fn all_splits_are_read_back_from_jpeg_files_and_then_padded() -> Result<()> {
        let bench = Bench::new::<Dataset>(&[]);
        let run = |jpeg_quality, pad| -> Result<Vec<Images>> {
            bench.run::<Dataset>(&json!({
                "source": {"kind": "embedded", "look": {"kind": "two-tone", "seed": 1}},
                "valid": 20, "train": 40, "test": 30, "jpeg_quality": jpeg_quality, "pad": pad,
            }))?;
            let splits = ["train", "valid", "test"].iter();
            splits
                .map(|port| Images::load(&bench.output::<Dataset>(port)))
                .collect()
        };
        let (published, read, framed) = (run(0, 0)?, run(75, 0)?, run(75, 2)?);
        for ((published, read), framed) in published.iter().zip(&read).zip(&framed) {
            let pixels = published.pixels().iter().zip(read.pixels());
            let gap = pixels.map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>();
            let mean = gap / published.pixels().len() as f64;
            assert!(0.5 < mean && mean < 10.0, "{mean}");
            assert_eq!(published.labels, read.labels);
            assert_eq!(framed.pixels(), read.padded(2).pixels());
        }
        let source = |images: &[Images]| images[2].source.clone().unwrap();
        let name = "fashion-mnist subset (two-tone) as JPEG 75";
        assert_eq!(source(&read), format!("{name} test"));
        assert_eq!(source(&framed), format!("{name} padded to 36x36 test"));

        let error = run(101, 0).err().unwrap().to_string();
        assert!(
            error.starts_with("params.jpeg_quality = 101 is no quality of a JPEG file; hint"),
            "{error}"
        );
        Ok(())
    }
}
