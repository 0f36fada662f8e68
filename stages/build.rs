//! Code digests: for each kind, the modules its code reaches and a digest of each.
//!
//! A module's digest is BLAKE3 over its token stream, so comments, formatting, documentation and
//! `#[cfg(test)]` items do not count; files it includes (`include_str!`, `include_bytes!`: kernels,
//! embedded data) do. A module reaches those whose paths it names. `contract` is left out: it
//! passes paths and progress and computes nothing, and every kind would be stale for a new event.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

#[path = "build/reader.rs"]
mod reader;
#[path = "build/versions.rs"]
mod versions;

use reader::{Module, read};

/// Path of a module below the crate: `["nn", "conv"]`.
type Name = Vec<String>;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=.");
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    versions::tell(&root);
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(&root)? {
        let path = entry?.path();
        let stem = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let skip = [
            "lib", "build", "benches", "examples", "tests", "target", "contract",
        ];
        if !skip.contains(&stem.as_str()) {
            find(&path, &mut vec![], &mut files)?;
        }
    }

    let names: BTreeSet<Name> = files.keys().cloned().collect();
    let mut modules = BTreeMap::new();
    for (name, path) in &files {
        modules.insert(name.clone(), read(name, path, &names)?);
    }

    let mut code = String::new();
    for name in names
        .iter()
        .filter(|name| name.len() == 1 && files[*name].parent() == Some(&root))
    {
        let constant = name[0].to_uppercase();
        writeln!(
            code,
            "pub const {constant}: &[crate::contract::CodeModule] = &["
        )?;
        for reached in closure(name, &modules) {
            writeln!(
                code,
                "    ({:?}, {:?}),",
                reached.join("::"),
                modules[&reached].digest
            )?;
        }
        writeln!(code, "];")?;
    }
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("code.rs"), code)?;
    Ok(())
}

/// Collects the Rust files below `path` with their module names.
fn find(
    path: &Path,
    above: &mut Name,
    files: &mut BTreeMap<Name, PathBuf>,
) -> Result<(), Box<dyn Error>> {
    let stem = path
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    if path.is_dir() {
        above.push(stem);
        for entry in fs::read_dir(path)? {
            find(&entry?.path(), above, files)?;
        }
        above.pop();
    } else if path.extension().is_some_and(|e| e == "rs") {
        let mut name = above.clone();
        if stem != "mod" {
            name.push(stem);
        }
        files.insert(name, path.to_path_buf());
    }
    Ok(())
}

/// A module and all that it reaches, also through others.
fn closure(start: &Name, modules: &BTreeMap<Name, Module>) -> BTreeSet<Name> {
    let mut seen = BTreeSet::from([start.clone()]);
    let mut open = vec![start.clone()];
    while let Some(name) = open.pop() {
        for next in &modules[&name].reaches {
            if seen.insert(next.clone()) {
                open.push(next.clone());
            }
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Digests of the modules that `name` reaches, in a folder of files.
    fn digests(root: &Path, name: &str) -> BTreeMap<String, String> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(root).unwrap() {
            find(&entry.unwrap().path(), &mut vec![], &mut files).unwrap();
        }
        let names: BTreeSet<Name> = files.keys().cloned().collect();
        let modules: BTreeMap<Name, Module> = (files.iter())
            .map(|(name, path)| (name.clone(), read(name, path, &names).unwrap()))
            .collect();
        let reached = closure(&vec![name.to_string()], &modules);
        let digest = |m: Name| (m.join("::"), modules[&m].digest.clone());
        reached.into_iter().map(digest).collect()
    }

    /// A kernel counts as the code of those kinds, and only those, that reach who includes it.
    #[test]
    fn a_changed_kernel_makes_the_kinds_that_reach_it_stale() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("vae.rs", "use crate::nn::conv::conv2d;");
        write("fid.rs", "use crate::nn::other::f;");
        write(
            "nn/mod.rs",
            "pub mod conv; #[cfg(feature = \"cuda\")] pub mod cuda; pub mod other;",
        );
        write(
            "nn/conv.rs",
            "#[cfg(feature = \"cuda\")] use super::cuda::patches; fn conv2d() {}",
        );
        write("nn/other.rs", "fn f() {}");
        write("nn/cuda/mod.rs", "pub mod patches;");
        write(
            "nn/cuda/patches.rs",
            "pub static TEXT: &str = include_str!(\"../../kernels/patches.cu\");",
        );
        write("kernels/patches.cu", "// one");
        let (vae, fid) = (digests(dir.path(), "vae"), digests(dir.path(), "fid"));
        write("kernels/patches.cu", "// two");
        let after = digests(dir.path(), "vae");
        let changed: Vec<_> = vae.keys().filter(|m| vae[*m] != after[*m]).collect();
        assert_eq!(changed, ["nn::cuda::patches"]);
        assert_eq!(fid, digests(dir.path(), "fid"));
        assert!(!fid.contains_key("nn::cuda::patches"));
    }

    /// What only tests reach is no code of a kind.
    #[test]
    fn what_tests_reach_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| fs::write(dir.path().join(path), text).unwrap();
        write(
            "vae.rs",
            "#[cfg(test)] mod tests { use crate::stories::f; }
             #[cfg(all(test, feature = \"cuda\"))] mod gpu_tests { use crate::other::f; }
             #[cfg(any(test, feature = \"cuda\"))] use crate::noise::f;",
        );
        for name in ["stories.rs", "other.rs", "noise.rs"] {
            write(name, "pub fn f() {}");
        }
        let reached = digests(dir.path(), "vae");
        let reached: Vec<&str> = reached.keys().map(String::as_str).collect();
        assert_eq!(reached, ["noise", "vae"]);
    }

    /// The kernels of this crate are code of the stages that compute with them.
    #[test]
    fn every_kernel_file_is_included_by_a_module() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let hosts = fs::read_dir(root.join("nn/cuda")).unwrap();
        let files = hosts
            .map(|f| f.unwrap().path())
            .filter(|path| path.is_file());
        let texts: String = files
            .map(|path| fs::read_to_string(path).unwrap())
            .collect();
        for file in fs::read_dir(root.join("kernels")).unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap();
            let include = format!("include_str!(\"../../kernels/{name}\")");
            assert!(texts.contains(&include), "{name}");
        }
    }
}
