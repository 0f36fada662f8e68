//! What a program has put out, made fit to be kept: it stands by itself and can be read by whoever may
//! read the store.
//!
//! - A file that has another name elsewhere (a hard link) becomes one of its own, so that neither
//!   changes with the other.
//! - A link that stays in its output stays a link. One that leaves it would show other bytes when
//!   what it points to changes: it is followed, and what lies there is copied.
//! - Modes are those that the umask gives, and what the store's folder gives to its group and to others.
//!   Of a program's own choice only the right to execute
//!   counts: a file made by way of a temporary one would otherwise be closed to all others, and a
//!   folder made read-only could not be removed.

use std::collections::HashMap;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result, bail};
use rayon::prelude::*;
use rustix::fs::{Mode, SeekFrom, ioctl_ficlone, seek};

use super::stat::{self, Stamp};
use super::tree::{self, What};
use super::writers;
use crate::base::digest::Digest;

/// What links pointed to and was copied.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Followed {
    pub files: usize,
    pub bytes: u64,
}

/// An output that is ready to be kept.
#[derive(Debug)]
pub struct Sealed {
    pub digest: Digest,
    pub stamp: Stamp,
    pub followed: Followed,
}

/// Makes an output fit to be kept, and digests it.
pub fn seal(path: &Path) -> Result<Sealed> {
    let followed = settle(path)?;
    let nodes = tree::walk(path)?;
    let digests: Vec<Digest> = (nodes.par_iter())
        .filter_map(|node| match &node.what {
            What::File { stamp, .. } => Some(read(&tree::place(path, &node.name), stamp)),
            _ => None,
        })
        .collect::<Result<_>>()?;
    Ok(Sealed {
        digest: tree::digest(&nodes, digests),
        stamp: tree::stamp_of(&fs::symlink_metadata(path)?, &nodes),
        followed,
    })
}

fn read(path: &Path, stamp: &Stamp) -> Result<Digest> {
    let attempt = || -> io::Result<Digest> {
        let file = File::open(path)?;
        writers::wait_for_none(&file, path)?;
        // A writer that has just ended may have left more.
        let size = file.metadata()?.len();
        stat::hash_open(&file, size.max(stamp.size()))
    };
    attempt().with_context(|| format!("cannot keep {}", path.display()))
}

/// Hard links, links, modes.
fn settle(root: &Path) -> Result<Followed> {
    let mut hard: HashMap<(u64, u64), (u64, Vec<PathBuf>)> = HashMap::new();
    let mut links = Vec::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(path) = open.pop() {
        let meta = fs::symlink_metadata(&path)?;
        if meta.is_dir() {
            open_folder(&path).with_context(|| format!("cannot open {}", path.display()))?;
            for entry in fs::read_dir(&path)? {
                open.push(entry?.path());
            }
        } else if meta.is_symlink() {
            links.push(path);
        } else if meta.is_file() {
            if meta.nlink() > 1 {
                let same = hard.entry((meta.dev(), meta.ino())).or_default();
                same.0 = meta.nlink();
                same.1.push(path);
            } else {
                set_mode(&path, &meta)?;
            }
        } else {
            return Err(tree::no_content(&path, meta.file_type()).into());
        }
    }
    for (inode, (count, paths)) in hard {
        if count != paths.len() as u64 {
            part(inode, &paths)?;
        }
        for path in &paths {
            set_mode(path, &fs::metadata(path)?)?;
        }
    }
    let mut followed = Followed::default();
    for link in links {
        follow(root, &link, &mut followed)?;
    }
    Ok(followed)
}

/// Makes a folder one that its owner can list and change, and others can as the umask has it.
pub fn open_folder(path: &Path) -> io::Result<()> {
    let mode = fs::symlink_metadata(path)?.permissions().mode() & 0o7777;
    let wanted = mode | 0o700 | 0o777 & !umask();
    if wanted != mode {
        fs::set_permissions(path, Permissions::from_mode(wanted))?;
    }
    Ok(())
}

