//! What the consumer did, by the phase and window its rows were due in, until the next sample.

use walbench_metrics::sample::{ConsumerCounts, ConsumerSample, Interval, Lag, StreamPosition};
use walbench_metrics::vitals::ConsumerVitals;
use walbench_metrics::{Timing, Window};

use crate::stream::{Account, Due, Segment};

/// Counters and timings since the last sample.
#[derive(Debug)]
pub(crate) struct Recorder {
    worker: String,
    timings: bool,
    /// Where unstamped rows belong: the phase and window the clock is in.
    now: (u32, Window),
    since_us: i64,
    windows: Vec<Record>,
}

#[derive(Debug)]
struct Record {
    phase: u32,
    window: Window,
    counts: ConsumerCounts,
    flush: Timing,
    lag: Lag,
}

/// What became of a flushed batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flushed<'a> {
    /// Its rows.
    pub segments: &'a [Segment],
    /// Encoded bytes.
    pub encoded_bytes: u64,
    /// Bytes handed to the sink.
    pub sent_bytes: u64,
    /// Row versions that were put aside.
    pub rejected_rows: u64,
    /// How long the flush took, in µs.
    pub flush_us: i64,
    /// When it was acknowledged, in µs of the orchestrator's clock.
    pub flushed_us: i64,
}

impl Recorder {
    /// A recorder for the named worker; without `timings` it counts and measures no time.
    #[must_use]
    pub(crate) fn new(worker: String, timings: bool, now_us: i64) -> Self {
        Self { worker, timings, now: (0, Window::Warmup), since_us: now_us, windows: Vec::new() }
    }

    /// The clock entered another phase or window.
    pub(crate) fn enter(&mut self, phase: u32, window: Window) {
        self.now = (phase, window);
    }

    fn record(&mut self, phase: u32, window: Window) -> &mut Record {
        let at = self.windows.iter().position(|r| r.phase == phase && r.window == window);
        let at = at.unwrap_or_else(|| {
            let (counts, flush, lag) = Default::default();
            self.windows.push(Record { phase, window, counts, flush, lag });
            self.windows.len() - 1
        });
        &mut self.windows[at]
    }

    fn record_of(&mut self, segment: &Segment) -> &mut Record {
        let (phase, window) = segment.due.map_or(self.now, |due| (due.phase, due.window));
        self.record(phase, window)
    }

    /// Something came in: bytes, and what was made of them. Leaves the account empty.
    pub(crate) fn read(&mut self, bytes: u64, account: &mut Account) {
        let Account { received, ended, clamped_values, errors, retries } = account;
        let (phase, window) = self.now;
        let counts = &mut self.record(phase, window).counts;
        counts.received_bytes += bytes;
        counts.clamped_values += std::mem::take(clamped_values);
        counts.errors += std::mem::take(errors);
        counts.retries += std::mem::take(retries);
        received.drain(..).for_each(|segment| self.received(&segment));
        ended.drain(..).for_each(|due| self.received_transaction(due));
    }

    /// A connection took the place of a lost one. That it was lost is an error, retried.
    pub(crate) fn reconnected(&mut self) {
        let (phase, window) = self.now;
        let counts = &mut self.record(phase, window).counts;
        counts.reconnects += 1;
        counts.errors += 1;
    }

    /// A transaction came in whole.
    fn received_transaction(&mut self, due: Option<Due>) {
        let (phase, window) = due.map_or(self.now, |due| (due.phase, due.window));
        self.record(phase, window).counts.transactions += 1;
    }

    /// Rows came in. Once for all rows that share their times.
    fn received(&mut self, segment: &Segment) {
        let timings = self.timings;
        let record = self.record_of(segment);
        record.counts.received_rows += segment.rows;
        if segment.due.is_none() {
            record.counts.unstamped_rows += segment.rows;
        }
        if let Some(commit_us) = segment.commit_us.filter(|_| timings) {
            record.lag.commit_to_received.record_n(segment.received_us - commit_us, segment.rows);
        }
    }

    /// The sink acknowledged a batch. The batch itself counts where its first row does.
    pub(crate) fn flushed(&mut self, flushed: &Flushed<'_>) {
        let &Flushed { segments, encoded_bytes, sent_bytes, rejected_rows, flush_us, flushed_us } =
            flushed;
        let timings = self.timings;
        for segment in segments {
            let record = self.record_of(segment);
            record.counts.rows += segment.rows;
            if timings {
                let lag = &mut record.lag;
                lag.received_to_flushed.record_n(flushed_us - segment.received_us, segment.rows);
                if let Some(commit_us) = segment.commit_us {
                    lag.commit_to_flushed.record_n(flushed_us - commit_us, segment.rows);
                }
                if let Some(due) = segment.due {
                    lag.due_to_flushed.record_n(flushed_us - due.due_us, segment.rows);
                }
            }
        }
        if let Some(first) = segments.first() {
            let record = self.record_of(first);
            record.counts.batches += 1;
            record.counts.encoded_bytes += encoded_bytes;
            record.counts.sent_bytes += sent_bytes;
            record.counts.rejected_rows += rejected_rows;
            if timings {
                record.flush.record(flush_us);
            }
        }
    }

