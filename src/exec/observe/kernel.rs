//! The kernel's side of the observer: a seccomp filter that a program starts under, and the listener
//! through which the kernel says which of the chosen system calls a process of it makes.
//!
//! Source: seccomp_unotify(2). Every call goes on as if nobody watched
//! (`SECCOMP_USER_NOTIF_FLAG_CONTINUE`), but for a ring of `io_uring`, which is refused. What is
//! learned is for the record, and guards nothing.

#![expect(
    unsafe_code,
    reason = "seccomp, ioctl and memory of another process, which no safe library offers"
)]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use libc::{c_int, c_long, sock_filter, sock_fprog};

/// System calls that exist on every processor.
const EVERYWHERE: [c_long; 30] = [
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_mkdirat,
    libc::SYS_truncate,
    libc::SYS_chdir,
    libc::SYS_fchdir,
    libc::SYS_chroot,
    libc::SYS_connect,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    FCHMODAT2,
    libc::SYS_fchownat,
    libc::SYS_fchown,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lsetxattr,
    libc::SYS_io_uring_setup,
];

/// Calls that ask what a path is, and which argument holds their flags. Most of them are about an
/// open file (`fstat`, a descriptor and `AT_EMPTY_PATH`), of which all is known.
const LOOKS: [(c_long, u32); 2] = [(libc::SYS_newfstatat, 3), (libc::SYS_statx, 2)];

/// Not in every libc yet; the number is the same on all processors.
pub const FCHMODAT2: c_long = 452;

#[cfg(target_arch = "x86_64")]
mod machine {
    /// `AUDIT_ARCH_X86_64`
    pub const ARCH: u32 = 0xc000_003e;
    /// Older calls, which newer processors do not have.
    pub const OLD: [libc::c_long; 21] = [
        libc::SYS_open,
        libc::SYS_creat,
        libc::SYS_stat,
        libc::SYS_lstat,
        libc::SYS_access,
        libc::SYS_readlink,
        libc::SYS_getdents,
        libc::SYS_rename,
        libc::SYS_unlink,
        libc::SYS_rmdir,
        libc::SYS_link,
        libc::SYS_symlink,
        libc::SYS_mkdir,
        libc::SYS_chmod,
        libc::SYS_chown,
        libc::SYS_lchown,
        libc::SYS_utime,
        libc::SYS_utimes,
        libc::SYS_futimesat,
        libc::SYS_mknod,
        libc::SYS_mknodat,
    ];
}

#[cfg(target_arch = "aarch64")]
mod machine {
    /// `AUDIT_ARCH_AARCH64`
    pub const ARCH: u32 = 0xc000_00b7;
    pub const OLD: [libc::c_long; 1] = [libc::SYS_mknodat];
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod machine {
    /// No processor's: the filter lets everything pass.
    pub const ARCH: u32 = 0;
    pub const OLD: [libc::c_long; 0] = [];
}

/// The program that the kernel runs at each system call.
#[derive(Debug)]
pub struct Filter(Vec<sock_filter>);

impl Filter {
    /// Tells of the calls above, lets all others pass. What another processor's programs call
    /// (32 bits on a machine of 64) passes unseen.
    pub fn of_calls() -> Self {
        let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
        let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
        let give = libc::BPF_RET | libc::BPF_K;
        let line = |code: u32, k: u32, jt: u8, jf: u8| sock_filter {
            code: code as u16,
            jt,
            jf,
            k,
        };
        let calls: Vec<c_long> = EVERYWHERE.iter().chain(&machine::OLD).copied().collect();
        // Offsets in `struct seccomp_data`: the number of the call at 0, the processor at 4, then
        // from 16 on the arguments of eight bytes, the lower half first.
        let argument = |i: u32| 16 + 8 * i;
        let has = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
        let mut lines = vec![
            line(load, 4, 0, 0),
            line(equal, machine::ARCH, 1, 0),
            line(give, libc::SECCOMP_RET_ALLOW, 0, 0),
            line(load, 0, 0, 0),
        ];
        for (call, flags) in LOOKS {
            lines.extend([
                line(equal, call as u32, 0, 6),
                line(load, argument(flags), 0, 0),
                line(has, libc::AT_EMPTY_PATH as u32, 0, 3),
                line(load, argument(0), 0, 0),
                // Below zero is no descriptor: AT_FDCWD.
                line(has, 1 << 31, 1, 0),
                line(give, libc::SECCOMP_RET_ALLOW, 0, 0),
                line(give, libc::SECCOMP_RET_USER_NOTIF, 0, 0),
            ]);
        }
        for (i, call) in calls.iter().enumerate() {
            // Over the rest of the list and the line that lets pass.
            let past = (calls.len() - i) as u8;
            lines.push(line(equal, *call as u32, past, 0));
        }
        lines.push(line(give, libc::SECCOMP_RET_ALLOW, 0, 0));
        lines.push(line(give, libc::SECCOMP_RET_USER_NOTIF, 0, 0));
        Self(lines)
    }