fn set_mode(path: &Path, meta: &fs::Metadata) -> Result<()> {
    let mode = meta.mode() & 0o7777;
    let execute = if mode & 0o100 != 0 { 0o111 } else { 0 };
    let wanted = mode | 0o600 | (0o666 | execute) & !umask();
    if wanted != mode {
        fs::set_permissions(path, Permissions::from_mode(wanted))
            .with_context(|| format!("cannot open {}", path.display()))?;
    }
    Ok(())
}

/// Files that an output had been a second name of: their change times tell of that, and not of a
/// change.
static PARTED: Mutex<Vec<(u64, u64)>> = Mutex::new(Vec::new());

/// True if this file (device, inode) has been linked from an output of this run.
pub fn was_linked(file: (u64, u64)) -> bool {
    let parted = PARTED.lock().unwrap_or_else(PoisonError::into_inner);
    parted.contains(&file)
}

/// Gives each of these names of one file a file of its own.
fn part(inode: (u64, u64), paths: &[PathBuf]) -> Result<()> {
    (PARTED.lock().unwrap_or_else(PoisonError::into_inner)).push(inode);
    for path in paths {
        let attempt = || -> io::Result<()> {
            let folder = path.parent().unwrap_or(Path::new("."));
            let new = tempfile::NamedTempFile::new_in(folder)?;
            let from = File::open(path)?;
            copy_content(&from, new.as_file())?;
            new.as_file()
                .set_permissions(from.metadata()?.permissions())?;
            new.persist(path).map_err(|e| e.error)?;
            Ok(())
        };
        attempt().with_context(|| {
            let path = path.display();
            format!("{path} is a second name of another file, and cannot be copied")
        })?;
    }
    Ok(())
}

/// Leaves a link that stays in the output, written so that it holds wherever the output lies; puts
/// what it points to in the place of any other.
fn follow(root: &Path, link: &Path, followed: &mut Followed) -> Result<()> {
    let target = fs::read_link(link)?;
    let told = || format!("{} is a link to {}", link.display(), target.display());
    let folder = link.parent().unwrap_or(Path::new("/"));
    let real = folder.join(&target).canonicalize();
    let depth = folder
        .strip_prefix(root)
        .map_or(0, |inside| inside.components().count());
    // `deep/../file` may go up from anywhere if `deep` is a link.
    let stays = link != root && stays_inside(depth, &target) && climbs_first(&target);
    let home = root.canonicalize().ok().filter(|_| link != root);
    match (real, home) {
        (Ok(real), Some(home)) if real.starts_with(&home) => {
            if !stays {
                let folder = folder.canonicalize()?;
                fs::remove_file(link)?;
                std::os::unix::fs::symlink(relative(&folder, &real), link)?;
            }
            Ok(())
        }
        // It points nowhere, or at itself, and that is all that can be seen of it.
        (Err(_), _) if stays => Ok(()),
        (Err(e), _) => Err(e).with_context(|| {
            let hint = "write the file itself, or a link to what lies in the same output";
            format!("{}, which cannot be read; hint: {hint}", told())
        }),
        (Ok(real), _) => {
            let whole = root.parent().and_then(|result| result.canonicalize().ok());
            if whole.is_some_and(|result| result.starts_with(&real)) {
                bail!("{}, in which it lies itself", told());
            }
            fs::remove_file(link)?;
            copy(&real, link, followed).with_context(|| format!("{}, which cannot be kept", told()))
        }
    }
}

/// True if a link with this target, in a folder so many levels below its output, stays in the
/// output all the way.
pub fn stays_inside(mut depth: usize, target: &Path) -> bool {
    for part in target.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            _ => return false,
        }
    }
    true
}

/// True if a link goes up first and then down: then it never goes up from where another link has led.
pub fn climbs_first(target: &Path) -> bool {
    let mut parts = target
        .components()
        .filter(|part| *part != Component::CurDir);
    let down = parts.find(|part| *part != Component::ParentDir);
    down.is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
        || down.is_none() && target.components().next().is_some()
}

