//! What a module's tokens are, and which modules they name.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::Path;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use super::{CONTRACT, Name};

pub struct Module {
    pub digest: String,
    pub reaches: BTreeSet<Name>,
}

pub fn read(name: &Name, path: &Path, names: &BTreeSet<Name>) -> Result<Module, Box<dyn Error>> {
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

    /// Notes the module named by a path that starts here: `crate::`, `super::`, `self::`, a child or
    /// the contract.
    fn path_from(&mut self, tokens: &[TokenTree], inside_path: bool) {
        let (Some(TokenTree::Ident(first)), false) = (tokens.first(), inside_path) else {
            return;
        };
        let first = first.to_string();
        let child = [self.name.as_slice(), std::slice::from_ref(&first)].concat();
        let base = match first.as_str() {
            "crate" if self.name[0] == CONTRACT => vec![CONTRACT.into()],
            "crate" => vec![],
            "self" => self.name.clone(),
            "super" => self.name[..self.name.len() - 1].to_vec(),
            CONTRACT if !self.names.contains(&child) => vec![first],
            _ => child,
        };
        if base.is_empty()
            || base == [CONTRACT]
            || self.names.contains(&base)
            || base.len() < self.name.len()
        {
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

    /// The longest prefix that is a module is what the path reaches. The contract's root by itself (a
    /// `*`, another name for it) may be any module of it.
    fn reach(&mut self, mut path: Name) {
        if path == [CONTRACT] {
            let all = self.names.iter().filter(|name| name[0] == CONTRACT);
            self.reaches.extend(all.cloned());
        }
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

/// Drops `#[doc …]` attributes, and items under `#[cfg(test)]` and `#[cfg(all(test, …))]`.
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
        } else if text == "cfg(test)" || text.starts_with("cfg(all(test,") {
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
