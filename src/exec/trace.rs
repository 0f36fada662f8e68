//! One look at a program that is no stage yet: which programs it started, with what arguments, and what each
//! of them read and wrote. `repro init --trace` proposes stages by it.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use signal_hook::iterator::Signals;

use super::observe::calls::{self, Act, Event, Here, Thing};
use super::observe::kernel::{self, Call, Listener, Woken};
use super::process::{self, Exit};
use super::signals::END;
use super::spawn::{self, Program};
use crate::store::own_umask;
use crate::store::places::{Class, Map, Places};

/// All that was seen, in the order in which it happened.
#[derive(Debug, Default)]
pub struct Trace {
    /// In the order in which they were first seen; the first is the program itself.
    pub processes: Vec<Process>,
    pub deeds: Vec<Deed>,
}

#[derive(Debug)]
pub struct Process {
    pub number: u32,
    pub parent: u32,
    /// The program that it became first, which is what whoever started it has said: launchers give way to
    /// another. Nothing for a part of a shell.
    pub program: Option<Started>,
}

/// How a program was started.
#[derive(Debug, Clone, PartialEq)]
pub struct Started {
    pub arguments: Vec<OsString>,
    pub dir: PathBuf,
    pub env: Vec<(OsString, OsString)>,
    /// What its standard input, output and error are, as the kernel names it.
    pub streams: [PathBuf; 3],
    /// Its standard output goes to the end of a file.
    pub appends: bool,
}

/// What a process did to a file below the project.
#[derive(Debug, PartialEq)]
pub struct Deed {
    /// The process, by its place in [`Trace::processes`].
    pub by: usize,
    pub what: What,
    pub path: PathBuf,
}

#[derive(Debug, PartialEq)]
pub enum What {
    Read,
    /// Opened for writing; `anew` if nothing of what was there is left.
    Wrote {
        anew: bool,
    },
    MadeFolder,
    Removed,
    /// It has this name now.
    Moved(PathBuf),
}

/// More arguments, variables or bytes of one are not looked at.
const MANY: usize = 1 << 12;
const LONG: usize = 128 << 10;

/// Runs a program in the folder of a project, with our own output streams, and watches it.
pub fn trace(dir: &Path, arguments: &[OsString]) -> Result<(Exit, Trace)> {
    let (ours, theirs) = kernel::sockets()?;
    let (name, rest) = arguments.split_first().context("there is nothing to run")?;
    let program = Program {
        name: name.clone(),
        arguments: rest.to_vec(),
        env: Vec::new(),
        dir: dir.into(),
        held: None,
        umask: own_umask(),
        stdout: std::io::stdout().as_fd().try_clone_to_owned()?,
        stderr: std::io::stderr().as_fd().try_clone_to_owned()?,
        observer: Some(theirs),
        refused: Default::default(),
    };
    let places = Places::of(dir);
    let watcher = std::thread::spawn(move || {
        let mut watcher = Watcher::new(places);
        if let Some(listener) = Listener::receive(&ours) {
            watcher.listen(&listener);
        }
        watcher.trace
    });
    let pid = spawn::spawn(&program, None).with_context(|| name.display().to_string())?;
    // What it has started would go on without us.
    let mut signals = Signals::new(END)?;
    let handle = signals.handle();
    std::thread::spawn(move || {
        for _ in signals.forever() {
            process::signal(pid, libc::SIGKILL);
        }
    });
    let refused = program.refused.get();
    // The listener is told that nobody comes only when both ends of its socket are closed here.
    drop(program);
    let exit = process::wait(pid)?;
    handle.close();
    if refused != 0 {
        let error = std::io::Error::from_raw_os_error(refused);
        bail!(
            "the kernel does not let us see what programs do: {error}; hint: `repro doctor` says why"
        );
    }
    match watcher.join() {
        Ok(trace) => Ok((exit, trace)),
        Err(_) => bail!("what it did was lost"),
    }
}

struct Watcher {
    places: Places,
    map: Map,
    here: Here,
    trace: Trace,
    /// Threads, and the processes that they are of.
    known: HashMap<u32, usize>,
}

