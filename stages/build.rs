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

use proc_macro2::{Delimiter, TokenStream, TokenTree};

#[path = "build/versions.rs"]
mod versions;

/// Path of a module below the crate: `["nn", "conv"]`.
type Name = Vec<String>;

struct Module {
    digest: String,
    reaches: BTreeSet<Name>,
}

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

fn read(name: &Name, path: &Path, names: &BTreeSet<Name>) -> Result<Module, Box<dyn Error>> {
    let text = fs::read_to_string(path)?;
    let tokens: TokenStream = text
        .parse()
        .map_err(|e| format!("{}: {e}", path.display()))?;
    let mut reader = Reader {
        name,
        path,
        names,
        hasher: blake3::Hasher::new(),
        reaches: BTreeSet::new(),
    };
    reader.stream(tokens)?;
    Ok(Module {
        digest: reader.hasher.finalize().to_hex()[..32].to_string(),
        reaches: reader.reaches,
    })
}

struct Reader<'a> {
    name: &'a Name,
    path: &'a Path,
    names: &'a BTreeSet<Name>,
    hasher: blake3::Hasher,
    reaches: BTreeSet<Name>,
}

impl Reader<'_> {
    fn stream(&mut self, stream: TokenStream) -> Result<(), Box<dyn Error>> {
        let tokens = without_docs_and_tests(stream.into_iter().collect());
        for (i, token) in tokens.iter().enumerate() {
            self.path_from(&tokens[i..], i > 0 && is_punct(&tokens[i - 1], ':'));
            self.included_file(&tokens[i..])?;
            match token {
                TokenTree::Group(group) => {
                    self.hash(&format!("{:?}(", group.delimiter()));
                    self.stream(group.stream())?;
                    self.hash(")");
                }
                other => self.hash(&other.to_string()),
            }
        }
        Ok(())
    }

    /// Length first, so that two streams never share their bytes.
    fn hash(&mut self, text: &str) {
        self.hasher.update(&(text.len() as u64).to_le_bytes());
        self.hasher.update(text.as_bytes());
    }

    /// Notes the module named by a path that starts here: `crate::`, `super::`, `self::` or a child.
    fn path_from(&mut self, tokens: &[TokenTree], inside_path: bool) {
        let (Some(TokenTree::Ident(first)), false) = (tokens.first(), inside_path) else {
            return;
        };
        let first = first.to_string();
        let base = match first.as_str() {
            "crate" => vec![],
            "self" => self.name.clone(),
            "super" => self.name[..self.name.len() - 1].to_vec(),
            _ => [self.name.as_slice(), &[first]].concat(),
        };
        if base.is_empty() || self.names.contains(&base) || base.len() < self.name.len() {
            self.path_on(base, &tokens[1..]);
        }
    }

    /// Follows `::segment` and `::{tree}` from a known prefix.
    fn path_on(&mut self, prefix: Name, rest: &[TokenTree]) {
        let [a, b, next, ..] = rest else {
            return self.reach(prefix);
        };
        if !(is_punct(a, ':') && is_punct(b, ':')) {
            return self.reach(prefix);
        }
        match next {
            TokenTree::Ident(ident) if ident == "super" => {
                let up = prefix[..prefix.len().saturating_sub(1)].to_vec();
                self.path_on(up, &rest[3..]);
            }
            TokenTree::Ident(ident) => self.path_on(
                [prefix.as_slice(), &[ident.to_string()]].concat(),
                &rest[3..],
            ),
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                for branch in inner.split(|t| is_punct(t, ',')) {
                    match branch.first() {
                        Some(TokenTree::Ident(ident)) if ident != "self" => {
                            let name = [prefix.as_slice(), &[ident.to_string()]].concat();
                            self.path_on(name, &branch[1..]);
                        }
                        _ => self.reach(prefix.clone()),
                    }
                }
            }
            _ => self.reach(prefix),
        }
    }

    /// The longest prefix that is a module is what the path reaches.
    fn reach(&mut self, mut path: Name) {
        while !path.is_empty() && !self.names.contains(&path) {
            path.pop();
        }
        if !path.is_empty() && path != *self.name {
            self.reaches.insert(path);
        }
    }

    /// The content of `include_str!("f")` and `include_bytes!("f")` counts.
    fn included_file(&mut self, tokens: &[TokenTree]) -> Result<(), Box<dyn Error>> {
        let [TokenTree::Ident(name), bang, TokenTree::Group(args), ..] = tokens else {
            return Ok(());
        };
        let includes = name == "include_str" || name == "include_bytes";
        if includes && is_punct(bang, '!') {
            let file = args.stream().to_string();
            let file = self.path.with_file_name(file.trim_matches('"'));
            let bytes = fs::read(&file).map_err(|e| format!("{}: {e}", file.display()))?;
            self.hasher.update(blake3::hash(&bytes).as_bytes());
        }
        Ok(())
    }
}

fn is_punct(token: &TokenTree, c: char) -> bool {
    matches!(token, TokenTree::Punct(p) if p.as_char() == c)
}

/// Drops `#[doc …]` attributes, and items under `#[cfg(test)]`.
fn without_docs_and_tests(tokens: Vec<TokenTree>) -> Vec<TokenTree> {
    let mut kept = vec![];
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        if !is_punct(&token, '#') {
            kept.push(token);
            continue;
        }
        let inner = tokens.next_if(|t| is_punct(t, '!'));
        let Some(TokenTree::Group(attribute)) = tokens.peek() else {
            kept.push(token);
            kept.extend(inner);
            continue;
        };
        let text = attribute.stream().to_string().replace(' ', "");
        if text.starts_with("doc=") {
            tokens.next();
        } else if text == "cfg(test)" {
            tokens.next();
            for skipped in tokens.by_ref() {
                let ends = match &skipped {
                    TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
                    other => is_punct(other, ';'),
                };
                if ends {
                    break;
                }
            }
        } else {
            kept.push(token);
            kept.extend(inner);
        }
    }
    kept
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