    /// In the form the kernel takes; valid while the filter lives.
    pub fn program(&self) -> sock_fprog {
        sock_fprog {
            len: self.0.len() as u16,
            filter: self.0.as_ptr().cast_mut(),
        }
    }
}

/// Puts this process under the filter and sends its listener through `socket`. Returns 0, or the
/// number of the error with which the process goes on unwatched.
///
/// # Safety
/// Only system calls, for the child between `clone` and `exec`; `program` must be valid.
pub unsafe fn enter(program: &sock_fprog, socket: RawFd) -> c_int {
    // SAFETY: the arguments are as the calls want them, and nothing allocates.
    unsafe {
        let both =
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
        let seccomp = |flags: libc::c_ulong| {
            let mode = libc::SECCOMP_SET_MODE_FILTER;
            libc::syscall(libc::SYS_seccomp, mode, flags, ptr::from_ref(program)) as c_int
        };
        // A user who may do this without `no_new_privs` keeps the right to become another user (`sudo`).
        let mut listener = seccomp(both);
        if listener < 0 && *libc::__errno_location() == libc::EACCES {
            if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
                return *libc::__errno_location();
            }
            listener = seccomp(both);
        }
        if listener < 0 && *libc::__errno_location() == libc::EINVAL {
            // Kernels before 5.19 do not know the second flag.
            listener = seccomp(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
            if listener < 0 && *libc::__errno_location() == libc::EACCES {
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
                listener = seccomp(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
            }
        }
        if listener < 0 {
            return *libc::__errno_location();
        }
        send(socket, listener)
    }
}

/// Room for one descriptor in a control message.
#[repr(C)]
struct Control {
    head: libc::cmsghdr,
    fd: c_int,
    pad: c_int,
}

/// # Safety
/// Only system calls on memory of this frame.
unsafe fn send(socket: RawFd, fd: RawFd) -> c_int {
    // SAFETY: every pointer is to a local that outlives the call, with its true length.
    unsafe {
        let mut byte = 1u8;
        let mut part = libc::iovec {
            iov_base: ptr::from_mut(&mut byte).cast(),
            iov_len: 1,
        };
        let mut control = Control {
            head: MaybeUninit::zeroed().assume_init(),
            fd,
            pad: 0,
        };
        control.head.cmsg_level = libc::SOL_SOCKET;
        control.head.cmsg_type = libc::SCM_RIGHTS;
        control.head.cmsg_len = libc::CMSG_LEN(size_of::<c_int>() as u32) as _;
        let mut message: libc::msghdr = MaybeUninit::zeroed().assume_init();
        message.msg_iov = &mut part;
        message.msg_iovlen = 1;
        message.msg_control = ptr::from_mut(&mut control).cast();
        message.msg_controllen = libc::CMSG_SPACE(size_of::<c_int>() as u32) as _;
        match libc::sendmsg(socket, &message, libc::MSG_NOSIGNAL) {
            1 => 0,
            _ => *libc::__errno_location(),
        }
    }
}

/// One system call of a watched process, which waits until [`Listener::go_on`].
#[derive(Debug, Clone, Copy)]
pub struct Call {
    id: u64,
    /// The thread that makes it.
    pub thread: u32,
    pub number: c_long,
    pub arguments: [u64; 6],
}

#[cfg(test)]
impl Call {
    /// As the kernel would tell it.
    pub fn of(thread: u32, number: c_long, arguments: [u64; 6]) -> Self {
        Self {
            id: 0,
            thread,
            number,
            arguments,
        }
    }
}

/// What woke the listener.
pub enum Woken {
    Call(Call),
    /// No process is left that is watched.
    Over,
    /// `stop` became readable.
    Stopped,
    /// Nothing came in time.
    Idle,
}

/// The end at which the calls arrive.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    /// Calls that were received ahead of their turn.
    ahead: RefCell<VecDeque<Call>>,
}

impl Listener {
    /// Waits for what [`enter`] sends; nothing if the program starts unwatched, or not at all.
    pub fn receive(socket: &OwnedFd) -> Option<Self> {
        // SAFETY: every pointer is to a local that outlives the call, with its true length; a
        // descriptor that arrives is ours alone.
        unsafe {
            let mut byte = 0u8;
            let mut part = libc::iovec {
                iov_base: ptr::from_mut(&mut byte).cast(),
                iov_len: 1,
            };
            let mut control: Control = MaybeUninit::zeroed().assume_init();
            let mut message: libc::msghdr = MaybeUninit::zeroed().assume_init();
            message.msg_iov = &mut part;
            message.msg_iovlen = 1;
            message.msg_control = ptr::from_mut(&mut control).cast();
            message.msg_controllen = size_of::<Control>() as _;
            let got = loop {
                let got = libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_CMSG_CLOEXEC);
                if got >= 0 || *libc::__errno_location() != libc::EINTR {
                    break got;
                }
            };
            let sent = got == 1 && control.head.cmsg_type == libc::SCM_RIGHTS && control.fd > 0;
            let listener = sent.then(|| Self {
                fd: OwnedFd::from_raw_fd(control.fd),
                ahead: RefCell::default(),
            })?;
            // Wakes this thread on the caller's processor where the kernel can (6.6): a call
            // then costs two thirds. Elsewhere it is refused, and nothing is lost.
            let set_flags = 0x4008_2104;
            libc::ioctl(listener.fd.as_raw_fd(), set_flags, 1u64);
            Some(listener)
        }
    }

