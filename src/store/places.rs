//! Which part of the file system a path belongs to, and the name it has in a record.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use globset::GlobSet;

use crate::base::digest::Digest;

/// What a path below a folder counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Below a watched folder.
    Watched,
    /// Below a watched folder, and taken out by `ignore`.
    Ignored,
    /// Below a watched folder, and never of interest: caches, `.git`.
    Cache,
    /// Results and work of the runner itself.
    Store,
    /// What is installed: Python's packages, `node_modules`, an environment of conda.
    Environment,
    /// `/usr`, `/proc` and their like.
    System,
    /// Anywhere else.
    Outside,
}

/// Folders that programs keep for themselves, by name.
pub const CACHES: [&str; 10] = [
    ".git",
    ".hg",
    ".svn",
    "__pycache__",
    ".pytest_cache",
    ".mypy_cache",
    ".ruff_cache",
    ".ipynb_checkpoints",
    ".hypothesis",
    ".snakemake",
];

/// Folders of installed packages, by name.
const PACKAGES: [&str; 6] = [
    "site-packages",
    "dist-packages",
    "node_modules",
    ".tox",
    ".nox",
    ".pixi",
];

/// Files that make the folder they lie in an environment.
const MARKERS: [&str; 2] = ["pyvenv.cfg", "conda-meta"];

const SYSTEM: [&str; 19] = [
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/bin",
    "/sbin",
    "/etc",
    "/proc",
    "/sys",
    "/dev",
    "/run",
    "/var/lib",
    "/var/cache",
    "/var/log",
    "/var/run",
    "/nix",
    "/snap",
    "/boot",
];

/// Disks that people plug in.
const MEDIA: &str = "/run/media";

/// A folder whose files count.
#[derive(Debug, Clone)]
pub struct Root {
    /// Absolute, as it was named.
    pub path: PathBuf,
    /// The same without links.
    real: PathBuf,
    /// What names below it begin with: nothing for the project, else as pipeline.toml says it.
    label: PathBuf,
}

impl Root {
    /// `label` is empty for the project's own folder.
    pub fn new(path: &Path, label: &Path) -> Self {
        Self {
            path: path.into(),
            real: path.canonicalize().unwrap_or_else(|_| path.into()),
            label: label.into(),
        }
    }
}

/// Where everything lies that a run of a pipeline distinguishes.
#[derive(Debug)]
pub struct Places {
    /// The project's folder first.
    roots: Vec<Root>,
    store: Vec<PathBuf>,
    ignore: GlobSet,
    home: Option<PathBuf>,
    /// What pipeline.toml says of the above: a result made under other words may have read more.
    told: String,
}

impl Places {
    pub fn new(roots: Vec<Root>, store: &Path, ignore: GlobSet) -> Self {
        let mut stores = vec![store.to_path_buf()];
        if let Ok(real) = store.canonicalize()
            && real != store
        {
            stores.push(real);
        }
        Self {
            roots,
            store: stores,
            ignore,
            home: std::env::var_os("HOME").map(PathBuf::from),
            told: String::new(),
        }
    }

    /// Adds the words of pipeline.toml that say so; empty where it says nothing.
    pub fn saying(mut self, told: String) -> Self {
        self.told = told;
        self
    }

    pub fn told(&self) -> &str {
        &self.told
    }

    /// The places of a project that declares none, with its store in the usual folder.
    pub fn of(project: &Path) -> Self {
        let roots = vec![Root::new(project, Path::new(""))];
        Self::new(roots, &project.join("artifacts"), GlobSet::empty())
    }

    /// The name of a path below a watched folder.
    pub fn name(&self, path: &Path) -> Option<PathBuf> {
        let root = self.root(path)?;
        let inside = path.strip_prefix(&root.path).ok()?;
        Some(root.label.join(inside))
    }

    /// The innermost watched folder that holds a path.
    fn root(&self, path: &Path) -> Option<&Root> {
        let holding = self.roots.iter().filter(|r| path.starts_with(&r.path));
        holding.max_by_key(|r| r.path.as_os_str().len())
    }

    pub fn in_store(&self, path: &Path) -> bool {
        self.store.iter().any(|store| path.starts_with(store))
    }

