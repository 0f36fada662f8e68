//! Files that a pipeline names: by a name, by a folder, by a pattern, in whatever spelling.
//!
//! Wherever a file is written down (manifests, the index, records) its name is a text: the path
//! relative to the project, or with `..` or from the root where it lies outside. Bytes that are
//! no UTF-8 become `\xE9`, and a backslash becomes two, so that no two paths share a text.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, FileType, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use globset::{GlobBuilder, GlobMatcher};
use walkdir::DirEntry;

use crate::base::diag::nearest;

/// A path as text.
pub fn text(path: &Path) -> Cow<'_, str> {
    let bytes = path.as_os_str().as_bytes();
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\\') => text.into(),
        _ => {
            let mut text = String::with_capacity(bytes.len() + 8);
            for chunk in bytes.utf8_chunks() {
                text += &chunk.valid().replace('\\', "\\\\");
                for byte in chunk.invalid() {
                    let _ = write!(text, "\\x{byte:02X}");
                }
            }
            text.into()
        }
    }
}

/// The path that a text stands for.
pub fn path(text: &str) -> PathBuf {
    if !text.contains('\\') {
        return text.into();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let foreign = |hex: &[u8]| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok();
        let (byte, left) = match (first, after) {
            (b'\\', [b'\\', left @ ..]) => (b'\\', left),
            (b'\\', [b'x', a, b, left @ ..]) => match foreign(&[*a, *b]) {
                Some(byte) => (byte, left),
                None => (b'\\', after),
            },
            _ => (*first, after),
        };
        bytes.push(byte);
        rest = left;
    }
    OsString::from_vec(bytes).into()
}

/// What a declared name or pattern stands for.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Files, as text, sorted.
    pub names: Vec<String>,
    /// Why it stands for nothing that could be counted.
    pub wrong: Option<Wrong>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Wrong {
    pub what: String,
    pub hint: String,
}

/// Finds files; what is declared is looked for once.
pub struct Finder {
    dir: PathBuf,
    /// Never looked into.
    store: PathBuf,
    /// The project's folder without links on the way to it.
    real: OnceCell<PathBuf>,
    found: HashMap<String, Found>,
}

const ELSEWHERE: &str = "what another stage makes is its output (out.NAME) and is read through in.NAME; \
                         anything else must be there before the run";
const PLAIN: &str = "name files and folders of files";

impl Finder {
    pub fn new(dir: &Path, store: &Path) -> Self {
        Self {
            dir: dir.into(),
            store: store.into(),
            real: OnceCell::new(),
            found: HashMap::new(),
        }
    }

    /// The name of a file as text, if there is one.
    pub fn file(&self, declared: &str) -> Option<String> {
        let path = self.spell(Path::new(declared));
        let there = self.dir.join(&path).is_file();
        there.then(|| text(&path).into_owned())
    }

