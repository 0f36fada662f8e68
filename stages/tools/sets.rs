//! What `repro fid` compares: folders of pictures, arrays, statistics, artifacts.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Tensor};
use rayon::prelude::*;

use crate::data::gaussian::{Gaussian, Protocol};
use crate::data::images::Images;
use crate::data::pictures;
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
        ensure!(!files.is_empty(), "{name} holds no PNG or JPEG pictures");
        return Ok(Set::Pictures(Pictures::Files(files)));
    }
    let broken = || format!("{name} could not be read");
    match path.extension().and_then(|e| e.to_str()) {
        Some("safetensors") => {
            if TensorFile::open(path)?.has("images") {
                return Ok(Set::Pictures(Pictures::Array(Box::new(Images::load(
                    path,
                )?))));
            }
            Ok(Set::Statistics(Gaussian::load(path)?))
        }
        Some("npy") => array(&Tensor::read_npy(path).with_context(broken)?, path),
        Some("npz") => {
            let arrays = Tensor::read_npz(path).with_context(broken)?;
            let find = |wanted: &str| arrays.iter().find(|(n, _)| n == wanted).map(|(_, t)| t);
            match (find("mu"), find("sigma"), &arrays[..]) {
                (Some(mu), Some(sigma), _) => {
                    Ok(Set::Statistics(statistics(mu, sigma).with_context(broken)?))
                }
                (_, _, [(_, only)]) => array(only, path),
                _ => bail!("{name} holds neither mu and sigma nor one array of images"),
            }
        }
        _ => bail!("{name}: expected a folder, .npy, .npz or .safetensors"),
    }
}

fn array(tensor: &Tensor, path: &Path) -> Result<Set> {
    let shape = tensor.dims();
    let (&[_, height, width, channels @ (1 | 3)], DType::U8) = (shape, tensor.dtype()) else {
        bail!(
            "{} is {:?} {shape:?}; expected uint8 images of [n, height, width, 1 or 3]",
            path.display(),
            tensor.dtype()
        )
    };
    let pixels = tensor.flatten_all()?.to_vec1::<u8>()?;
    let images = Images::new([height, width, channels], pixels, None)?;
    Ok(Set::Pictures(Pictures::Array(Box::new(images))))
}

/// Mean and covariance as TTUR, pytorch-fid and clean-fid save them.
fn statistics(mu: &Tensor, sigma: &Tensor) -> Result<Gaussian> {
    let d = mu.dim(0)?;
    ensure!(
        mu.rank() == 1 && sigma.dims() == [d, d],
        "mu is {:?} and sigma {:?}",
        mu.dims(),
        sigma.dims()
    );
    let numbers = |t: &Tensor| t.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
    let unknown = Protocol {
        label: "Fréchet distance (statistics without a protocol)".into(),
        extractor: "unknown".into(),
        digest: UNKNOWN.into(),
        resize: "unknown".into(),
        dtype: "unknown".into(),
    };
    // How many images there were is not in the file.
    Ok(Gaussian {
        n: 0,
        mean: numbers(mu)?,
        cov: numbers(sigma)?,
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
