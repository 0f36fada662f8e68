//! What `repro fid` compares: folders of pictures, arrays, statistics, artifacts.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::data::gaussian::Gaussian;
use crate::data::guess;
use crate::data::images::Images;
use crate::data::npy::{self, Array, Arrays, Entry, Values};
use crate::data::picture_list::{PictureList, READ, is_jpeg};
use crate::data::pictures::{self, JPEG_SHIFT};
use crate::data::protocol::{Protocol, UINT8};
use crate::data::tensors::TensorFile;
use crate::metrics::frechet::covariance;
use crate::metrics::resize::Resize;
use crate::models::extractor::OFFICIAL_SHA256;

/// One side of a comparison.
pub enum Set {
    Statistics(Box<Gaussian>),
    Pictures(Pictures),
}

/// What lies at a path, and what is to be said of how it was read.
pub struct Opened {
    pub set: Set,
    pub remark: Option<String>,
}

/// Images wherever they are.
pub enum Pictures {
    Files(Vec<PathBuf>),
    Array(Box<Images>),
}

/// Stands for the digest of a network nobody named.
pub const UNKNOWN: &str = "";

/// Opens whatever lies at a path. Files are told by their content, whatever their name; `leave_out` names formats of
/// pictures that are not to count.
pub fn open(path: &Path, leave_out: &[String]) -> Result<Opened> {
    let name = path.display();
    if path.is_dir() {
        let list = PictureList::of(path, leave_out)?;
        ensure!(
            !list.files.is_empty(),
            "{name} holds no pictures{}; hint: {READ} are read",
            list.left_out()
                .map(|why| format!(" ({why})"))
                .unwrap_or_default()
        );
        let jpegs = list.files.iter().filter(|file| is_jpeg(file)).count();
        let shift = (jpegs > 0).then(|| format!("{name}: {jpegs} JPEG files; {JPEG_SHIFT}"));
        let remarks: Vec<String> = list.remark(path).into_iter().chain(shift).collect();
        let remark = (!remarks.is_empty()).then(|| remarks.join("\n"));
        let set = Set::Pictures(Pictures::Files(list.files));
        return Ok(Opened { set, remark });
    }
    let mut start = vec![];
    File::open(path)
        .with_context(|| format!("cannot open {name}"))?
        .take(512)
        .read_to_end(&mut start)?;
    let named = |ending: &str| {
        path.extension()
            .is_some_and(|e| e.eq_ignore_ascii_case(ending))
    };
    if start.get(8) == Some(&b'{') || (named("safetensors") && guess::other(&start).is_none()) {
        let set = match TensorFile::open(path)?.has("images") {
            true => Set::Pictures(Pictures::Array(Box::new(Images::load(path)?))),
            false => Set::Statistics(Box::new(Gaussian::load(path)?)),
        };
        return Ok(Opened { set, remark: None });
    }
    let arrays = [&b"PK"[..], b"\x93NUMPY", b"\x80"];
    if arrays.iter().any(|tell| start.starts_with(tell)) || named("npz") || named("npy") {
        let mut arrays = Arrays::open(path)?;
        let set = of_arrays(&mut arrays, path)?;
        let remark = arrays
            .remark
            .take()
            .map(|remark| format!("{name}: {remark}"));
        return Ok(Opened { set, remark });
    }
    let what = guess::other(&start).map(|what| format!(": {what}"));
    bail!(
        "{name} cannot be compared{}",
        what.unwrap_or_else(|| "; hint: a folder, .npy, .npz or .safetensors can".into())
    )
}

/// Names of a mean and a covariance: those of TTUR, pytorch-fid and clean-fid first, then those of others.
const MOMENTS: [(&str, &str); 6] = [
    ("mu", "sigma"),
    ("mean", "cov"),
    ("mean", "covariance"),
    ("mean", "sigma"),
    ("mu", "cov"),
    ("m", "s"),
];

/// Statistics if there are any, else the images; whatever lies beside them is passed over.
fn of_arrays(arrays: &mut Arrays, path: &Path) -> Result<Set> {
    let name = path.display();
    let has = |wanted: &str| arrays.list().any(|(name, ..)| name == wanted);
    if let Some((mu, sigma)) = MOMENTS.iter().find(|(mu, sigma)| has(mu) && has(sigma)) {
        let rough = arrays
            .list()
            .any(|(name, dtype, _)| name == *sigma && dtype.ends_with("f2"));
        let (mu, sigma) = (arrays.get(mu)?, arrays.get(sigma)?);
        let gaussian = statistics(mu, sigma, rough).with_context(|| name.to_string())?;
        return Ok(Set::Statistics(Box::new(match arrays.text(PROTOCOL) {
            Some(text) => made_as(gaussian, &text).with_context(|| {
                format!("{name}: its `{PROTOCOL}` is not read; hint: take it out to compare the numbers alone")
            })?,
            None => gaussian,
        })));
    }
    // Labels, and whatever else a sampler saves, are no images.
    let likely: Vec<String> = arrays
        .list()
        .filter(|(_, dtype, shape)| dtype.ends_with("u1") && matches!(shape, [_, _, _, 1 | 3]))
        .map(|(name, ..)| name.to_string())
        .collect();
    let only = arrays.list().map(|(name, ..)| name.to_string()).next();
    match (&likely[..], arrays.list().count(), only) {
        ([images], ..) => images_of(arrays.get(images)?, path),
        ([], 1, Some(only)) => images_of(arrays.get(&only)?, path),
        ([], ..) => bail!(
            "{name} holds neither statistics (mu and sigma, or mean and cov) nor one array of images, but {}; hint: \
             numpy.savez(file, mu=..., sigma=...)",
            arrays.describe()
        ),
        (several, ..) => bail!(
            "{name} holds {} arrays of images, {}; hint: save the one you mean alone",
            several.len(),
            several.join(" and ")
        ),
    }
}