    /// The result in the store that holds a path.
    pub fn result(&self, path: &Path) -> Option<PathBuf> {
        self.store.iter().find_map(|store| {
            let results = store.join("results");
            let inside = path.strip_prefix(&results).ok()?;
            let first = self.store.first()?.join("results");
            Some(first.join(inside.components().next()?))
        })
    }

    /// True for what `ignore` takes out.
    pub fn ignores(&self, path: &Path) -> bool {
        !self.ignore.is_empty() && self.name(path).is_some_and(|n| self.ignore.is_match(n))
    }

    /// A path of the project by the name that it has without links above the project.
    pub fn real(&self, path: &Path) -> PathBuf {
        let root = self.root(path);
        let real =
            root.and_then(|root| Some(join(&root.real, path.strip_prefix(&root.path).ok()?)));
        real.unwrap_or_else(|| path.into())
    }

    /// Below `results/` of the store, where nothing is ever changed.
    pub fn in_results(&self, path: &Path) -> bool {
        let mut stores = self.store.iter();
        stores.any(|store| path.starts_with(store.join("results")))
    }

    fn outside(&self, path: &Path) -> Class {
        if SYSTEM.iter().any(|dir| path.starts_with(dir)) && !path.starts_with(MEDIA) {
            return Class::System;
        }
        // Settings and caches of programs, and what they install for one user.
        if let Some(home) = &self.home
            && let Ok(inside) = path.strip_prefix(home)
            && let Some(Component::Normal(first)) = inside.components().next()
            && first.as_encoded_bytes().starts_with(b".")
        {
            return Class::Environment;
        }
        Class::Outside
    }
}

/// What is known of folders and links during one run of a stage.
#[derive(Debug, Default)]
pub struct Map {
    classes: HashMap<PathBuf, Class>,
    /// Folders below a watched one that are links.
    pub links: HashMap<PathBuf, Digest>,
    /// Folders elsewhere, and the name below a watched folder by which they are reached.
    mounts: Vec<(PathBuf, PathBuf)>,
    /// The same for files.
    files: HashMap<PathBuf, PathBuf>,
    /// Folders outside, and what they are below a watched one if links lead there.
    aliases: HashMap<PathBuf, Option<PathBuf>>,
}

impl Map {
    /// The same file's path without `.` and `..`, below a watched folder if it can be reached there.
    pub fn locate(&mut self, places: &Places, path: &Path) -> PathBuf {
        let plain = straighten(path);
        if places.in_store(&plain) {
            return plain;
        }
        if places.root(&plain).is_some() {
            // What is installed in the project may be a link to a part of it.
            let folder = plain.parent();
            let installed = folder.is_some_and(|f| self.folder(places, f) == Class::Environment);
            return match installed {
                true => self.behind(places, plain),
                false => plain,
            };
        }
        if let Some(name) = self.files.get(&plain) {
            return name.clone();
        }
        for root in &places.roots {
            if let Ok(inside) = plain.strip_prefix(&root.real) {
                return join(&root.path, inside);
            }
        }
        for (real, name) in &self.mounts {
            if let Ok(inside) = plain.strip_prefix(real) {
                return join(name, inside);
            }
        }
        self.behind(places, plain)
    }

    /// The same file below a watched folder, if links of the folder it lies in lead there.
    fn behind(&mut self, places: &Places, plain: PathBuf) -> PathBuf {
        match (plain.parent(), plain.file_name()) {
            (Some(folder), Some(name)) => match self.leads_inside(places, folder) {
                Some(watched) => watched.join(name),
                None => plain,
            },
            _ => plain,
        }
    }

    /// A link to a file elsewhere: whoever asks where it leads may use that name.
    pub fn learn_link(&mut self, places: &Places, link: &Path) {
        if let Ok(real) = link.canonicalize()
            && real.is_file()
            && !places.roots.iter().any(|root| real.starts_with(&root.real))
            && !places.in_store(&real)
            && places.outside(&real) == Class::Outside
        {
            self.files.insert(real, link.into());
        }
    }

