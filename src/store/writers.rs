//! Whether a file is still being written: a stage may have left a process behind that does.

#![expect(unsafe_code, reason = "leases have no safe call")]

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// What was killed with its stage may take so long to end.
const PATIENCE: Duration = Duration::from_secs(2);

/// Not in `libc` for every system.
const F_SETSIG: libc::c_int = 10;

/// Returns when no process has the file open for writing. Fails if one keeps it.
pub fn wait_for_none(file: &File, path: &Path) -> io::Result<()> {
    let until = Instant::now() + PATIENCE;
    while has_writer(file) {
        // Some file systems grant no lease to anybody: then nobody is found either.
        let Some((pid, name)) = writer(file)? else {
            return Ok(());
        };
        if Instant::now() > until {
            let who = format!("process {pid} ({name}), which its stage has left running");
            let hint = "let the program wait for what it starts";
            return Err(io::Error::other(format!(
                "{} is still open for writing in {who}; hint: {hint}",
                path.file_name().unwrap_or_default().display()
            )));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// A lease for reading is granted only while nobody has the file open for writing.
fn has_writer(file: &File) -> bool {
    let fd = file.as_raw_fd();
    // SAFETY: fcntl on a descriptor that is open. Whoever opens the file while the lease is held
    // would have us told by SIGIO, which ends a program that does not expect it; SIGURG does not.
    unsafe {
        libc::fcntl(fd, F_SETSIG, libc::SIGURG);
        if libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK) == 0 {
            libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK);
            return false;
        }
    }
    io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock
}

/// A process that has the file open for writing, and its name.
fn writer(file: &File) -> io::Result<Option<(u32, String)>> {
    let meta = file.metadata()?;
    let numbers = |path: &Path| -> Vec<String> {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        let names = entries.filter_map(|e| e.file_name().into_string().ok());
        names.filter(|n| n.parse::<u32>().is_ok()).collect()
    };
    for pid in numbers(Path::new("/proc")) {
        let process = Path::new("/proc").join(&pid);
        for fd in numbers(&process.join("fd")) {
            let same = fs::metadata(process.join("fd").join(&fd))
                .is_ok_and(|m| (m.dev(), m.ino()) == (meta.dev(), meta.ino()));
            if same && for_writing(&process.join("fdinfo").join(&fd)) {
                let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
                return Ok(pid.parse().ok().map(|pid| (pid, name.trim().to_owned())));
            }
        }
    }
    Ok(None)
}

/// `flags:` in `/proc/PID/fdinfo/FD`, in octal; the last two bits say how it was opened.
fn for_writing(fdinfo: &Path) -> bool {
    let text = fs::read_to_string(fdinfo).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = line.and_then(|l| i32::from_str_radix(l.trim(), 8).ok());
    flags.is_some_and(|f| f & libc::O_ACCMODE != libc::O_RDONLY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_open_for_writing_is_waited_for() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("x");
        let writing = File::create(&path)?;
        let file = File::open(&path)?;
        let me = writer(&file)?.map(|(pid, _)| pid);
        assert_eq!(me, Some(std::process::id()));
        let later = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            drop(writing);
        });
        wait_for_none(&file, &path)?;
        assert!(later.join().is_ok(), "it has ended");
        assert_eq!(writer(&file)?, None);
        Ok(())
    }
}
