//! How far each part of the pipeline is in the WAL, over time: which side is slow is seen by where the
//! rungs are far apart.
//!
//! ```text
//! current ─► sent ─► received ─► decoded ─► flushed ─► confirmed
//! ```

use std::collections::BTreeMap;

use walbench_metrics::sample::{ConsumerSample, Interval, PostgresState};
use walbench_metrics::vitals::{FlushTime, ReceiverTime};

use crate::steps::Steps;

/// Positions in the WAL, in bytes; each the furthest of its step. 0: not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rungs {
    /// Flushed by PostgreSQL.
    pub current: u64,
    /// Sent by the walsender.
    pub sent: u64,
    /// Of the last message that the consumer received.
    pub received: u64,
    /// End of the last transaction that it decoded.
    pub decoded: u64,
    /// Everything before it is durable at the sink.
    pub flushed: u64,
    /// Confirmed by the slot.
    pub confirmed: u64,
}

/// One step of one consumer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// How far each part was.
    pub rungs: Rungs,
    /// What the consumer's receiving thread did.
    pub receiver: ReceiverTime,
    /// What flushes there were.
    pub flushes: FlushTime,
}

/// The steps of a phase, warm-up and drain included, by consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ladder {
    time: Steps,
    consumers: BTreeMap<u32, BTreeMap<i64, Step>>,
}

impl Ladder {
    /// Of a phase of this length.
    pub(crate) fn new(length_us: i64) -> Self {
        Self { time: Steps::new(length_us), consumers: BTreeMap::new() }
    }

    pub(crate) fn starts(&mut self, start_us: i64) {
        self.time.starts(start_us);
    }

    fn step(&mut self, consumer: u32, at_us: i64) -> &mut Step {
        let number = self.time.number(at_us);
        self.consumers.entry(consumer).or_default().entry(number).or_default()
    }

    /// Takes in where the slots were at the end of an interval.
    pub(crate) fn add_server(&mut self, state: &PostgresState, interval: Interval) {
        let at_us = interval.middle_us();
        for slot in &state.slots {
            let Some(consumer) = numbered(&slot.name, '_') else { continue };
            let rungs = &mut self.step(consumer, at_us).rungs;
            rungs.current = rungs.current.max(state.wal_lsn);
            rungs.sent = rungs.sent.max(slot.sent_lsn.unwrap_or_default());
            rungs.confirmed = rungs.confirmed.max(slot.confirmed_lsn);
        }
    }

    /// Takes in a consumer's sample.
    pub(crate) fn add_consumer(&mut self, sample: &ConsumerSample) {
        // One of several samples of an interval has them.
        let Some(vitals) = &sample.vitals else { return };
        let Some(consumer) = numbered(&sample.worker, '-') else { return };
        let position = sample.position;
        let step = self.step(consumer, sample.interval.middle_us());
        step.receiver.merge(&vitals.receiver);
        step.flushes.merge(&vitals.flushes);
        let rungs = &mut step.rungs;
        rungs.received = rungs.received.max(position.message_lsn).max(position.received_lsn);
        rungs.decoded = rungs.decoded.max(position.received_lsn);
        rungs.flushed = rungs.flushed.max(position.confirmed_lsn);
    }

    /// Each consumer's steps, with the time from the phase's start to their middle, in seconds.
    pub(crate) fn consumers(&self) -> impl Iterator<Item = (u32, Vec<(f64, Step)>)> {
        let middle_sec = |number: i64| (number as f64 + 0.5) * self.time.step_us as f64 / 1e6;
        self.consumers.iter().map(move |(consumer, steps)| {
            (*consumer, steps.iter().map(|(number, step)| (middle_sec(*number), *step)).collect())
        })
    }

    /// Bytes of WAL that were sent to a consumer and not received by it just before a moment.
    pub(crate) fn in_transit_bytes(&self, consumer: u32, at_us: i64) -> Option<u64> {
        let rungs = self.consumers.get(&consumer)?.get(&self.time.number(at_us - 1))?.rungs;
        (rungs.sent > 0 && rungs.received > 0).then(|| rungs.sent.saturating_sub(rungs.received))
    }

    /// Bytes of WAL that were sent to a consumer and not confirmed by it just before a moment.
    pub(crate) fn unconfirmed_bytes(&self, consumer: u32, at_us: i64) -> Option<u64> {
        let rungs = self.consumers.get(&consumer)?.get(&self.time.number(at_us - 1))?.rungs;
        (rungs.sent > 0 && rungs.confirmed > 0).then(|| rungs.sent.saturating_sub(rungs.confirmed))
    }

    /// Longest time between two moments in which what was durable went beyond what was confirmed, and
    /// that stood still, in seconds.
    pub(crate) fn confirm_stall_sec(&self, window_us: (i64, i64)) -> Option<f64> {
        self.longest_stall(window_us, |rungs| (rungs.confirmed, rungs.flushed))
    }

    /// The same in which something was decoded and not durable, and what was durable stood still.
    pub(crate) fn durable_stall_sec(&self, window_us: (i64, i64)) -> Option<f64> {
        self.longest_stall(window_us, |rungs| (rungs.flushed, rungs.decoded))
    }

