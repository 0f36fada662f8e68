//! Code digests: for each kind, the modules its code reaches and a digest of each.
//!
//! A module's digest is BLAKE3 over its token stream, so comments, formatting, documentation and
//! `#[cfg(test)]` items do not count; files it includes (`include_str!`, `include_bytes!`: kernels,
//! embedded data) do. A module reaches those whose paths it names.
//!
//! Modules of the crate `contract` count like our own, but for those that pass paths and progress
//! and compute nothing: if they counted, every kind would be stale for a new event.

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

/// Path of a module below the crate, `["nn", "conv"]`, or of the contract, `["contract", "metrics"]`.
type Name = Vec<String>;

const CONTRACT: &str = "contract";

/// Files of the contract that are code of no kind.
const NO_CODE: [&str; 3] = ["lib", "job", "testing"];

/// Files and folders of this crate that hold no kind's code.
const NO_KIND: [&str; 6] = ["lib", "build", "benches", "examples", "tests", "target"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=.");
    println!("cargo::rerun-if-changed=../{CONTRACT}");
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    versions::tell(&root);
    let files = sources(&root)?;
    let names: BTreeSet<Name> = files.keys().cloned().collect();
    let mut modules = BTreeMap::new();
    for (name, path) in &files {
        modules.insert(name.clone(), read(name, path, &names)?);
    }

    let mut code = String::new();
    let kinds = names
        .iter()
        .filter(|name| name.len() == 1 && files[*name].parent() == Some(&root));
    for name in kinds {
        constant(&mut code, name, &modules)?;
    }
    writeln!(code, "pub mod models {{")?;
    for name in names.iter().filter(|n| n.len() == 2 && n[0] == "models") {
        constant(&mut code, name, &modules)?;
    }
    writeln!(code, "}}")?;
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("code.rs"), code)?;
    Ok(())
}

/// Writes a constant, named as the module is: what it reaches.
fn constant(
    code: &mut String,
    name: &Name,
    modules: &BTreeMap<Name, Module>,
) -> Result<(), std::fmt::Error> {
    let constant = name[name.len() - 1].to_uppercase();
    writeln!(code, "pub const {constant}: &[contract::CodeModule] = &[")?;
    for reached in closure(name, modules) {
        let digest = &modules[&reached].digest;
        writeln!(code, "    ({:?}, {digest:?}),", reached.join("::"))?;
    }
    writeln!(code, "];")
}

