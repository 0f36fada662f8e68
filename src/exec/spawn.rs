//! Starting a program the way `posix_spawn` does: the child borrows the runner's memory until it
//! becomes the program. `fork` copies the page tables first, which for a runner with ten thousand
//! stages costs more than a short stage does. `posix_spawn` itself cannot be used: it has no
//! place for the death signal and for the word to the guard.

#![expect(unsafe_code, reason = "clone, and system calls between it and exec")]

use std::cell::Cell;
use std::env;
use std::ffi::{CString, OsStr, OsString, c_char, c_int, c_void};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::exec::observe::{Filter, kernel};

/// A program to start. It reads nothing from its standard input, which may be something that it is to
/// hold open while it lives.
#[derive(Debug)]
pub struct Program {
    pub name: OsString,
    pub arguments: Vec<OsString>,
    /// On top of the runner's own environment.
    pub env: Vec<(OsString, OsString)>,
    pub dir: PathBuf,
    pub held: Option<OwnedFd>,
    pub umask: u32,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    /// Where the listener of an observer is sent, see [`kernel::enter`].
    pub observer: Option<OwnedFd>,
    /// Number of the error with which the kernel refused to watch it.
    pub refused: Cell<c_int>,
}

impl Program {
    pub fn env(&mut self, name: impl Into<OsString>, value: impl Into<OsString>) {
        let (name, value) = (name.into(), value.into());
        self.env.retain(|(n, _)| *n != name);
        self.env.push((name, value));
    }

    /// What is set for it alone.
    pub fn own(&self, name: &str) -> Option<&OsString> {
        self.env.iter().find(|(n, _)| n == name).map(|(_, v)| v)
    }

    /// A variable as the program will find it.
    pub fn variable(&self, name: &str) -> Option<OsString> {
        self.own(name).cloned().or_else(|| env::var_os(name))
    }

    /// The file to execute: a name without a slash is looked for on the path.
    pub fn file(&self) -> io::Result<PathBuf> {
        if self.name.as_bytes().contains(&b'/') {
            return Ok(self.name.clone().into());
        }
        let executable = |file: &PathBuf| {
            let access = rustix::fs::access(file, rustix::fs::Access::EXEC_OK);
            access.is_ok() && self.dir.join(file).is_file()
        };
        let path = self.variable("PATH").unwrap_or_else(|| USUAL.into());
        let found = env::split_paths(&path).map(|dir| dir.join(&self.name));
        let mut found = found.filter(executable);
        found.next().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// Where programs are looked for without a PATH, as a shell does.
const USUAL: &str = "/usr/local/bin:/usr/bin:/bin";

/// What the child needs, laid out before it exists: it must not allocate.
struct Plan {
    file: CString,
    /// Ends with a null pointer, like the next two.
    arguments: Vec<*const c_char>,
    /// The same for `sh`, for a script that does not say who runs it.
    shell: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    dir: CString,
    umask: libc::mode_t,
    /// Become its standard input, output and error.
    files: [RawFd; 3],
    guard: Option<RawFd>,
    /// The filter it enters, and where it sends the listener.
    observer: Option<(libc::sock_fprog, RawFd)>,
    refused: AtomicI32,
    runner: libc::pid_t,
    /// What went wrong before it became the program.
    error: AtomicI32,
}

const SHELL: &std::ffi::CStr = c"/bin/sh";

/// Room for the few calls that the child makes.
const STACK: usize = 64 << 10;

/// Starts a program in a process group of its own, so that Ctrl-C reaches the runner alone, and
/// returns its process id. Must be called from the thread that lives as long as the run: the
/// kernel ties the child to it. The child tells the guard of its group before it becomes the
/// program, so that nothing can be started unseen.
pub fn spawn(program: &Program, guard: Option<RawFd>) -> io::Result<u32> {
    let file = c_string(program.file()?.as_os_str())?;
    let arguments = std::iter::once(&program.name).chain(&program.arguments);
    let arguments = arguments
        .map(|a| c_string(a))
        .collect::<io::Result<Vec<_>>>()?;
    let environment = environment(&program.env)?;
    let null = File::open("/dev/null")?;
    let filter = Filter::of_calls();
    let pointers = |texts: &[CString]| {
        let all = texts.iter().map(|t| t.as_ptr());
        all.chain([ptr::null()]).collect::<Vec<_>>()
    };
    let mut shell = vec![SHELL.as_ptr(), file.as_ptr()];
    shell.extend(pointers(&arguments).into_iter().skip(1));
    let plan = Plan {
        arguments: pointers(&arguments),
        shell,
        environment: pointers(&environment),
        dir: c_string(program.dir.as_os_str())?,
        umask: program.umask as libc::mode_t,
        files: [
            (program.held.as_ref()).map_or(null.as_raw_fd(), AsRawFd::as_raw_fd),
            program.stdout.as_raw_fd(),
            program.stderr.as_raw_fd(),
        ],
        guard,
        observer: (program.observer.as_ref()).map(|fd| (filter.program(), fd.as_raw_fd())),
        refused: AtomicI32::new(0),
        runner: std::process::id() as libc::pid_t,
        error: AtomicI32::new(0),
        file,
    };
    let mut stack: Vec<MaybeUninit<u128>> = Vec::with_capacity(STACK / size_of::<u128>());
    // SAFETY: `child` gets a stack of its own, whose end is passed as stacks grow downwards, and
    // only reads `plan`, which outlives it: CLONE_VFORK holds this thread until it has become the
    // program or has ended. No signal is handled in the memory they share: all are blocked here,
    // and the child takes none before it has put the handlers away.
    let pid = unsafe {
        let top = stack.as_mut_ptr().add(stack.capacity());
        let mut all = MaybeUninit::<libc::sigset_t>::uninit();
        let mut before = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), before.as_mut_ptr());
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let pid = libc::clone(
            child,
            top.cast(),
            flags,
            (&raw const plan).cast_mut().cast(),
        );
        let failed = (pid < 0).then(io::Error::last_os_error);
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut());
        match failed {
            Some(error) => return Err(error),
            None => pid,
        }
    };
    program.refused.set(plan.refused.load(Ordering::Relaxed));
    match plan.error.load(Ordering::Relaxed) {
        0 => Ok(pid as u32),
        error => {
            let _ = super::process::wait(pid as u32);
            Err(io::Error::from_raw_os_error(error))
        }
    }
}

