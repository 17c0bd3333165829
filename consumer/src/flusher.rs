//! From cut batches to acknowledged ones: flushes run concurrently up to a bound, and what they
//! leave (confirmations, counts, empty buffers) is shared with the receiving thread.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use walbench_metrics::clock::wall_us;
use walbench_metrics::sample::{ConsumerSample, StreamPosition};
use walbench_metrics::{Failure, Window};

use crate::batch::Batch;
use crate::confirmations::{Confirmations, Ended, Mark};
use crate::delivery::Delivered;
use crate::recorder::{Flushed, Recorder};
use crate::sink::{Sink, Written};
use crate::waker::Waker;

/// Shared by the receiving thread, the flushes and the worker's link.
#[derive(Debug)]
pub(crate) struct Flusher {
    sink: Sink,
    runtime: Handle,
    permits: Semaphore,
    /// Most batches that can be in use at once and come back.
    spare_limit: usize,
    spare: Mutex<Vec<Batch>>,
    progress: Mutex<Progress>,
    recorder: Mutex<Recorder>,
    /// Subtracted from our clock to have the orchestrator's, in µs.
    clock_correction_us: i64,
    in_flight_bytes: AtomicU64,
    /// As `progress` has it; the receiving thread looks at it all the time.
    confirmed_lsn: AtomicU64,
    received_lsn: AtomicU64,
    stop: AtomicBool,
    cut: AtomicBool,
    failure: Mutex<Option<Failure>>,
    pub(crate) waker: Waker,
}

/// What is durable.
#[derive(Debug, Default)]
struct Progress {
    confirmations: Confirmations,
    delivered: Delivered,
}

/// A panic ends a worker's process; where it doesn't (in tests), what the lock guards is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Flusher {
    pub(crate) fn new(
        sink: Sink,
        concurrency: usize,
        recorder: Recorder,
        clock_correction_us: i64,
    ) -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            sink,
            runtime: Handle::current(),
            permits: Semaphore::new(concurrency),
            spare_limit: concurrency + 2,
            spare: Mutex::default(),
            progress: Mutex::default(),
            recorder: Mutex::new(recorder),
            clock_correction_us,
            in_flight_bytes: AtomicU64::new(0),
            confirmed_lsn: AtomicU64::new(0),
            received_lsn: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            failure: Mutex::default(),
            waker: Waker::new()?,
        }))
    }

    /// The orchestrator's clock now, in µs.
    pub(crate) fn now_us(&self) -> i64 {
        wall_us() - self.clock_correction_us
    }

    pub(crate) fn wants_rows(&self) -> bool {
        self.sink.wants_rows()
    }

    /// Hands a batch to the sink and gives an empty one back.
    pub(crate) fn flush(self: &Arc<Self>, mut batch: Batch) -> Batch {
        let number = lock(&self.progress).confirmations.cut(&mut batch.mark);
        let flusher = self.clone();
        self.runtime.spawn(async move {
            let bytes = batch.bytes;
            // The semaphore is never closed; a permit is held until the batch is acknowledged.
            let _permit = flusher.permits.acquire().await;
            let started = Instant::now();
            match flusher.sink.write(batch).await {
                Ok((batch, written)) => flusher.acknowledge(number, batch, written, started),
                Err(error) => {
                    flusher.fail(Failure::new("a batch could not be flushed").caused_by(&error));
                }
            }
            flusher.in_flight_bytes.fetch_sub(bytes, Ordering::AcqRel);
            flusher.waker.wake();
        });
        lock(&self.spare).pop().unwrap_or_default()
    }

    fn acknowledge(&self, number: u64, mut batch: Batch, written: Written, started: Instant) {
        let flush_us = i64::try_from(started.elapsed().as_micros()).unwrap_or(i64::MAX);
        lock(&self.recorder).flushed(&Flushed {
            segments: &batch.segments,
            encoded_bytes: written.encoded_bytes,
            sent_bytes: written.sent_bytes,
            flush_us,
            flushed_us: self.now_us(),
        });
        self.progress(|confirmations, delivered| {
            confirmations.acknowledge(number, |ended| delivered.add(ended));
        });
        batch.clear();
        let mut spare = lock(&self.spare);
        if spare.len() < self.spare_limit {
            spare.push(batch);
        }
    }

    /// Something ended behind the last cut batch without a row of its own.
    pub(crate) fn mark(&self, mark: &mut Mark) {
        self.progress(|confirmations, delivered| {
            confirmations.mark(mark, |ended: Ended| delivered.add(ended));
        });
    }

    fn progress(&self, advance: impl FnOnce(&mut Confirmations, &mut Delivered)) {
        let Progress { confirmations, delivered } = &mut *lock(&self.progress);
        advance(confirmations, delivered);
        self.confirmed_lsn.store(confirmations.confirmed_lsn(), Ordering::Release);
    }

    pub(crate) fn out_of_order(&self) {
        lock(&self.progress).delivered.out_of_order += 1;
    }

    pub(crate) fn confirmed_lsn(&self) -> u64 {
        self.confirmed_lsn.load(Ordering::Acquire)
    }

    pub(crate) fn delivered(&self) -> Delivered {
        lock(&self.progress).delivered.clone()
    }

    /// Bytes received and not acknowledged, in cut batches.
    pub(crate) fn in_flight_bytes(&self) -> u64 {
        self.in_flight_bytes.load(Ordering::Acquire)
    }

    pub(crate) fn add_in_flight(&self, bytes: u64) {
        self.in_flight_bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    pub(crate) fn received_lsn(&self) -> u64 {
        self.received_lsn.load(Ordering::Relaxed)
    }

    pub(crate) fn received_up_to(&self, lsn: u64) {
        self.received_lsn.fetch_max(lsn, Ordering::Relaxed);
    }

    pub(crate) fn record(&self, with: impl FnOnce(&mut Recorder)) {
        with(&mut lock(&self.recorder));
    }

    /// Samples up to now; from here on the clock is in the given phase and window.
    pub(crate) fn sample(&self, phase: u32, window: Window) -> Vec<ConsumerSample> {
        let position = StreamPosition {
            received_lsn: self.received_lsn(),
            confirmed_lsn: self.confirmed_lsn(),
            in_flight_bytes: self.in_flight_bytes(),
        };
        let mut recorder = lock(&self.recorder);
        let samples = recorder.samples(self.now_us(), position);
        recorder.enter(phase, window);
        samples
    }

    /// Asks the receiving thread to flush what it has.
    pub(crate) fn ask_to_cut(&self) {
        self.cut.store(true, Ordering::Release);
        self.waker.wake();
    }

    pub(crate) fn take_cut(&self) -> bool {
        self.cut.swap(false, Ordering::AcqRel)
    }

    /// Asks the receiving thread to end.
    pub(crate) fn ask_to_stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn fail(&self, failure: Failure) {
        lock(&self.failure).get_or_insert(failure);
    }

    pub(crate) fn take_failure(&self) -> Option<Failure> {
        lock(&self.failure).take()
    }
}