    /// The next call, until `stop` is closed at its other end, or this many milliseconds are over.
    pub fn wait(&self, stop: &OwnedFd, milliseconds: i32) -> io::Result<Woken> {
        self.poll(Some(stop), milliseconds)
    }

    /// The next call; `Idle` after this many milliseconds without one, never for -1.
    pub fn wait_for_call(&self, milliseconds: i32) -> io::Result<Woken> {
        self.poll(None, milliseconds)
    }

    /// True if a thread has made another call: what it called before is over.
    pub fn has_from(&self, thread: u32) -> bool {
        let mut ready = libc::pollfd {
            fd: self.fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one entry, and the call does not wait.
        while unsafe { libc::poll(&mut ready, 1, 0) } == 1 && ready.revents & libc::POLLIN != 0 {
            match self.take() {
                Ok(Some(call)) => self.ahead.borrow_mut().push_back(call),
                Ok(None) => {}
                Err(_) => break,
            }
        }
        self.ahead.borrow().iter().any(|call| call.thread == thread)
    }

    fn poll(&self, stop: Option<&OwnedFd>, milliseconds: i32) -> io::Result<Woken> {
        if let Some(call) = self.ahead.borrow_mut().pop_front() {
            return Ok(Woken::Call(call));
        }
        let entry = |fd: Option<&OwnedFd>| libc::pollfd {
            // The kernel passes over what is negative.
            fd: fd.map_or(-1, AsRawFd::as_raw_fd),
            events: libc::POLLIN,
            revents: 0,
        };
        let mut both = [entry(Some(&self.fd)), entry(stop)];
        loop {
            // SAFETY: `both` is valid for as many entries as are named.
            let woken = unsafe { libc::poll(both.as_mut_ptr(), 2, milliseconds) };
            if woken == 0 {
                return Ok(Woken::Idle);
            }
            if woken < 0 {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(error);
            }
            if both[0].revents & libc::POLLIN != 0 {
                match self.take()? {
                    Some(call) => return Ok(Woken::Call(call)),
                    // The process that called was killed meanwhile.
                    None => continue,
                }
            }
            if both[0].revents & (libc::POLLHUP | libc::POLLERR) != 0 {
                return Ok(Woken::Over);
            }
            if both[1].revents != 0 {
                return Ok(Woken::Stopped);
            }
        }
    }

    fn take(&self) -> io::Result<Option<Call>> {
        let request = libc::SECCOMP_IOCTL_NOTIF_RECV;
        // SAFETY: the kernel wants zeroes and fills them.
        let told = unsafe {
            let mut told: libc::seccomp_notif = MaybeUninit::zeroed().assume_init();
            if libc::ioctl(self.fd.as_raw_fd(), request as _, &mut told) != 0 {
                let error = io::Error::last_os_error();
                return match error.raw_os_error() {
                    Some(libc::ENOENT | libc::EINTR) => Ok(None),
                    _ => Err(error),
                };
            }
            told
        };
        Ok(Some(Call {
            id: told.id,
            thread: told.pid,
            number: c_long::from(told.data.nr),
            arguments: told.data.args,
        }))
    }

    /// Lets the call happen. False if its process was killed meanwhile: then what was read of it
    /// may have been another's.
    pub fn go_on(&self, call: &Call) -> bool {
        if call.number == libc::SYS_io_uring_setup {
            // Through a ring a program opens files without a call that could be seen. Without one
            // it does as on a system that has none, which is what most containers are.
            return self.answer(call, -libc::ENOSYS, 0);
        }
        self.answer(call, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32)
    }

    fn answer(&self, call: &Call, error: i32, flags: u32) -> bool {
        let request = libc::SECCOMP_IOCTL_NOTIF_SEND;
        let answer = libc::seccomp_notif_resp {
            id: call.id,
            val: 0,
            error,
            flags,
        };
        // SAFETY: `answer` is what the kernel reads, and outlives the call.
        unsafe { libc::ioctl(self.fd.as_raw_fd(), request as _, &answer) == 0 }
    }
}

const PAGE: u64 = 4096;

/// Bytes of a thread's memory up to the first zero, at most a path's length; nothing if it cannot
/// be read.
pub fn text(thread: u32, at: u64) -> Option<Vec<u8>> {
    let mut bytes = [0u8; 256];
    let got = memory(thread, at, &mut bytes)?;
    if let Some(end) = bytes[..got].iter().position(|b| *b == 0) {
        return Some(bytes[..end].to_vec());
    }
    let mut long = vec![0u8; libc::PATH_MAX as usize];
    let got = memory(thread, at, &mut long)?;
    let end = long[..got].iter().position(|b| *b == 0)?;
    long.truncate(end);
    Some(long)
}

/// Bytes of a thread's memory, as many as there are from `at` on; nothing if none can be read.
pub fn memory(thread: u32, at: u64, bytes: &mut [u8]) -> Option<usize> {
    if at == 0 {
        return None;
    }
    // A transfer ends before the first part that cannot be read as a whole: parts end with pages.
    let first = ((PAGE - at % PAGE) as usize).min(bytes.len());
    let mut parts = [const {
        libc::iovec {
            iov_base: ptr::null_mut(),
            iov_len: 0,
        }
    }; 3];
    let mut from = 0;
    let mut count = 0;
    for part in &mut parts {
        let len = if from == 0 { first } else { PAGE as usize };
        let len = len.min(bytes.len() - from);
        if len == 0 {
            break;
        }
        part.iov_base = ptr::with_exposed_provenance_mut((at as usize).wrapping_add(from));
        part.iov_len = len;
        from += len;
        count += 1;
    }
    let here = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: from,
    };
    // SAFETY: `here` is valid for writes; the other addresses are the kernel's to check.
    let got = unsafe {
        libc::process_vm_readv(thread as libc::pid_t, &here, 1, parts.as_ptr(), count, 0)
    };
    usize::try_from(got).ok().filter(|got| *got > 0)
}

