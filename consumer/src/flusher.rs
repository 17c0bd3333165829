//! Carries out jobs at the sink beside the receiving thread, and is where that thread and the rest
//! of the process meet: what to do, how far it is, what it counted.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::runtime::Handle;
use walbench_metrics::Window;
use walbench_metrics::allocator::AllocatorUse;
use walbench_metrics::clock::wall_us;
use walbench_metrics::sample::{ConsumerSample, StreamPosition};
use walbench_metrics::vitals::ConsumerVitals;

use crate::clickhouse::Description;
use crate::looks::Looks;
use crate::news::News;
use crate::outage::Outage;
use crate::receiver::Read;
use crate::recorder::{Flushed, Recorder};
use crate::sink::{Sink, SinkError, Written};
use crate::stream::{Job, Work};
use crate::vitals::Vitals;
use crate::waker::Waker;

/// Shared by the receiving thread, the flushes and whoever commands them.
#[derive(Debug)]
pub(crate) struct Flusher {
    sink: Sink,
    runtime: Handle,
    ended: Mutex<Vec<FlushEnded>>,
    recorder: Mutex<Recorder>,
    outage: Mutex<Outage>,
    /// Subtracted from our clock to have the orchestrator's, in µs.
    clock_correction_us: i64,
    /// As the receiving thread has them.
    message_lsn: AtomicU64,
    received_lsn: AtomicU64,
    confirmed_lsn: AtomicU64,
    in_flight_bytes: AtomicU64,
    read: Mutex<Read>,
    stop: AtomicBool,
    cut: AtomicBool,
    pub(crate) vitals: Vitals,
    pub(crate) looks: Looks,
    pub(crate) news: News,
    pub(crate) waker: Waker,
}

/// A job that ended.
#[derive(Debug)]
pub(crate) struct FlushEnded {
    /// The job, as it was started.
    pub job: Job,
    /// How.
    pub result: Result<(), SinkError>,
}

/// A panic ends a worker's process; where it doesn't (in tests), what the lock guards is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Flusher {
    /// Jobs run on the runtime it is made in.
    pub(crate) fn new(
        sink: Sink,
        recorder: Recorder,
        clock_correction_us: i64,
        news: News,
    ) -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            sink,
            runtime: Handle::current(),
            ended: Mutex::default(),
            recorder: Mutex::new(recorder),
            outage: Mutex::default(),
            clock_correction_us,
            message_lsn: AtomicU64::new(0),
            received_lsn: AtomicU64::new(0),
            confirmed_lsn: AtomicU64::new(0),
            in_flight_bytes: AtomicU64::new(0),
            read: Mutex::default(),
            stop: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            vitals: Vitals::default(),
            looks: Looks::default(),
            news,
            waker: Waker::new()?,
        }))
    }

    /// The orchestrator's clock now, in µs.
    pub(crate) fn now_us(&self) -> i64 {
        wall_us() - self.clock_correction_us
    }

    /// What is written into, if that is a real ClickHouse.
    pub(crate) fn destination(&self) -> Option<Description> {
        self.sink.description()
    }

    pub(crate) fn wants_rows(&self) -> bool {
        self.sink.wants_rows()
    }

    /// Starts a job; wakes the receiving thread when it has ended.
    pub(crate) fn start(self: &Arc<Self>, job: Job) {
        let flusher = self.clone();
        self.runtime.spawn(async move {
            let Job { number, failures, failed_at, work } = job;
            let started = flusher.vitals.flush_begins();
            let (work, result) = flusher.carry_out(work).await;
            flusher.vitals.flush_ends(started);
            if let Ok(written) = &result {
                flusher.record_flush(&work, *written, started);
            }
            let job = Job { number, failures, failed_at, work };
            lock(&flusher.ended).push(FlushEnded { job, result: result.map(drop) });
            flusher.waker.wake();
        });
    }

    /// Does something on the runtime that flushes run on.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    /// Does what the sink is asked, and tells where that fails or succeeds again; whether it is tried
    /// again is not decided here. What is asked so beside the stream has no place in its order, nor
    /// among its figures.
    pub(crate) async fn carry_out(&self, work: Work) -> (Work, Result<Written, SinkError>) {
        let (work, result) = self.sink.carry_out(work).await;
        let now = Instant::now();
        let mut outage = lock(&self.outage);
        let told = match &result {
            Ok(_) => outage.succeeded(now),
            // The end is said by the error that it ends with.
            Err(error) if !error.transient => None,
            Err(error) => outage.failed(|| error.failure.line(), now),
        };
        drop(outage);
        told.into_iter().for_each(|text| self.news.tell(text));
        (work, result)
    }

    fn record_flush(&self, work: &Work, written: Written, started: Instant) {
        let Work::Write(batch) = work else { return };
        let flush_us = i64::try_from(started.elapsed().as_micros()).unwrap_or(i64::MAX);
        lock(&self.recorder).flushed(&Flushed {
            segments: &batch.segments,
            encoded_bytes: written.encoded_bytes,
            sent_bytes: written.sent_bytes,
            rejected_rows: written.rejected_rows,
            flush_us,
            flushed_us: self.now_us(),
        });
    }

    /// Jobs that ended since the last time, in the order in which they did.
    pub(crate) fn take_ended(&self) -> Vec<FlushEnded> {
        std::mem::take(&mut *lock(&self.ended))
    }

    pub(crate) fn record(&self, with: impl FnOnce(&mut Recorder)) {
        with(&mut lock(&self.recorder));
    }

    /// The receiving thread tells where it is.
    pub(crate) fn stands_at(&self, position: StreamPosition) {
        let StreamPosition { message_lsn, received_lsn, confirmed_lsn, in_flight_bytes } = position;
        self.message_lsn.store(message_lsn, Ordering::Relaxed);
        self.received_lsn.store(received_lsn, Ordering::Relaxed);
        self.confirmed_lsn.store(confirmed_lsn, Ordering::Relaxed);
        self.in_flight_bytes.store(in_flight_bytes, Ordering::Relaxed);
    }

    /// Where the receiving thread is.
    pub(crate) fn position(&self) -> StreamPosition {
        StreamPosition {
            message_lsn: self.message_lsn.load(Ordering::Relaxed),
            received_lsn: self.received_lsn.load(Ordering::Relaxed),
            confirmed_lsn: self.confirmed_lsn.load(Ordering::Relaxed),
            in_flight_bytes: self.in_flight_bytes.load(Ordering::Relaxed),
        }
    }

    /// The receiving thread reads no more.
    pub(crate) fn has_read(&self, read: Read) {
        *lock(&self.read) = read;
    }

    /// What the receiving thread had read when it stopped reading.
    pub(crate) fn read(&self) -> Read {
        *lock(&self.read)
    }

    /// Samples up to now; from here on the clock is in the given phase and window.
    pub(crate) fn sample(&self, phase: u32, window: Window) -> Vec<ConsumerSample> {
        let position = self.position();
        let mut recorder = lock(&self.recorder);
        let (allocator, looks) = (AllocatorUse::now(), self.looks.take());
        let vitals = ConsumerVitals { allocator, looks, ..self.vitals.take() };
        let samples = recorder.samples(self.now_us(), position, vitals);
        recorder.enter(phase, window);
        samples
    }

    /// Asks the receiving thread to flush what it has.
    pub(crate) fn ask_to_cut(&self) {
        self.cut.store(true, Ordering::Release);
        self.waker.wake();
    }

    pub(crate) fn take_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed) && self.cut.swap(false, Ordering::AcqRel)
    }

    /// Asks the receiving thread to end.
    pub(crate) fn ask_to_stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}
