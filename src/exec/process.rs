//! Waiting for the end of a stage's process, and ending it.

#![expect(
    unsafe_code,
    reason = "waitid that leaves the process be, wait4 for the use of resources"
)]

use std::fs;
use std::io;
use std::mem::MaybeUninit;

/// How a process ended, and what it used.
#[derive(Debug, Clone, Copy)]
pub struct Exit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub usage: Usage,
}

/// CPU time in the kernel and out of it, and the most memory at once.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    pub cpu_seconds: f64,
    pub peak_memory: u64,
}

/// Waits for a child; to be called once. What it leaves running in its
/// group is killed: nothing may write to a result that is being committed.
pub fn wait(pid: u32) -> io::Result<Exit> {
    // SAFETY: all-zero is a valid siginfo_t, and the pointer is valid for writes. The child is
    // not reaped yet, so its group's number cannot have been given to another.
    unsafe {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        let options = libc::WEXITED | libc::WNOWAIT;
        while libc::waitid(libc::P_PID, pid, info.as_mut_ptr(), options) != 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
    signal(pid, libc::SIGKILL);
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    loop {
        // SAFETY: both pointers are valid for writes; wait4 fills `usage`, which starts zeroed.
        let got = unsafe { libc::wait4(pid as libc::pid_t, &mut status, 0, usage.as_mut_ptr()) };
        if got >= 0 {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    // SAFETY: all-zero is a valid rusage, and wait4 has filled it.
    let usage = unsafe { usage.assume_init() };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 * 1e-6;
    Ok(Exit {
        code: libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
        signal: libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)),
        usage: Usage {
            cpu_seconds: seconds(usage.ru_utime) + seconds(usage.ru_stime),
            // Linux counts kibibytes.
            peak_memory: usage.ru_maxrss as u64 * 1024,
        },
    })
}

/// Ends a process and those in its group, and takes it off the kernel's hands if it was left to us.
pub fn end(pid: u32) {
    signal(pid, libc::SIGKILL);
    // SAFETY: neither call touches memory of ours.
    unsafe {
        libc::kill(pid as libc::pid_t, libc::SIGKILL);
        libc::waitpid(pid as libc::pid_t, std::ptr::null_mut(), libc::WNOHANG);
    }
}

/// Processes that lose their parents become children of this one, so that they can be found.
pub fn adopt_orphans() {
    // SAFETY: it touches no memory. Where it is refused, orphans go to init as they always did.
    unsafe {
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    }
}

/// What a running child has used so far; nothing where the kernel does not tell.
pub fn usage(pid: u32) -> Usage {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    Usage {
        cpu_seconds: cpu_seconds(&read("stat")).unwrap_or_default(),
        peak_memory: peak_memory(&read("status")).unwrap_or_default(),
    }
}

/// CPU seconds by the text of `/proc/PID/stat`: fields 14 and 15, in ticks. Field 2, the program's name, may
/// contain anything.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let both = ticks()? + ticks()?;
    Some(both as f64 / ticks_per_second())
}

fn ticks_per_second() -> f64 {
    // SAFETY: a plain query.
    unsafe { libc::sysconf(libc::_SC_CLK_TCK) as f64 }
}

/// The peak memory by the text of `/proc/PID/status`, in bytes.
fn peak_memory(status: &str) -> Option<u64> {
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Sends a signal to a child and all that it has started in its group.
pub fn signal(pid: u32, signal: i32) {
    // SAFETY: kill touches no memory. A group that is gone is no error here.
    unsafe {
        libc::kill(-(pid as libc::pid_t), signal);
    }
}

/// Lets a signal pass.
pub fn ignore(signal: i32) {
    // SAFETY: to ignore a signal calls nothing of ours.
    unsafe {
        libc::signal(signal, libc::SIG_IGN);
    }
}

impl Exit {
    /// `exit 1`, `killed by signal 9 (SIGKILL; out of memory?)`.
    pub fn describe(&self) -> String {
        match (self.code, self.signal) {
            // As a shell with `pipefail` tells of SIGPIPE.
            (Some(141), _) => {
                "exit 141: a command in a pipe was cut off, for what reads it, such as `head`, \
                               had enough; `set +o pipefail` before the pipe allows that"
                    .into()
            }
            (Some(code), _) => format!("exit {code}"),
            (_, Some(libc::SIGKILL)) => "killed by SIGKILL: out of memory, or by hand".into(),
            (_, Some(signal)) => match signal_hook::low_level::signal_name(signal) {
                Some(name) => format!("killed by {name}"),
                None => format!("killed by signal {signal}"),
            },
            _ => "ended in an unknown way".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_use_of_a_running_process_is_read() {
        let stat = "7 (a) b) R 1 7 7 0 -1 4194304 100 0 0 0 250 50 1 1 20 0 1 0 5 9 9";
        assert_eq!(cpu_seconds(stat), Some(300.0 / ticks_per_second()));
        assert_eq!(
            peak_memory("Name:\tx\nVmHWM:\t    2048 kB\n"),
            Some(2 << 20)
        );
        assert_eq!((cpu_seconds(""), peak_memory("")), (None, None));
        assert!(usage(std::process::id()).peak_memory > 0);
    }
}