    /// Files of all that is declared, sorted, each once.
    pub fn find<'d>(&mut self, declared: impl IntoIterator<Item = &'d str>) -> Vec<String> {
        let mut all = Vec::new();
        for declared in declared {
            all.extend(self.look(declared).names.iter().cloned());
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    /// A name that exists means that file, or all that is in that folder, whatever signs it has;
    /// any other with `*`, `?`, `[` or `{` is a pattern.
    pub fn look(&mut self, declared: &str) -> &Found {
        if !self.found.contains_key(declared) {
            let found = match self.names(declared) {
                Ok(mut names) => {
                    names.sort_unstable();
                    Found { names, wrong: None }
                }
                Err(wrong) => Found {
                    names: Vec::new(),
                    wrong: Some(wrong),
                },
            };
            self.found.insert(declared.to_owned(), found);
        }
        &self.found[declared]
    }

    /// The one spelling of a path: without `.`, without `..` where that changes nothing, and relative if it
    /// lies below the project.
    pub fn spell(&self, path: &Path) -> PathBuf {
        let spelled = self.plain(&self.dir, path);
        if spelled.is_relative() && !spelled.starts_with("..") {
            return spelled;
        }
        let real = self.real();
        let whole = match spelled.is_absolute() {
            true => Cow::Borrowed(&spelled),
            false => Cow::Owned(self.plain(real, &real.join(&spelled))),
        };
        let inside = (whole.strip_prefix(&self.dir)).or_else(|_| whole.strip_prefix(real));
        match inside {
            Ok(inside) if inside.as_os_str().is_empty() => ".".into(),
            Ok(inside) => inside.into(),
            Err(_) => spelled,
        }
    }

    fn real(&self) -> &Path {
        self.real.get_or_init(|| {
            let real = self.dir.canonicalize();
            real.unwrap_or_else(|_| self.dir.clone())
        })
    }

    /// The path without `.`, and without `..` except behind links, where it leads elsewhere than it seems.
    fn plain(&self, dir: &Path, path: &Path) -> PathBuf {
        let mut plain = PathBuf::new();
        for part in path.components() {
            match part {
                Component::CurDir => {}
                Component::ParentDir => match plain.components().next_back() {
                    Some(Component::RootDir) => {}
                    Some(Component::Normal(_)) if !dir.join(&plain).is_symlink() => {
                        plain.pop();
                    }
                    _ => plain.push(".."),
                },
                part => plain.push(part),
            }
        }
        match plain.as_os_str().is_empty() {
            true => ".".into(),
            false => plain,
        }
    }

    fn names(&self, declared: &str) -> Result<Vec<String>, Wrong> {
        if declared.is_empty() {
            return Err(wrong(
                "an empty name stands for nothing",
                "`.` is the whole project",
            ));
        }
        let spelled = self.spell(Path::new(declared));
        match fs::symlink_metadata(self.dir.join(&spelled)) {
            Ok(_) => return self.named(declared, &spelled),
            Err(e) if absent(&e) || is_pattern(declared) => {}
            Err(e) => return Err(unreadable(declared, &e)),
        }
        // As names are printed that TOML cannot hold.
        let foreign = self.spell(&path(declared));
        if declared.contains("\\x") && self.dir.join(&foreign).exists() {
            return self.named(declared, &foreign);
        }
        match is_pattern(declared) {
            true => self.fitting(declared, &spelled),
            false => Err(wrong(
                format!("`{declared}` is not there"),
                self.near(declared, &spelled),
            )),
        }
    }

    /// A file, or all in a folder.
    fn named(&self, declared: &str, path: &Path) -> Result<Vec<String>, Wrong> {
        let whole = self.dir.join(path);
        let meta = match fs::metadata(&whole) {
            Ok(meta) => meta,
            Err(e) if whole.is_symlink() && (absent(&e) || looped(&e)) => {
                let to = fs::read_link(&whole).unwrap_or_default();
                let what = format!(
                    "`{declared}` is a link to {}, which is not there",
                    to.display()
                );
                return Err(wrong(what, "make the link lead to a file or a folder"));
            }
            Err(e) => return Err(unreadable(declared, &e)),
        };
        let store = self.store.canonicalize();
        if store.is_ok_and(|store| whole.canonicalize().is_ok_and(|w| w.starts_with(store))) {
            let what = format!("`{declared}` lies in the store of results");
            return Err(wrong(
                what,
                "what another stage makes is read through in.NAME",
            ));
        }
        if meta.is_dir() {
            let names = self.walk(path, None)?;
            if names.is_empty() {
                let what = format!("`{declared}` is a folder without a file");
                return Err(wrong(what, ELSEWHERE));
            }
            return Ok(names);
        }
        match special(meta.file_type()) {
            Some(kind) => Err(wrong(
                format!("`{declared}` is {kind}, which has no content"),
                PLAIN,
            )),
            None => Ok(vec![text(path).into_owned()]),
        }
    }

    /// Files that fit a pattern. What of its beginning exists is taken as it is.
    fn fitting(&self, declared: &str, spelled: &Path) -> Result<Vec<String>, Wrong> {
        let mut root = PathBuf::new();
        let mut parts = spelled.components().peekable();
        while let Some(part) = parts.peek() {
            let next = root.join(part);
            let literal = !is_pattern(&part.as_os_str().to_string_lossy());
            if !literal && fs::symlink_metadata(self.dir.join(&next)).is_err() {
                break;
            }
            root = next;
            parts.next();
        }
        let rest: PathBuf = parts.collect();
        let rest = rest.to_string_lossy();
        let nothing = || {
            let hint = self.near(declared, spelled);
            wrong(format!("`{declared}` matches no file"), hint)
        };
        if !self.dir.join(&root).is_dir() {
            return Err(nothing());
        }
        let glob = GlobBuilder::new(&rest).literal_separator(true).build();
        let glob = glob.map_err(|e| {
            let what = format!("`{declared}` is no pattern: {}", e.kind());
            wrong(
                what,
                "`[` and `{` open a choice; a file that exists is found whatever its name",
            )
        })?;
        let names = self.walk(&root, Some((&glob.compile_matcher(), depth(&rest))))?;
        match names.is_empty() {
            true => Err(nothing()),
            false => Ok(names),
        }
    }

    /// Files below a folder, also behind links, as text. A link back to a folder above ends there.
    fn walk(&self, root: &Path, glob: Option<(&GlobMatcher, usize)>) -> Result<Vec<String>, Wrong> {
        let base = self.dir.join(root);
        let store = fs::metadata(&self.store).ok();
        let mut names = Vec::new();
        let deepest = glob.map_or(usize::MAX, |(_, depth)| depth);
        let walk = walkdir::WalkDir::new(&base)
            .follow_links(true)
            .max_depth(deepest);
        let inside = |path: &Path| path.strip_prefix(&base).map(Path::to_path_buf);
        let fits = |path: &Path| glob.is_none_or(|(glob, _)| glob.is_match(path));
        let real = OnceCell::new();
        let real = || real.get_or_init(|| base.canonicalize().unwrap_or_default());
        // What lies in the project has its name there also where a folder above was named.
        let around = root.is_absolute() || root.starts_with("..");
        let around = around && self.real().starts_with(real());
        let name = |inside: &Path| match (root == Path::new("."), around) {
            (true, _) => text(inside).into_owned(),
            (_, true) => text(&self.spell(&root.join(inside))).into_owned(),
            _ => text(&root.join(inside)).into_owned(),
        };
        // A link to a folder above, or to the top of all, would bring in what nobody has named.
        let back = |e: &DirEntry| {
            let link = e.path_is_symlink() && e.file_type().is_dir();
            link && e
                .path()
                .canonicalize()
                .is_ok_and(|to| real().starts_with(to))
        };
        let ours = |e: &DirEntry| e.depth() == 0 || !self.foreign(e, store.as_ref()) && !back(e);
        for entry in walk.into_iter().filter_entry(ours) {
            match entry {
                Ok(entry) if entry.file_type().is_dir() => {}
                Ok(entry) => {
                    let Ok(path) = inside(entry.path()) else {
                        continue;
                    };
                    if !fits(&path) {
                        continue;
                    }
                    if let Some(kind) = special(entry.file_type()) {
                        let what = format!("`{}` is {kind}, which has no content", name(&path));
                        return Err(wrong(what, PLAIN));
                    }
                    names.push(name(&path));
                }
                Err(e) if e.loop_ancestor().is_some() => {}
                Err(e) => {
                    let path = e.path().map(Path::to_path_buf).unwrap_or_default();
                    let at = inside(&path).unwrap_or_default();
                    let error = e
                        .into_io_error()
                        .unwrap_or_else(|| io::ErrorKind::Other.into());
                    match (absent(&error) || looped(&error), path.is_symlink()) {
                        // A link that leads nowhere counts by that; an editor's mark does not.
                        (true, true) if fits(&at) && !is_mark(&at) => names.push(name(&at)),
                        (true, _) => {}
                        (false, _) => return Err(unreadable(&name(&at), &error)),
                    }
                }
            }
        }
        Ok(names)
    }

    /// What no folder or pattern stands for: the store, what git keeps, what Python compiles.
    fn foreign(&self, entry: &DirEntry, store: Option<&Metadata>) -> bool {
        let name = entry.file_name();
        if name == ".git" || name == "__pycache__" {
            return true;
        }
        let perhaps = entry.file_type().is_dir()
            && (entry.path_is_symlink() || self.store.file_name() == Some(name));
        let same = |store: &Metadata| {
            let meta = fs::metadata(entry.path());
            meta.is_ok_and(|m| (m.dev(), m.ino()) == (store.dev(), store.ino()))
        };
        perhaps && store.is_some_and(same)
    }

    /// A hint at what may have been meant by a name that is not there.
    fn near(&self, declared: &str, spelled: &Path) -> String {
        if declared.starts_with('~') || declared.contains('$') {
            return "`~` and variables are for shells: write the whole path".into();
        }
        let mut there = PathBuf::new();
        let mut parts = spelled.components();
        for part in parts.by_ref() {
            let next = there.join(part);
            if self.dir.join(&next).exists() {
                there = next;
                continue;
            }
            let wanted = part.as_os_str().to_string_lossy();
            if is_pattern(&wanted) {
                break;
            }
            let folder = fs::read_dir(self.dir.join(&there)).ok();
            let names = folder.into_iter().flatten().flatten();
            let names: Vec<String> = (names.filter(|e| e.path() != self.store))
                .map(|e| e.file_name().to_string_lossy().into_owned())
                .collect();
            if let Some(name) = nearest(&wanted, names.iter().map(String::as_str)) {
                let meant: PathBuf = there.join(name).components().chain(parts).collect();
                return format!("did you mean `{}`?", meant.display());
            }
            break;
        }
        ELSEWHERE.into()
    }
}

fn wrong(what: impl Into<String>, hint: impl Into<String>) -> Wrong {
    Wrong {
        what: what.into(),
        hint: hint.into(),
    }
}

fn unreadable(name: &str, error: &io::Error) -> Wrong {
    wrong(
        format!("`{name}` cannot be read: {error}"),
        "`repro` must be able to read what counts",
    )
}

fn absent(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn looped(e: &io::Error) -> bool {
    e.raw_os_error() == Some(libc::ELOOP)
}

/// Emacs marks a file that is being edited by a link beside it that leads nowhere.
fn is_mark(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_bytes().starts_with(b".#"))
}

fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?', '[', '{'])
}

/// How many folders deep a pattern can match.
fn depth(pattern: &str) -> usize {
    match pattern.contains("**") || pattern.contains('{') {
        true => usize::MAX,
        false => pattern.split('/').count(),
    }
}

/// What a thing in the file system is that is neither a file nor a folder.
pub fn special(kind: FileType) -> Option<&'static str> {
    match kind {
        k if k.is_fifo() => Some("a named pipe"),
        k if k.is_socket() => Some("a socket"),
        k if k.is_char_device() || k.is_block_device() => Some("a device"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    struct Project(tempfile::TempDir);

    impl Project {
        /// A project `p` with these files in it, and beside it what begins with `../`.
        fn new(files: &[&[u8]]) -> io::Result<Self> {
            let project = Self(tempfile::tempdir()?);
            fs::create_dir(project.dir())?;
            for file in files {
                let path = project.dir().join(OsString::from_vec(file.to_vec()));
                fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
                fs::write(path, "")?;
            }
            Ok(project)
        }

        fn dir(&self) -> PathBuf {
            self.0.path().join("p")
        }

        fn finder(&self) -> Finder {
            Finder::new(&self.dir(), &self.dir().join("artifacts"))
        }

        fn find(&self, declared: &str) -> Vec<String> {
            self.finder().find([declared])
        }

        fn wrong(&self, declared: &str) -> String {
            let wrong = self.finder().look(declared).wrong.clone();
            wrong.map_or(String::new(), |w| format!("{}; {}", w.what, w.hint))
        }
    }

    #[test]
    fn patterns_name_files_below_the_project_but_not_the_store() -> io::Result<()> {
        let project = Project::new(&[
            b"a.py",
            b"pkg/b.py",
            b"pkg/deep/c.py",
            b"pkg/d.txt",
            b"artifacts/e.py",
            b"pkg/__pycache__/f.py",
        ])?;
        assert_eq!(project.find("*.py"), ["a.py"]);
        assert_eq!(
            project.find("**/*.py"),
            ["a.py", "pkg/b.py", "pkg/deep/c.py"]
        );
        assert_eq!(project.find("*/*.{py,txt}"), ["pkg/b.py", "pkg/d.txt"]);
        assert_eq!(
            project.find("pkg"),
            ["pkg/b.py", "pkg/d.txt", "pkg/deep/c.py"]
        );
        assert_eq!(project.find(".").len(), 4);
        assert_eq!(project.find("..").len(), 4);
        Ok(())
    }

    #[test]
    fn a_file_has_one_name_however_it_is_spelled() -> io::Result<()> {
        let project = Project::new(&[b"data/a.csv", b"../ext/b.csv"])?;
        symlink("p", project.0.path().join("link"))?;
        let dir = project.dir().display().to_string();
        let above = project.0.path().display().to_string();
        for declared in [
            "data/a.csv".to_owned(),
            "./data/a.csv".into(),
            "data/".into(),
            "./data//./a.csv".into(),
            "data/../data/a.csv".into(),
            "nowhere/../data".into(),
            "../p/data".into(),
            "data/*.csv".into(),
            "./data/*.csv".into(),
            "../p/data/*".into(),
            format!("{dir}/data/a.csv"),
            format!("{dir}/data"),
            format!("{dir}/data/*.csv"),
            format!("{dir}/../p/data"),
        ] {
            assert_eq!(project.find(&declared), ["data/a.csv"], "{declared}");
        }
        let through = Finder::new(&project.0.path().join("link"), Path::new("/none"));
        let mut through = through;
        assert_eq!(
            through.find([format!("{dir}/data").as_str()]),
            ["data/a.csv"]
        );
        assert_eq!(
            through.find(["../p/data", "../link/./data/a.csv"]),
            ["data/a.csv"]
        );
        for declared in ["../ext", "../ext/*", "./../ext/b.csv", "data/../../ext"] {
            assert_eq!(project.find(declared), ["../ext/b.csv"], "{declared}");
        }
        let outside = format!("{above}/ext/b.csv");
        assert_eq!(
            project.find(&format!("{above}/ext"))[..],
            [outside.as_str()]
        );
        assert_eq!(project.find(&format!("{above}/*/b.csv")), [outside]);
        Ok(())
    }

    #[test]
    fn a_name_that_exists_is_that_file() -> io::Result<()> {
        let project = Project::new(&[
            b"data/s[1].json",
            b"data/s1.json",
            b"{a}.json",
            b"a.json",
            b"x*/y",
            b"xx/y",
            b"q?",
            b"back\\slash",
        ])?;
        assert_eq!(project.find("data/s[1].json"), ["data/s[1].json"]);
        assert_eq!(project.find("data/s[12].json"), ["data/s1.json"]);
        assert_eq!(project.find("{a}.json"), ["{a}.json"]);
        assert_eq!(project.find("{a,b}.json"), ["a.json"]);
        assert_eq!(project.find("x*"), ["x*/y"]);
        assert_eq!(project.find("x*/*"), ["x*/y"]);
        assert_eq!(project.find("q?"), ["q?"]);
        assert_eq!(project.find("back\\slash"), ["back\\\\slash"]);
        Ok(())
    }

    #[test]
    fn any_bytes_have_a_text_of_their_own() -> io::Result<()> {
        let names: [&[u8]; 6] = [
            b"caf\xe9",
            b"caf\\xE9",
            "café".as_bytes(),
            b"\\\\",
            b"\\",
            b"a\nb",
        ];
        let texts =
            names.map(|name| text(Path::new(&OsString::from_vec(name.to_vec()))).into_owned());
        for (i, (name, text)) in names.iter().zip(&texts).enumerate() {
            assert!(!texts[..i].contains(text), "{text} stands for two");
            assert_eq!(path(text).as_os_str().as_bytes(), *name);
        }
        assert_eq!(texts[0], "caf\\xE9");
        let project = Project::new(&[b"d/caf\xe9.csv", b"d\xff/e.csv"])?;
        for declared in ["d", "d/*.csv", "d/caf\\xE9.csv", "**/c*"] {
            assert_eq!(project.find(declared), ["d/caf\\xE9.csv"], "{declared}");
        }
        assert_eq!(project.find("*/e.csv"), ["d\\xFF/e.csv"]);
        Ok(())
    }

    #[test]
    fn links_count_by_the_name_they_have() -> io::Result<()> {
        let project = Project::new(&[b"../ext/a.csv", b"../ext/sub/b.csv", b"data/c.csv"])?;
        let dir = project.dir();
        symlink("../../ext/a.csv", dir.join("data/a.csv"))?;
        symlink("../../ext", dir.join("data/deep"))?;
        symlink("..", dir.join("data/up"))?;
        symlink("self", dir.join("data/self"))?;
        symlink("gone", dir.join("data/gone"))?;
        symlink("me@here.1", dir.join("data/.#c.csv"))?;
        let all = [
            "data/a.csv",
            "data/c.csv",
            "data/deep/a.csv",
            "data/deep/sub/b.csv",
            "data/gone",
            "data/self",
        ];
        assert_eq!(project.find("data"), all);
        assert_eq!(project.find("data/**/b.csv"), ["data/deep/sub/b.csv"]);
        assert_eq!(project.find("data/deep/*"), ["data/deep/a.csv"]);
        // Behind a link `..` is the folder it leads to.
        assert_eq!(
            project.find("data/deep/../ext/a.csv"),
            ["data/deep/../ext/a.csv"]
        );
        assert!(
            project
                .wrong("data/gone")
                .contains("is a link to gone, which is not there")
        );
        Ok(())
    }

    #[test]
    fn what_stands_for_nothing_is_told() -> io::Result<()> {
        let project = Project::new(&[b"data/a.csv", b"train.sh", b"artifacts/results/x"])?;
        fs::create_dir(project.dir().join("empty"))?;
        let made = std::process::Command::new("mkfifo")
            .arg(project.dir().join("pipe"))
            .status()?;
        assert!(made.success());
        for (declared, says) in [
            (
                "dta/*.csv",
                "`dta/*.csv` matches no file; did you mean `data/*.csv`?",
            ),
            (
                "trian.sh",
                "`trian.sh` is not there; did you mean `train.sh`?",
            ),
            (
                "data/*.tsv",
                "`data/*.tsv` matches no file; what another stage makes",
            ),
            ("data/a.csv/b", "`data/a.csv/b` is not there; what another"),
            ("empty", "`empty` is a folder without a file"),
            ("pipe", "`pipe` is a named pipe"),
            (".", "`pipe` is a named pipe"),
            ("", "an empty name"),
            ("data/[a", "`data/[a` is no pattern"),
            ("~/data", "`~/data` is not there; `~` and variables"),
            ("artifacts", "`artifacts` lies in the store of results"),
            ("./artifacts/results/x", "lies in the store of results"),
            ("a\0b", "cannot be read"),
        ] {
            assert!(
                project.wrong(declared).contains(says),
                "{}",
                project.wrong(declared)
            );
        }
        assert_eq!(
            project.wrong("*.sh"),
            "",
            "a pipe that does not fit is none of its business"
        );
        Ok(())
    }
}