/// The way from a folder to a path, both absolute.
fn relative(folder: &Path, to: &Path) -> PathBuf {
    let (from, there): (Vec<_>, Vec<_>) =
        (folder.components().collect(), to.components().collect());
    let same = (from.iter().zip(&there))
        .take_while(|(a, b)| a == b)
        .count();
    let up = from[same..].iter().map(|_| Component::ParentDir);
    let way: PathBuf = up.chain(there[same..].iter().copied()).collect();
    match way.as_os_str().is_empty() {
        true => ".".into(),
        false => way,
    }
}

/// Copies a file or a folder, with links followed wherever they lead.
fn copy(from: &Path, to: &Path, followed: &mut Followed) -> Result<()> {
    for entry in walkdir::WalkDir::new(from).follow_links(true) {
        let entry = entry?;
        let inside = entry.path().strip_prefix(from).unwrap_or(Path::new(""));
        let place = tree::place(to, inside);
        let kind = entry.file_type();
        if kind.is_dir() {
            fs::create_dir(&place)?;
        } else if kind.is_file() {
            let (old, new) = (File::open(entry.path())?, File::create_new(&place)?);
            copy_content(&old, &new)?;
            let meta = old.metadata()?;
            new.set_permissions(Permissions::from_mode(meta.mode() & 0o777))?;
            set_mode(&place, &new.metadata()?)?;
            followed.files += 1;
            followed.bytes += meta.len();
        } else {
            return Err(tree::no_content(entry.path(), kind).into());
        }
    }
    Ok(())
}

/// Shares the blocks where the file system can, and leaves holes where there are some.
pub fn copy_content(from: &File, to: &File) -> io::Result<()> {
    if ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let meta = from.metadata()?;
    let len = meta.len();
    if meta.blocks() * 512 >= len {
        return io::copy(&mut &*from, &mut &*to).map(drop);
    }
    let mut at = 0;
    // There is no more data after the last hole.
    while let Ok(start) = seek(from, SeekFrom::Data(at)) {
        let end = seek(from, SeekFrom::Hole(start))?;
        seek(from, SeekFrom::Start(start))?;
        seek(to, SeekFrom::Start(start))?;
        io::copy(&mut io::Read::take(from, end - start), &mut &*to)?;
        at = end;
    }
    to.set_len(len)
}

/// What new files and folders are not to be allowed, as the user has it.
pub fn own_umask() -> u32 {
    static UMASK: OnceLock<u32> = OnceLock::new();
    // To ask by the system call is to set it, for all threads at once.
    *UMASK.get_or_init(|| {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("Umask:"));
        line.and_then(|l| u32::from_str_radix(l.trim(), 8).ok())
            .unwrap_or(0o022)
    })
}

/// What a store's folder allows to its group and to others.
static ALLOWED: AtomicU32 = AtomicU32::new(0);

/// The same for what is written in the store: whoever may use its folder may use what is in it.
pub fn umask() -> u32 {
    own_umask() & !ALLOWED.load(Ordering::Relaxed)
}

