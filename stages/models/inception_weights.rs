//! Where Inception's weights come from: PyTorch's `.pth` or `.safetensors`, official or not.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use contract::Job;
use safetensors::{Dtype, SafeTensors};

use super::extractor::OFFICIAL_SHA256;
use super::inception::State;
use super::pth;
use crate::data::fetch::{self, Remote};
use crate::data::guess;

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
pub const NAMES: [&str; 2] = [OFFICIAL.name, "weights-inception-2015-12-05-6726825d.pth"];

/// Where the official file lies below a folder; unread.
pub fn found(folder: &Path) -> Option<PathBuf> {
    let places = NAMES.map(|name| folder.join(name));
    places.into_iter().find(|path| path.exists())
}

/// Where PyTorch keeps what it downloads for pytorch-fid and torch-fidelity.
pub fn torch_cache() -> Option<PathBuf> {
    let folder = |name| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    let torch = folder("TORCH_HOME")
        .or_else(|| Some(folder("XDG_CACHE_HOME")?.join("torch")))
        .or_else(|| Some(folder("HOME")?.join(".cache/torch")));
    Some(torch?.join("hub/checkpoints"))
}

/// The official file: given with `--data` under one of its two names, in PyTorch's cache, or downloaded.
pub fn official(job: &mut Job) -> Result<PathBuf> {
    if let Some(given) = fetch::local(job, &NAMES)? {
        OFFICIAL.check(&given)?;
        return Ok(given);
    }
    let downloaded = found(&job.spec().downloads);
    if let (None, Some(cached)) = (downloaded, torch_cache().and_then(|cache| found(&cache))) {
        match OFFICIAL.check(&cached) {
            Ok(()) => return Ok(cached),
            Err(error) => job.note(format!("{error:#}")),
        }
    }
    fetch::download(&OFFICIAL, job)
}

/// Tensors of a file in the names of pytorch-fid's network.
pub struct Weights {
    pub state: State,
    /// How they were found, where the file is no plain state dict of them.
    remark: Option<String>,
}

impl Weights {
    /// What to say of a file that was read.
    pub fn note(&self, path: &Path) -> Option<String> {
        self.remark.is_some().then(|| self.about(path))
    }

    /// The file, and what was done to read it: an error about it may come from there.
    pub fn about(&self, path: &Path) -> String {
        match &self.remark {
            Some(remark) => format!("{} ({remark})", path.display()),
            None => path.display().to_string(),
        }
    }
}

/// The tensors of a file that features need; told by its content, whatever its name. What wraps networks (`module.`,
/// `_orig_mod.`) is taken off their names.
pub fn read(path: &Path) -> Result<Weights> {
    let mut start = vec![];
    File::open(path)
        .with_context(|| format!("cannot open {}", path.display()))?
        .take(512)
        .read_to_end(&mut start)?;
    let named = path
        .extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("safetensors"));
    let (tensors, place) = if start.starts_with(b"PK") || start.starts_with(b"\x80") {
        let state = pth::read(path, &wanted)?;
        (state.tensors, state.place)
    } else if start.get(8) == Some(&b'{') || (named && guess::other(&start).is_none()) {
        (safetensors(path)?, String::new())
    } else {
        bail!(guess::not(path, "a file of weights (.pth or .safetensors)"))
    };
    let (tensors, prefix) = unwrapped(tensors).with_context(|| path.display().to_string())?;
    let mut remarks = vec![];
    if !place.is_empty() {
        remarks.push(format!("its `{place}`"));
    }
    if !prefix.is_empty() {
        remarks.push(format!("read without the `{prefix}` of its names"));
    }
    let floats = |(name, tensor): (String, Tensor)| Ok((name, tensor.to_dtype(DType::F32)?));
    Ok(Weights {
        state: tensors.into_iter().map(floats).collect::<Result<_>>()?,
        remark: (!remarks.is_empty()).then(|| remarks.join(", ")),
    })
}

/// The classifier at the end, which no feature needs, and counters of batches are not.
fn wanted(name: &str) -> bool {
    let parts = [
        ".conv.weight",
        ".bn.weight",
        ".bn.bias",
        ".bn.running_mean",
        ".bn.running_var",
    ];
    parts.iter().any(|end| name.ends_with(end))
}