    /// The watched folder that a folder outside is another name of.
    fn leads_inside(&mut self, places: &Places, folder: &Path) -> Option<PathBuf> {
        if let Some(known) = self.aliases.get(folder) {
            return known.clone();
        }
        let real = folder.canonicalize().ok()?;
        let mut roots = places.roots.iter();
        let watched =
            roots.find_map(|root| Some(join(&root.path, real.strip_prefix(&root.real).ok()?)));
        let watched = watched.filter(|watched: &PathBuf| {
            watched != folder && self.folder(places, watched) == Class::Watched
        });
        self.aliases.insert(folder.into(), watched.clone());
        watched
    }

    /// The class of a path from [`locate`](Self::locate), decided by the folder that it lies in.
    pub fn class(&mut self, places: &Places, path: &Path) -> Class {
        if places.roots.iter().any(|root| root.path == path) {
            return Class::Watched;
        }
        let folder = match path.parent() {
            Some(folder) => self.folder(places, folder),
            None => Class::System,
        };
        let name = path.file_name().unwrap_or_default();
        match folder {
            Class::Watched if CACHES.iter().any(|c| *c == name) => Class::Cache,
            Class::Watched if places.ignores(path) => Class::Ignored,
            // A file of settings right in the home folder.
            Class::Outside => places.outside(path),
            class => class,
        }
    }

    /// The class of a folder, which is that of the files in it.
    pub fn folder(&mut self, places: &Places, path: &Path) -> Class {
        if let Some(class) = self.classes.get(path) {
            return *class;
        }
        let class = self.find(places, path);
        self.classes.insert(path.into(), class);
        class
    }

    fn find(&mut self, places: &Places, path: &Path) -> Class {
        if places.in_store(path) {
            return Class::Store;
        }
        let Some(root) = places.root(path) else {
            return self.find_outside(places, path);
        };
        if root.path == path {
            return Class::Watched;
        }
        let above = match path.parent() {
            Some(above) => self.folder(places, above),
            None => Class::Watched,
        };
        if above != Class::Watched {
            return above;
        }
        let name = path.file_name().unwrap_or_default();
        if CACHES.iter().any(|c| *c == name) {
            return Class::Cache;
        }
        if is_environment(path) {
            return Class::Environment;
        }
        if places.ignores(path) {
            return Class::Ignored;
        }
        if fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink()) {
            if !self.links.contains_key(path) {
                self.links
                    .insert(path.into(), crate::store::observed::link(path));
            }
            if let Ok(real) = path.canonicalize()
                && places.root(&real).is_none()
                && !places.roots.iter().any(|r| real.starts_with(&r.real))
                && !places.in_store(&real)
            {
                self.mounts.push((real, path.into()));
            }
        }
        Class::Watched
    }

    fn find_outside(&mut self, places: &Places, path: &Path) -> Class {
        let class = places.outside(path);
        if class != Class::Outside {
            return class;
        }
        match path.parent() {
            None => Class::Outside,
            Some(above) if self.folder(places, above) == Class::Environment => Class::Environment,
            _ if is_environment(path) => Class::Environment,
            _ => Class::Outside,
        }
    }

    /// Links or folders were changed by the stage itself: what was known of them may be wrong.
    pub fn forget(&mut self, path: &Path) {
        // Whatever is known below a folder, the folder is known too.
        if self.classes.remove(path).is_some() {
            self.classes.retain(|known, _| !known.starts_with(path));
        }
    }
}

fn is_environment(folder: &Path) -> bool {
    let name = folder.file_name().unwrap_or_default();
    PACKAGES.iter().any(|p| *p == name)
        || name == "library" && folder.parent().is_some_and(|p| p.ends_with("renv"))
        || MARKERS.iter().any(|m| folder.join(m).exists())
        // A link to the root of the system has both of these too.
        || folder.join("bin/python3").exists()
            && folder.join("lib").is_dir()
            && !folder.join("etc/passwd").exists()
}

pub fn join(folder: &Path, inside: &Path) -> PathBuf {
    match inside.as_os_str().is_empty() {
        true => folder.into(),
        false => folder.join(inside),
    }
}

