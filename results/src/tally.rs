//! All samples of a run, merged as they come.

use std::collections::BTreeMap;

use walbench_metrics::Timing;
use walbench_metrics::Window;
use walbench_metrics::sample::{
    ClickhouseUse, ConsumerCounts, ConsumerSample, Interval, Lag, PostgresState, ProcessUse,
    ProducerCounts, ProducerSample, ResourceSample, Role, Sample, SlotState,
};
use walbench_metrics::vitals::{ConsumerVitals, MachineUse, Scheduling, TcpUse, Waits};
use walbench_phases::Plan;
use walbench_phases::schedule::Shape;

use crate::ladder::Ladder;
use crate::outcome::RunOutcome;
use crate::timeline::Timeline;
use crate::trend::Trend;

/// All samples of a run, merged. Its size depends on the plan's phases and workers, not on how
/// long they run; the order in which samples come makes no difference.
#[derive(Clone, Debug, PartialEq)]
pub struct Tally {
    phases: Vec<PhaseTally>,
    unplaced: u64,
}

/// The samples of one phase.
#[derive(Clone, Debug, PartialEq)]
pub struct PhaseTally {
    /// Length of warm-up and measured window, in µs.
    length_us: i64,
    /// End of the measured window by the plan, in µs since the Unix epoch; `None` until the phase
    /// starts.
    end_us: Option<i64>,
    /// End of the latest sample of the measured window, in µs since the Unix epoch: rows of the
    /// window may be delivered long after it.
    pub last_measured_us: Option<i64>,
    /// When rows were written and delivered.
    pub timeline: Timeline,
    /// How far each part was in the WAL.
    pub ladder: Ladder,
    /// Producers, by window.
    pub producers: BTreeMap<Window, ProducerTally>,
    /// Consumers, by window.
    pub consumers: BTreeMap<Window, ConsumerTally>,
    /// Processes and server, by window.
    pub resources: BTreeMap<Window, ResourceTally>,
}

/// What the producers did in one window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProducerTally {
    /// All workers' counters.
    pub counts: ProducerCounts,
    /// Failed attempts by SQLSTATE.
    pub errors: BTreeMap<String, u64>,
    /// Due → sent; kept for the measured window alone, as all timings.
    pub lateness: Timing,
    /// Sent → acknowledged.
    pub service: Timing,
    /// Due → acknowledged.
    pub response: Timing,
    /// Rows by worker.
    pub rows_by_worker: BTreeMap<String, u64>,
    /// End of the latest sample that holds rows, in µs since the Unix epoch.
    pub last_us: Option<i64>,
}

/// What the consumers did in one window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConsumerTally {
    /// All workers' counters.
    pub counts: ConsumerCounts,
    /// Rows that the sink acknowledged after the measured window's end.
    pub rows_after_end: u64,
    /// Time of one flush.
    pub flush: Timing,
    /// Lag by stage.
    pub lag: Lag,
    /// Rows by worker.
    pub rows_by_worker: BTreeMap<String, u64>,
    /// How each worker spent the window, by the clock.
    pub vitals: BTreeMap<String, ConsumerVitals>,
    /// What each worker's allocator held over time.
    pub allocators: BTreeMap<String, AllocatorTally>,
}

/// What an allocator held over time, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AllocatorTally {
    /// What the program had.
    pub allocated: Trend,
    /// The allocator's own books, its profiler's among them.
    pub metadata: Trend,
}

/// What processes and the server used in one window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResourceTally {
    /// Every process by role and name.
    pub processes: BTreeMap<(Role, String), ProcessTally>,
    /// CPU time of the busiest thread of each name, in µs, by process and name.
    pub threads: BTreeMap<(String, String), u64>,
    /// Memory of each process over time.
    pub memory: BTreeMap<String, Trend>,
    /// The machine; `None` where it tells nothing.
    pub machine: Option<MachineUse>,
    /// What PostgreSQL's processes waited for; empty without the doctor.
    pub waits: BTreeMap<String, Waits>,
    /// The ends of replication connections over TCP, by the process that has them.
    pub connections: BTreeMap<String, TcpUse>,
    /// State of the server; `None` when it never answered.
    pub postgres: Option<PostgresTally>,
    /// What ClickHouse did, and the most it held; `None` without one.
    pub clickhouse: Option<ClickhouseUse>,
}

