//! When to let data pile up before the next read.

use std::time::{Duration, Instant};

/// Wait after a short read while the stream is busy. The walsender sends message by message and
/// wakes its reader for each; a reader that comes later finds more at once, and both get cheaper.
const WAIT: Duration = Duration::from_micros(300);

/// A read this long was worth its system call.
const LONG_READ_BYTES: usize = 64 * 1024;

/// Over such a stretch it is judged whether the stream is busy.
const STRETCH: Duration = Duration::from_millis(10);

/// Reads in a stretch from which on the stream is busy: more than 2,000 a second. Below that the
/// wait would be seen in the lag and save nothing worth having.
const BUSY_READS: u32 = 20;

/// Decides after each read.
#[derive(Debug)]
pub(crate) struct Pace {
    since: Instant,
    reads: u32,
    busy: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Self { since: Instant::now(), reads: 0, busy: false }
    }
}

impl Pace {
    /// How long to wait after a read, if that is worth it.
    pub(crate) fn after_read(&mut self, bytes: usize) -> Option<Duration> {
        self.judge(bytes, Instant::now())
    }

    fn judge(&mut self, bytes: usize, now: Instant) -> Option<Duration> {
        self.reads += 1;
        let stretch = now.saturating_duration_since(self.since);
        if stretch >= STRETCH {
            let allowed =
                BUSY_READS * (stretch.as_millis() / STRETCH.as_millis()).min(1_000) as u32;
            self.busy = self.reads >= allowed;
            self.since = now;
            self.reads = 0;
        }
        (self.busy && bytes < LONG_READ_BYTES).then_some(WAIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the last of many short reads, `apart` from each other, is followed by a wait.
    fn waits(apart: Duration, bytes: usize) -> bool {
        let start = Instant::now();
        let mut pace = Pace { since: start, reads: 0, busy: false };
        (1..200).map(|n| pace.judge(bytes, start + apart * n)).last().flatten().is_some()
    }

    #[test]
    fn it_waits_only_when_reads_are_many_and_short() {
        assert!(waits(Duration::from_micros(100), 500));
        assert!(!waits(Duration::from_micros(100), LONG_READ_BYTES));
        assert!(!waits(Duration::from_millis(2), 500));
    }

    #[test]
    fn its_own_wait_does_not_end_it() {
        assert!(waits(WAIT + Duration::from_micros(100), 500));
    }
}
