//! Where and from what a result was made: for records, never for manifests.

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};

/// The commit of the repository the pipeline lies in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Git {
    pub commit: String,
    /// True if tracked files differed from the commit, or git did not say in time.
    pub dirty: bool,
}

/// How long git may take to answer, in all. It waits for network drives, and for programs that it
/// is set up to ask.
const PATIENCE: Duration = Duration::from_secs(4);

pub fn git(dir: &Path) -> Option<Git> {
    let until = Instant::now() + PATIENCE;
    let commit = ask(dir, &["rev-parse", "HEAD"], until)?;
    let status = ["status", "--porcelain", "--untracked-files=no"];
    Some(Git {
        commit,
        dirty: ask(dir, &status, until).is_none_or(|text| !text.is_empty()),
    })
}

/// What git says. It takes no lock that a commit of the user's would miss, and starts nothing.
fn ask(dir: &Path, arguments: &[&str], until: Instant) -> Option<String> {
    let mut child = Command::new("git")
        .args(["-c", "core.fsmonitor=false", "-C"])
        .arg(dir)
        .args(arguments)
        .env("GIT_OPTIONAL_LOCKS", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .ok()?;
    let mut out = child.stdout.take()?;
    let (sender, answer) = mpsc::channel();
    let reading = std::thread::Builder::new().name("git".into());
    let reading = reading.spawn(move || {
        let mut text = String::new();
        let read = out.read_to_string(&mut text);
        // Nobody waits for an answer that comes too late.
        let _ = sender.send(read.is_ok().then_some(text));
    });
    let left = until.saturating_duration_since(Instant::now());
    let text = reading.ok().and_then(|_| answer.recv_timeout(left).ok()?);
    while text.is_some() && child.try_wait().ok()?.is_none() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
    if let (None, Some(group)) = (child.try_wait().ok()?, Pid::from_raw(child.id() as i32)) {
        // Also whatever it has started.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let status = child.wait().ok()?;
    Some(text?.trim().to_owned()).filter(|_| status.success())
}

pub fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname");
    name.map_or_else(|_| "unknown".into(), |n| n.trim().into())
}

/// The processor's name as the kernel tells it.
pub fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map(|(_, name)| name.trim().to_owned());
    name.unwrap_or_else(|| std::env::consts::ARCH.into())
}

/// Version of NVIDIA's kernel module, such as `580.65.06`.
pub fn driver() -> Option<String> {
    let text = fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    let is_version =
        |word: &&str| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    text.split_whitespace().find(is_version).map(str::to_owned)
}

/// `Linux 6.18.44 x86_64`.
pub fn system() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    format!("{os} {} {arch}", release.trim())
}