impl Watcher {
    fn new(places: Places) -> Self {
        Self {
            places,
            map: Map::default(),
            here: Here::default(),
            trace: Trace::default(),
            known: HashMap::new(),
        }
    }

    /// Until no process is left.
    fn listen(&mut self, listener: &Listener) {
        while let Ok(Woken::Call(call)) = listener.wait_for_call(-1) {
            let (events, _) = calls::decode(&call, &mut self.here);
            let started = events.iter().find_map(|event| match event {
                Event::Path {
                    act: Act::Execute,
                    path,
                    ..
                } => started(&call, path),
                _ => None,
            });
            let by = self.process(call.thread, started.is_some());
            let deeds = self.deeds(by, &events);
            if !listener.go_on(&call) {
                continue;
            }
            if started.is_some() {
                let process = &mut self.trace.processes[by];
                process.program = process.program.take().or(started);
            }
            self.trace.deeds.extend(deeds);
        }
    }

    /// The process of a thread. What becomes a program may have the number of one that has ended.
    fn process(&mut self, thread: u32, anew: bool) -> usize {
        if let Some(known) = self.known.get(&thread)
            && !anew
        {
            return *known;
        }
        let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
        let number = |name: &str| -> Option<u32> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse().ok()
        };
        let process = number("Tgid:").unwrap_or(thread);
        let parent = number("PPid:").unwrap_or_default();
        let same = |p: &Process| p.number == process && p.parent == parent;
        let at = self.trace.processes.iter().rposition(same);
        let at = at.unwrap_or_else(|| {
            self.trace.processes.push(Process {
                number: process,
                parent,
                program: None,
            });
            self.trace.processes.len() - 1
        });
        self.known.insert(thread, at);
        at
    }

    fn deeds(&mut self, by: usize, events: &[Event]) -> Vec<Deed> {
        let mut deeds = Vec::new();
        let mut from = None;
        for event in events {
            let Event::Path { act, path, .. } = event else {
                continue;
            };
            let path = self.map.locate(&self.places, path);
            if self.map.class(&self.places, &path) != Class::Watched {
                continue;
            }
            let there = fs::metadata(&path);
            let what = match act {
                Act::Open(flags) => match opened(*flags, &there) {
                    Some(what) => what,
                    None => continue,
                },
                Act::Execute if there.is_ok() => vec![What::Read],
                Act::Make(Thing::Folder) if there.is_err() => vec![What::MadeFolder],
                Act::Make(Thing::Link | Thing::Other) => vec![What::Wrote { anew: true }],
                Act::Carry => {
                    from = Some(path);
                    continue;
                }
                Act::Make(Thing::Moved) => {
                    if let Some(from) = from.take() {
                        deeds.push(Deed {
                            by,
                            what: What::Moved(path),
                            path: from,
                        });
                    }
                    continue;
                }
                // Of a rename, what takes it away comes with what puts it there.
                Act::Remove if from.is_none() && there.is_ok() => vec![What::Removed],
                _ => continue,
            };
            deeds.extend(what.into_iter().map(|what| Deed {
                by,
                what,
                path: path.clone(),
            }));
        }
        deeds
    }
}

/// What a file is opened for, given what is there before.
fn opened(flags: i32, there: &std::io::Result<fs::Metadata>) -> Option<Vec<What>> {
    let has = |flag: i32| flags & flag != 0;
    if has(libc::O_PATH) || flags & libc::O_TMPFILE == libc::O_TMPFILE {
        return None;
    }
    let is_file = there.as_ref().is_ok_and(fs::Metadata::is_file);
    if flags & libc::O_ACCMODE == libc::O_RDONLY && !has(libc::O_CREAT) {
        return is_file.then(|| vec![What::Read]);
    }
    if there.is_err() && !has(libc::O_CREAT) || there.is_ok() && !is_file {
        return None;
    }
    let anew = !is_file || has(libc::O_TRUNC);
    let mut what = vec![What::Wrote { anew }];
    if !anew && flags & libc::O_ACCMODE == libc::O_RDWR {
        what.insert(0, What::Read);
    }
    Some(what)
}