    /// Hands out what was recorded as samples, one for each window that has anything and always
    /// one for the current, which has the vitals; starts anew.
    pub(crate) fn samples(
        &mut self,
        now_us: i64,
        position: StreamPosition,
        vitals: ConsumerVitals,
    ) -> Vec<ConsumerSample> {
        let mut vitals = Some(Box::new(vitals));
        let (phase, window) = self.now;
        self.record(phase, window);
        let (now, start_us, worker) = (self.now, self.since_us, &self.worker);
        let has_something =
            |r: &Record| (r.phase, r.window) == now || r.counts != ConsumerCounts::default();
        self.windows.retain(has_something);
        let samples = self.windows.iter_mut().map(|record| {
            let Record { phase, window, counts, flush, lag } = record;
            ConsumerSample {
                worker: worker.clone(),
                interval: Interval { phase: *phase, window: *window, start_us, end_us: now_us },
                counts: std::mem::take(counts),
                flush: std::mem::take(flush),
                lag: std::mem::take(lag),
                position,
                vitals: if (*phase, *window) == now { vitals.take() } else { None },
            }
        });
        let samples = samples.collect();
        self.since_us = now_us;
        samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(window: Option<Window>, rows: u64) -> Segment {
        let due = window.map(|window| Due { phase: 1, window, due_us: 100 });
        Segment { due, commit_us: Some(200), received_us: 300, rows }
    }

    fn flushed(segments: &[Segment]) -> Flushed<'_> {
        Flushed {
            segments,
            encoded_bytes: 10,
            sent_bytes: 5,
            rejected_rows: 0,
            flush_us: 50,
            flushed_us: 400,
        }
    }

    #[test]
    fn rows_count_where_they_were_due_and_unstamped_ones_where_the_clock_is() {
        let mut recorder = Recorder::new("consumer-0".into(), true, 0);
        recorder.enter(1, Window::Measured);
        let segments = [
            segment(Some(Window::Warmup), 2),
            segment(Some(Window::Measured), 3),
            segment(None, 4),
        ];
        segments.iter().for_each(|s| recorder.received(s));
        recorder.flushed(&flushed(&segments));
        let mut samples =
            recorder.samples(1_000, StreamPosition::default(), ConsumerVitals::default());
        samples.sort_by_key(|s| s.interval.window);
        let rows: Vec<_> = samples
            .iter()
            .map(|s| (s.interval.window, s.counts.rows, s.counts.unstamped_rows))
            .collect();
        assert_eq!(rows, [(Window::Warmup, 2, 0), (Window::Measured, 7, 4)]);
        let lag = &samples[1].lag;
        assert_eq!(lag.commit_to_received.max_us(), Some(100));
        assert_eq!(lag.received_to_flushed.count(), 7);
        assert_eq!(lag.commit_to_flushed.max_us(), Some(200));
        assert_eq!((lag.due_to_flushed.count(), lag.due_to_flushed.max_us()), (3, Some(300)));
        assert_eq!((samples[0].counts.batches, samples[1].counts.batches), (1, 0));
    }

    #[test]
    fn a_sample_starts_where_the_last_ended_and_comes_even_when_nothing_happened() {
        let mut recorder = Recorder::new("consumer-0".into(), true, 5);
        recorder.enter(0, Window::Warmup);
        recorder.received(&segment(Some(Window::Measured), 1));
        assert_eq!(
            recorder.samples(10, StreamPosition::default(), ConsumerVitals::default()).len(),
            2
        );
        let samples = recorder.samples(20, StreamPosition::default(), ConsumerVitals::default());
        assert_eq!(samples.len(), 1);
        let interval = Interval { phase: 0, window: Window::Warmup, start_us: 10, end_us: 20 };
        assert_eq!(samples[0].interval, interval);
        assert!(samples[0].lag.commit_to_received.is_empty());
    }

    #[test]
    fn without_timings_it_only_counts() {
        let mut recorder = Recorder::new("consumer-0".into(), false, 0);
        let segments = [segment(Some(Window::Measured), 3)];
        recorder.received(&segments[0]);
        recorder.flushed(&flushed(&segments));
        let samples = recorder.samples(10, StreamPosition::default(), ConsumerVitals::default());
        let sample = samples.iter().find(|s| s.counts.rows == 3).unwrap();
        assert!(sample.flush.is_empty() && sample.lag.commit_to_flushed.is_empty());
    }
}
