//! What counts as a picture in a folder, decided once.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Formats that are read, for people.
pub const READ: &str = "PNG, JPEG, WebP, BMP, PNM and the first frame of GIF";
/// How the names of their files end.
const ENDINGS: [&str; 13] = [
    "png", "apng", "jpg", "jpeg", "jpe", "jfif", "webp", "bmp", "gif", "ppm", "pgm", "pbm", "pnm",
];
/// Endings of pictures that are not read. A set without them would be another one, so that they are an error.
const UNREAD: [&str; 34] = [
    "arw", "avif", "cr2", "cr3", "dds", "dicom", "dcm", "dng", "eps", "exr", "hdr", "heic", "heif",
    "ico", "j2k", "jp2", "jpf", "jpx", "jxl", "mng", "nef", "orf", "pcx", "pfm", "psd", "qoi",
    "raf", "ras", "rw2", "svg", "tga", "tif", "tiff", "xcf",
];

/// Linux's ELOOP, for which std has no stable name.
const LOOP: i32 = 40;

/// The pictures in a folder and its subfolders, each once, and how many files are none.
#[derive(Debug, Default)]
pub struct PictureList {
    /// Sorted by path.
    pub files: Vec<PathBuf>,
    hidden: usize,
    /// What macOS writes beside files.
    macos: usize,
    /// Links to what is counted under another name, loops among them.
    again: usize,
    /// Pictures of formats that the user left out.
    named: BTreeMap<String, usize>,
    /// Files of other kinds, by ending.
    others: BTreeMap<String, usize>,
}

/// What was looked at, and where to look still.
struct Walk<'a> {
    list: PictureList,
    leave_out: &'a [String],
    /// Device and inode of every folder and picture.
    seen: HashSet<(u64, u64)>,
    folders: BTreeSet<PathBuf>,
    /// Links wait: whatever is reached without one has that name.
    links: BTreeSet<PathBuf>,
    /// Pictures that cannot be read, and the first of them.
    unread: BTreeMap<String, usize>,
    first: Option<PathBuf>,
}

impl PictureList {
    /// Formats of `leave_out` (`tiff`, `avif`) are passed over; any other that is not read is an error.
    pub fn of(folder: &Path, leave_out: &[String]) -> Result<Self> {
        let mut walk = Walk {
            list: Self::default(),
            leave_out,
            seen: HashSet::new(),
            folders: BTreeSet::new(),
            links: BTreeSet::new(),
            unread: BTreeMap::new(),
            first: None,
        };
        walk.folder(folder, &about(folder)?);
        loop {
            while let Some(folder) = walk.folders.pop_first() {
                walk.look(&folder)?;
            }
            let Some(link) = walk.links.pop_first() else {
                break;
            };
            walk.follow(link)?;
        }
        if let Some(first) = walk.first {
            let endings: Vec<&str> = walk.unread.keys().map(String::as_str).collect();
            bail!(
                "{} holds pictures of formats that are not read ({}), such as {}; hint: {READ} are read: convert \
                 the others, or leave them out by name (--leave-out {})",
                folder.display(),
                counted(&walk.unread),
                first.display(),
                endings.join(",")
            );
        }
        walk.list.files.sort();
        Ok(walk.list)
    }

    /// How many files are left out and why, if any are.
    pub fn left_out(&self) -> Option<String> {
        let count = |n: usize, what: &str| (n > 0).then(|| format!("{n} {what}"));
        let others: usize = self.others.values().sum();
        let parts = [
            count(self.hidden, "hidden"),
            count(self.macos, "of macOS (._*)"),
            count(self.again, "links to what is counted already"),
            (!self.named.is_empty()).then(|| format!("by name {}", counted(&self.named))),
            count(others, "other files").map(|text| format!("{text} ({})", counted(&self.others))),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| format!("left out: {}", parts.join(", ")))
    }