/// The program that a call is about to start; nothing if there is none of that name, which is tried in every
/// folder of the path.
fn started(call: &Call, path: &Path) -> Option<Started> {
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK).ok()?;
    if !path.is_file() {
        return None;
    }
    let at = match call.number {
        libc::SYS_execveat => [2, 3],
        _ => [1, 2],
    };
    let texts = |argument: usize| texts(call.thread, call.arguments[argument]);
    let variable = |text: OsString| {
        let bytes = text.as_bytes();
        let equals = bytes.iter().position(|b| *b == b'=')?;
        let (name, value) = (&bytes[..equals], &bytes[equals + 1..]);
        Some((
            OsStr::from_bytes(name).into(),
            OsStr::from_bytes(value).into(),
        ))
    };
    let stream =
        |fd: i32| fs::read_link(format!("/proc/{}/fd/{fd}", call.thread)).unwrap_or_default();
    let info = fs::read_to_string(format!("/proc/{}/fdinfo/1", call.thread)).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|octal| i32::from_str_radix(octal.trim(), 8).ok());
    Some(Started {
        arguments: texts(at[0]),
        dir: fs::read_link(format!("/proc/{}/cwd", call.thread)).ok()?,
        env: texts(at[1]).into_iter().filter_map(variable).collect(),
        streams: [0, 1, 2].map(stream),
        appends: flags.is_some_and(|flags| flags & libc::O_APPEND != 0),
    })
}

/// The texts of a list that ends with a null pointer.
fn texts(thread: u32, list: u64) -> Vec<OsString> {
    let mut all = Vec::new();
    for i in 0..MANY as u64 {
        let mut pointer = [0; 8];
        if kernel::memory(thread, list.wrapping_add(8 * i), &mut pointer) != Some(8) {
            break;
        }
        match u64::from_ne_bytes(pointer) {
            0 => break,
            at => all.push(text(thread, at)),
        }
    }
    all
}

fn text(thread: u32, at: u64) -> OsString {
    let mut all = Vec::new();
    let mut part = [0; 1 << 12];
    while all.len() < LONG {
        let from = at.wrapping_add(all.len() as u64);
        let Some(got) = kernel::memory(thread, from, &mut part) else {
            break;
        };
        if let Some(end) = part[..got].iter().position(|b| *b == 0) {
            all.extend(&part[..end]);
            break;
        }
        all.extend(&part[..got]);
    }
    OsString::from_vec(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(dir: &Path, line: &str) -> Trace {
        let arguments = ["bash", "-c", line].map(OsString::from);
        trace(dir, &arguments).expect("it can be watched").1
    }

    #[test]
    fn programs_are_seen_with_what_they_were_given_and_did() {
        let dir = tempfile::tempdir().expect("a folder");
        let dir = dir.path().canonicalize().expect("it is there");
        fs::write(dir.join("a"), "1\n").expect("ours");
        fs::create_dir(dir.join("sub")).expect("ours");
        let trace = seen(
            &dir,
            "A='x y' cat a > b; (cd sub; head -c 1 ../b >> ../c); mv b d; rm c; :",
        );
        let programs = trace.processes.iter().filter_map(|p| p.program.as_ref());
        let programs: Vec<&Started> = programs.collect();
        let words = |started: &Started| started.arguments.join(OsStr::new(" "));
        let all: Vec<OsString> = programs.iter().map(|p| words(p)).collect();
        assert_eq!(all[1..], ["cat a", "head -c 1 ../b", "mv b d", "rm c"]);
        let (cat, head) = (programs[1], programs[2]);
        assert!(cat.env.contains(&("A".into(), "x y".into())));
        assert_eq!((&cat.streams[1], cat.appends), (&dir.join("b"), false));
        assert_eq!((&head.dir, head.appends), (&dir.join("sub"), true));
        let did = |what: What, name: &str| {
            let mut deeds = trace.deeds.iter();
            deeds.any(|deed| deed.what == what && deed.path == dir.join(name))
        };
        assert!(did(What::Read, "a") && did(What::Read, "b"));
        assert!(did(What::Wrote { anew: true }, "b") && did(What::Wrote { anew: true }, "c"));
        assert!(did(What::Moved(dir.join("d")), "b") && did(What::Removed, "c"));
    }
}
