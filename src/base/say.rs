//! Standard output and standard error. A reader that has left, a full disk or a terminal that is
//! gone must neither end a run nor hide how it ended: what cannot be said is passed over here, and
//! the end of the program tells of data that was lost.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::base::plain;

/// A sentence for people, on standard error.
macro_rules! say {
    ($($text:tt)*) => { $crate::base::say::line(&format!($($text)*)) };
}
pub(crate) use say;

/// How writing to standard output has ended, if it has.
static END: Mutex<Option<End>> = Mutex::new(None);

enum End {
    /// `repro status | head` has read enough.
    Enough,
    Lost(String),
}

pub fn line(text: &str) {
    let line = format!("{}\n", plain::clean(text));
    // There is nobody to tell that nobody can be told.
    let _ = write(&io::stderr(), line.as_bytes());
}

/// Text that may lack the end of its line, on standard error.
pub fn part(text: &str) {
    let _ = write(&io::stderr(), plain::clean(text).as_bytes());
}

/// Ends what [`part`] has begun, with a line feed or, to begin the line anew, a carriage return.
#[cfg(feature = "kinds")]
pub fn end(byte: char) {
    let _ = write(&io::stderr(), byte.to_string().as_bytes());
}

/// Data, on standard output.
pub fn data(text: &str) {
    let mut end = END.lock().unwrap_or_else(PoisonError::into_inner);
    if end.is_some() {
        return;
    }
    *end = match write(&io::stdout(), plain::clean(text).as_bytes()) {
        Ok(()) => None,
        Err(Errno::PIPE) => Some(End::Enough),
        Err(e) => Some(End::Lost(io::Error::from(e).to_string())),
    };
}

/// True if nobody reads standard output any more.
pub fn is_over() -> bool {
    END.lock().unwrap_or_else(PoisonError::into_inner).is_some()
}

/// Why data was lost that somebody may still want.
pub fn lost() -> Option<String> {
    match &*END.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(End::Lost(why)) => Some(why.clone()),
        _ => None,
    }
}

/// All of it, also into a pipe whose other end was set not to wait. Past the buffers of the standard
/// library, which could not tell how much of a text has gone.
fn write(out: &impl AsFd, mut bytes: &[u8]) -> Result<(), Errno> {
    let out = out.as_fd();
    while !bytes.is_empty() {
        match rustix::io::write(out, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                poll(&mut [PollFd::new(&out, PollFlags::OUT)], None)?;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