/// All files that may be code of a kind: those of this crate, and of the contract beside it.
fn sources(root: &Path) -> Result<BTreeMap<Name, PathBuf>, Box<dyn Error>> {
    let mut files = BTreeMap::new();
    let contract = root.with_file_name(CONTRACT);
    for (folder, skip, name) in [
        (root, &NO_KIND[..], vec![]),
        (&contract, &NO_CODE[..], vec![CONTRACT.to_string()]),
    ] {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            if !skip.contains(&&*stem) {
                find(&path, &mut name.clone(), &mut files)?;
            }
        }
    }
    Ok(files)
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

    /// A folder with files for `stages/` and `contract/`.
    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            let folder = Self(tempfile::tempdir().unwrap());
            folder.write("contract/lib.rs", "mod job;");
            folder
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        /// Digests of the modules that the kind reaches.
        fn digests(&self, kind: &str) -> BTreeMap<String, String> {
            let files = sources(&self.0.path().join("stages")).unwrap();
            let names: BTreeSet<Name> = files.keys().cloned().collect();
            let modules: BTreeMap<Name, Module> = (files.iter())
                .map(|(name, path)| (name.clone(), read(name, path, &names).unwrap()))
                .collect();
            let reached = closure(&vec![kind.to_string()], &modules);
            let digest = |m: Name| (m.join("::"), modules[&m].digest.clone());
            reached.into_iter().map(digest).collect()
        }

        fn reached(&self, kind: &str) -> Vec<String> {
            self.digests(kind).into_keys().collect()
        }
    }

    /// For `tests/golden/refactorings.py`: what the kinds of another tree of sources reach.
    #[test]
    fn another_tree_is_told_of() {
        let Ok(tree) = env::var("REPRO_TREE") else {
            return;
        };
        let files = sources(&Path::new(&tree).join("stages")).unwrap();
        let names: BTreeSet<Name> = files.keys().cloned().collect();
        let modules: BTreeMap<Name, Module> = (files.iter())
            .map(|(name, path)| (name.clone(), read(name, path, &names).unwrap()))
            .collect();
        for kind in names.iter().filter(|name| name.len() == 1) {
            for module in closure(kind, &modules) {
                println!(
                    "{} {} {}",
                    kind[0],
                    module.join("::"),
                    modules[&module].digest
                );
            }
        }
    }

    /// A kernel counts as the code of those kinds, and only those, that reach who includes it.
    #[test]
    fn a_changed_kernel_makes_the_kinds_that_reach_it_stale() {
        let folder = Folder::new();
        let write = |path: &str, text: &str| folder.write(&format!("stages/{path}"), text);
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
        let (vae, fid) = (folder.digests("vae"), folder.digests("fid"));
        write("kernels/patches.cu", "// two");
        let after = folder.digests("vae");
        let changed: Vec<_> = vae.keys().filter(|m| vae[*m] != after[*m]).collect();
        assert_eq!(changed, ["nn::cuda::patches"]);
        assert_eq!(fid, folder.digests("fid"));
        assert!(!fid.contains_key("nn::cuda::patches"));
    }

    /// What an artifact of the contract looks like is code of the kinds that write it; what a job is,
    /// of none.
    #[test]
    fn a_changed_artifact_of_the_contract_makes_the_kinds_that_reach_it_stale() {
        let folder = Folder::new();
        for (path, text) in [
            (
                "contract/lib.rs",
                "mod job; mod number; pub mod history; pub mod metrics;",
            ),
            ("contract/job.rs", "pub struct Job;"),
            ("contract/number.rs", "pub fn digits() {}"),
            ("contract/history.rs", "pub fn save() {}"),
            ("contract/metrics.rs", "use crate::number::digits;"),
            (
                "stages/fid.rs",
                "use contract::metrics; use contract::{Job, Stage};",
            ),
            (
                "stages/vae.rs",
                "use contract::{Job, history::{self, Epoch}};",
            ),
            ("stages/glow.rs", "fn run() { contract::history::save() }"),
            (
                "stages/grid.rs",
                "use contract::Job; fn run(job: &contract::Job) {}",
            ),
            ("stages/all.rs", "use contract as c;"),
        ] {
            folder.write(path, text);
        }
        let metrics = ["contract::metrics", "contract::number", "fid"];
        assert_eq!(folder.reached("fid"), metrics);
        assert_eq!(folder.reached("vae"), ["contract::history", "vae"]);
        assert_eq!(folder.reached("glow"), ["contract::history", "glow"]);
        assert_eq!(folder.reached("grid"), ["grid"]);
        // By another name it may be any of them.
        assert_eq!(folder.reached("all").len(), 4);
        let kinds = || ["fid", "vae", "grid"].map(|kind| folder.digests(kind));
        let before = kinds();
        folder.write("contract/job.rs", "pub struct Job(u8);");
        assert_eq!(before, kinds());
        folder.write("contract/number.rs", "pub fn digits() { 17 }");
        let after = kinds();
        assert_ne!(before[0]["contract::number"], after[0]["contract::number"]);
        assert_eq!(before[1..], after[1..]);
    }

    /// What the contract's root re-exports would be reached by a path that names no module.
    #[test]
    fn the_contract_re_exports_only_what_is_no_code() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name(CONTRACT);
        let text = fs::read_to_string(root.join("lib.rs")).unwrap();
        let mut exported = text.lines().filter(|line| line.starts_with("pub use"));
        assert!(exported.all(|line| line.starts_with("pub use job::")));
    }

    /// What only tests reach is no code of a kind.
    #[test]
    fn what_tests_reach_does_not_count() {
        let folder = Folder::new();
        folder.write(
            "stages/vae.rs",
            "#[cfg(test)] mod tests { use crate::stories::f; }
             #[cfg(all(test, feature = \"cuda\"))] mod gpu_tests { use crate::other::f; }
             #[cfg(any(test, feature = \"cuda\"))] use crate::noise::f;",
        );
        for name in ["stories.rs", "other.rs", "noise.rs"] {
            folder.write(&format!("stages/{name}"), "pub fn f() {}");
        }
        assert_eq!(folder.reached("vae"), ["noise", "vae"]);
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