/// One process in one window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessTally {
    /// CPU time used, in µs.
    pub cpu_us: u64,
    /// Time in which it was used, in µs.
    pub wall_us: u64,
    /// Most resident memory, in bytes.
    pub max_rss_bytes: u64,
    /// Time in which threads could have run and no core was free, in µs; `None` where the kernel does
    /// not tell.
    pub run_delay_us: Option<u64>,
    /// How often a thread gave its core away.
    pub voluntary_switches: u64,
    /// How often a core was taken from a thread.
    pub involuntary_switches: u64,
}

/// The source server's state over one window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresTally {
    /// Lowest and highest WAL position.
    pub wal_lsn: (u64, u64),
    /// Largest lag of a slot, in bytes.
    pub slot_lag_bytes_max: u64,
    /// Most WAL kept for a slot, in bytes.
    pub retained_bytes_max: u64,
    /// Fewest and most bytes spilled since the slot was made, by slot.
    pub spill_bytes: BTreeMap<String, (u64, u64)>,
    /// When, in µs since the Unix epoch, and the largest slot's lag then: at the first sample.
    pub first_lag: (i64, u64),
    /// The same at the last sample.
    pub last_lag: (i64, u64),
    /// The largest slot's lag over time.
    pub lag: Trend,
    /// Fewest and most bytes streamed since the slot was made, by slot.
    pub stream_bytes: BTreeMap<String, (u64, u64)>,
    /// Fewest and most checkpoints since the server's statistics were reset.
    pub checkpoints: (u64, u64),
    /// The worst that the server said of a slot's WAL beside `reserved` and `extended`.
    pub endangered_slot: Option<String>,
}

impl Tally {
    /// An empty tally of the plan's phases.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        let phases = plan.phases.iter().map(|phase| PhaseTally::new(&Shape::new(phase))).collect();
        Self { phases, unplaced: 0 }
    }

    /// Says when a phase starts (warm-up included), in µs since the Unix epoch: before any of its
    /// samples is added, so that rows delivered after its end are told from those before.
    pub fn phase_starts(&mut self, phase: u32, start_us: i64) {
        if let Some(tally) = self.phases.get_mut(phase as usize) {
            tally.end_us = Some(start_us.saturating_add(tally.length_us));
            tally.timeline.starts(start_us);
            tally.ladder.starts(start_us);
        }
    }

    /// Adds a sample.
    pub fn add(&mut self, sample: &Sample) {
        let Some(phase) = self.phases.get_mut(sample.interval().phase as usize) else {
            self.unplaced += 1;
            return;
        };
        phase.see(sample.interval());
        match sample {
            Sample::Producer(sample) => phase.add_producer(sample),
            Sample::Consumer(sample) => phase.add_consumer(sample),
            Sample::Resources(sample) => phase.add_resources(sample),
        }
    }

    /// The tally of a finished run, from the samples it left.
    pub fn replay<'a>(
        plan: &Plan,
        outcome: &RunOutcome,
        samples: impl IntoIterator<Item = &'a Sample>,
    ) -> Self {
        let mut tally = Self::new(plan);
        for phase in &outcome.phases {
            tally.phase_starts(phase.index, phase.started_us);
        }
        for sample in samples {
            tally.add(sample);
        }
        tally
    }

    /// The samples of the phase with this index in the plan.
    #[must_use]
    pub fn phase(&self, index: u32) -> Option<&PhaseTally> {
        self.phases.get(index as usize)
    }

    /// Samples of phases that the plan does not have.
    #[must_use]
    pub fn unplaced(&self) -> u64 {
        self.unplaced
    }
}

impl PhaseTally {
    fn new(shape: &Shape) -> Self {
        let length_us = i64::try_from(shape.total().as_micros()).unwrap_or(i64::MAX);
        Self {
            length_us,
            end_us: None,
            last_measured_us: None,
            timeline: Timeline::new(length_us),
            ladder: Ladder::new(length_us),
            producers: BTreeMap::new(),
            consumers: BTreeMap::new(),
            resources: BTreeMap::new(),
        }
    }

