//! Which device a run computes on, as far as one can tell without a driver library.

use std::fs;
use std::path::Path;

use crate::diag::Diagnostic;
use crate::provenance;

/// The oldest driver that can run what this build makes (CUDA 13.0).
const OLDEST_DRIVER: u32 = 580;

#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    /// Ids of the GPUs that may be used, one stage on each; empty for the CPU.
    pub gpus: Vec<String>,
    /// Such as `NVIDIA H100 80GB HBM3`.
    pub name: String,
}

impl Device {
    /// From `auto`, `cpu`, `cuda` or `cuda:N`.
    pub fn choose(asked: &str) -> Result<Self, Diagnostic> {
        let cpu = || Self {
            gpus: Vec::new(),
            name: provenance::processor(),
        };
        let here = Seen::here();
        let gpus = match cfg!(feature = "cuda") {
            true => here.usable(),
            false => Vec::new(),
        };
        let chosen = match asked.split_once(':') {
            _ if asked == "cpu" => return Ok(cpu()),
            _ if asked == "auto" => gpus.clone(),
            _ if asked == "cuda" => gpus.clone(),
            Some(("cuda", n)) => gpus.iter().filter(|g| *g == n).cloned().collect(),
            _ => {
                return Err(Diagnostic::new(format!("`{asked}` is no device"))
                    .hint("one of auto, cpu, cuda, cuda:N"));
            }
        };
        if !chosen.is_empty() {
            let name = name(&chosen[0]);
            return Ok(Self { gpus: chosen, name });
        }
        match asked {
            "auto" => Ok(cpu()),
            _ if !cfg!(feature = "cuda") => Err(Diagnostic::new("this build of repro has no CUDA")
                .hint(
                    "build it with `cargo build --release --features cuda`, or use --device cpu",
                )),
            _ => Err(here.why_not(asked)),
        }
    }

    pub fn is_gpu(&self) -> bool {
        !self.gpus.is_empty()
    }
}

/// What the kernel and the environment tell of NVIDIA's devices.
#[derive(Debug, Default, PartialEq)]
pub struct Seen {
    /// Version of the kernel module, such as `580.65.06`.
    pub driver: Option<String>,
    /// Numbers of the device files /dev/nvidiaN.
    pub files: Vec<u32>,
    /// CUDA_VISIBLE_DEVICES.
    pub visible: Option<String>,
}

impl Seen {
    pub fn here() -> Self {
        let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
        Self::below(Path::new("/"), visible)
    }

    fn below(root: &Path, visible: Option<String>) -> Self {
        let mut files: Vec<u32> = fs::read_dir(root.join("dev"))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|f| f.file_name().to_str()?.strip_prefix("nvidia")?.parse().ok())
            .collect();
        files.sort_unstable();
        let text = fs::read_to_string(root.join("proc/driver/nvidia/version"));
        let driver = text.ok().and_then(|text| {
            let is_version = |word: &&str| {
                word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.')
            };
            text.split_whitespace().find(is_version).map(str::to_owned)
        });
        Self {
            driver,
            files,
            visible,
        }
    }

    /// Ids of the GPUs that this process may see.
    fn usable(&self) -> Vec<String> {
        match &self.visible {
            _ if self.files.is_empty() || self.too_old() => Vec::new(),
            Some(list) => list
                .split(',')
                .map(|id| id.trim().to_owned())
                .filter(|id| !id.is_empty())
                .collect(),
            None => self.files.iter().map(u32::to_string).collect(),
        }
    }

    fn too_old(&self) -> bool {
        let major = self.driver.as_ref().and_then(|v| v.split('.').next());
        major.is_some_and(|v| v.parse().is_ok_and(|v: u32| v < OLDEST_DRIVER))
    }

    /// Why there is no GPU, although one was asked for.
    fn why_not(&self, asked: &str) -> Diagnostic {
        let (why, hint) = match self {
            Self {
                driver: None,
                files,
                ..
            } if files.is_empty() => (
                "there is no NVIDIA driver (no /proc/driver/nvidia/version, no /dev/nvidia0)"
                    .into(),
                "on a machine with an NVIDIA GPU install driver 580 or newer; in a container ask for \
                 the GPU (docker run --gpus all); --device cpu computes without",
            ),
            Self { files, .. } if files.is_empty() => (
                "the NVIDIA driver is loaded but shows no device file /dev/nvidia0".into(),
                "run `nvidia-smi` once as root, or give the container its devices (docker run \
                 --gpus all); --device cpu computes without",
            ),
            Self {
                driver: Some(version),
                ..
            } if self.too_old() => (
                format!("the NVIDIA driver {version} is too old"),
                "CUDA 13.0, with which repro is built, needs driver 580 or newer; --device cpu \
                 computes without",
            ),
            Self {
                visible: Some(list),
                ..
            } if self.usable().is_empty() => (
                format!("CUDA_VISIBLE_DEVICES=\"{list}\" hides all GPUs"),
                "unset it, or name one in it; in a Slurm job ask for one with --gres=gpu:1",
            ),
            _ => (
                format!(
                    "there are GPUs {}, and none is {asked}",
                    self.usable().join(", ")
                ),
                "`repro doctor` lists what was found",
            ),
        };
        Diagnostic::new(format!("--device {asked}: {why}")).hint(hint)
    }
}

