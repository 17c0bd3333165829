//! How much is on its way to the sink at once, over all connections that copy.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Lets batches pass while there is room.
#[derive(Debug)]
pub(super) struct Gate {
    max_bytes: u64,
    max_batches: usize,
    inside: Mutex<Inside>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inside {
    bytes: u64,
    batches: usize,
    closed: bool,
}

impl Gate {
    /// At most so many bytes and batches at once; a batch that is larger than that passes alone.
    pub(super) fn new(max_bytes: u64, max_batches: usize) -> Self {
        Self { max_bytes, max_batches, inside: Mutex::default(), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room; says whether there is any, or the gate is closed.
    pub(super) fn enter(&self, bytes: u64) -> bool {
        let is_full = |inside: &mut Inside| {
            let too_large = inside.bytes + bytes > self.max_bytes && inside.batches > 0;
            !inside.closed && (inside.batches >= self.max_batches || too_large)
        };
        let inside = self.changed.wait_while(self.lock(), is_full);
        let mut inside = inside.unwrap_or_else(PoisonError::into_inner);
        if inside.closed {
            return false;
        }
        inside.bytes += bytes;
        inside.batches += 1;
        true
    }

    /// One that had entered is at its end.
    pub(super) fn leave(&self, bytes: u64) {
        let mut inside = self.lock();
        inside.bytes -= bytes;
        inside.batches -= 1;
        drop(inside);
        self.changed.notify_all();
    }

    /// Nobody enters any more.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Bytes on their way.
    pub(super) fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    /// Waits until all have left; says whether they have in time.
    pub(super) fn wait_until_empty(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut inside = self.lock();
        while inside.batches > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.changed.wait_timeout(inside, left);
            inside = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    const MOMENT: Duration = Duration::from_millis(50);

    /// Whether one of so many bytes has to wait until another left.
    fn waits(gate: &Arc<Gate>, bytes: u64, leaves: u64) -> bool {
        let entering = thread::spawn({
            let gate = gate.clone();
            move || gate.enter(bytes)
        });
        thread::sleep(MOMENT);
        let waits = !entering.is_finished();
        gate.leave(leaves);
        assert!(entering.join().unwrap());
        gate.leave(bytes);
        waits
    }

    #[test]
    fn it_is_full_by_bytes_or_by_batches_and_one_always_passes() {
        let gate = Arc::new(Gate::new(100, 2));
        assert!(gate.enter(500), "a large one passes alone");
        assert!(waits(&gate, 1, 500));
        assert!(gate.enter(60));
        assert!(!waits(&gate, 40, 60));
        assert!(gate.enter(60));
        assert!(waits(&gate, 41, 60));
        assert!(gate.enter(1) && gate.enter(1));
        assert!(waits(&gate, 1, 1));
        assert_eq!(gate.bytes(), 1);
        assert!(!gate.wait_until_empty(MOMENT));
        gate.leave(1);
        assert!(gate.wait_until_empty(MOMENT));
    }

    #[test]
    fn a_closed_one_lets_nobody_in_who_waits_or_comes() {
        let gate = Arc::new(Gate::new(100, 1));
        assert!(gate.enter(1));
        let waiting = thread::spawn({
            let gate = gate.clone();
            move || gate.enter(1)
        });
        thread::sleep(MOMENT);
        gate.close();
        assert!(!waiting.join().unwrap());
        assert!(!gate.enter(1) && gate.is_closed());
    }
}
