//! Finds the libraries that a build with CUDA is linked to, then becomes `repro-cuda`.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// What must be there, and where it comes from.
const LIBRARIES: [(&str, &str); 7] = [
    ("libcuda.so.1", DRIVER),
    ("libcudart.so.13", "nvidia-cuda-runtime"),
    ("libnvrtc.so.13", "nvidia-cuda-nvrtc"),
    ("libcublas.so.13", "nvidia-cublas"),
    ("libcublasLt.so.13", "nvidia-cublas"),
    ("libcurand.so.10", "nvidia-curand"),
    ("libcudnn.so.9", "nvidia-cudnn-cu13"),
];
const DRIVER: &str = "the NVIDIA driver";
/// One pin for all: later minor versions make code that a driver for 13.0 refuses.
const WHEELS: &str =
    "'cuda-toolkit[cudart,nvrtc,cublas,curand]==13.0.2' nvidia-cudnn-cu13==9.19.0.56";

/// Where the loader looks when nothing is set.
const USUAL: [&str; 6] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
];
const PATH: &str = "LD_LIBRARY_PATH";

pub fn main() -> ExitCode {
    let program = match env::current_exe() {
        Ok(this) => this.with_file_name("repro-cuda"),
        Err(e) => return fail(&format!("error: where is this program? {e}")),
    };
    let given: Vec<PathBuf> = env::var_os(PATH)
        .map(|path| env::split_paths(&path).collect())
        .unwrap_or_default();
    let cache = fs::read("/etc/ld.so.cache").unwrap_or_default();
    let usual = USUAL.map(PathBuf::from);
    let found = find(&given, &cache, &usual, &candidates());
    if let Some(message) = &found.complaint {
        return fail(message);
    }
    let mut command = Command::new(&program);
    command.args(env::args_os().skip(1));
    if !found.add.is_empty() {
        let path = env::join_paths(given.iter().chain(&found.add));
        command.env(PATH, path.unwrap_or_else(|_| OsString::new()));
    }
    let error = command.exec();
    fail(&format!(
        "error: cannot start {}: {error}\nhint: it belongs beside `repro`; cargo build --release --features cuda makes both",
        program.display()
    ))
}

fn fail(message: &str) -> ExitCode {
    // A terminal that is gone must not turn this into a panic.
    let _ = writeln!(std::io::stderr(), "{message}");
    ExitCode::from(2)
}

struct Found {
    /// Folders for the loader's path.
    add: BTreeSet<PathBuf>,
    /// What is missing, if anything.
    complaint: Option<String>,
}

/// The loader finds a library in `given`, `cache` or `usual`; `more` are places where we look too.
fn find(given: &[PathBuf], cache: &[u8], usual: &[PathBuf], more: &[PathBuf]) -> Found {
    let mut add = BTreeSet::new();
    let mut missing = Vec::new();
    for (name, from) in LIBRARIES {
        let here = |dir: &&PathBuf| dir.join(name).exists();
        if given.iter().chain(usual).any(|dir| here(&dir)) || knows(cache, name) {
            continue;
        }
        match more.iter().find(here) {
            Some(dir) => {
                add.insert(dir.clone());
            }
            None => missing.push((name, from)),
        }
    }
    let complaint = (!missing.is_empty()).then(|| complain(&missing, given, usual, more));
    Found { add, complaint }
}

/// Whether the loader's cache has a library of this name: its strings end with a zero byte.
fn knows(cache: &[u8], name: &str) -> bool {
    let with_end = [name.as_bytes(), b"\0"].concat();
    cache.windows(with_end.len()).any(|w| w == with_end)
}