    /// What to say of the folder, if not every file in it counts.
    pub fn remark(&self, folder: &Path) -> Option<String> {
        let left_out = self.left_out()?;
        Some(format!(
            "{}: {} pictures; {left_out}",
            folder.display(),
            self.files.len()
        ))
    }
}

/// A JPEG file by its name.
pub fn is_jpeg(path: &Path) -> bool {
    ["jpg", "jpeg", "jpe", "jfif"].contains(&&*ending(path))
}

impl Walk<'_> {
    fn folder(&mut self, path: &Path, about: &Metadata) {
        match self.seen.insert((about.dev(), about.ino())) {
            true => drop(self.folders.insert(path.to_path_buf())),
            false => self.list.again += 1,
        }
    }

    fn look(&mut self, folder: &Path) -> Result<()> {
        let context = || format!("cannot read folder {}", folder.display());
        let entries = fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let mut entries = entries.with_context(context)?;
        // Of two names of one file, the same counts everywhere.
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (name, path) = (entry.file_name(), entry.path());
            let name = name.as_encoded_bytes();
            if name.starts_with(b"._") || name == b"__MACOSX" {
                self.list.macos += 1;
            } else if name.starts_with(b".") {
                self.list.hidden += 1;
            } else if entry.file_type().with_context(context)?.is_symlink() {
                self.links.insert(path);
            } else {
                let about = entry.metadata().with_context(context)?;
                self.take(path, &about);
            }
        }
        Ok(())
    }

    fn follow(&mut self, link: PathBuf) -> Result<()> {
        match fs::metadata(&link) {
            Ok(about) => self.take(link, &about),
            // A link to itself is a loop as well.
            Err(error) if error.raw_os_error() == Some(LOOP) => {
                self.list.again += 1;
            }
            Err(error) if ENDINGS.contains(&&*ending(&link)) => {
                let hint = "hint: it is a link; bring back what it names, or take it away";
                return Err(error)
                    .with_context(|| format!("cannot read {}; {hint}", link.display()));
            }
            Err(_) => *self.list.others.entry(ending(&link)).or_default() += 1,
        }
        Ok(())
    }

    fn take(&mut self, path: PathBuf, about: &Metadata) {
        if about.is_dir() {
            return self.folder(&path, about);
        }
        let ending = ending(&path);
        let left_out = |name: &String| name.trim_start_matches('.').eq_ignore_ascii_case(&ending);
        let read = ENDINGS.contains(&&*ending) && about.is_file();
        if self.leave_out.iter().any(left_out) {
            *self.list.named.entry(ending).or_default() += 1;
        } else if read {
            match self.seen.insert((about.dev(), about.ino())) {
                true => self.list.files.push(path),
                false => self.list.again += 1,
            }
        } else if UNREAD.contains(&&*ending) && about.is_file() {
            *self.unread.entry(ending).or_default() += 1;
            self.first = self
                .first
                .take()
                .map(|first| first.min(path.clone()))
                .or(Some(path));
        } else {
            *self.list.others.entry(ending).or_default() += 1;
        }
    }
}

fn about(path: &Path) -> Result<Metadata> {
    fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))
}

/// What stands behind the last dot, in small letters.
fn ending(path: &Path) -> String {
    let ending = path.extension().unwrap_or_default();
    ending.to_string_lossy().to_lowercase()
}

