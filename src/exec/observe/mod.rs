//! How the runner comes to know what a program read: the kernel is asked.
//!
//! ```text
//! spawn ─enter→ filter ─listener→ thread: calls → notes ─finish→ Findings
//! ```
//!
//! A `command` stage starts under a filter ([`kernel`]) that tells of every call which names a file.
//! One thread a stage reads the paths ([`calls`]), lets the call go on, and notes what it means
//! ([`notes`], [`places`]). When the program has ended, the notes become reads and remarks
//! ([`findings`]). The thread takes no lock that others hold for long.
//!
//! Not seen: files that a daemon outside the stage opens for it, programs of another processor's kind
//! (32 bits on 64), and what happens in a container with a file system of its own. `io_uring`, which
//! opens files without a call, is refused: programs then do without, as in most containers.

pub mod calls;
mod environment;
pub mod findings;
pub mod kernel;
pub mod notes;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use calls::Here;
pub use findings::Findings;
pub use kernel::Filter;
use kernel::{Call, Listener, Woken};
use notes::{Notes, Who};

use crate::base::files;
use crate::store::places::Places;
use crate::store::stat::Stamp;

/// Watches one program and all that it starts.
#[derive(Debug)]
pub struct Observer {
    notes: Receiver<Option<Notes>>,
    /// Closing it asks for the notes.
    stop: OwnedFd,
}

impl Observer {
    /// Begins to listen. The descriptor is for the program's process, see [`kernel::enter`], and
    /// must be closed here once that has started.
    ///
    /// Files that are read are written down in `seen` while the program runs, a second or two late.
    pub fn start(places: Arc<Places>, seen: Option<PathBuf>) -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = kernel::sockets()?;
        let (stop, stopped) = kernel::sockets()?;
        let (sender, notes) = mpsc::channel();
        std::thread::Builder::new()
            .name("observer".into())
            .spawn(move || listen(&ours, &stopped, Diary::new(seen), places, &sender))?;
        Ok((Self { notes, stop }, theirs))
    }

    /// What was seen until now; nothing if the kernel did not allow to look. Calls of processes
    /// that are left go on unnoted.
    pub fn finish(self) -> Option<Notes> {
        drop(self.stop);
        self.notes.recv().ok().flatten()
    }
}

fn listen(
    socket: &OwnedFd,
    stop: &OwnedFd,
    mut diary: Diary,
    places: Arc<Places>,
    sender: &Sender<Option<Notes>>,
) {
    let Some(listener) = Listener::receive(socket) else {
        let _ = sender.send(None);
        return;
    };
    let mut notes = Notes::new(places);
    let own_mount = mount_of("self");
    let mut here = Here::default();
    let stopped = loop {
        let unwritten = !notes.unwritten.is_empty();
        if unwritten && diary.is_due() {
            diary.write(&mut notes);
        }
        match listener.wait(stop, if unwritten { IDLE } else { -1 }) {
            Ok(Woken::Idle) => diary.write(&mut notes),
            Ok(Woken::Call(call)) => {
                note(
                    &listener,
                    &call,
                    &mut here,
                    &mut notes,
                    own_mount.as_deref(),
                );
            }
            Ok(Woken::Stopped) => break true,
            Ok(Woken::Over) | Err(_) => break false,
        }
    };
    // Most stages leave nothing behind, and those that were killed are gone in a moment.
    notes.left = stopped && !ends(&listener);
    let left = notes.left;
    notes.end();
    // The thread that asked may be gone: then the run is being torn down.
    let _ = sender.send(Some(notes));
    if left {
        serve(&listener);
    }
}

/// Milliseconds without a call after which what was seen is written down.
const IDLE: i32 = 1000;

/// What was read, on the disk: it outlives the runner.
struct Diary {
    file: Option<PathBuf>,
    written: Instant,
}

impl Diary {
    fn new(file: Option<PathBuf>) -> Self {
        Self {
            file,
            written: Instant::now(),
        }
    }

    fn is_due(&self) -> bool {
        self.written.elapsed() > Duration::from_millis(2 * IDLE as u64)
    }