/// The path without `.`, `..` and doubled slashes. What stands before a `..` may be a link: then the folder
/// that it leads to has the parent that is meant.
fn straighten(path: &Path) -> PathBuf {
    let bytes = path.as_os_str().as_encoded_bytes();
    let crooked =
        bytes.ends_with(b"/") || bytes.windows(2).any(|pair| pair == b"//" || pair == b"/.");
    if !crooked {
        return path.into();
    }
    let mut plain = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => {
                let link = fs::symlink_metadata(&plain).is_ok_and(|meta| meta.is_symlink());
                if link && let Ok(real) = plain.canonicalize() {
                    plain = real;
                }
                plain.pop();
            }
            _ => {}
        }
    }
    plain
}

/// Whether a path is there, and is a folder; a link stands for what it leads to.
pub fn look(path: &Path) -> Option<fs::Metadata> {
    match fs::metadata(path) {
        Ok(meta) => Some(meta),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => fs::symlink_metadata(path).ok(),
        Err(_) => None,
    }
}

/// The names in a folder that may mean something to a program: not hidden ones, caches, the store.
pub fn names(places: &Places, folder: &Path) -> BTreeSet<Vec<u8>> {
    let Ok(entries) = fs::read_dir(folder) else {
        return BTreeSet::new();
    };
    let names = entries.flatten().map(|e| e.file_name());
    let plain = names.filter(|name| {
        let hidden = name.as_encoded_bytes().starts_with(b".");
        let path = folder.join(name);
        !hidden
            && !CACHES.iter().any(|c| *c == name)
            && !places.in_store(&path)
            && !places.ignores(&path)
    });
    plain.map(OsStringExt::into_vec).collect()
}

/// True if Python's import system could take an entry of a folder for a module.
pub fn is_importable(name: &[u8], folder: &Path) -> bool {
    let ends = |ending: &[u8]| name.ends_with(ending);
    if ends(b".py") || ends(b".pyc") || ends(b".so") {
        return true;
    }
    !name.contains(&b'.')
        && !name.contains(&b'-')
        && folder.join(std::ffi::OsStr::from_bytes(name)).is_dir()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn places(project: &Path) -> Places {
        let roots = vec![Root::new(project, Path::new(""))];
        Places::new(roots, &project.join("artifacts"), GlobSet::empty())
    }

    #[test]
    fn what_lies_behind_a_link_has_the_name_by_which_it_was_reached() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let (project, data) = (dir.path().join("p"), dir.path().join("data/deep"));
        fs::create_dir_all(&project)?;
        fs::create_dir_all(&data)?;
        symlink(dir.path().join("data"), project.join("set"))?;
        let places = places(&project);
        let mut map = Map::default();
        let through = map.locate(&places, &project.join("./set//deep/../deep/x"));
        assert_eq!(through, project.join("set/deep/x"));
        assert_eq!(map.class(&places, &through), Class::Watched);
        assert!(map.links.contains_key(&project.join("set")));
        // As the kernel names it after `cd set`.
        let real = dir.path().canonicalize()?.join("data/deep/x");
        assert_eq!(map.locate(&places, &real), project.join("set/deep/x"));
        assert_eq!(places.name(&through), Some("set/deep/x".into()));
        // The parent of a linked folder is where the link leads.
        let up = map.locate(&places, &project.join("set/../other"));
        assert_eq!(up, dir.path().canonicalize()?.join("other"));
        Ok(())
    }

    #[test]
    fn caches_environments_and_the_store_are_no_part_of_the_project() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let project = dir.path().canonicalize()?;
        fs::create_dir_all(project.join("env/lib/python3/x"))?;
        fs::write(project.join("env/pyvenv.cfg"), "")?;
        let places = places(&project);
        let mut map = Map::default();
        let mut class = |path: &str| map.class(&places, &project.join(path));
        assert_eq!(class(""), Class::Watched);
        assert_eq!(class("a.py"), Class::Watched);
        assert_eq!(class("src/a.py"), Class::Watched);
        assert_eq!(class("src/__pycache__/a.pyc"), Class::Cache);
        assert_eq!(class(".git/HEAD"), Class::Cache);
        assert_eq!(class("env/lib/python3/x/y.py"), Class::Environment);
        assert_eq!(class("lib/site-packages/x.py"), Class::Environment);
        assert_eq!(class("artifacts/results/x"), Class::Store);
        assert_eq!(class("/usr/lib/x"), Class::System);
        Ok(())
    }
}