fn safetensors(path: &Path) -> Result<State> {
    let name = path.display();
    let broken = || format!("{name} is not a whole safetensors file; hint: copy it again");
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {name}"))?;
    let file = SafeTensors::deserialize(&bytes).with_context(broken)?;
    let mut out = State::new();
    for (tensor, view) in file.iter() {
        let dtype = match view.dtype() {
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            Dtype::F32 => DType::F32,
            Dtype::F64 => DType::F64,
            _ => continue,
        };
        if wanted(tensor) {
            let value = Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu);
            out.insert(tensor.to_string(), value.with_context(broken)?);
        }
    }
    Ok(out)
}

/// Parts of names that come from what a network was wrapped in: DataParallel, torch.compile, FSDP.
const WRAPPERS: [&str; 4] = [
    "module",
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
];

/// Tensors by the names that the network itself gives them, and what stood before all of these names.
fn unwrapped(tensors: State) -> Result<(State, String)> {
    let split = |name: &str| -> Option<(String, String)> {
        let parts: Vec<&str> = name.split('.').collect();
        let first = |part: &&str| part.starts_with("Conv2d_") || part.starts_with("Mixed_");
        let (before, own) = parts.split_at(parts.iter().position(first)?);
        let own: Vec<&str> = own
            .iter()
            .filter(|p| !WRAPPERS.contains(p))
            .copied()
            .collect();
        Some((
            before.iter().map(|part| format!("{part}.")).collect(),
            own.join("."),
        ))
    };
    let prefixes: BTreeSet<String> = tensors.keys().filter_map(|n| Some(split(n)?.0)).collect();
    // A network beside its own teacher is the one without more before its names.
    let prefix = match prefixes.first() {
        Some(first) if prefixes.len() == 1 || first.is_empty() => first.clone(),
        None => String::new(),
        Some(_) => {
            let all: Vec<_> = prefixes
                .iter()
                .map(|prefix| format!("`{prefix}`"))
                .collect();
            bail!(
                "it holds {} networks, whose names begin with {}; hint: save the one you mean alone",
                all.len(),
                all.join(" and ")
            )
        }
    };
    let own = tensors
        .into_iter()
        .filter_map(|(name, tensor)| match split(&name) {
            Some((before, own)) => (before == prefix).then_some((own, tensor)),
            None => Some((name, tensor)),
        });
    Ok((own.collect(), prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str]) -> Result<(Vec<String>, String)> {
        let tensor = Tensor::new(0f32, &Device::Cpu)?;
        let state = names
            .iter()
            .map(|name| (name.to_string(), tensor.clone()))
            .collect();
        let (state, prefix) = unwrapped(state)?;
        Ok((state.into_keys().collect(), prefix))
    }

    #[test]
    fn what_wraps_a_network_is_taken_off_its_names() -> Result<()> {
        let own = "Conv2d_1a_3x3.conv.weight";
        let mixed = "Mixed_5b.branch1x1.bn.bias";
        for prefix in [
            "",
            "module.",
            "_orig_mod.",
            "module._orig_mod.",
            "net.inception.",
        ] {
            let names = [own, mixed].map(|name| format!("{prefix}{name}"));
            let (found, before) = named(&names.each_ref().map(String::as_str))?;
            assert_eq!(
                (&found[..], &before[..]),
                (&[own.to_string(), mixed.into()][..], prefix)
            );
        }
        let inside = named(&["Mixed_5b._orig_mod.branch1x1.bn.bias"])?;
        assert_eq!(inside, (vec![mixed.into()], String::new()));
        // An average beside the network itself.
        let beside = named(&[own, &format!("ema.{own}")])?;
        assert_eq!(beside, (vec![own.into()], String::new()));
        let two = named(&[&format!("student.{own}"), &format!("teacher.{own}")]);
        let error = two.unwrap_err().to_string();
        assert!(
            error.contains("2 networks, whose names begin with `student.` and `teacher.`; hint"),
            "{error}"
        );
        // Another network keeps its names, for the error that says what is missing.
        let other = named(&["layer1.conv.weight"])?;
        assert_eq!(other.0, ["layer1.conv.weight"]);
        Ok(())
    }
}
