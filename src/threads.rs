//! The threads that hash, parse and judge side by side.

use std::sync::mpsc::{self, Sender};

use anyhow::{Result, bail};
use rayon::{ThreadBuilder, ThreadPoolBuilder};

/// Threads and processes that are left for everything else where few can be started.
const OTHERS: usize = 8;

/// Starts them. Where only some can be started (`ulimit -u`), these do the work; where none can, that
/// is told here: rayon itself would end the program at its first use.
pub fn start() -> Result<()> {
    let asked = std::env::var("RAYON_NUM_THREADS")
        .ok()
        .and_then(|n| n.parse().ok());
    let wanted = asked.filter(|n| *n > 0);
    let wanted = wanted.or_else(|| std::thread::available_parallelism().ok().map(usize::from));
    let wanted = wanted.unwrap_or(1);
    let mut ready: Vec<Sender<ThreadBuilder>> = Vec::new();
    for _ in 0..wanted {
        match wait_for_work() {
            Some(sender) => ready.push(sender),
            None => break,
        }
    }
    if ready.is_empty() {
        bail!(
            "no thread can be started; hint: `ulimit -u` tells how many processes and threads you \
             may have"
        );
    }
    if ready.len() < wanted {
        // Those that get no work end.
        ready.truncate(ready.len().saturating_sub(OTHERS).max(1));
    }
    let pool = ThreadPoolBuilder::new().num_threads(ready.len());
    pool.spawn_handler(|thread| {
        if let Some(sender) = ready.pop() {
            // It waits for this.
            let _ = sender.send(thread);
        }
        Ok(())
    })
    .build_global()?;
    Ok(())
}

/// A thread that will be one of the pool's.
fn wait_for_work() -> Option<Sender<ThreadBuilder>> {
    let (sender, receiver) = mpsc::channel::<ThreadBuilder>();
    let thread = std::thread::Builder::new().name("worker".into());
    let work = move || receiver.recv().map(ThreadBuilder::run);
    thread.spawn(work).ok().map(|_| sender)
}