/// The model as the driver calls it. Products in TF32 give other results: another device.
fn name(id: &str) -> String {
    let query = ["--query-gpu=name", "--format=csv,noheader", "-i", id];
    let output = std::process::Command::new("nvidia-smi")
        .args(query)
        .output();
    let text = output.ok().and_then(|o| String::from_utf8(o.stdout).ok());
    let name = match text.as_deref().map(str::trim) {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => "CUDA device".into(),
    };
    match std::env::var("REPRO_TF32") {
        Ok(v) if v == "1" => name + " (TF32)",
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(driver: &str, files: &[u32], visible: Option<&str>) -> Seen {
        let dir = tempfile::tempdir().expect("a folder");
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("below the root")).expect("folders");
            fs::write(path, text).expect("a file");
        };
        for n in files {
            write(&format!("dev/nvidia{n}"), "");
        }
        write("dev/nvidiactl", "");
        if !driver.is_empty() {
            let text = format!("NVRM version: NVIDIA UNIX x86_64 Kernel Module  {driver}  Mon\n");
            write("proc/driver/nvidia/version", &text);
        }
        Seen::below(dir.path(), visible.map(str::to_owned))
    }

    #[test]
    fn devices_are_those_the_kernel_has_and_the_environment_allows() {
        assert_eq!(seen("580.65.06", &[1, 0], None).usable(), ["0", "1"]);
        assert_eq!(seen("580.65.06", &[0, 1], Some("1")).usable(), ["1"]);
        assert!(seen("535.104.05", &[0], None).usable().is_empty());
        assert!(seen("580.65.06", &[0], Some("")).usable().is_empty());
        assert!(seen("580.65.06", &[], Some("0")).usable().is_empty());
    }

    #[test]
    fn each_reason_for_no_gpu_has_its_own_words() {
        let cases = [
            (seen("", &[], None), "cuda", "there is no NVIDIA driver"),
            (seen("580.1", &[], None), "cuda", "shows no device file"),
            (
                seen("535.104.05", &[0], None),
                "cuda",
                "driver 535.104.05 is too old",
            ),
            (
                seen("580.1", &[0], Some("")),
                "cuda",
                "CUDA_VISIBLE_DEVICES=\"\" hides",
            ),
            (
                seen("580.1", &[0, 1], None),
                "cuda:7",
                "there are GPUs 0, 1, and none is cuda:7",
            ),
        ];
        for (seen, asked, words) in cases {
            let text = seen.why_not(asked).to_string();
            assert!(text.starts_with(&format!("--device {asked}: ")), "{text}");
            assert!(text.contains(words) && text.contains("\nhint: "), "{text}");
        }
    }
}
