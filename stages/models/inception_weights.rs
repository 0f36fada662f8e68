//! Where Inception's weights come from: PyTorch's `.pth` or `.safetensors`, official or not.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device};
use contract::Job;

use super::extractor::OFFICIAL_SHA256;
use super::inception::State;
use super::pickle;
use crate::data::fetch::{self, Remote};

const OFFICIAL: Remote = Remote {
    name: "pt_inception-2015-12-05-6726825d.pth",
    url: "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
    mirror: Some(
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    ),
    sha256: OFFICIAL_SHA256,
    bytes: 95_628_359,
};

/// The two names of the official file.
const NAMES: [&str; 2] = [OFFICIAL.name, "weights-inception-2015-12-05-6726825d.pth"];

/// Where the official file lies below a folder; unread.
pub fn found(folder: &Path) -> Option<PathBuf> {
    let places = NAMES.map(|name| folder.join(name));
    places.into_iter().find(|path| path.exists())
}

/// The official file: given with `--data` under one of its two names, or downloaded.
pub fn official(job: &mut Job) -> Result<PathBuf> {
    match fetch::local(job, &NAMES) {
        Some(given) => {
            OFFICIAL.check(&given)?;
            Ok(given)
        }
        None => fetch::download(&OFFICIAL, job),
    }
}

/// The tensors of a file, without the classifier that no feature needs; told by its extension.
pub fn read(path: &Path) -> Result<State> {
    let tensors = match path.extension().and_then(|e| e.to_str()) {
        Some("pth" | "pt") => pickle::read(path)?,
        Some("safetensors") => candle_core::safetensors::load(path, &Device::Cpu)
            .with_context(|| {
                format!(
                    "{} is not a whole safetensors file; hint: copy it again",
                    path.display()
                )
            })?
            .into_iter()
            .collect(),
        _ => bail!(
            "{}: weights end in .pth, .pt or .safetensors",
            path.display()
        ),
    };
    let wanted = |name: &str| {
        let part = [
            ".conv.weight",
            ".bn.weight",
            ".bn.bias",
            ".bn.running_mean",
            ".bn.running_var",
        ];
        part.iter().any(|end| name.ends_with(end))
    };
    tensors
        .into_iter()
        .filter(|(name, _)| wanted(name))
        .map(|(name, tensor)| Ok((name, tensor.to_dtype(DType::F32)?)))
        .collect()
}