/// The child between `clone` and `exec`. Only system calls, no allocation, no return.
extern "C" fn child(plan: *mut c_void) -> c_int {
    // SAFETY: the parent passes a plan that stays while this runs, and everything called here is
    // async-signal-safe. Pointers in the plan end with a null pointer as exec wants.
    unsafe {
        let plan = &*plan.cast::<Plan>();
        let fail = || -> ! {
            plan.error
                .store(*libc::__errno_location(), Ordering::Relaxed);
            libc::_exit(127)
        };
        if libc::setpgid(0, 0) != 0 || libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
            fail();
        }
        if libc::getppid() != plan.runner {
            // The runner died before the kernel was told to take this process with it.
            libc::_exit(1);
        }
        if let Some(fd) = plan.guard {
            tell(fd);
        }
        for (number, file) in plan.files.iter().enumerate() {
            if libc::dup2(*file, number as c_int) < 0 {
                fail();
            }
        }
        if libc::chdir(plan.dir.as_ptr()) != 0 {
            fail();
        }
        libc::umask(plan.umask);
        // Rust ignores SIGPIPE, and the run handles these; the program starts as a shell's would.
        // What whoever started the run has ignored (`nohup`) stays ignored.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        for signal in super::signals::HANDLED {
            if !super::signals::is_ignored(signal) {
                libc::signal(signal, libc::SIG_DFL);
            }
        }
        let mut none = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
        if let Some((filter, socket)) = &plan.observer {
            // Where the kernel refuses, the program runs all the same, and what it reads is not seen.
            let error = kernel::enter(filter, *socket);
            plan.refused.store(error, Ordering::Relaxed);
        }
        let environment = plan.environment.as_ptr();
        libc::execve(plan.file.as_ptr(), plan.arguments.as_ptr(), environment);
        if *libc::__errno_location() == libc::ENOEXEC {
            libc::execve(SHELL.as_ptr(), plan.shell.as_ptr(), environment);
        }
        fail()
    }
}

