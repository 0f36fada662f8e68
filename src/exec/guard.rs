//! Kills what the programs of a dead runner have left behind.
//!
//! The kernel kills a stage's own process when the runner dies, but not what that process has
//! started. So the runner tells a second process, through a pipe, which process groups exist; the
//! pipe ends when the runner does, however it does, and then the groups that remain are killed.

use std::collections::BTreeSet;
use std::io::{self, BufRead, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Command, Stdio};

use super::process;

/// The runner's end of the pipe.
pub struct Guard(ChildStdin);

impl Guard {
    pub fn start() -> io::Result<Self> {
        let mut command = Command::new(super::program::this_program());
        command.arg("guard").current_dir("/").process_group(0);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let stdin = command.spawn()?.stdin.take();
        stdin
            .map(Self)
            .ok_or_else(|| io::Error::other("no pipe to the guard"))
    }

    /// Where a new process tells that its group is to die with the runner: `+PID` and a newline.
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// This group has ended.
    pub fn forget(&mut self, pid: u32) -> io::Result<()> {
        writeln!(self.0, "-{pid}")
    }
}

/// `repro guard`: listens until the runner is gone.
pub fn main() {
    let mut groups = BTreeSet::new();
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        match (
            line.strip_prefix('+').map(str::parse),
            line.strip_prefix('-').map(str::parse),
        ) {
            (Some(Ok(pid)), _) => {
                groups.insert(pid);
            }
            (_, Some(Ok(pid))) => {
                groups.remove(&pid);
            }
            _ => {}
        }
    }
    for pid in groups {
        process::signal(pid, libc::SIGKILL);
    }
}
