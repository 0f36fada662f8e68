//! What a system call asks of the file system: from its number and arguments to paths and intents.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::kernel::{self, Call};

/// What is done to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Asked whether it is there, or what it is; `follow` is false for a link itself.
    Look {
        follow: bool,
    },
    /// Asked where a link leads.
    Target,
    /// Opened with these flags of `open(2)`.
    Open(i32),
    Execute,
    /// The names in a folder were asked for; the path is the folder's own.
    List,
    /// Put there.
    Make(Thing),
    /// About to be renamed: its content goes on under another name, which is as good as having
    /// read it.
    Carry,
    /// Taken away: removed, or renamed to another name.
    Remove,
    /// Its content, mode or times changed without it being opened.
    Touch,
}

/// What is put somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thing {
    Folder,
    Link,
    /// A second name of a file, a pipe, a device.
    Other,
    /// What the event before took away. It alone replaces what was there; the others fail then.
    Moved,
}

/// One thing that a process did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Path {
        act: Act,
        /// Absolute, as the process wrote it below its working folder.
        path: PathBuf,
        /// The process wrote it with a slash at its beginning.
        absolute: bool,
    },
    /// A connection to `host:port`, or to a socket in the file system.
    Connect(String),
}

/// The working folder of the thread that called last: programs open many files in a row.
#[derive(Debug, Default)]
pub struct Here {
    last: Option<(u32, PathBuf)>,
    /// Threads that have asked for another, which may have it by now or in a moment. Threads of one
    /// process share it.
    moving: HashSet<u32>,
}

impl Here {
    fn of(&mut self, thread: u32) -> Option<PathBuf> {
        if let Some((last, folder)) = &self.last
            && *last == thread
        {
            return Some(folder.clone());
        }
        let folder = fs::read_link(format!("/proc/{thread}/cwd")).ok()?;
        // Those that have ended will have no other.
        let alive = |thread: &u32| Path::new(&format!("/proc/{thread}")).exists();
        self.moving.retain(alive);
        if self.moving.is_empty() {
            self.last = Some((thread, folder.clone()));
        }
        Some(folder)
    }

    /// A thread makes a call: the one before has ended.
    fn called(&mut self, call: &Call) {
        self.moving.remove(&call.thread);
        if self
            .last
            .as_ref()
            .is_some_and(|(last, _)| *last != call.thread)
        {
            self.last = None;
        }
    }

    fn moves(&mut self, thread: u32) {
        self.moving.insert(thread);
        self.last = None;
    }
}

/// What a call does; the second is what could not be read of it.
pub fn decode(call: &Call, here: &mut Here) -> (Vec<Event>, bool) {
    here.called(call);
    let mut decoder = Decoder {
        call,
        here,
        below: false,
        events: Vec::with_capacity(1),
        lost: false,
    };
    decoder.run();
    (decoder.events, decoder.lost)
}

struct Decoder<'a> {
    call: &'a Call,
    here: &'a mut Here,
    /// The path is one below the folder, even if it begins with a slash.
    below: bool,
    events: Vec<Event>,
    lost: bool,
}

/// Where a relative path begins.
#[derive(Clone, Copy)]
enum Base {
    /// In the working folder.
    Working,
    /// Argument that holds the descriptor of a folder.
    Folder(usize),
}

