//! How the consumer spends its time: counted where it is spent, at a reading of the clock for each
//! thing that it begins to do. That is for each read and flush, not for each row.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use walbench_metrics::vitals::{ConsumerVitals, FlushTime, ReceiverTime};

/// What the receiving thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    /// It waits for data.
    Waiting,
    /// It lets data pile up.
    Pacing,
    /// It reads, decodes and encodes.
    Working,
    /// It has no room for more.
    Blocked,
    /// It has no connection.
    Disconnected,
}

/// Counts from the last time that they were taken.
#[derive(Debug)]
pub(crate) struct Vitals(Mutex<Counts>);

#[derive(Debug)]
struct Counts {
    doing: Doing,
    doing_since: Instant,
    receiver: ReceiverTime,
    reads: u64,
    /// When each flush that is under way began, in no order.
    under_way: Vec<Instant>,
    queue: usize,
    flushes_since: Instant,
    flushes: FlushTime,
}

impl Default for Vitals {
    fn default() -> Self {
        let now = Instant::now();
        Self(Mutex::new(Counts {
            doing: Doing::Waiting,
            doing_since: now,
            receiver: ReceiverTime::default(),
            reads: 0,
            under_way: Vec::new(),
            queue: 0,
            flushes_since: now,
            flushes: FlushTime::default(),
        }))
    }
}

/// In whole µs.
pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl Counts {
    /// Counts what was done up to now.
    fn pass(&mut self, now: Instant) {
        let passed_us = micros(now.saturating_duration_since(self.doing_since));
        // What is less than a µs is counted the next time.
        self.doing_since += Duration::from_micros(passed_us);
        let ReceiverTime { waiting_us, pacing_us, working_us, blocked_us, disconnected_us } =
            &mut self.receiver;
        *match self.doing {
            Doing::Waiting => waiting_us,
            Doing::Pacing => pacing_us,
            Doing::Working => working_us,
            Doing::Blocked => blocked_us,
            Doing::Disconnected => disconnected_us,
        } += passed_us;
    }

    /// The same for flushes.
    fn pass_flushes(&mut self, now: Instant) {
        let passed_us = micros(now.saturating_duration_since(self.flushes_since));
        self.flushes_since += Duration::from_micros(passed_us);
        let under_way = self.under_way.len() as u64;
        self.flushes.merge(&FlushTime {
            passed_us,
            busy_us: if under_way > 0 { passed_us } else { 0 },
            under_way_us: under_way * passed_us,
            queued_us: if self.queue > 0 { passed_us } else { 0 },
        });
    }
}

impl Vitals {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, change: impl FnOnce(&mut Counts, Instant) -> T) -> T {
        change(&mut self.counts(), Instant::now())
    }

    /// The receiving thread does something else from now on.
    pub(crate) fn does(&self, doing: Doing) {
        self.with(|counts, now| {
            counts.pass(now);
            counts.doing = doing;
        });
    }

    /// A read brought bytes.
    pub(crate) fn has_read(&self) {
        self.counts().reads += 1;
    }

    /// So many batches wait for a place among the flushes.
    pub(crate) fn queued(&self, queue: usize) {
        let mut counts = self.counts();
        if counts.queue != queue {
            counts.pass_flushes(Instant::now());
            counts.queue = queue;
        }
    }

    /// A flush begins; its end is told by what is handed out.
    pub(crate) fn flush_begins(&self) -> Instant {
        self.with(|counts, now| {
            counts.pass_flushes(now);
            counts.under_way.push(now);
            now
        })
    }

    /// The flush that began then has ended.
    pub(crate) fn flush_ends(&self, began: Instant) {
        self.with(|counts, now| {
            counts.pass_flushes(now);
            if let Some(at) = counts.under_way.iter().position(|other| *other == began) {
                counts.under_way.swap_remove(at);
            }
        });
    }

    /// Batches that wait, and the age of the oldest flush under way.
    pub(crate) fn flushes_now(&self) -> (usize, Duration) {
        self.with(|counts, now| {
            let oldest = counts.under_way.iter().min();
            (counts.queue, oldest.map_or(Duration::ZERO, |began| now - *began))
        })
    }

    /// Everything up to now; starts anew.
    pub(crate) fn take(&self) -> ConsumerVitals {
        self.with(|counts, now| {
            counts.pass(now);
            counts.pass_flushes(now);
            ConsumerVitals {
                receiver: std::mem::take(&mut counts.receiver),
                flushes: std::mem::take(&mut counts.flushes),
                reads: std::mem::take(&mut counts.reads),
                allocator: None,
                looks: None,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_time_is_counted_once() {
        let before = Instant::now();
        let vitals = Vitals::default();
        let start = Instant::now();
        for doing in [Doing::Working, Doing::Blocked, Doing::Pacing, Doing::Working] {
            vitals.does(doing);
            std::thread::sleep(Duration::from_millis(2));
        }
        let least_us = micros(start.elapsed());
        let taken = vitals.take().receiver;
        let most_us = micros(before.elapsed());
        // What is less than a µs is left for the next time.
        assert!((least_us - 1..=most_us).contains(&taken.total_us()), "{taken:?}");
        assert!(taken.blocked_us >= 2_000 && taken.pacing_us >= 2_000, "{taken:?}");
        assert!(taken.working_us >= 4_000 && taken.disconnected_us == 0, "{taken:?}");
        // What it did before, it does on.
        std::thread::sleep(Duration::from_millis(2));
        let later = vitals.take().receiver;
        assert!(later.working_us >= 2_000 && later.waiting_us == 0, "{later:?}");
    }

    #[test]
    fn flushes_that_overlap_are_busy_once() {
        let vitals = Vitals::default();
        let first = vitals.flush_begins();
        let second = vitals.flush_begins();
        vitals.queued(3);
        std::thread::sleep(Duration::from_millis(4));
        let (queue, oldest) = vitals.flushes_now();
        assert!(queue == 3 && oldest >= Duration::from_millis(4));
        vitals.flush_ends(first);
        vitals.queued(0);
        vitals.flush_ends(second);
        std::thread::sleep(Duration::from_millis(4));
        let taken = vitals.take().flushes;
        assert!(taken.busy_us >= 4_000 && taken.queued_us >= 4_000, "{taken:?}");
        // Two of them, for what was slept at least.
        assert!(taken.under_way_us >= taken.busy_us + 4_000, "{taken:?}");
        assert!(taken.passed_us >= taken.busy_us + 4_000, "{taken:?}");
        assert_eq!(vitals.flushes_now(), (0, Duration::ZERO));
    }
}