/// `tif: 3, avif: 1`, the first few of them.
fn counted(endings: &BTreeMap<String, usize>) -> String {
    let name = |ending: &str| match ending {
        "" => "no ending".to_string(),
        ending => format!(".{ending}"),
    };
    let mut all: Vec<String> = endings
        .iter()
        .take(5)
        .map(|(ending, n)| format!("{}: {n}", name(ending)))
        .collect();
    if endings.len() > all.len() {
        all.push("…".into());
    }
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn folder(names: &[&str]) -> Result<tempfile::TempDir> {
        let dir = tempfile::tempdir()?;
        for name in names {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().context("a folder")?)?;
            fs::write(path, name)?;
        }
        Ok(dir)
    }

    fn names(dir: &Path) -> Result<Vec<String>> {
        let list = PictureList::of(dir, &[])?;
        let name = |path: &PathBuf| Ok(path.strip_prefix(dir)?.display().to_string());
        list.files.iter().map(name).collect()
    }

    #[test]
    fn each_picture_counts_once_and_the_rest_is_counted() -> Result<()> {
        let dir = folder(&[
            "b.PNG",
            "a.jpeg",
            "deep/c.webp",
            "deep/d.BMP",
            "e.gif",
            "f.ppm",
            "._b.PNG",
            ".hidden.png",
            ".git/g.png",
            "__MACOSX/deep/._c.webp",
            "notes.txt",
            "list",
            "Thumbs.db",
        ])?;
        let dir = dir.path();
        let all = [
            "a.jpeg",
            "b.PNG",
            "deep/c.webp",
            "deep/d.BMP",
            "e.gif",
            "f.ppm",
        ];
        assert_eq!(names(dir)?, all);
        // Loops and second names, of folders and of files, by links of both kinds.
        symlink(".", dir.join("self"))?;
        symlink("deep", dir.join("best"))?;
        symlink("../b.PNG", dir.join("deep/0.png"))?;
        symlink("round.png", dir.join("round.png"))?;
        fs::hard_link(dir.join("e.gif"), dir.join("zz.gif"))?;
        assert_eq!(names(dir)?, all);
        let said = PictureList::of(dir, &[])?.remark(Path::new("m"));
        assert_eq!(
            said.as_deref(),
            Some(
                "m: 6 pictures; left out: 2 hidden, 2 of macOS (._*), 5 links to what is counted already, \
                 3 other files (no ending: 1, .db: 1, .txt: 1)"
            )
        );
        // What lies elsewhere counts under the name that the link gives it.
        let other = folder(&["x.png", "y.png"])?;
        symlink(other.path(), dir.join("more"))?;
        symlink(other.path().join("x.png"), dir.join("zzz.png"))?;
        assert_eq!(names(dir)?[6..], ["more/x.png", "more/y.png"]);
        let plain = folder(&["x.png"])?;
        assert_eq!(
            PictureList::of(plain.path(), &[])?.remark(plain.path()),
            None
        );
        Ok(())
    }

    #[test]
    fn a_format_that_is_not_read_is_an_error_unless_named() -> Result<()> {
        let dir = folder(&["a.png", "b.tif", "deep/c.TIFF", "d.avif"])?;
        let error = PictureList::of(dir.path(), &[]).unwrap_err().to_string();
        let text = "pictures of formats that are not read (.avif: 1, .tif: 1, .tiff: 1), such as ";
        assert!(error.contains(text), "{error}");
        assert!(error.contains("--leave-out avif,tif,tiff"), "{error}");
        let named = ["tif", ".tiff", "AVIF"].map(String::from);
        let list = PictureList::of(dir.path(), &named)?;
        assert_eq!(list.files.len(), 1);
        let left_out = list.left_out().unwrap_or_default();
        assert_eq!(left_out, "left out: by name .avif: 1, .tif: 1, .tiff: 1");
        Ok(())
    }

    #[test]
    fn what_is_no_file_is_no_picture_and_a_link_to_nothing_is_an_error() -> Result<()> {
        let dir = folder(&["a.png"])?;
        let pipe = dir.path().join("pipe.png");
        std::process::Command::new("mkfifo").arg(&pipe).status()?;
        assert_eq!(names(dir.path())?, ["a.png"]);
        symlink("gone.png", dir.path().join("b.png"))?;
        let error = format!("{:#}", PictureList::of(dir.path(), &[]).unwrap_err());
        assert!(error.contains("b.png; hint: it is a link"), "{error}");
        Ok(())
    }
}