impl Decoder<'_> {
    fn run(&mut self) {
        use Base::{Folder, Working};
        let argument = |i: usize| self.call.arguments[i] as i32;
        let follow = |i: usize| Act::Look {
            follow: argument(i) & libc::AT_SYMLINK_NOFOLLOW == 0,
        };
        match self.call.number {
            libc::SYS_openat => self.path(Act::Open(argument(2)), Folder(0), 1),
            libc::SYS_openat2 => {
                // Flags, mode, and how the path is resolved.
                let mut how = [0u8; 24];
                let got = kernel::memory(self.call.thread, self.call.arguments[2], &mut how);
                self.lost |= got != Some(24);
                let word = |i: usize| {
                    let mut word = [0; 8];
                    word.copy_from_slice(&how[8 * i..8 * i + 8]);
                    u64::from_ne_bytes(word)
                };
                self.below = word(2) & libc::RESOLVE_IN_ROOT != 0;
                self.path(Act::Open(word(0) as i32), Folder(0), 1);
            }
            libc::SYS_execve => self.path(Act::Execute, Working, 0),
            libc::SYS_execveat => self.path(Act::Execute, Folder(0), 1),
            libc::SYS_newfstatat => self.path(follow(3), Folder(0), 1),
            libc::SYS_statx => self.path(follow(2), Folder(0), 1),
            libc::SYS_faccessat => self.path(Act::Look { follow: true }, Folder(0), 1),
            libc::SYS_faccessat2 => self.path(follow(3), Folder(0), 1),
            libc::SYS_readlinkat => self.path(Act::Target, Folder(0), 1),
            libc::SYS_getdents64 => self.descriptor(Act::List),
            libc::SYS_renameat | libc::SYS_renameat2 => {
                let exchanges = self.call.number == libc::SYS_renameat2
                    && self.call.arguments[4] as u32 & libc::RENAME_EXCHANGE != 0;
                if exchanges {
                    self.path(Act::Carry, Folder(2), 3);
                }
                self.path(Act::Carry, Folder(0), 1);
                self.path(Act::Remove, Folder(0), 1);
                self.path(Act::Make(Thing::Moved), Folder(2), 3);
            }
            libc::SYS_unlinkat => self.path(Act::Remove, Folder(0), 1),
            libc::SYS_linkat => {
                self.path(Act::Open(libc::O_RDONLY), Folder(0), 1);
                self.path(Act::Touch, Folder(0), 1);
                self.path(Act::Make(Thing::Other), Folder(2), 3);
            }
            libc::SYS_symlinkat => self.path(Act::Make(Thing::Link), Folder(1), 2),
            libc::SYS_mkdirat => self.path(Act::Make(Thing::Folder), Folder(0), 1),
            libc::SYS_mknodat => self.path(Act::Make(Thing::Other), Folder(0), 1),
            libc::SYS_truncate => self.path(Act::Open(libc::O_WRONLY), Working, 0),
            libc::SYS_setxattr | libc::SYS_lsetxattr | libc::SYS_removexattr => {
                self.path(Act::Touch, Working, 0)
            }
            libc::SYS_chdir => {
                self.path(Act::Look { follow: true }, Working, 0);
                self.here.moves(self.call.thread);
            }
            libc::SYS_fchdir => self.here.moves(self.call.thread),
            libc::SYS_fchmod | libc::SYS_fchown | libc::SYS_fsetxattr => {
                self.descriptor(Act::Touch);
            }
            libc::SYS_fchmodat | kernel::FCHMODAT2 | libc::SYS_fchownat => {
                self.path(Act::Touch, Folder(0), 1);
            }
            libc::SYS_utimensat if self.call.arguments[1] == 0 => self.descriptor(Act::Touch),
            libc::SYS_utimensat => self.path(Act::Touch, Folder(0), 1),
            libc::SYS_connect => self.connect(),
            _ => self.old(),
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn old(&mut self) {
        use Base::{Folder, Working};
        let look = |follow| Act::Look { follow };
        match self.call.number {
            libc::SYS_open => self.path(Act::Open(self.call.arguments[1] as i32), Working, 0),
            libc::SYS_creat => {
                let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
                self.path(Act::Open(flags), Working, 0);
            }
            libc::SYS_stat | libc::SYS_access => self.path(look(true), Working, 0),
            libc::SYS_lstat => self.path(look(false), Working, 0),
            libc::SYS_readlink => self.path(Act::Target, Working, 0),
            libc::SYS_getdents => self.descriptor(Act::List),
            libc::SYS_rename => {
                self.path(Act::Carry, Working, 0);
                self.path(Act::Remove, Working, 0);
                self.path(Act::Make(Thing::Moved), Working, 1);
            }
            libc::SYS_unlink | libc::SYS_rmdir => self.path(Act::Remove, Working, 0),
            libc::SYS_link => {
                self.path(Act::Open(libc::O_RDONLY), Working, 0);
                self.path(Act::Touch, Working, 0);
                self.path(Act::Make(Thing::Other), Working, 1);
            }
            libc::SYS_symlink => self.path(Act::Make(Thing::Link), Working, 1),
            libc::SYS_mkdir => self.path(Act::Make(Thing::Folder), Working, 0),
            libc::SYS_mknod => self.path(Act::Make(Thing::Other), Working, 0),
            libc::SYS_chmod
            | libc::SYS_chown
            | libc::SYS_lchown
            | libc::SYS_utime
            | libc::SYS_utimes => self.path(Act::Touch, Working, 0),
            libc::SYS_futimesat if self.call.arguments[1] == 0 => self.descriptor(Act::Touch),
            libc::SYS_futimesat => self.path(Act::Touch, Folder(0), 1),
            _ => {}
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn old(&mut self) {}

    /// The path that argument `at` points to.
    fn path(&mut self, act: Act, from: Base, at: usize) {
        let address = self.call.arguments[at];
        if address == 0 {
            // The kernel refuses it, or takes the descriptor itself (AT_EMPTY_PATH).
            return;
        }
        let Some(text) = kernel::text(self.call.thread, address) else {
            self.lost = true;
            return;
        };
        if text.is_empty() {
            // With AT_EMPTY_PATH the call is about the descriptor: what it was opened by is known.
            if act == Act::Execute
                && let Base::Folder(fd) = from
                && let Some(path) = self.opened(self.call.arguments[fd] as i32)
            {
                self.tell(act, path, true);
            }
            return;
        }
        let mut path = PathBuf::from(OsString::from_vec(text));
        if self.below {
            // The folder stands for the root.
            path = path
                .strip_prefix("/")
                .map(Path::to_path_buf)
                .unwrap_or(path);
        }
        if path.is_absolute() {
            match self.of_itself(&path) {
                Some(path) => self.tell(act, path, false),
                None => self.tell(act, path, true),
            }
            return;
        }
        let folder = match from {
            Base::Working => self.working_folder(),
            Base::Folder(fd) => match self.call.arguments[fd] as i32 {
                libc::AT_FDCWD => self.working_folder(),
                fd => self.opened(fd),
            },
        };
        match folder {
            Some(folder) => self.tell(act, folder.join(path), false),
            None => self.lost = true,
        }
    }

    fn tell(&mut self, act: Act, path: PathBuf, absolute: bool) {
        self.events.push(Event::Path {
            act,
            path,
            absolute,
        });
    }

    /// The file that the first argument is a descriptor of.
    fn descriptor(&mut self, act: Act) {
        match self.opened(self.call.arguments[0] as i32) {
            Some(path) if path.is_absolute() => self.tell(act, path, true),
            // A pipe or a socket.
            Some(_) => {}
            None => self.lost = true,
        }
    }

    fn opened(&mut self, fd: i32) -> Option<PathBuf> {
        if fd == libc::AT_FDCWD {
            return self.working_folder();
        }
        fs::read_link(format!("/proc/{}/fd/{fd}", self.call.thread)).ok()
    }

    fn working_folder(&mut self) -> Option<PathBuf> {
        self.here.of(self.call.thread)
    }

    /// `/proc/self/cwd/x` and its like, as the process itself would see them.
    fn of_itself(&self, path: &Path) -> Option<PathBuf> {
        if let Ok(fd) = path.strip_prefix("/dev/fd") {
            return self.of_itself(&Path::new("/proc/self/fd").join(fd));
        }
        let mut parts = path.strip_prefix("/proc").ok()?.components();
        let who = match parts.next()?.as_os_str().to_str()? {
            "self" | "thread-self" => self.call.thread,
            // A number names another process, and what that has there.
            number => number.parse().ok()?,
        };
        let what = parts.next()?.as_os_str().to_str()?;
        let within = match what {
            "cwd" | "root" => what.to_owned(),
            "fd" => format!("fd/{}", parts.next()?.as_os_str().to_str()?),
            _ => return None,
        };
        let base = fs::read_link(format!("/proc/{who}/{within}")).ok()?;
        let rest = parts.as_path();
        match rest.as_os_str().is_empty() {
            true => Some(base),
            false => Some(base.join(rest)),
        }
    }

    fn connect(&mut self) {
        let mut address = [0u8; 110];
        let len = (self.call.arguments[2] as usize).min(address.len());
        let Some(got) = kernel::memory(
            self.call.thread,
            self.call.arguments[1],
            &mut address[..len],
        ) else {
            return;
        };
        if let Some(peer) = peer(&address[..got]) {
            self.events.push(Event::Connect(peer));
        }
    }
}

/// `192.0.2.1:443`, or the file of a socket; nothing for this machine itself.
fn peer(address: &[u8]) -> Option<String> {
    let family = i32::from(u16::from_ne_bytes(address.get(..2)?.try_into().ok()?));
    let port = || Some(u16::from_be_bytes(address.get(2..4)?.try_into().ok()?));
    match family {
        libc::AF_INET => {
            let bytes: [u8; 4] = address.get(4..8)?.try_into().ok()?;
            let host = Ipv4Addr::from(bytes);
            (!host.is_loopback() && !host.is_unspecified())
                .then(|| Some(format!("{host}:{}", port()?)))?
        }
        libc::AF_INET6 => {
            let bytes: [u8; 16] = address.get(8..24)?.try_into().ok()?;
            let host = Ipv6Addr::from(bytes);
            (!host.is_loopback() && !host.is_unspecified())
                .then(|| Some(format!("[{host}]:{}", port()?)))?
        }
        libc::AF_UNIX => {
            let path = address.get(2..)?.split(|b| *b == 0).next()?;
            (!path.is_empty()).then(|| String::from_utf8_lossy(path).into_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(number: libc::c_long, arguments: &[u64]) -> Call {
        let mut all = [0; 6];
        all[..arguments.len()].copy_from_slice(arguments);
        Call::of(std::process::id(), number, all)
    }

    fn decode_alone(call: &Call) -> (Vec<Event>, bool) {
        decode(call, &mut Here::default())
    }

    fn at(text: &std::ffi::CStr) -> u64 {
        text.as_ptr().addr() as u64
    }

    #[test]
    fn a_relative_path_begins_where_the_process_is() -> std::io::Result<()> {
        let here = std::env::current_dir()?;
        let (events, lost) = decode_alone(&call(
            libc::SYS_openat,
            &[libc::AT_FDCWD as u64, at(c"a/b"), libc::O_WRONLY as u64],
        ));
        let path = |path: PathBuf, absolute| Event::Path {
            act: Act::Open(libc::O_WRONLY),
            path,
            absolute,
        };
        assert_eq!((events, lost), (vec![path(here.join("a/b"), false)], false));
        let own = call(
            libc::SYS_openat,
            &[0, at(c"/proc/self/cwd/x"), libc::O_WRONLY as u64],
        );
        assert_eq!(decode_alone(&own).0, [path(here.join("x"), false)]);
        let unreadable = call(libc::SYS_openat, &[0, 8, 0]);
        assert_eq!(decode_alone(&unreadable), (vec![], true));
        Ok(())
    }

    #[test]
    fn peers_of_other_machines_have_names() {
        let v4 = |host: [u8; 4]| {
            let mut bytes = (libc::AF_INET as u16).to_ne_bytes().to_vec();
            bytes.extend(443u16.to_be_bytes());
            bytes.extend(host);
            peer(&bytes)
        };
        assert_eq!(v4([192, 0, 2, 1]), Some("192.0.2.1:443".into()));
        assert_eq!(v4([127, 0, 0, 1]), None);
        let mut unix = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
        unix.extend(b"/run/docker.sock\0");
        assert_eq!(peer(&unix), Some("/run/docker.sock".into()));
        assert_eq!(peer(&[]), None);
    }
}
