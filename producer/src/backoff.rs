//! How long to wait before trying again.

use std::time::Duration;

use crate::workload::draw::Draw;

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);

/// Waits that double from 50 ms to 2 s, each shortened by up to a half at random, so that
/// connections which failed together don't come back together.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    draw: Draw,
}

impl Backoff {
    /// The waits of `key`.
    #[must_use]
    pub(crate) fn new(key: u64) -> Self {
        Self { next: FIRST, draw: Draw::new(key) }
    }

    /// The next wait.
    pub(crate) fn next(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(LONGEST);
        wait.mul_f64(1.0 - self.draw.below(500) as f64 / 1_000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound() {
        let mut backoff = Backoff::new(1);
        let waits: Vec<_> = (0..20).map(|_| backoff.next()).collect();
        assert!(waits[0] <= FIRST && waits[0] >= FIRST / 2);
        assert!(waits[10..].iter().all(|wait| *wait <= LONGEST && *wait >= LONGEST / 2));
    }
}