    fn see(&mut self, interval: Interval) {
        if interval.window == Window::Measured {
            self.last_measured_us = self.last_measured_us.max(Some(interval.end_us));
        }
    }

    fn add_producer(&mut self, sample: &ProducerSample) {
        let ProducerSample { worker, interval, counts, lateness, service, response, errors } =
            sample;
        self.timeline.written(interval.middle_us(), counts.rows);
        let tally = self.producers.entry(interval.window).or_default();
        tally.counts.merge(counts);
        for (code, count) in errors {
            *tally.errors.entry(code.clone()).or_default() += count;
        }
        *tally.rows_by_worker.entry(worker.clone()).or_default() += counts.rows;
        if counts.rows > 0 {
            tally.last_us = tally.last_us.max(Some(interval.end_us));
        }
        if interval.window == Window::Measured {
            tally.lateness.merge(lateness);
            tally.service.merge(service);
            tally.response.merge(response);
        }
    }

    fn add_consumer(&mut self, sample: &ConsumerSample) {
        let ConsumerSample { worker, interval, counts, flush, lag, position: _, vitals } = sample;
        self.ladder.add_consumer(sample);
        let after_end = self.is_after_end(*interval);
        self.timeline.delivered(interval.middle_us(), counts.rows);
        let tally = self.consumers.entry(interval.window).or_default();
        tally.counts.merge(counts);
        *tally.rows_by_worker.entry(worker.clone()).or_default() += counts.rows;
        if after_end {
            tally.rows_after_end += counts.rows;
        }
        if let Some(vitals) = vitals {
            tally.vitals.entry(worker.clone()).or_default().merge(vitals);
            if let Some(held) = vitals.allocator {
                let over_time = tally.allocators.entry(worker.clone()).or_default();
                over_time.allocated.see(interval.end_us, held.allocated_bytes);
                over_time.metadata.see(interval.end_us, held.metadata_bytes);
            }
        }
        if interval.window == Window::Measured {
            tally.flush.merge(flush);
            tally.lag.merge(lag);
        }
    }

    /// Samples are cut at the window's end, but clocks are read a moment after they were aimed at:
    /// the middle of the interval says surely on which side of the cut it is.
    fn is_after_end(&self, interval: Interval) -> bool {
        self.end_us.is_some_and(|end_us| interval.middle_us() >= end_us)
    }

    fn add_resources(&mut self, sample: &ResourceSample) {
        let ResourceSample {
            interval,
            processes,
            postgres,
            clickhouse,
            machine,
            waits,
            connections,
        } = sample;
        if let Some(state) = postgres {
            self.ladder.add_server(state, *interval);
        }
        let tally = self.resources.entry(interval.window).or_default();
        let wall_us = u64::try_from(interval.end_us - interval.start_us).unwrap_or_default();
        for process in processes {
            tally.add_process(process, wall_us, interval.end_us);
        }
        if let Some(machine) = machine {
            tally.machine.get_or_insert_default().merge(machine);
        }
        for (process, waits) in waits {
            tally.waits.entry(process.clone()).or_default().merge(waits);
        }
        for (process, used) in connections {
            tally.connections.entry(process.clone()).or_default().merge(used);
        }
        if let Some(state) = postgres {
            let now = PostgresTally::new(state, interval.end_us);
            match &mut tally.postgres {
                Some(tally) => tally.merge(now),
                none => *none = Some(now),
            }
        }
        if let Some(done) = clickhouse {
            match &mut tally.clickhouse {
                Some(tally) => tally.merge(done),
                none => *none = Some(*done),
            }
        }
    }
}

impl ResourceTally {
    fn add_process(&mut self, process: &ProcessUse, wall_us: u64, at_us: i64) {
        let ProcessUse { name, role, cpu_us, rss_bytes, scheduling } = process;
        self.memory.entry(name.clone()).or_default().see(at_us, *rss_bytes);
        for (thread, cpu_us) in scheduling.iter().flat_map(busiest_threads) {
            *self.threads.entry((name.clone(), thread)).or_default() += cpu_us;
        }
        let of = |pick: fn(&Scheduling) -> u64| scheduling.as_ref().map_or(0, pick);
        self.processes.entry((*role, name.clone())).or_default().merge(&ProcessTally {
            cpu_us: *cpu_us,
            wall_us,
            max_rss_bytes: *rss_bytes,
            run_delay_us: scheduling.as_ref().map(|it| it.run_delay_us),
            voluntary_switches: of(|it| it.voluntary_switches),
            involuntary_switches: of(|it| it.involuntary_switches),
        });
    }
}

