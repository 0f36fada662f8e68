//! What `repro fid` compares: folders of pictures, arrays, statistics, artifacts.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rayon::prelude::*;

use crate::data::gaussian::Gaussian;
use crate::data::images::Images;
use crate::data::npy::{Array, Values};
use crate::data::pictures;
use crate::data::protocol::{Protocol, UINT8};
use crate::data::tensors::TensorFile;
use crate::metrics::resize::Resize;

/// One side of a comparison.
pub enum Set {
    Statistics(Gaussian),
    Pictures(Pictures),
}

/// Images wherever they are.
pub enum Pictures {
    Files(Vec<PathBuf>),
    Array(Box<Images>),
}

/// Stands for the digest of a network nobody named.
pub const UNKNOWN: &str = "";

/// Opens whatever lies at a path.
pub fn open(path: &Path) -> Result<Set> {
    let name = path.display();
    if path.is_dir() {
        let files = pictures::list(path)?;
        ensure!(
            !files.is_empty(),
            "{name} holds no PNG or JPEG pictures; hint: other formats are not read"
        );
        return Ok(Set::Pictures(Pictures::Files(files)));
    }
    match path.extension().and_then(|e| e.to_str()) {
        Some("safetensors") => {
            if TensorFile::open(path)?.has("images") {
                return Ok(Set::Pictures(Pictures::Array(Box::new(Images::load(
                    path,
                )?))));
            }
            Ok(Set::Statistics(Gaussian::load(path)?))
        }
        Some("npy") => images(Array::load(path)?, path),
        Some("npz") => {
            let mut arrays = Array::load_all(path)?;
            let find = |wanted: &str| arrays.iter().find(|(n, _)| n == wanted).map(|(_, a)| a);
            if let (Some(mu), Some(sigma)) = (find("mu"), find("sigma")) {
                let gaussian = statistics(mu, sigma).with_context(|| name.to_string())?;
                return Ok(Set::Statistics(gaussian));
            }
            match (arrays.pop(), arrays.is_empty()) {
                (Some((_, only)), true) => images(only, path),
                _ => bail!(
                    "{name} holds neither mu and sigma nor one array of images; hint: numpy.savez(file, mu=..., sigma=...)"
                ),
            }
        }
        _ => bail!("{name} cannot be compared; hint: a folder, .npy, .npz or .safetensors can"),
    }
}

fn images(array: Array, path: &Path) -> Result<Set> {
    match (&array.shape[..], array.values) {
        (&[_, height, width, channels @ (1 | 3)], Values::Bytes(pixels)) => {
            let images = Images::new([height, width, channels], pixels, None);
            let images = images.with_context(|| path.display().to_string())?;
            Ok(Set::Pictures(Pictures::Array(Box::new(images))))
        }
        (shape, values) => bail!(
            "{} is {} {shape:?}; hint: uint8 images of [n, height, width, 1 or 3] are read",
            path.display(),
            match values {
                Values::Bytes(_) => "uint8",
                Values::Floats(_) => "float",
            }
        ),
    }
}

/// Mean and covariance as TTUR, pytorch-fid and clean-fid save them.
fn statistics(mu: &Array, sigma: &Array) -> Result<Gaussian> {
    let (&[d], Values::Floats(mean), Values::Floats(cov)) =
        (&mu.shape[..], &mu.values, &sigma.values)
    else {
        bail!(
            "mu is {:?} and sigma {:?}; hint: of n features, they are [n] and [n, n], of floats",
            mu.shape,
            sigma.shape
        )
    };
    ensure!(
        sigma.shape == [d, d],
        "mu is {:?} and sigma {:?}; hint: of n features, they are [n] and [n, n]",
        mu.shape,
        sigma.shape
    );
    ensure!(
        mean.iter().chain(cov).all(|v| v.is_finite()),
        "mu or sigma holds NaN or infinity; hint: what was it computed from?"
    );
    let unknown = Protocol {
        label: "Fréchet distance (statistics without a protocol)".into(),
        extractor: "unknown".into(),
        digest: UNKNOWN.into(),
        resize: "unknown".into(),
        pixels: UINT8.into(),
        dtype: "unknown".into(),
    };
    // How many images there were is not in the file.
    Ok(Gaussian {
        n: 0,
        mean: mean.clone(),
        cov: cov.clone(),
        source: None,
        protocol: unknown,
    })
}

impl Pictures {
    pub fn len(&self) -> usize {
        match self {
            Self::Files(files) => files.len(),
            Self::Array(images) => images.n,
        }
    }

    /// Some of them, resized for the network; pictures may differ in size.
    pub fn pixels(
        &self,
        range: std::ops::Range<usize>,
        resize: Resize,
        side: usize,
    ) -> Result<Vec<f32>> {
        match self {
            Self::Array(images) => {
                let images_of: Vec<&[u8]> = range.map(|i| images.image(i)).collect();
                Ok(resize.apply(&images_of, images.shape(), side))
            }
            Self::Files(files) => {
                let each = files[range].par_iter().map(|path| {
                    let picture = pictures::decode_file(path)?.into_rgb8();
                    let shape = [picture.height() as usize, picture.width() as usize, 3];
                    Ok(resize.apply(&[picture.as_raw()], shape, side))
                });
                Ok(each.collect::<Result<Vec<_>>>()?.concat())
            }
        }
    }
}