    /// A line a file: its name and its stamp.
    fn write(&mut self, notes: &mut Notes) {
        self.written = Instant::now();
        let mut lines = Vec::new();
        for path in std::mem::take(&mut notes.unwritten) {
            let Ok(meta) = fs::metadata(&path) else {
                continue;
            };
            if let Some(name) = notes.places.name(&path)
                && !notes.is_another(&path, &meta)
                && let Ok(line) = serde_json::to_vec(&(files::text(&name), Stamp::of(&meta)))
            {
                lines.extend(line);
                lines.push(b'\n');
            }
        }
        // If it is not written, a checkpoint is only judged less well.
        let file = self.file.as_ref().map(|file| {
            let options = &mut File::options();
            options.append(true).create(true).open(file)
        });
        if let Some(Ok(mut file)) = file {
            let _ = file.write_all(&lines);
        }
    }
}

/// How long processes that were killed may take to be gone, in milliseconds.
const GONE: i32 = 20;

/// True if no watched process is left.
fn ends(listener: &Listener) -> bool {
    loop {
        match listener.wait_for_call(GONE) {
            Ok(Woken::Call(call)) => {
                listener.go_on(&call);
            }
            Ok(Woken::Stopped | Woken::Idle) => return false,
            Ok(Woken::Over) | Err(_) => return true,
        }
    }
}

/// Calls of processes that outlive their stage must still be answered, or they would fail.
fn serve(listener: &Listener) {
    while let Ok(Woken::Call(call)) = listener.wait_for_call(-1) {
        listener.go_on(&call);
    }
}

fn note(
    listener: &Listener,
    call: &Call,
    here: &mut Here,
    notes: &mut Notes,
    own_mount: Option<&Path>,
) {
    let (events, lost) = calls::decode(call, here);
    let caller = notes::Caller {
        thread: call.thread,
        number: call.number,
        arguments: call.arguments,
    };
    notes.begin(caller, |thread| listener.has_from(thread));
    let mut before = [notes::Before::Unknown; 5];
    let mut who = None;
    for (event, before) in events.iter().zip(&mut before) {
        *before = notes.before(event);
        if who.is_none() && notes.wants_process(event) {
            who = process_of(call.thread);
        }
    }
    let executes = call.number == libc::SYS_execve || call.number == libc::SYS_execveat;
    let apart = executes && is_apart(call.thread, own_mount) || call.number == libc::SYS_chroot;
    if !listener.go_on(call) {
        return;
    }
    notes.threads.insert(call.thread);
    notes.lost += usize::from(lost);
    notes.apart |= apart;
    notes.ring |= call.number == libc::SYS_io_uring_setup;
    for (event, before) in events.iter().zip(before) {
        notes.take(event, before, who);
    }
}

/// Ends the processes that a stage has left running and that are children of the runner now, having
/// lost their own parents: nothing may write to a result that is committed. Returns how many.
pub fn end_strays(threads: &HashSet<u32>) -> usize {
    let me = std::process::id();
    let mut ended = HashSet::new();
    for _ in 0..100 {
        let strays: Vec<u32> = children(me)
            .into_iter()
            .filter(|p| threads.contains(p))
            .collect();
        if strays.is_empty() {
            break;
        }
        for stray in strays {
            ended.insert(stray);
            crate::exec::end(stray);
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    ended.len()
}

/// Processes whose parent this one is.
fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|p| p.file_name().to_str()?.parse::<u32>().ok());
    let is_child = |process: &u32| {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        let (_, rest) = stat.rsplit_once(')').unwrap_or_default();
        rest.split_whitespace().nth(1).and_then(|p| p.parse().ok()) == Some(parent)
    };
    numbers.filter(is_child).collect()
}

/// Which view of the file system a process has.
fn mount_of(process: &str) -> Option<std::path::PathBuf> {
    fs::read_link(format!("/proc/{process}/ns/mnt")).ok()
}

/// True for a process in a container or behind `chroot`.
fn is_apart(thread: u32, own_mount: Option<&Path>) -> bool {
    mount_of(&thread.to_string()).as_deref() != own_mount
        || fs::read_link(format!("/proc/{thread}/root")).is_ok_and(|root| root != Path::new("/"))
}

fn process_of(thread: u32) -> Option<Who> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("Tgid:"))?;
    let program = fs::read_link(format!("/proc/{thread}/exe")).ok();
    let name = program.as_deref().and_then(Path::file_name);
    let name = name.map(|n| n.to_string_lossy().into_owned());
    Some(Who {
        process: line.trim().parse().ok()?,
        python: name.is_some_and(|n| n.starts_with("python") || n.starts_with("pypy")),
    })
}