/// The busiest thread of each name in an interval: threads come and go, their names stay.
fn busiest_threads(scheduling: &Scheduling) -> BTreeMap<String, u64> {
    let mut busiest: BTreeMap<String, u64> = BTreeMap::new();
    for thread in &scheduling.threads {
        let name = thread.name.rsplit_once('/').map_or(&*thread.name, |(name, _)| name);
        let most = busiest.entry(name.to_owned()).or_default();
        *most = thread.cpu_us.max(*most);
    }
    busiest
}

impl ProcessTally {
    /// Adds what the process used at another time.
    pub fn merge(&mut self, other: &Self) {
        let Self {
            cpu_us,
            wall_us,
            max_rss_bytes,
            run_delay_us,
            voluntary_switches,
            involuntary_switches,
        } = other;
        self.cpu_us += cpu_us;
        self.wall_us += wall_us;
        self.max_rss_bytes = self.max_rss_bytes.max(*max_rss_bytes);
        if let Some(us) = run_delay_us {
            *self.run_delay_us.get_or_insert_default() += us;
        }
        self.voluntary_switches += voluntary_switches;
        self.involuntary_switches += involuntary_switches;
    }
}

impl PostgresTally {
    fn new(state: &PostgresState, at_us: i64) -> Self {
        let PostgresState { wal_lsn, slots, checkpoints } = state;
        let lag = slots.iter().map(|slot| slot.lag_bytes).max().unwrap_or_default();
        let twice = |slot: &SlotState, value: u64| (slot.name.clone(), (value, value));
        let mut trend = Trend::default();
        trend.see(at_us, lag);
        let endangered = |slot: &SlotState| {
            let status = slot.wal_status.as_deref()?;
            matches!(status, "unreserved" | "lost").then(|| status.to_owned())
        };
        Self {
            wal_lsn: (*wal_lsn, *wal_lsn),
            slot_lag_bytes_max: lag,
            retained_bytes_max: slots.iter().map(|s| s.retained_bytes).max().unwrap_or_default(),
            spill_bytes: slots.iter().map(|slot| twice(slot, slot.spill_bytes)).collect(),
            stream_bytes: slots.iter().map(|slot| twice(slot, slot.stream_bytes)).collect(),
            checkpoints: (*checkpoints, *checkpoints),
            endangered_slot: slots.iter().filter_map(endangered).min(),
            first_lag: (at_us, lag),
            last_lag: (at_us, lag),
            lag: trend,
        }
    }

    /// Adds the server's state at another time.
    pub fn merge(&mut self, other: Self) {
        let Self {
            wal_lsn,
            slot_lag_bytes_max,
            retained_bytes_max,
            spill_bytes,
            first_lag,
            last_lag,
            lag,
            stream_bytes,
            checkpoints,
            endangered_slot,
        } = other;
        self.wal_lsn = widened(self.wal_lsn, wal_lsn);
        self.slot_lag_bytes_max = self.slot_lag_bytes_max.max(slot_lag_bytes_max);
        self.retained_bytes_max = self.retained_bytes_max.max(retained_bytes_max);
        for (ours, theirs) in
            [(&mut self.spill_bytes, spill_bytes), (&mut self.stream_bytes, stream_bytes)]
        {
            for (slot, range) in theirs {
                ours.entry(slot).and_modify(|ours| *ours = widened(*ours, range)).or_insert(range);
            }
        }
        self.lag.merge(&lag);
        self.checkpoints = widened(self.checkpoints, checkpoints);
        // Of two, `lost` comes first in the alphabet, and is worse.
        self.endangered_slot = match (self.endangered_slot.take(), endangered_slot) {
            (Some(ours), Some(theirs)) => Some(ours.min(theirs)),
            (ours, theirs) => ours.or(theirs),
        };
        self.first_lag = self.first_lag.min(first_lag);
        self.last_lag = self.last_lag.max(last_lag);
    }
}

