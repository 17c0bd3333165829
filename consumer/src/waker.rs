//! Wakes the receiving thread out of its poll.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};

/// A pair of sockets: one is polled beside the replication stream, a byte in the other wakes it.
#[derive(Debug)]
pub(crate) struct Waker {
    polled: UnixStream,
    woken: UnixStream,
    /// Set while a byte is on its way, so that many wake-ups cost one write.
    pending: AtomicBool,
}

impl Waker {
    pub(crate) fn new() -> io::Result<Self> {
        let (polled, woken) = UnixStream::pair()?;
        polled.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        Ok(Self { polled, woken, pending: AtomicBool::new(false) })
    }

    pub(crate) fn wake(&self) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            // A full socket wakes as well as one more byte would.
            let _ = (&self.woken).write(&[0]);
        }
    }

    /// Called when the polled side is readable, before looking at what changed. Not called
    /// otherwise: a wake-up whose byte is still to come would be forgotten, and its byte stay.
    pub(crate) fn clear(&self) {
        while (&self.polled).read(&mut [0; 16]).is_ok_and(|bytes| bytes > 0) {}
        // Swapped, not stored: what the other side did before its wake-up is then seen here.
        self.pending.swap(false, Ordering::AcqRel);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.polled.as_fd()
    }
}
