//! The threads of this process, where a user may have few.

use anyhow::Result;

use crate::base::diag::Diagnostic;

/// Below so many processes and threads of one user (`ulimit -u`) it is tried out how many there may
/// be: rayon cannot make do with fewer than it wants.
const FEW: u64 = 2000;

/// The threads that read files. Where the system lets there be no more threads, this one does it all.
pub(crate) fn start(alone_will_do: bool) -> Result<()> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nproc).current;
    let pool = rayon::ThreadPoolBuilder::new();
    let pool = match limit {
        Some(limit) if limit < FEW => match room_for_threads() {
            0 if alone_will_do => pool.num_threads(1).use_current_thread(),
            0 => {
                let hint = "`ulimit -u` says how many processes and threads you may have";
                return Err(Diagnostic::new("no thread can be started")
                    .hint(hint)
                    .into());
            }
            // The run itself wants some.
            n => pool.num_threads(n.div_ceil(4)),
        },
        _ => pool,
    };
    Ok(pool.build_global()?)
}

/// How many threads could be started now, up to four for each that rayon wants.
fn room_for_threads() -> usize {
    let wanted = 4 * std::thread::available_parallelism().map_or(1, usize::from);
    let (stay, end) = std::sync::mpsc::channel::<()>();
    let end = std::sync::Arc::new(std::sync::Mutex::new(end));
    let mut threads = Vec::new();
    for _ in 0..wanted {
        let end = std::sync::Arc::clone(&end);
        let waiting = move || drop(end.lock().map(|end| end.recv()));
        match std::thread::Builder::new().spawn(waiting) {
            Ok(thread) => threads.push(thread),
            Err(_) => break,
        }
    }
    drop(stay);
    let count = threads.len();
    threads.into_iter().for_each(|thread| drop(thread.join()));
    count
}
