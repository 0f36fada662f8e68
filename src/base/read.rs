//! Reading files that others may have put in our way: a link to an endless device, a named pipe, a
//! text of gigabytes. Each is an error, none is waited for, and none fills the memory.

use std::fs::{self, File, FileType, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use crate::base::human;

/// Texts that people write: pipeline.toml, accepted.toml, baselines.
pub const WRITTEN: u64 = 16 << 20;
/// What a stage says of itself: a record, a manifest, metrics, a depfile.
pub const TOLD: u64 = 256 << 20;
/// What is known of all results.
pub const INDEX: u64 = 4 << 30;

/// Opens a regular file. A link is followed.
pub fn open(path: &Path) -> io::Result<File> {
    // Opening may be an act in itself where it is a device.
    regular(fs::metadata(path)?.file_type())?;
    open_as(OpenOptions::new().read(true), path, 0)
}

/// Opens what was a regular file a moment ago.
pub fn open_seen(path: &Path) -> io::Result<File> {
    open_as(OpenOptions::new().read(true), path, 0)
}

/// The same, with what the file system says of it.
pub fn open_with(path: &Path) -> io::Result<(File, Metadata)> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    let meta = file.metadata()?;
    Ok((file, meta))
}

/// Opens a regular file of a store. There a link is followed nowhere: we make none, and one that came
/// with a copy or from another hand would lead us out.
pub fn open_own(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    open_as(options, path, libc::O_NOFOLLOW).map_err(|e| match e.raw_os_error() {
        Some(libc::ELOOP) => io::Error::new(
            ErrorKind::InvalidInput,
            "it is a link, which a store never holds; remove it",
        ),
        _ => e,
    })
}

fn open_as(options: &mut OpenOptions, path: &Path, flags: i32) -> io::Result<File> {
    let flags = flags | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = options.custom_flags(flags).open(path)?;
    regular(file.metadata()?.file_type())?;
    Ok(file)
}

/// Fails with what it is instead.
pub fn regular(kind: FileType) -> io::Result<()> {
    let what = match kind {
        kind if kind.is_file() => return Ok(()),
        kind if kind.is_dir() => return Err(ErrorKind::IsADirectory.into()),
        kind if kind.is_fifo() => "a named pipe",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_symlink() => "a link",
        _ => "a device",
    };
    let message = format!("it is {what} and not a file");
    Err(io::Error::new(ErrorKind::InvalidInput, message))
}

/// A whole file of at most `limit` bytes.
pub fn bytes(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    whole(&open(path)?, limit)
}

pub fn text(path: &Path, limit: u64) -> io::Result<String> {
    utf8(bytes(path, limit)?)
}

/// The same of a file in a store.
pub fn own_bytes(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    whole(&open_own(OpenOptions::new().read(true), path)?, limit)
}

pub fn own_text(path: &Path, limit: u64) -> io::Result<String> {
    utf8(own_bytes(path, limit)?)
}

fn whole(file: &File, limit: u64) -> io::Result<Vec<u8>> {
    let size = file.metadata()?.len();
    let mut bytes = Vec::with_capacity(size.min(limit) as usize);
    // Some file systems tell of no size before a file is read.
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let message = format!("it is larger than {}, the limit", human::bytes(limit));
        return Err(io::Error::new(ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}

fn utf8(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let message = format!("it is not UTF-8 at byte {at}");
        io::Error::new(ErrorKind::InvalidData, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_named_and_never_waited_for() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("x");
        let said = |path: &Path| text(path, 10).expect_err("no file").to_string();
        let pipe = std::process::Command::new("mkfifo").arg(&path).status()?;
        assert!(pipe.success());
        assert_eq!(said(&path), "it is a named pipe and not a file");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/dev/zero", &link)?;
        assert_eq!(said(&link), "it is a device and not a file");
        assert!(
            own_text(&link, 10)
                .expect_err("a link")
                .to_string()
                .starts_with("it is a link")
        );
        assert_eq!(
            text(dir.path(), 10).expect_err("a folder").kind(),
            ErrorKind::IsADirectory
        );
        Ok(())
    }
}
