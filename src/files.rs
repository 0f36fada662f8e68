//! Files of the project that patterns name.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use globset::GlobBuilder;

/// Finds files; a pattern is looked for once.
pub struct Finder {
    dir: PathBuf,
    /// Never looked into.
    store: PathBuf,
    found: HashMap<String, Vec<String>>,
}

impl Finder {
    pub fn new(dir: &Path, store: &Path) -> Self {
        Self {
            dir: dir.into(),
            store: store.into(),
            found: HashMap::new(),
        }
    }

    pub fn exists(&self, path: &str) -> bool {
        self.dir.join(path).is_file()
    }

    /// Paths relative to the project, sorted. A pattern without wildcards stands for itself, also
    /// where there is no such file; a folder stands for all that is in it.
    pub fn find(&mut self, patterns: &[String]) -> Vec<String> {
        let mut all = Vec::new();
        for pattern in patterns {
            if !self.found.contains_key(pattern) {
                let found = self.look(pattern);
                self.found.insert(pattern.clone(), found);
            }
            all.extend(self.found[pattern].iter().cloned());
        }
        all.sort();
        all.dedup();
        all
    }

    fn look(&self, pattern: &str) -> Vec<String> {
        let wild = |part: &str| part.contains(['*', '?', '[', '{']);
        if !wild(pattern) {
            return match self.dir.join(pattern).is_dir() {
                true => self.look(&format!("{}/**", pattern.trim_end_matches('/'))),
                false => vec![pattern.to_owned()],
            };
        }
        let fixed: Vec<&str> = pattern.split('/').take_while(|part| !wild(part)).collect();
        let Ok(glob) = GlobBuilder::new(pattern).literal_separator(true).build() else {
            return vec![pattern.to_owned()];
        };
        let glob = glob.compile_matcher();
        let walk = walkdir::WalkDir::new(self.dir.join(fixed.join("/")));
        let ours = |e: &walkdir::DirEntry| {
            let name = e.file_name().to_string_lossy();
            e.depth() == 0 || e.path() != self.store && name != ".git" && name != "__pycache__"
        };
        let files = walk
            .into_iter()
            .filter_entry(ours)
            .flatten()
            .filter(|e| e.file_type().is_file());
        files
            .filter_map(|e| Some(e.path().strip_prefix(&self.dir).ok()?.to_str()?.to_owned()))
            .filter(|path| glob.is_match(path))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_files_below_the_project_but_not_the_store() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        for path in [
            "a.py",
            "pkg/b.py",
            "pkg/deep/c.py",
            "pkg/d.txt",
            "artifacts/e.py",
        ] {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap_or(dir.path()))?;
            std::fs::write(path, "")?;
        }
        let mut finder = Finder::new(dir.path(), &dir.path().join("artifacts"));
        let mut find = |p: &str| finder.find(&[p.to_owned()]);
        assert_eq!(find("*.py"), ["a.py"]);
        assert_eq!(find("**/*.py"), ["a.py", "pkg/b.py", "pkg/deep/c.py"]);
        assert_eq!(find("pkg"), ["pkg/b.py", "pkg/d.txt", "pkg/deep/c.py"]);
        assert_eq!(find("none.txt"), ["none.txt"]);
        Ok(())
    }
}