/// Writes `+PID` and a newline.
///
/// # Safety
/// Only system calls; `fd` may be anything.
unsafe fn tell(fd: RawFd) {
    let mut line = [b'\n'; 16];
    let mut at = line.len() - 1;
    // SAFETY: getpid has no preconditions, and `line` is valid for as many bytes as are written.
    unsafe {
        let mut pid = libc::getpid();
        while pid > 0 {
            at -= 1;
            line[at] = b'0' + (pid % 10) as u8;
            pid /= 10;
        }
        at -= 1;
        line[at] = b'+';
        libc::write(fd, line[at..].as_ptr().cast(), line.len() - at);
    }
}

/// The runner's environment with changes, as `NAME=value`.
fn environment(changes: &[(OsString, OsString)]) -> io::Result<Vec<CString>> {
    let kept = env::vars_os().filter(|(name, _)| !changes.iter().any(|(n, _)| n == name));
    let join = |(name, value): (OsString, OsString)| {
        let mut text = name.into_vec();
        text.push(b'=');
        text.extend(value.into_vec());
        Ok(CString::new(text)?)
    };
    kept.chain(changes.iter().cloned()).map(join).collect()
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    Ok(CString::new(text.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    fn program(dir: &Path, name: &str, arguments: &[&str]) -> io::Result<Program> {
        let out = |name: &str| Ok::<_, io::Error>(File::create(dir.join(name))?.into());
        Ok(Program {
            name: name.into(),
            arguments: arguments.iter().map(OsString::from).collect(),
            env: Vec::new(),
            dir: dir.into(),
            held: None,
            umask: 0o022,
            stdout: out("out")?,
            stderr: out("err")?,
            observer: None,
            refused: Cell::new(0),
        })
    }

    #[test]
    fn a_program_gets_its_arguments_environment_folder_and_files() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let line = "echo $1 $TOLD; pwd; cat; echo wrong >&2; exit 3";
        let mut sh = program(dir.path(), "sh", &["-c", line, "sh", "it's"])?;
        sh.env("TOLD", "once");
        sh.env("TOLD", "twice");
        let pid = spawn(&sh, None)?;
        assert_eq!(super::super::process::wait(pid)?.code, Some(3));
        let here = dir.path().canonicalize()?;
        let out = format!("it's twice\n{}\n", here.display());
        assert_eq!(fs::read_to_string(dir.path().join("out"))?, out);
        assert_eq!(fs::read_to_string(dir.path().join("err"))?, "wrong\n");
        Ok(())
    }

    #[test]
    fn what_cannot_be_started_is_an_error_here() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let kind = |name: &str| Ok::<_, io::Error>(spawn(&program(dir.path(), name, &[])?, None));
        let error = |name: &str| Ok::<_, io::Error>(kind(name)?.map_err(|e| e.kind()));
        assert_eq!(error("no-such-program")?, Err(io::ErrorKind::NotFound));
        assert_eq!(error("./none")?, Err(io::ErrorKind::NotFound));
        fs::write(dir.path().join("plain"), "echo")?;
        assert_eq!(error("./plain")?, Err(io::ErrorKind::PermissionDenied));
        let mut elsewhere = program(dir.path(), "true", &[])?;
        elsewhere.dir = dir.path().join("gone");
        let error = spawn(&elsewhere, None).map_err(|e| e.kind());
        assert_eq!(error, Err(io::ErrorKind::NotFound));
        Ok(())
    }

    #[test]
    fn a_script_that_names_no_interpreter_is_run_by_the_shell() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        // Written by another program: were it open for writing here, a program that another test
        // starts at that moment would inherit that, and the script be busy.
        let write = "echo 'echo $0 $1' > script; chmod +x script";
        let sh = spawn(&program(dir.path(), "sh", &["-c", write])?, None)?;
        assert_eq!(super::super::process::wait(sh)?.code, Some(0));
        let pid = spawn(&program(dir.path(), "./script", &["x"])?, None)?;
        assert_eq!(super::super::process::wait(pid)?.code, Some(0));
        let out = fs::read_to_string(dir.path().join("out"))?;
        assert_eq!(out, "./script x\n");
        Ok(())
    }
}
