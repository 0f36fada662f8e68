//! Kills what the programs of a dead runner have left behind.
//!
//! The kernel kills a stage's own process when the runner dies, but not what that process has
//! started. So the runner tells a second process, through a pipe, which process groups exist; the
//! pipe ends when the runner does, however it does, and then the groups that remain are killed.
//! Until they are it holds the runner's locks, so that no other run goes on with a stage beside what is
//! left of it. It has a name of its own: who ends all programs called `repro` does not mean it.

use std::collections::BTreeSet;
use std::io::{self, BufRead, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Command, Stdio};

use super::process;

const NAME: &str = "stage-guard";

/// The runner's end of the pipe.
pub struct Guard(ChildStdin);

impl Guard {
    pub fn start(locks: Option<[OwnedFd; 2]>) -> io::Result<Self> {
        let mut command = Command::new(super::program::this_program());
        command.arg0(NAME).arg("guard");
        command.current_dir("/").process_group(0);
        // It writes nothing: its standard output and error are the locks, which are free when all who
        // have them open have ended.
        let [out, err] = locks.map_or([Stdio::null(), Stdio::null()], |l| l.map(Stdio::from));
        command.stdin(Stdio::piped()).stdout(out).stderr(err);
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
    // For `ps` and `pkill`; without it the guard does its work as well.
    let _ = std::fs::write("/proc/self/comm", NAME);
    // It ends with the runner and not before. A guard that is stopped when that happens would get a
    // SIGHUP from the kernel.
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM, libc::SIGQUIT] {
        process::ignore(signal);
    }
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