    /// Longest time in which the first of two stood still behind the second. Of phases of more than
    /// 100 minutes, whose steps are longer than 10 s, only stalls of two steps are seen.
    fn longest_stall(
        &self,
        (from_us, to_us): (i64, i64),
        of: fn(&Rungs) -> (u64, u64),
    ) -> Option<f64> {
        // A run that ended at once has a window that ends before it begins.
        let window =
            self.time.number(from_us)..=self.time.number(to_us - 1).max(self.time.number(from_us));
        let longest = |steps: &BTreeMap<i64, Step>| {
            let (mut longest, mut length, mut before) = (0, 0, None);
            for (number, step) in steps.range(window.clone()) {
                let (behind, ahead) = of(&step.rungs);
                let stands = before == Some((number - 1, behind)) && behind > 0 && ahead > behind;
                length = if stands { length + 1 } else { 0 };
                longest = longest.max(length);
                before = Some((*number, behind));
            }
            longest
        };
        let steps = self.consumers.values().map(longest).max()?;
        Some(f64::from(steps) * self.time.step_us as f64 / 1e6)
    }
}

/// The number at the end of a name: `walbench_0`, `consumer-0`.
fn numbered(name: &str, before: char) -> Option<u32> {
    name.rsplit_once(before)?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use walbench_metrics::Timing;
    use walbench_metrics::Window;
    use walbench_metrics::sample::{SlotState, StreamPosition};
    use walbench_metrics::vitals::ConsumerVitals;

    use super::*;

    /// A window that holds everything.
    const ALL: (i64, i64) = (0, 1_000_000_000);

    /// Each second (decoded, flushed, confirmed).
    fn ladder(seconds: &[(u64, u64, u64)]) -> Ladder {
        let mut ladder = Ladder::new(20_000_000);
        ladder.starts(1_000);
        for (second, (decoded, flushed, confirmed)) in (0..).zip(seconds) {
            let start_us = 1_000 + second * 1_000_000;
            let interval = Interval {
                phase: 0,
                window: Window::Measured,
                start_us,
                end_us: start_us + 1_000_000,
            };
            // The orchestrator measures a moment after the cut.
            let late = Interval { end_us: interval.end_us + 3_000, ..interval };
            ladder.add_server(&state(*confirmed), late);
            let receiver = ReceiverTime { waiting_us: 900_000, ..ReceiverTime::default() };
            ladder.add_consumer(&ConsumerSample {
                worker: "consumer-0".into(),
                interval,
                counts: Default::default(),
                flush: Timing::default(),
                lag: Default::default(),
                position: StreamPosition {
                    message_lsn: 0,
                    received_lsn: *decoded,
                    confirmed_lsn: *flushed,
                    in_flight_bytes: 0,
                },
                vitals: Some(Box::new(ConsumerVitals { receiver, ..Default::default() })),
            });
        }
        ladder
    }

    fn state(confirmed_lsn: u64) -> PostgresState {
        PostgresState {
            wal_lsn: 1_000,
            checkpoints: 0,
            slots: vec![SlotState {
                name: "walbench_0".into(),
                lag_bytes: 0,
                retained_bytes: 0,
                spill_bytes: 0,
                stream_bytes: 0,
                sent_lsn: Some(900),
                confirmed_lsn,
                wal_status: None,
                safe_wal_bytes: None,
            }],
        }
    }

    #[test]
    fn both_ends_of_the_pipeline_meet_in_a_step() {
        let ladder = ladder(&[(10, 8, 6), (20, 18, 16)]);
        let (consumer, steps) = ladder.consumers().next().unwrap();
        assert_eq!((consumer, steps.len()), (0, 2));
        let (at_sec, step) = steps[1];
        assert!((at_sec - 1.5).abs() < 1e-9);
        let rungs = Rungs {
            current: 1_000,
            sent: 900,
            received: 20,
            decoded: 20,
            flushed: 18,
            confirmed: 16,
        };
        assert_eq!((step.rungs, step.receiver.waiting_us), (rungs, 900_000));
        assert_eq!(ladder.in_transit_bytes(0, 1_001_000), Some(890));
        assert_eq!(ladder.in_transit_bytes(0, 9_000_000), None);
        assert_eq!(ladder.in_transit_bytes(1, 1_001_000), None);
    }

    #[test]
    fn what_moves_or_has_nothing_to_do_is_no_stall() {
        let moving = ladder(&[(10, 8, 6), (20, 18, 16), (30, 28, 26)]);
        assert_eq!(moving.confirm_stall_sec(ALL), Some(0.0));
        let idle = ladder(&[(10, 10, 10); 9]);
        assert_eq!(
            (idle.confirm_stall_sec(ALL), idle.durable_stall_sec(ALL)),
            (Some(0.0), Some(0.0))
        );
        assert_eq!(Ladder::new(1).confirm_stall_sec(ALL), None);
    }

    #[test]
    fn a_stall_is_of_the_part_that_stands() {
        let unconfirmed = ladder(&[(10, 8, 6), (20, 18, 6), (30, 28, 6), (40, 38, 36)]);
        assert_eq!(unconfirmed.confirm_stall_sec(ALL), Some(2.0));
        assert_eq!(unconfirmed.durable_stall_sec(ALL), Some(0.0));
        let not_durable = ladder(&[(10, 8, 8), (20, 8, 8), (30, 8, 8), (30, 8, 8), (30, 30, 8)]);
        assert_eq!(not_durable.durable_stall_sec(ALL), Some(3.0));
    }
}
