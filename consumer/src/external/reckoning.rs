//! Transactions held against the moments at which the slot was confirmed beyond them.

use std::collections::VecDeque;

use walbench_metrics::sample::{ConsumerCounts, ConsumerSample, Interval, Lag, StreamPosition};
use walbench_metrics::stamp::Stamp;
use walbench_metrics::{Cuts, Timing, Window};

use crate::delivery::Delivered;
use crate::stream::Ended;

/// From this moment on the slot was confirmed up to a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Confirmation {
    /// By the orchestrator's clock, in µs since the Unix epoch.
    pub(super) at_us: i64,
    pub(super) lsn: u64,
}

/// From this moment on a probe row could be read in ClickHouse, and all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sight {
    /// By the orchestrator's clock, in µs since the Unix epoch.
    pub(super) at_us: i64,
    pub(super) id: i64,
}

/// A committed transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Transaction {
    /// Position of its commit record: a slot that is confirmed beyond it does not send it again.
    pub(super) commit_lsn: u64,
    /// By the server's clock, in µs since the Unix epoch.
    pub(super) commit_us: i64,
    /// The run's, if it has one.
    pub(super) stamp: Option<Stamp>,
    /// Row versions, probe rows left out.
    pub(super) rows: u64,
    /// Of pgoutput.
    pub(super) bytes: u64,
    /// The probe row it wrote.
    pub(super) probe: Option<i64>,
}

/// What a consumer that is seen from outside has delivered, and when.
#[derive(Debug, Default)]
pub(super) struct Reckoning {
    worker: String,
    timings: bool,
    /// Subtracted from the server's clock to have the orchestrator's, in µs.
    server_correction_us: i64,
    phases: Vec<(u32, Cuts)>,
    confirmations: VecDeque<Confirmation>,
    /// The last of them that acknowledged rows.
    acknowledged_lsn: u64,
    sights: VecDeque<Sight>,
    /// Probe rows that have not been seen.
    unseen: VecDeque<(i64, i64)>,
    open: Option<Second>,
    delivered: Delivered,
}

/// What was confirmed from one cut to the next.
#[derive(Debug)]
struct Second {
    start_us: i64,
    end_us: i64,
    confirmed_lsn: u64,
    windows: Vec<Record>,
}

#[derive(Debug)]
struct Record {
    phase: u32,
    window: Window,
    counts: ConsumerCounts,
    lag: Lag,
}

impl Second {
    fn record(&mut self, phase: u32, window: Window) -> &mut Record {
        let at = self.windows.iter().position(|it| (it.phase, it.window) == (phase, window));
        let at = at.unwrap_or_else(|| {
            let (counts, lag) = Default::default();
            self.windows.push(Record { phase, window, counts, lag });
            self.windows.len() - 1
        });
        &mut self.windows[at]
    }
}

impl Reckoning {
    pub(super) fn new(worker: &str, timings: bool, server_correction_us: i64) -> Self {
        Self { worker: worker.into(), timings, server_correction_us, ..Self::default() }
    }

    /// A phase starts.
    pub(super) fn starts(&mut self, phase: u32, cuts: Cuts) {
        self.phases.push((phase, cuts));
    }

    /// The slot was confirmed at these moments, behind all former ones.
    pub(super) fn confirmed(&mut self, confirmations: Vec<Confirmation>) {
        self.confirmations.extend(confirmations);
    }

    /// Probe rows were seen at these moments, behind all former ones.
    pub(super) fn seen(&mut self, sights: Vec<Sight>) {
        self.sights.extend(sights);
    }

    /// Walsenders took the place of another. That it was lost is an error.
    pub(super) fn reconnected(&mut self, times: u64, now_us: i64) -> Vec<ConsumerSample> {
        if times == 0 {
            return Vec::new();
        }
        let closed = self.enter(now_us);
        let (phase, window) = self.place(now_us);
        if let Some(second) = &mut self.open {
            second.record(phase, window).counts.reconnects += times;
        }
        closed
    }