fn widened((low, high): (u64, u64), (other_low, other_high): (u64, u64)) -> (u64, u64) {
    (low.min(other_low), high.max(other_high))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{consumer, environment, outcome, plan, producer, resources};

    prop_compose! {
        fn interval()(
            phase in 0..3u32,
            window in prop::sample::select(vec![Window::Warmup, Window::Measured, Window::Drain]),
            second in 0..20i64,
            length_us in 1..2_000_000i64,
        ) -> Interval {
            let start_us = outcome().phases[0].started_us + second * 1_000_000;
            Interval { phase, window, start_us, end_us: start_us + length_us }
        }
    }

    fn sample() -> impl Strategy<Value = Sample> {
        (interval(), 0..3u8, 0..5_000u64, -5_000..5_000_000i64).prop_map(
            |(interval, kind, rows, us)| match kind {
                0 => producer(interval, rows, us),
                1 => consumer(interval, rows, us),
                _ => resources(interval, rows as f64 / 1_000.0),
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn the_order_of_samples_makes_no_difference(
            (samples, shuffled) in prop::collection::vec(sample(), 0..12)
                .prop_flat_map(|samples| (Just(samples.clone()), Just(samples).prop_shuffle())),
        ) {
            let (plan, outcome) = (plan(), outcome());
            prop_assert_eq!(
                Tally::replay(&plan, &outcome, &samples),
                Tally::replay(&plan, &outcome, &shuffled)
            );
        }

        #[test]
        fn figures_of_the_log_are_the_live_ones(samples in prop::collection::vec(sample(), 0..12)) {
            let (plan, outcome) = (plan(), outcome());
            let read: Vec<Sample> = samples
                .iter()
                .map(|s| serde_json::from_str(&serde_json::to_string(s).unwrap()).unwrap())
                .collect();
            let live = Tally::replay(&plan, &outcome, &samples);
            let replayed = Tally::replay(&plan, &outcome, &read);
            prop_assert_eq!(
                crate::metrics(&plan, &live, &outcome, &environment()),
                crate::metrics(&plan, &replayed, &outcome, &environment())
            );
        }
    }

    #[test]
    fn a_long_run_takes_no_more_room() {
        let outcome = outcome();
        let mut tally = Tally::new(&plan());
        tally.phase_starts(0, outcome.phases[0].started_us);
        for second in 0..1_000 {
            let start_us = outcome.phases[0].measured_from_us + second * 1_000_000;
            let end_us = start_us + 1_000_000;
            let at = Interval { phase: 0, window: Window::Measured, start_us, end_us };
            tally.add(&producer(at, 100, 90));
            tally.add(&resources(at, 1.0));
        }
        let phase = tally.phase(0).unwrap();
        assert_eq!(phase.producers[&Window::Measured].counts.rows, 100_000);
        assert_eq!(phase.producers[&Window::Measured].rows_by_worker.len(), 1);
        assert_eq!(phase.resources[&Window::Measured].processes.len(), 5);
    }

    #[test]
    fn rows_delivered_after_the_end_are_told_apart() {
        let outcome = outcome();
        let end = outcome.phases[0].scheduled_end_us;
        let mut tally = Tally::new(&plan());
        tally.phase_starts(0, outcome.phases[0].started_us);
        // The clock was read a little after the cut.
        for (start_us, end_us) in [(end - 1_000_000, end + 900), (end + 900, end + 200_000)] {
            let at = Interval { phase: 0, window: Window::Measured, start_us, end_us };
            tally.add(&consumer(at, 100, 90));
        }
        let consumers = &tally.phase(0).unwrap().consumers[&Window::Measured];
        assert_eq!((consumers.counts.rows, consumers.rows_after_end), (200, 100));
    }

    #[test]
    fn a_sample_of_no_phase_is_counted() {
        let mut tally = Tally::new(&plan());
        let at = Interval { phase: 9, window: Window::Measured, start_us: 0, end_us: 1 };
        tally.add(&producer(at, 100, 90));
        assert_eq!(tally.unplaced(), 1);
    }
}
