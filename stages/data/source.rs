//! Where a data set comes from, as pipeline.toml has it.

use std::path::{Path, PathBuf};

use anyhow::Result;
use contract::Job;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::embedded::Look;
use super::images::Images;
use super::{celeba, cifar10, embedded, fashion_mnist, hub, image_folder};

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Source {
    /// The Fashion-MNIST images inside the binary, possibly coloured.
    Embedded { look: Look },
    /// 28x28, one channel; the four IDX files.
    FashionMnist {},
    /// 32x32, three channels; the binary version.
    Cifar10 {},
    /// One of the two above from the Hugging Face Hub, in its order; needs a build with the feature `hub`.
    Hub { set: hub::Set },
    /// Aligned and cropped faces.
    Celeba(celeba::Params),
    /// A folder of your own pictures.
    ImageFolder(image_folder::Params),
}

/// What a source gives.
pub struct Splits {
    pub train: Images,
    /// Where the source has one of its own.
    pub valid: Option<Images>,
    pub test: Images,
}

impl Source {
    /// What its images are called in results.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Embedded { look: Look::Grey } => "fashion-mnist subset (grey)",
            Self::Embedded {
                look: Look::TwoTone { .. },
            } => "fashion-mnist subset (two-tone)",
            Self::Embedded {
                look: Look::Gradient { .. },
            } => "fashion-mnist subset (gradient)",
            Self::FashionMnist {} => "fashion-mnist",
            Self::Cifar10 {} => "cifar10",
            Self::Hub { set } => set.name(),
            Self::Celeba(_) => "celeba",
            Self::ImageFolder(_) => "image-folder",
        }
    }

    /// What it would read of a folder and nothing else vouches for; see [`Stage::data`](contract::Stage::data).
    pub fn data(&self, folder: &Path) -> Vec<PathBuf> {
        match self {
            Self::Celeba(params) => celeba::data(params, folder),
            _ => vec![],
        }
    }

    pub fn load(&self, job: &mut Job) -> Result<Splits> {
        match self {
            Self::Embedded { look } => {
                let (train, test) = embedded::load(*look)?;
                Ok(Splits {
                    train,
                    valid: None,
                    test,
                })
            }
            Self::FashionMnist {} => fashion_mnist::load(job),
            Self::Cifar10 {} => cifar10::load(job),
            Self::Hub { set } => hub::load(*set, job),
            Self::Celeba(params) => celeba::load(params, job),
            Self::ImageFolder(params) => image_folder::load(params, job),
        }
    }
}
