//! CIFAR-10 and Fashion-MNIST from the Hugging Face Hub: its Parquet files, fetched and read by
//! candle-datasets, in builds with the feature `hub`.
//!
//! The libraries below keep what they download in `$HF_HOME` (`~/.cache/huggingface`) and ask `$HF_ENDPOINT`
//! for it (`https://huggingface.co`). Their pictures are those of the official files, in the Hub's order;
//! a digest of the whole set, whatever its order, says so before anything uses them.

use anyhow::Result;
use contract::Job;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::source::Splits;

/// Which data set.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Set {
    /// 32x32, three channels.
    Cifar10,
    /// 28x28, one channel.
    FashionMnist,
}

impl Set {
    /// What its images are called in results, from wherever they come.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cifar10 => "cifar10",
            Self::FashionMnist => "fashion-mnist",
        }
    }
}

#[cfg(not(feature = "hub"))]
pub fn load(set: Set, _: &mut Job) -> Result<Splits> {
    anyhow::bail!(
        "this build of repro cannot read from the Hub; hint: `cargo build --release --features hub` makes one \
         that can, and source = {{ kind = \"{}\" }} has the same images",
        set.name()
    )
}

#[cfg(feature = "hub")]
pub use reader::load;

#[cfg(feature = "hub")]
mod reader {
    use anyhow::{Context, anyhow, ensure};
    use candle_core::{DType, Tensor};
    use candle_datasets::vision::{self, Dataset};

    use super::*;
    use crate::data::cifar10::{self, content};
    use crate::data::images::Images;

    /// [`content`] of the official images of Fashion-MNIST, each a label and its pixels.
    const FASHION_TRAIN: &str = "70063fb602299ee891ff09d9e7d20d3d";
    const FASHION_TEST: &str = "e4870b5910ec477d9757153d68ef5c6d";

    pub fn load(set: Set, job: &mut Job) -> Result<Splits> {
        let endpoint = std::env::var("HF_ENDPOINT");
        let endpoint = endpoint.unwrap_or_else(|_| "https://huggingface.co".into());
        job.note(format!("reading {} from {endpoint}", set.name()));
        let load = match set {
            Set::Cifar10 => vision::cifar::load,
            Set::FashionMnist => vision::fashion_mnist::load,
        };
        // The reader takes it for granted that every picture can be decoded.
        let read = std::panic::catch_unwind(load)
            .unwrap_or_else(|_| Err(candle_core::Error::Msg("a picture cannot be read".into())));
        let read = read.map_err(|e| anyhow!("{e}")).with_context(|| {
            format!(
                "cannot read {} from {endpoint}; hint: is HF_ENDPOINT right, and the network there? \
                 source = {{ kind = \"{}\" }} has the same images",
                set.name(),
                set.name()
            )
        })?;
        let splits = splits(set, &read)?;
        let pinned = match set {
            Set::Cifar10 => [cifar10::TRAIN_CONTENT, cifar10::TEST_CONTENT],
            Set::FashionMnist => [FASHION_TRAIN, FASHION_TEST],
        };
        for (images, expected) in [&splits.train, &splits.test].into_iter().zip(pinned) {
            let found = digest(images);
            ensure!(
                found == expected,
                "{endpoint} has other images than {}: content {found}, not {expected}; hint: remove its folder \
                 in $HF_HOME if a download may have been damaged",
                set.name()
            );
        }
        Ok(splits)
    }

    fn splits(set: Set, read: &Dataset) -> Result<Splits> {
        Ok(Splits {
            train: images(set, &read.train_images, &read.train_labels)?,
            valid: None,
            test: images(set, &read.test_images, &read.test_labels)?,
        })
    }

    /// Bytes from floats in [0, 1]. Of colour pictures the reader exchanges rows and columns.
    fn images(set: Set, floats: &Tensor, labels: &Tensor) -> Result<Images> {
        let (shape, floats) = match set {
            Set::Cifar10 => ([32, 32, 3], floats.permute((0, 3, 2, 1))?),
            Set::FashionMnist => ([28, 28, 1], floats.clone()),
        };
        let bytes = (floats * 255.0)?.round()?.to_dtype(DType::U8)?;
        let labels = labels.to_vec1::<u8>()?;
        Images::new(shape, bytes.flatten_all()?.to_vec1::<u8>()?, Some(labels))
    }

    /// [`content`] of records as CIFAR-10 has them: a label, and a plane for each channel.
    fn digest(images: &Images) -> String {
        let labels = images.labels.iter().flatten();
        let mut records = Vec::new();
        for (i, label) in labels.enumerate() {
            let pixels = images.image(i);
            records.push(*label);
            for channel in 0..images.channels {
                records.extend(pixels.iter().skip(channel).step_by(images.channels));
            }
        }
        let size = 1 + images.height * images.width * images.channels;
        content(&[records], size)
    }
}

#[cfg(all(test, not(feature = "hub")))]
mod tests {
    use contract::testing::Bench;

    use super::*;
    use crate::dataset::Dataset;

    #[test]
    fn a_build_without_it_says_what_to_do() {
        let (mut job, _) = Bench::new::<Dataset>(&[]).job(None);
        let error = load(Set::FashionMnist, &mut job)
            .err()
            .expect("no hub")
            .to_string();
        assert!(
            error.contains("cargo build --release --features hub"),
            "{error}"
        );
        assert!(
            error.contains("source = { kind = \"fashion-mnist\" }"),
            "{error}"
        );
    }
}
