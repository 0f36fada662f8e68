//! Which device a run computes on, as far as one can tell without a driver library.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::base::diag::Diagnostic;
use crate::base::provenance;

/// The oldest driver that can run what this build makes (CUDA 13.0).
const OLDEST_DRIVER: u32 = 580;

#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    /// Ids of the GPUs that stages may have, one stage on each; empty for the CPU.
    pub gpus: Vec<String>,
    /// Whether stages of the library compute on them, which takes a build with CUDA. A command
    /// brings its own CUDA.
    pub library: bool,
    /// Where stages of the library compute, such as `NVIDIA H100 80GB HBM3`.
    pub name: String,
}

impl Device {
    /// From `auto`, `cpu`, `cuda` or `cuda:N`.
    pub fn choose(asked: &str) -> Result<Self, Diagnostic> {
        let cpu = |gpus| Self {
            gpus,
            library: false,
            name: provenance::processor(),
        };
        let here = Seen::here();
        let gpus = match cfg!(feature = "cuda") {
            true => here.usable(),
            false => Vec::new(),
        };
        let chosen = match asked.split_once(':') {
            _ if asked == "cpu" => return Ok(cpu(Vec::new())),
            _ if asked == "auto" && gpus.is_empty() => return Ok(cpu(here.allowed())),
            _ if asked == "auto" || asked == "cuda" => gpus,
            Some(("cuda", n)) => gpus.into_iter().filter(|g| g == n).collect(),
            _ => {
                return Err(Diagnostic::new(format!("`{asked}` is no device"))
                    .hint("one of auto, cpu, cuda, cuda:N"));
            }
        };
        if !chosen.is_empty() {
            let name = match std::env::var("REPRO_TF32") {
                // Products in TF32 give other results: another device.
                Ok(v) if v == "1" => name(&chosen[0]) + " (TF32)",
                _ => name(&chosen[0]),
            };
            return Ok(Self {
                gpus: chosen,
                library: true,
                name,
            });
        }
        if !cfg!(feature = "cuda") {
            return Err(Diagnostic::new("this build of repro has no CUDA").hint(
                "build it with `cargo build --release --features cuda`, or use --device cpu; \
                 which GPUs commands may have is said by CUDA_VISIBLE_DEVICES",
            ));
        }
        let (why, hint) = here.why_not(asked);
        Err(Diagnostic::new(format!("--device {asked}: {why}")).hint(hint))
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
        let mut here = Self::below(Path::new("/"), visible);
        // Windows' kernel shows its GPUs to Linux in another way.
        if here.files.is_empty() && Path::new("/dev/dxg").exists() {
            here.files = numbers(&nvidia_smi(&["-L"]).unwrap_or_default());
        }
        here
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

    /// Ids of the GPUs that stages of the library can use.
    fn usable(&self) -> Vec<String> {
        match self.too_old() {
            true => Vec::new(),
            false => self.allowed(),
        }
    }

    /// Ids of the GPUs that this process may see.
    pub fn allowed(&self) -> Vec<String> {
        match &self.visible {
            _ if self.files.is_empty() => Vec::new(),
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

    /// Why there is no GPU, although one was asked for, and what to do.
    pub fn why_not(&self, asked: &str) -> (String, &'static str) {
        match self {
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
                visible: Some(list),
                ..
            } if self.allowed().is_empty() => (
                format!("CUDA_VISIBLE_DEVICES=\"{list}\" hides all GPUs"),
                "unset it, or name one in it; in a Slurm job ask for one with --gres=gpu:1",
            ),
            Self {
                driver: Some(version),
                ..
            } if self.too_old() => (
                format!("the NVIDIA driver {version} is too old"),
                "CUDA 13.0, with which repro is built, needs driver 580 or newer; --device cpu \
                 computes without",
            ),
            _ => (
                format!(
                    "there are GPUs {}, and none is {asked}",
                    self.usable().join(", ")
                ),
                "`repro doctor` lists what was found",
            ),
        }
    }
}

/// The numbers of the GPUs in lines such as `GPU 0: NVIDIA H100 80GB HBM3 (UUID: …)`.
fn numbers(list: &str) -> Vec<u32> {
    let number = |line: &str| line.strip_prefix("GPU ")?.split_once(':')?.0.parse().ok();
    list.lines().filter_map(number).collect()
}

fn nvidia_smi(arguments: &[&str]) -> Option<String> {
    let output = Command::new("nvidia-smi").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then_some(text)
}

/// The model of a GPU as the driver calls it. Slow the first time.
pub fn name(id: &str) -> String {
    static NAMES: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    let name = names.entry(id.to_owned()).or_insert_with(|| {
        let text = nvidia_smi(&["--query-gpu=name", "--format=csv,noheader", "-i", id]);
        match text.as_deref().map(str::trim) {
            Some(name) if !name.is_empty() => name.to_owned(),
            _ => "CUDA device".into(),
        }
    });
    name.clone()
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
        // An older driver is enough for commands with a CUDA of their own.
        assert_eq!(seen("535.104.05", &[0], None).allowed(), ["0"]);
    }

    #[test]
    fn gpus_are_read_from_a_list() {
        let list = "GPU 0: NVIDIA A (UUID: GPU-1)\nGPU 1: NVIDIA B (UUID: GPU-2)\n  MIG 1g.5gb\n";
        assert_eq!(numbers(list), [0, 1]);
        assert!(numbers("No devices found.\n").is_empty());
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
            let (text, hint) = seen.why_not(asked);
            assert!(text.contains(words) && !hint.is_empty(), "{text}");
        }
    }
}
