//! What the doctor sees in a consumer: a thread of its own looks ten times a second, so that it sees
//! also a runtime that does nothing more.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, RuntimeMetrics};
use walbench_metrics::vitals::ConsumerLooks;

use crate::flusher::Flusher;
use crate::vitals::micros;

/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Time for which the runtime's heart rests between two beats.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(20);

/// What was seen since it was taken, and what it looks at.
#[derive(Debug, Default)]
pub(crate) struct Looks {
    seen: Mutex<Option<ConsumerLooks>>,
    /// The replication stream's.
    socket: Mutex<Option<OwnedFd>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Looks {
    /// What was seen since the last time; `None` where nobody looks.
    pub(crate) fn take(&self) -> Option<ConsumerLooks> {
        let seen = std::mem::take(lock(&self.seen).as_mut()?);
        (seen != ConsumerLooks::default()).then_some(seen)
    }

    /// The connection there is now, if the doctor is here. It stays open until it is hidden.
    pub(crate) fn show(&self, connection: &impl AsFd) {
        if lock(&self.seen).is_some() {
            // Without a number left to have it is not looked at.
            *lock(&self.socket) = connection.as_fd().try_clone_to_owned().ok();
        }
    }

    /// It is about to end.
    pub(crate) fn hide(&self) {
        *lock(&self.socket) = None;
    }

    /// Bytes that wait to be read.
    fn socket_bytes(&self) -> Option<u64> {
        rustix::io::ioctl_fionread(lock(&self.socket).as_ref()?).ok()
    }

    fn see(&self, change: impl FnOnce(&mut ConsumerLooks)) {
        change(lock(&self.seen).get_or_insert_default());
    }
}

/// Looks at a consumer for as long as there is one, from the runtime that it works on.
pub(crate) fn begin(flusher: &Arc<Flusher>) -> std::io::Result<()> {
    flusher.looks.see(|_| ());
    let runtime = Handle::current();
    tokio::spawn(beat(Arc::downgrade(flusher)));
    let flusher = Arc::downgrade(flusher);
    let look = move || {
        let mut workers = Workers::of(&runtime.metrics());
        loop {
            std::thread::sleep(LOOK_INTERVAL);
            let Some(flusher) = flusher.upgrade() else { return };
            look(&flusher, &mut workers, &runtime.metrics());
        }
    };
    std::thread::Builder::new().name("doctor".into()).spawn(look).map(drop)
}

/// A task that waits for a moment, again and again.
async fn beat(flusher: Weak<Flusher>) {
    loop {
        let due = tokio::time::Instant::now() + HEARTBEAT_INTERVAL;
        tokio::time::sleep_until(due).await;
        let late_us = i64::try_from(due.elapsed().as_micros()).unwrap_or(i64::MAX);
        let Some(flusher) = flusher.upgrade() else { return };
        flusher.looks.see(|seen| seen.heartbeat.record(late_us));
    }
}

fn look(flusher: &Flusher, workers: &mut Workers, metrics: &RuntimeMetrics) {
    let socket_bytes = flusher.looks.socket_bytes();
    let in_flight_bytes = flusher.position().in_flight_bytes;
    let (queue, flush_age) = flusher.vitals.flushes_now();
    let Spent { passed_us, blocked_us, busy_us, parks } = workers.spent(metrics);
    flusher.looks.see(|seen| {
        seen.looked_us += passed_us;
        seen.blocked_us += blocked_us;
        seen.busy_us += busy_us;
        seen.parks += parks;
        seen.threads = workers.threads.len() as u64;
        seen.in_flight_bytes.see(in_flight_bytes);
        seen.queue.see(queue as u64);
        seen.flush_age_us.see(micros(flush_age));
        if let Some(bytes) = socket_bytes {
            seen.socket_bytes.see(bytes);
        }
    });
}

/// The runtime's threads at the last look.
struct Workers {
    looked: Instant,
    threads: Vec<Worker>,
}

/// A thread of the runtime.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Worker {
    busy: Duration,
    /// Odd while it sleeps.
    parks_and_wakes: u64,
}

/// What the threads did from one look to the next, all together.
struct Spent {
    passed_us: u64,
    blocked_us: u64,
    busy_us: u64,
    parks: u64,
}

impl Workers {
    fn of(metrics: &RuntimeMetrics) -> Self {
        let worker = |number| Worker {
            busy: metrics.worker_total_busy_duration(number),
            parks_and_wakes: metrics.worker_park_unpark_count(number),
        };
        let threads = (0..metrics.num_workers()).map(worker).collect();
        Self { looked: Instant::now(), threads }
    }

    /// What was done since the last look. A thread that is awake and neither slept nor counted any
    /// work since is in one task: that work is counted when the thread comes back from it.
    fn spent(&mut self, metrics: &RuntimeMetrics) -> Spent {
        let before = std::mem::replace(self, Self::of(metrics));
        let passed_us = micros(self.looked - before.looked);
        let both = || before.threads.iter().zip(&self.threads);
        let is_blocked =
            |(then, now): &(&Worker, &Worker)| then == now && now.parks_and_wakes.is_multiple_of(2);
        let busy = both().map(|(then, now)| now.busy.saturating_sub(then.busy)).sum();
        let parks = both().map(|(then, now)| now.parks_and_wakes - then.parks_and_wakes);
        Spent {
            passed_us,
            blocked_us: both().filter(is_blocked).count() as u64 * passed_us,
            busy_us: micros(busy),
            parks: parks.sum::<u64>() / 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the two threads of a runtime spend while one of them does this to it.
    fn spent(block: Duration) -> Spent {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let metrics = runtime.metrics();
        runtime.spawn(async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            std::thread::sleep(block);
            std::future::pending::<()>().await;
        });
        // By then it is in the task, or has come back from it.
        std::thread::sleep(Duration::from_millis(50));
        let mut workers = Workers::of(&metrics);
        std::thread::sleep(Duration::from_millis(100));
        let spent = workers.spent(&metrics);
        runtime.shutdown_background();
        spent
    }

    #[test]
    fn a_thread_that_does_not_come_back_from_a_task_is_seen() {
        let spent = spent(Duration::from_secs(10));
        assert!(spent.blocked_us >= 100_000, "{}", spent.blocked_us);
        assert_eq!(spent.blocked_us, spent.passed_us, "one of two");
    }

    #[test]
    fn one_that_sleeps_is_not_blocked() {
        assert_eq!(spent(Duration::ZERO).blocked_us, 0);
    }
}
