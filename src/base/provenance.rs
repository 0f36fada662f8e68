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

/// What the digits of a computation on the CPU depend on besides its code: the processor, which vectors
/// it has, the caches that products are cut for, and the library of elementary functions.
pub fn platform() -> String {
    let mut parts = vec![processor(), instructions().to_owned()];
    let caches = (0..4).filter_map(|i| {
        let path = format!("/sys/devices/system/cpu/cpu0/cache/index{i}/size");
        Some(fs::read_to_string(path).ok()?.trim().to_owned())
    });
    let caches: Vec<String> = caches.collect();
    if !caches.is_empty() {
        parts.push(format!("caches {}", caches.join("/")));
    }
    parts.extend(libc_version());
    parts.join(", ")
}

#[cfg(target_arch = "x86_64")]
fn instructions() -> &'static str {
    if std::arch::is_x86_feature_detected!("avx512f") {
        "AVX-512"
    } else if std::arch::is_x86_feature_detected!("avx2") {
        "AVX2"
    } else {
        "SSE2"
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn instructions() -> &'static str {
    std::env::consts::ARCH
}

#[cfg(target_env = "gnu")]
fn libc_version() -> Option<String> {
    // SAFETY: the call has no preconditions; the text is constant and ends with a zero.
    let version = unsafe { std::ffi::CStr::from_ptr(libc::gnu_get_libc_version()) };
    Some(format!("glibc {}", version.to_string_lossy()))
}

#[cfg(not(target_env = "gnu"))]
fn libc_version() -> Option<String> {
    None
}
