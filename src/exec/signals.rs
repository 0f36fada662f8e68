//! Ctrl-C and its like become messages; Ctrl-Z stops the stages with the run, and `fg` continues them.
//!
//! Stages are in process groups of their own, so what a terminal sends to the run does not reach
//! them: it is passed on.

#![expect(
    unsafe_code,
    reason = "asking for a signal's action, and stopping as by default"
)]

use std::collections::BTreeSet;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGTSTP};

use super::{Message, process};
use crate::store;

/// What the run handles. What whoever started it has ignored stays ignored.
pub const HANDLED: [i32; 4] = [SIGINT, SIGTERM, SIGHUP, SIGTSTP];

/// What asks the stages to stop for good.
pub const END: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];

/// Nanoseconds for which the run was stopped by Ctrl-Z.
static STOPPED: AtomicU64 = AtomicU64::new(0);

/// Shared by the run and by the thread that receives signals.
#[derive(Debug, Clone, Default)]
pub struct Stages {
    groups: Arc<Mutex<BTreeSet<u32>>>,
    /// They have been asked to stop.
    asked: Arc<AtomicBool>,
}

impl Stages {
    /// Nothing is stopped or continued while this is held: whoever starts a process holds it, so that
    /// none is started unseen.
    pub fn groups(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn are_asked_to_stop(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }
}

/// Time that passes while the run is not stopped.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    since: Instant,
    stopped: Duration,
}

impl Clock {
    pub fn start() -> Self {
        let (since, stopped) = (Instant::now(), stopped());
        Self { since, stopped }
    }

    pub fn elapsed(&self) -> Duration {
        let stopped = stopped().saturating_sub(self.stopped);
        self.since.elapsed().saturating_sub(stopped)
    }
}

fn stopped() -> Duration {
    Duration::from_nanos(STOPPED.load(Ordering::SeqCst))
}

/// True if a signal does nothing to this process. Only system calls.
pub fn is_ignored(signal: i32) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: with a null pointer for the new action this only fills `action`, which starts zeroed.
    unsafe {
        libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

/// Ctrl-C becomes a message; Ctrl-Z is dealt with here, so that it never waits for the run.
pub fn watch(sender: Sender<Message>, stages: &Stages) -> Result<()> {
    let mut handled = HANDLED.to_vec();
    // A script's background job begins with SIGINT ignored, but whoever sends it one means it.
    handled.retain(|signal| *signal == SIGINT || !is_ignored(*signal));
    let mut signals = signal_hook::iterator::Signals::new(handled)?;
    let stages = stages.clone();
    let thread = std::thread::Builder::new().name("signals".into());
    let spawned = thread.spawn(move || {
        for signal in signals.forever() {
            if END.contains(&signal) {
                stages.asked.store(true, Ordering::SeqCst);
                if sender.send(Message::Signal).is_err() {
                    return;
                }
            } else {
                pause(&stages);
            }
        }
    });
    spawned.context("cannot start a thread")?;
    Ok(())
}

/// Stops the stages, then this process, and continues them after it was continued.
fn pause(stages: &Stages) {
    let _others_go_on = store::between_turns();
    let groups = stages.groups();
    for group in groups.iter() {
        process::signal(*group, libc::SIGSTOP);
    }
    let since = Instant::now();
    // Without the right to stop, the stages simply go on.
    let _ = stop_as_by_default();
    let nanos = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
    STOPPED.fetch_add(nanos, Ordering::SeqCst);
    for group in groups.iter() {
        process::signal(*group, libc::SIGCONT);
    }
}

/// The kernel's own action, which does nothing where nobody could continue us: in an orphaned process
/// group, or as the first process of a container.
fn stop_as_by_default() -> io::Result<()> {
    let checked = |result: i32| match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: all-zero is the default action with no flags and nothing blocked; `ours` is filled before
    // it is read. The signal goes to this thread, which has not blocked it, and stops the process.
    unsafe {
        let default = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
        let mut ours = MaybeUninit::<libc::sigaction>::zeroed();
        checked(libc::sigaction(SIGTSTP, &default, ours.as_mut_ptr()))?;
        libc::raise(SIGTSTP);
        checked(libc::sigaction(SIGTSTP, ours.as_ptr(), ptr::null_mut()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_does_not_count_while_the_run_is_stopped() {
        let clock = Clock::start();
        STOPPED.fetch_add(
            Duration::from_secs(3600).as_nanos() as u64,
            Ordering::SeqCst,
        );
        assert_eq!(clock.elapsed(), Duration::ZERO);
        assert!(Clock::start().elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn rust_ignores_sigpipe_and_not_sigusr1() {
        assert!(is_ignored(libc::SIGPIPE) && !is_ignored(libc::SIGUSR1));
    }
}