    /// Takes in a transaction that was confirmed, behind all former ones, and says what was
    /// delivered in the seconds before the one in which that was.
    pub(super) fn add(&mut self, transaction: &Transaction) -> Vec<ConsumerSample> {
        let Transaction { commit_lsn, stamp, rows, bytes, .. } = *transaction;
        while self.confirmations.front().is_some_and(|it| it.lsn <= commit_lsn) {
            self.confirmations.pop_front();
        }
        let Some(&Confirmation { at_us, lsn }) = self.confirmations.front() else {
            return Vec::new();
        };
        let closed = self.enter(at_us);
        let commit_us = transaction.commit_us - self.server_correction_us;
        if let Some(id) = transaction.probe {
            self.unseen.push_back((id, commit_us));
        }
        self.see_probes();
        if rows == 0 && stamp.is_none() {
            return closed;
        }
        let is_first = lsn > self.acknowledged_lsn;
        self.acknowledged_lsn = lsn;
        let (phase, window) = match stamp {
            Some(Stamp { phase, measured: true, .. }) => (phase, Window::Measured),
            Some(Stamp { phase, measured: false, .. }) => (phase, Window::Warmup),
            None => self.place(at_us),
        };
        let timings = self.timings;
        if let Some(second) = &mut self.open {
            second.confirmed_lsn = lsn;
            let Record { counts, lag, .. } = second.record(phase, window);
            counts.rows += rows;
            counts.received_rows += rows;
            counts.transactions += 1;
            counts.received_bytes += bytes;
            counts.batches += u64::from(is_first);
            counts.unstamped_rows += if stamp.is_none() { rows } else { 0 };
            if timings {
                lag.commit_to_flushed.record_n(at_us - commit_us, rows);
                if let Some(stamp) = stamp {
                    lag.due_to_flushed.record_n(at_us - stamp.due_us, rows);
                }
            }
        }
        let stamp = stamp.map(|stamp| (stamp.phase, stamp.producer, stamp.sequence));
        self.delivered.add(Ended { stamp, rows });
        closed
    }

    /// Everything that was delivered up to now and not told yet.
    pub(super) fn close(&mut self) -> Vec<ConsumerSample> {
        let first_us = self.sights.front().map(|sight| sight.at_us);
        let mut closed = match first_us.filter(|_| self.open.is_none() && !self.unseen.is_empty()) {
            Some(at_us) => self.enter(at_us),
            None => Vec::new(),
        };
        self.see_probes();
        closed.extend(self.close_second());
        closed
    }

    /// Probe rows that were confirmed and never seen.
    pub(super) fn unseen(&self) -> usize {
        self.unseen.len()
    }

    /// What was delivered over all.
    pub(super) fn into_delivered(self) -> Delivered {
        self.delivered
    }

    fn see_probes(&mut self) {
        while let Some(&(id, commit_us)) = self.unseen.front() {
            while self.sights.front().is_some_and(|sight| sight.id < id) {
                self.sights.pop_front();
            }
            let Some(&Sight { at_us, .. }) = self.sights.front() else { return };
            self.unseen.pop_front();
            let (phase, window) = self.place(commit_us);
            if let Some(second) = self.open.as_mut().filter(|_| self.timings) {
                second.record(phase, window).lag.commit_to_visible.record(at_us - commit_us);
            }
        }
    }

    /// The phase that a moment lies in, or else the first.
    fn phase_at(&self, us: i64) -> Option<&(u32, Cuts)> {
        let started = self.phases.iter().rev().find(|(_, cuts)| cuts.start_us <= us);
        started.or_else(|| self.phases.first())
    }

    fn place(&self, us: i64) -> (u32, Window) {
        let place = self.phase_at(us).map(|(phase, cuts)| (*phase, cuts.window_at(us)));
        place.unwrap_or((0, Window::Warmup))
    }

