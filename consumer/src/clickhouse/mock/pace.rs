//! A rate over all connections: rows are taken one after the other, each for its part of a second.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// When the rows are taken that were promised so far.
#[derive(Debug, Default)]
pub(super) struct Pace {
    taken: Mutex<Option<Instant>>,
}

impl Pace {
    /// Promises to take rows at a rate; returns when they will be taken.
    pub(super) fn reserve(&self, rows: usize, rows_per_sec: f64, now: Instant) -> Instant {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let before = taken.map_or(now, |taken| taken.max(now));
        let length = Duration::try_from_secs_f64(rows as f64 / rows_per_sec);
        let at = before.checked_add(length.unwrap_or(Duration::MAX)).unwrap_or(before);
        *taken = Some(at);
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_taken_one_after_the_other_and_lost_time_is_not_made_up() {
        let (pace, start) = (Pace::default(), Instant::now());
        let second = Duration::from_secs(1);
        assert_eq!(pace.reserve(100, 100.0, start), start + second);
        assert_eq!(pace.reserve(50, 100.0, start), start + second * 3 / 2);
        let later = start + second * 10;
        assert_eq!(pace.reserve(100, 100.0, later), later + second);
    }
}