/// Name of the text beside mu and sigma that says how they were made; other tools pass over it.
const PROTOCOL: &str = "protocol";

#[derive(Serialize, Deserialize)]
struct Told {
    n: usize,
    source: Option<String>,
    #[serde(flatten)]
    protocol: Protocol,
}

/// Statistics that say how they were made. The name of a distance follows from the network, whatever the file calls it.
fn made_as(gaussian: Gaussian, text: &str) -> Result<Gaussian> {
    let Told {
        n,
        source,
        mut protocol,
    } = serde_json::from_str(text)?;
    let official = protocol.digest == OFFICIAL_SHA256;
    ensure!(
        official == (protocol.label == "FID"),
        "it calls a distance {:?} that is {}one",
        protocol.label,
        if official { "" } else { "not " }
    );
    ensure!(!protocol.digest.is_empty(), "it names no network");
    protocol.label.retain(|c| !c.is_control());
    Ok(Gaussian {
        n,
        source,
        protocol,
        ..gaussian
    })
}

/// Writes mu and sigma as other tools read them, and how they were made.
pub fn save(path: &Path, gaussian: &Gaussian) -> Result<()> {
    let d = gaussian.mean.len();
    let mut told = serde_json::to_value(Told {
        n: gaussian.n,
        source: gaussian.source.clone(),
        protocol: gaussian.protocol.clone(),
    })?;
    // Our own files leave plain images unsaid; others have to be told.
    told["pixels"] = gaussian.protocol.pixels.clone().into();
    let told = told.to_string();
    let (mu, sigma) = (
        Entry::Floats(&gaussian.mean, &[d]),
        Entry::Floats(&gaussian.cov, &[d, d]),
    );
    let mut entries = vec![("mu", mu), ("sigma", sigma)];
    if gaussian.protocol.digest != UNKNOWN {
        entries.push((PROTOCOL, Entry::Text(&told)));
    }
    let part = path.with_extension("npz.part");
    let written = npy::save_all(&part, &entries).and_then(|()| Ok(std::fs::rename(&part, path)?));
    if written.is_err() {
        // It may not even be there.
        let _ = std::fs::remove_file(&part);
    }
    written.with_context(|| format!("cannot write {}", path.display()))
}

fn images_of(array: Array, path: &Path) -> Result<Set> {
    match (&array.shape[..], array.values) {
        (&[_, height, width, channels @ (1 | 3)], Values::Bytes(pixels)) => {
            let images = Images::new([height, width, channels], pixels, None);
            let images = images.with_context(|| path.display().to_string())?;
            Ok(Set::Pictures(Pictures::Array(Box::new(images))))
        }
        (&[_, 1 | 3, _, _], Values::Bytes(_)) => bail!(
            "{} is uint8 {:?}, channels first; hint: x.transpose(0, 2, 3, 1) puts them last",
            path.display(),
            array.shape
        ),
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

/// Mean and covariance as TTUR, pytorch-fid and clean-fid save them; `rough`: as float16.
fn statistics(mu: Array, sigma: Array, rough: bool) -> Result<Gaussian> {
    let ([d], Values::Floats(mean), Values::Floats(cov)) = (&mu.shape[..], mu.values, sigma.values)
    else {
        bail!(
            "mu is {:?} and sigma {:?}; hint: of n features, they are [n] and [n, n], of floats",
            mu.shape,
            sigma.shape
        )
    };
    ensure!(
        sigma.shape == [*d, *d] && *d > 0,
        "mu is {:?} and sigma {:?}; hint: of n features, they are [n] and [n, n]",
        mu.shape,
        sigma.shape
    );
    ensure!(
        mean.iter().chain(&cov).all(|v| v.is_finite()),
        "mu or sigma holds NaN or infinity; hint: what was it computed from?"
    );
    covariance(&cov, *d, if rough { 1e-2 } else { 1e-4 })?;
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
        mean,
        cov,
        vectors: Vec::new(),
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