    /// The second of a moment; what was in the one before, if it is another.
    fn enter(&mut self, at_us: i64) -> Vec<ConsumerSample> {
        let bounds = self.phase_at(at_us).map(|(_, cuts)| {
            let start_us = cuts.last_until(at_us);
            (start_us, cuts.next_after(at_us))
        });
        // Nothing is before the first phase.
        let (start_us, end_us) = bounds.unwrap_or((at_us, at_us + 1));
        if self.open.as_ref().is_some_and(|second| second.end_us >= end_us) {
            return Vec::new();
        }
        let closed = self.close_second();
        let (confirmed_lsn, windows) = Default::default();
        self.open = Some(Second { start_us, end_us, confirmed_lsn, windows });
        closed
    }

    fn close_second(&mut self) -> Vec<ConsumerSample> {
        let Some(second) = self.open.take() else { return Vec::new() };
        let Second { start_us, end_us, confirmed_lsn, windows } = second;
        let position = StreamPosition { confirmed_lsn, ..StreamPosition::default() };
        let sample = |Record { phase, window, counts, lag }| ConsumerSample {
            worker: self.worker.clone(),
            interval: Interval { phase, window, start_us, end_us },
            counts,
            flush: Timing::default(),
            lag,
            position,
            vitals: None,
        };
        windows.into_iter().map(sample).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: i64 = 1_000_000;

    fn reckoning() -> Reckoning {
        let mut reckoning = Reckoning::new("consumer-0", true, 0);
        reckoning.starts(0, Cuts::new(0, 1.0, 3.0));
        reckoning
    }

    fn transaction(sequence: u64, commit_us: i64, measured: bool) -> Transaction {
        let due_us = commit_us - 100;
        let stamp = Stamp { run: 1, phase: 0, measured, producer: 0, sequence, due_us };
        Transaction {
            commit_lsn: 10 * (sequence + 1),
            commit_us,
            stamp: Some(stamp),
            rows: 5,
            bytes: 50,
            probe: None,
        }
    }

    fn confirmed(reckoning: &mut Reckoning, confirmations: &[(i64, u64)]) {
        let confirmations = confirmations.iter().map(|&(at_us, lsn)| Confirmation { at_us, lsn });
        reckoning.confirmed(confirmations.collect());
    }

    /// Timings know a value within 0.1 %.
    fn near(us: Option<u64>, expected: u64) -> bool {
        us.is_some_and(|us| us.abs_diff(expected) <= expected / 500)
    }

    #[test]
    fn a_row_is_delivered_when_the_slot_is_confirmed_beyond_its_commit() {
        let mut reckoning = reckoning();
        // Up to the commit itself is not beyond it.
        confirmed(
            &mut reckoning,
            &[(SECOND, 10), (1_500_000, 11), (2_200_000, 25), (2_900_000, 40)],
        );
        let mut samples = reckoning.add(&transaction(0, 900_000, false));
        samples.extend(reckoning.add(&transaction(1, 1_400_000, true)));
        samples.extend(reckoning.add(&transaction(2, 2_100_000, true)));
        assert_eq!(samples.len(), 1, "the first second is over");
        samples.extend(reckoning.close());
        let seen: Vec<_> = samples
            .iter()
            .map(|s| (s.interval.start_us / SECOND, s.interval.window, s.counts.rows))
            .collect();
        assert_eq!(seen, [(1, Window::Warmup, 5), (2, Window::Measured, 10)]);
        let lag = &samples[1].lag;
        assert_eq!(lag.commit_to_flushed.count(), 10);
        assert!(near(lag.commit_to_flushed.min_us(), 800_000), "{lag:?}");
        assert!(near(lag.due_to_flushed.max_us(), 800_100), "{lag:?}");
        assert_eq!((samples[1].counts.batches, samples[1].counts.transactions), (2, 2));
        assert_eq!(samples[1].position.confirmed_lsn, 40);
        assert_eq!(reckoning.into_delivered().ledger.rows(), 15);
    }

    #[test]
    fn what_was_never_confirmed_is_not_delivered() {
        let mut reckoning = reckoning();
        confirmed(&mut reckoning, &[(SECOND, 15)]);
        reckoning.add(&transaction(0, 1, true));
        reckoning.add(&transaction(1, 2, true));
        let account = reckoning.into_delivered();
        assert!(account.ledger.contains(0, 0, 0) && !account.ledger.contains(0, 0, 1));
    }

    #[test]
    fn rows_without_a_stamp_belong_to_where_the_clock_is() {
        let mut reckoning = reckoning();
        confirmed(&mut reckoning, &[(500_000, 15), (4_500_000, 30)]);
        let unstamped = |sequence| Transaction { stamp: None, ..transaction(sequence, 1, true) };
        let mut samples = reckoning.add(&unstamped(0));
        samples.extend(reckoning.add(&unstamped(1)));
        samples.extend(reckoning.close());
        let windows: Vec<_> = samples.iter().map(|s| s.interval.window).collect();
        assert_eq!(windows, [Window::Warmup, Window::Drain]);
        assert!(samples.iter().all(|s| s.counts.unstamped_rows == 5));
        assert_eq!(reckoning.into_delivered().unstamped_rows, 10);
    }

    #[test]
    fn a_probe_is_seen_when_it_or_a_later_one_is_to_be_read() {
        let mut reckoning = reckoning();
        confirmed(&mut reckoning, &[(2 * SECOND, 100)]);
        let sight = |at_us, id| Sight { at_us, id };
        reckoning.seen(vec![sight(1_600_000, 1), sight(1_900_000, 3)]);
        let probe = |sequence, id| Transaction {
            stamp: None,
            rows: 0,
            probe: Some(id),
            ..transaction(sequence, 1_500_000, true)
        };
        for id in 1..=4 {
            reckoning.add(&probe(id, id.cast_signed()));
        }
        let samples = reckoning.close();
        assert_eq!(samples.len(), 1);
        let visible = &samples[0].lag.commit_to_visible;
        assert_eq!((visible.count(), samples[0].counts), (3, ConsumerCounts::default()));
        assert_eq!(samples[0].interval.window, Window::Measured);
        assert!(near(visible.min_us(), 100_000), "{visible:?}");
        // The last one comes later, or never.
        assert_eq!(reckoning.unseen(), 1);
        reckoning.seen(vec![sight(2_500_000, 4)]);
        assert_eq!(reckoning.close()[0].lag.commit_to_visible.count(), 1);
        assert_eq!(reckoning.unseen(), 0);
    }

    proptest! {
        /// However confirmations come, each row that lies before the last of them is in one sample,
        /// of the right second.
        #[test]
        fn every_row_is_told_once(
            gaps in prop::collection::vec((1..400_000_i64, 0..40_u64), 1..30),
            transactions in 1..40_u64,
        ) {
            let mut reckoning = reckoning();
            let (mut at_us, mut lsn) = (0, 0);
            let mut all = Vec::new();
            for (gap_us, step) in gaps {
                (at_us, lsn) = (at_us + gap_us, lsn + step);
                all.push((at_us, lsn));
            }
            confirmed(&mut reckoning, &all);
            let mut samples = Vec::new();
            for sequence in 0..transactions {
                samples.extend(reckoning.add(&transaction(sequence, 1, true)));
            }
            samples.extend(reckoning.close());
            let rows: u64 = samples.iter().map(|s| s.counts.rows).sum();
            let expected = (0..transactions).filter(|sequence| 10 * (sequence + 1) < lsn).count();
            prop_assert_eq!(rows, 5 * expected as u64);
            prop_assert_eq!(reckoning.into_delivered().ledger.rows(), rows);
            let starts: Vec<_> = samples.iter().map(|s| s.interval.start_us).collect();
            prop_assert!(starts.is_sorted_by(|a, b| a < b), "{starts:?}");
        }
    }
}