/// From now on what this process writes can be used by those who may use this folder. The programs that it
/// starts get the user's own mask.
pub fn allow_as(folder: &Path) {
    let mode = fs::metadata(folder).map_or(0, |meta| meta.mode());
    if own_umask() & mode & 0o077 != 0 {
        ALLOWED.store(mode & 0o077, Ordering::Relaxed);
        rustix::process::umask(Mode::from_raw_mode(umask()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("there").mode() & 0o777
    }

    #[test]
    fn links_that_stay_are_kept_and_others_are_followed() {
        let dir = tempfile::tempdir().expect("a folder");
        let (out, own) = (dir.path().join("out"), dir.path().join("own"));
        fs::create_dir_all(out.join("deep")).expect("a folder");
        fs::create_dir(&own).expect("a folder");
        fs::write(own.join("data"), "mine").expect("a file");
        fs::write(out.join("step-10"), "ten").expect("a file");
        symlink("step-10", out.join("latest")).expect("a link");
        symlink(out.join("step-10"), out.join("deep/absolute")).expect("a link");
        symlink("user@host.7", out.join(".#lock")).expect("a link");
        symlink(&own, out.join("folder")).expect("a link");
        symlink("../own/data", out.join("file")).expect("a link");
        let sealed = seal(&out).expect("sealed");
        assert_eq!(sealed.followed, Followed { files: 2, bytes: 8 });
        let link = |name: &str| fs::read_link(out.join(name)).ok();
        assert_eq!(link("latest"), Some("step-10".into()));
        assert_eq!(link("deep/absolute"), Some("../step-10".into()));
        assert_eq!(link(".#lock"), Some("user@host.7".into()));
        assert_eq!((link("folder"), link("file")), (None, None));
        fs::write(own.join("data"), "other").expect("ours");
        let text = |name: &str| fs::read_to_string(out.join(name)).expect("there");
        assert_eq!(
            (text("folder/data"), text("file")),
            ("mine".into(), "mine".into())
        );
    }

    #[test]
    fn what_links_cannot_bring_is_an_error() {
        let dir = tempfile::tempdir().expect("a folder");
        let out = dir.path().join("result/out");
        for target in ["/no/such/file", "../../gone", "../..", "/dev/null"] {
            fs::create_dir_all(&out).expect("a folder");
            symlink(target, out.join("x")).expect("a link");
            let error = seal(&out).expect_err(target);
            assert!(format!("{error:#}").contains("is a link to"), "{error:#}");
            fs::remove_dir_all(&out).expect("ours");
        }
    }

    #[test]
    fn an_output_that_is_a_link_becomes_what_it_points_to() {
        let dir = tempfile::tempdir().expect("a folder");
        let out = dir.path().join("out");
        fs::write(dir.path().join("best"), "best").expect("a file");
        symlink("best", &out).expect("a link");
        assert_eq!(seal(&out).expect("sealed").digest, Digest::of(b"best"));
        assert!(fs::symlink_metadata(&out).expect("there").is_file());
    }

    #[test]
    fn a_second_name_of_a_file_outside_becomes_a_file_of_its_own() {
        let dir = tempfile::tempdir().expect("a folder");
        let (own, out) = (dir.path().join("own"), dir.path().join("out"));
        fs::write(&own, "one").expect("a file");
        fs::set_permissions(&own, Permissions::from_mode(0o640)).expect("ours");
        fs::hard_link(&own, &out).expect("a link");
        let inode = fs::metadata(&own).expect("there");
        seal(&out).expect("sealed");
        assert_eq!((mode(&own), inode.nlink()), (0o640, 2));
        assert_eq!(fs::metadata(&own).expect("there").nlink(), 1);
        assert!(was_linked((inode.dev(), inode.ino())));
        fs::write(&own, "two").expect("ours");
        assert_eq!(fs::read_to_string(&out).expect("there"), "one");
    }

    #[test]
    fn names_of_one_file_that_all_lie_in_the_output_stay_together() {
        let dir = tempfile::tempdir().expect("a folder");
        let out = dir.path().join("out");
        fs::create_dir(&out).expect("a folder");
        fs::write(out.join("a"), "x").expect("a file");
        fs::hard_link(out.join("a"), out.join("b")).expect("a link");
        seal(&out).expect("sealed");
        assert_eq!(fs::metadata(out.join("a")).expect("there").nlink(), 2);
    }

    #[test]
    fn a_copy_keeps_its_holes() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = |name: &str| {
            let options = File::options().read(true).write(true).create(true).clone();
            options.open(dir.path().join(name)).expect("a file")
        };
        let (from, to) = (file("from"), file("to"));
        use std::os::unix::fs::FileExt;
        from.write_all_at(b"middle", 5 << 20).expect("room");
        from.set_len(64 << 20).expect("room");
        copy_content(&from, &to).expect("copied");
        let meta = to.metadata().expect("there");
        assert_eq!(meta.len(), 64 << 20);
        assert!(meta.blocks() * 512 < 8 << 20, "{} blocks", meta.blocks());
        let mut bytes = [0; 6];
        to.read_exact_at(&mut bytes, 5 << 20).expect("there");
        assert_eq!(&bytes, b"middle");
    }
}
