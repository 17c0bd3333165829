//! What the connections did since the last sample.

use std::collections::BTreeMap;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use walbench_metrics::sample::{Interval, ProducerCounts, ProducerSample};
use walbench_metrics::{Timing, Window};

/// Histograms are large and are merged every second, so that not every one of a thousand
/// connections has its own; so few share one that they hardly ever meet.
const MAX_SHARDS: usize = 8;

/// Counters and timings of one window.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tally {
    /// Counters.
    pub(crate) counts: ProducerCounts,
    /// Due → sent.
    pub(crate) lateness: Timing,
    /// Sent → acknowledged.
    pub(crate) service: Timing,
    /// Due → acknowledged.
    pub(crate) response: Timing,
    /// Failed attempts by SQLSTATE.
    pub(crate) errors: BTreeMap<String, u64>,
}

impl Tally {
    /// Nothing happened.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        let Self { counts, lateness, service, response, errors } = self;
        *counts == ProducerCounts::default()
            && lateness.is_empty()
            && service.is_empty()
            && response.is_empty()
            && errors.is_empty()
    }

    /// Adds everything `other` holds.
    pub(crate) fn merge(&mut self, other: &Self) {
        let Self { counts, lateness, service, response, errors } = other;
        self.counts.merge(counts);
        // Adding a histogram costs the same whether anything is in it or not.
        for (ours, theirs) in [
            (&mut self.lateness, lateness),
            (&mut self.service, service),
            (&mut self.response, response),
        ] {
            if !theirs.is_empty() {
                ours.merge(theirs);
            }
        }
        for (code, count) in errors {
            *self.errors.entry(code.clone()).or_default() += count;
        }
    }

    /// Counts a failed attempt.
    pub(crate) fn error(&mut self, code: &str) {
        match self.errors.get_mut(code) {
            Some(count) => *count += 1,
            None => _ = self.errors.insert(code.into(), 1),
        }
    }

    fn clear(&mut self) {
        if self.is_empty() {
            return;
        }
        let Self { counts, lateness, service, response, errors } = self;
        *counts = ProducerCounts::default();
        lateness.clear();
        service.clear();
        response.clear();
        errors.clear();
    }

    /// The tally as a sample of `worker`.
    #[must_use]
    pub(crate) fn into_sample(self, worker: &str, interval: Interval) -> ProducerSample {
        let Self { counts, lateness, service, response, errors } = self;
        let worker = worker.to_owned();
        ProducerSample { worker, interval, counts, lateness, service, response, errors }
    }
}

/// Warm-up and measured window.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tallies {
    warmup: Tally,
    measured: Tally,
}

impl Tallies {
    /// The tally of `window`; rows are never due in the drain.
    pub(crate) fn of(&mut self, window: Window) -> &mut Tally {
        match window {
            Window::Warmup => &mut self.warmup,
            Window::Measured | Window::Drain => &mut self.measured,
        }
    }
}

/// Where the connections record and the sampler collects.
#[derive(Debug)]
pub(crate) struct Recorder {
    shards: Vec<Mutex<Tallies>>,
    /// Takes a shard's place while it is merged, so that no connection waits for that.
    spare: Mutex<Tallies>,
}

impl Recorder {
    /// A recorder for so many connections.
    #[must_use]
    pub(crate) fn new(connections: usize) -> Self {
        let shards = connections.clamp(1, MAX_SHARDS);
        Self { shards: (0..shards).map(|_| Mutex::default()).collect(), spare: Mutex::default() }
    }

    /// Where connection `number` records.
    pub(crate) fn shard(&self, number: usize) -> MutexGuard<'_, Tallies> {
        lock(&self.shards[number % self.shards.len()])
    }

    /// Everything since the last call.
    #[must_use]
    pub(crate) fn collect(&self) -> Tallies {
        let mut sum = Tallies::default();
        let mut spare = lock(&self.spare);
        for shard in &self.shards {
            mem::swap(&mut *lock(shard), &mut *spare);
            let Tallies { warmup, measured } = &mut *spare;
            sum.warmup.merge(warmup);
            sum.measured.merge(measured);
            warmup.clear();
            measured.clear();
        }
        sum
    }
}

/// Locks, whoever panicked with the lock held: counters stay counters.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_collected_once() {
        let recorder = Recorder::new(20);
        for number in 0..20 {
            let mut shard = recorder.shard(number);
            let tally = shard.of(Window::Measured);
            tally.counts.rows += 1;
            tally.response.record(number as i64);
            tally.error("40001");
        }
        recorder.shard(3).of(Window::Warmup).counts.rows += 7;
        let mut collected = recorder.collect();
        assert_eq!(collected.of(Window::Warmup).counts.rows, 7);
        let measured = collected.of(Window::Measured);
        assert_eq!((measured.counts.rows, measured.response.count()), (20, 20));
        assert_eq!(measured.errors["40001"], 20);
        assert_eq!(recorder.collect(), Tallies::default());
    }
}