/// A pair of connected sockets, closed when a program is started.
pub fn sockets() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut pair = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: `pair` has room for two; what comes is ours alone.
    unsafe {
        if libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((OwnedFd::from_raw_fd(pair[0]), OwnedFd::from_raw_fd(pair[1])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_up_to_the_first_zero_and_to_the_end_of_what_is_there() {
        let me = std::process::id();
        let text_at = |bytes: &[u8]| text(me, bytes.as_ptr().addr() as u64);
        assert_eq!(text_at(b"a/b\0c"), Some(b"a/b".to_vec()));
        let mut long = vec![b'x'; 3000];
        long.push(0);
        assert_eq!(text_at(&long), Some(long[..3000].to_vec()));
        assert_eq!((text(me, 0), text(me, 8)), (None, None));
    }

    #[test]
    fn jumps_of_the_filter_lead_to_its_last_line() {
        let filter = Filter::of_calls();
        let last = filter.0.len() - 1;
        assert_eq!(filter.0[last].k, libc::SECCOMP_RET_USER_NOTIF);
        let list = 4 + 7 * LOOKS.len();
        for (at, line) in filter.0.iter().enumerate().skip(list).take(last - 1 - list) {
            assert_eq!(at + 1 + usize::from(line.jt), last);
        }
    }
}