fn complain(
    missing: &[(&str, &str)],
    given: &[PathBuf],
    usual: &[PathBuf],
    more: &[PathBuf],
) -> String {
    let mut text =
        String::from("error: this build of repro needs CUDA libraries that are not here");
    for (name, from) in missing {
        text += &format!("\n  {name}  (from {from})");
    }
    let list = |dirs: &[PathBuf]| {
        let dirs: Vec<_> = dirs.iter().map(|d| d.display().to_string()).collect();
        if dirs.is_empty() {
            "nothing".to_owned()
        } else {
            dirs.join(", ")
        }
    };
    text += &format!("\nlooked in {PATH}: {}", list(given));
    text += &format!(
        "\n          the loader's cache and {}; {}",
        list(usual),
        list(more)
    );
    let mut hints = Vec::new();
    if missing.iter().any(|m| m.1 != DRIVER) {
        hints.push(format!(
            "in an active virtual environment: pip install {WHEELS}\nhint: or name the folders in {PATH} (docs/gpu.md)",
        ));
    }
    if missing.iter().any(|m| m.1 == DRIVER) {
        hints.push(
            "libcuda.so.1 comes with the NVIDIA driver, version 580 or newer; without a GPU use a build without --features cuda"
                .to_owned(),
        );
    }
    text + "\nhint: " + &hints.join("\nhint: ")
}

/// Places where toolkits and Python wheels put these libraries.
fn candidates() -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    for name in ["CUDA_HOME", "CUDNN_LIB"] {
        if let Some(root) = env::var_os(name) {
            dirs.push(Path::new(&root).join("lib64"));
            dirs.push(Path::new(&root).join("lib"));
        }
    }
    for name in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
        if let Some(root) = env::var_os(name) {
            dirs.push(Path::new(&root).join("lib"));
            dirs.extend(wheels(&Path::new(&root).join("lib")));
        }
    }
    dirs.push("/usr/local/cuda/lib64".into());
    // Where the driver is under WSL.
    dirs.push("/usr/lib/wsl/lib".into());
    dirs
}

/// `lib/python3.N/site-packages/nvidia/*/lib`.
fn wheels(lib: &Path) -> Vec<PathBuf> {
    let below = |dir: PathBuf| {
        let mut names: Vec<PathBuf> = fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        names.sort();
        names
    };
    let pythons = below(lib.to_path_buf()).into_iter().filter(|dir| {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("python3")
    });
    pythons
        .flat_map(|dir| below(dir.join("site-packages/nvidia")))
        .map(|dir| dir.join("lib"))
        .filter(|dir| dir.is_dir())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        for name in names {
            fs::write(dir.path().join(name), "").expect("a file");
        }
        dir
    }

    #[test]
    fn libraries_are_found_wherever_they_are() {
        let names = LIBRARIES.map(|l| l.0);
        let all = folder(&names);
        let dirs = [all.path().to_path_buf()];
        let found = find(&dirs, b"", &[], &[]);
        assert!(found.complaint.is_none() && found.add.is_empty());
        // Some in the cache, the others where wheels lie.
        let venv = folder(&[]);
        let lib = venv.path().join("lib");
        let nvidia = lib.join("python3.12/site-packages/nvidia/cu13/lib");
        fs::create_dir_all(&nvidia).expect("folders");
        for name in &names[1..] {
            fs::write(nvidia.join(name), "").expect("a file");
        }
        let found = find(&[], b"..libcuda.so.1\0..", &[], &wheels(&lib));
        assert!(found.complaint.is_none(), "{:?}", found.complaint);
        assert_eq!(found.add.into_iter().collect::<Vec<_>>(), [nvidia]);
    }

    #[test]
    fn what_is_missing_is_named_with_the_places_searched() {
        let some = folder(&["libcuda.so.1", "libnvrtc.so.13", "libcurand.so.10"]);
        let dirs = [some.path().to_path_buf()];
        // A longer name in the cache is another library.
        let text = find(&dirs, b"xlibcudnn.so.9.1\0", &[], &["/nowhere".into()]).complaint;
        let text = text.expect("libraries are missing");
        for part in [
            "libcudnn.so.9  (from nvidia-cudnn-cu13)",
            "libcublas.so.13",
            "looked in LD_LIBRARY_PATH: /",
            "/nowhere",
            "hint: in an active virtual environment: pip install 'cuda-toolkit[",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(!text.contains("driver, version"), "{text}");
        let none = find(&[], b"", &[], &[]).complaint.expect("all are missing");
        assert!(
            none.contains("NVIDIA driver, version 580 or newer"),
            "{none}"
        );
    }
}
