//! The figures of one phase.

use std::collections::BTreeMap;

use walbench_metrics::Window;
use walbench_metrics::sample::{ClickhouseUse, Role};
use walbench_phases::Plan;
use walbench_phases::plan::{Arrivals, Distribution, Phase};
use walbench_phases::schedule::Shape;

use crate::ladder_picture;
use crate::limit::{Component, Limit};
use crate::metrics_json::{
    ClickhouseFigures, ConsumerFigures, LagFigures, PhaseFigures, PostgresFigures, ProcessFigures,
    ProducerFigures, ProfileFigures, TimingFigures,
};
use crate::outcome::{DrainVerdict, PhaseOutcome};
use crate::profile_figures::profiles;
use crate::tally::{ConsumerTally, PhaseTally, PostgresTally, ProcessTally, ProducerTally};
use crate::timeline::Stall;
use crate::verdict::Verdict;

/// Time beyond the measured window that is no catching up, in µs: the way of the last rows and of
/// the message that they are acknowledged. So a shortfall of less than this is not seen: 1 % of a
/// window of 10 s.
const CATCH_UP_FROM_US: i64 = 100_000;

/// A drain shorter than this has no throughput, in seconds: a single flush would decide it.
const DRAIN_FROM_SEC: f64 = 0.1;

/// The two windows whose CPU time and server state count: the measured rows' work is done in both.
pub(crate) const COUNTED: [Window; 2] = [Window::Measured, Window::Drain];

/// Everything the figures of one phase are made of.
#[derive(Clone, Copy)]
pub(crate) struct PhaseSource<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) phase: &'a Phase,
    pub(crate) outcome: &'a PhaseOutcome,
    pub(crate) tally: &'a PhaseTally,
}

impl<'a> PhaseSource<'a> {
    /// The figures; what is said of them is filled in afterwards.
    pub(crate) fn figures(self) -> PhaseFigures {
        let Self { plan, phase, outcome, .. } = self;
        PhaseFigures {
            name: phase.name.clone(),
            target_throughput: phase.target_throughput,
            planned_throughput: ratio(self.planned_rows(), phase.duration_sec).unwrap_or(0.0),
            duration_sec: self.duration_sec(),
            warmup_sec: phase.warmup_sec,
            verdict: Verdict::Inconclusive,
            reasons: Vec::new(),
            limit: Limit { component: Component::Unknown, evidence: String::new() },
            findings: Vec::new(),
            ceiling_shares: Vec::new(),
            ladders: ladder_picture::places(self),
            drain_sec: self.drain_sec(),
            drain: outcome.drain,
            producer: plan.producer.enabled.then(|| self.producer()),
            consumer: self.consumer(),
            postgres: self.postgres(),
            clickhouse: self.clickhouse(),
            processes: self.processes(),
            profiles: self.profiles(),
            heaps: outcome.heaps.clone(),
        }
    }

    fn profiles(self) -> Vec<ProfileFigures> {
        let rows = |process: &str| {
            let known = self.used_by_process().into_keys().find(|(_, name)| name == process);
            known.map_or(0, |(role, name)| self.rows_of(*role, name))
        };
        profiles(&self.outcome.profiles, rows)
    }

    fn measured_producers(self) -> Option<&'a ProducerTally> {
        self.tally.producers.get(&Window::Measured)
    }

    fn measured_consumers(self) -> Option<&'a ConsumerTally> {
        self.tally.consumers.get(&Window::Measured)
    }

    fn planned_rows(self) -> f64 {
        Shape::new(self.phase).rows(Window::Measured)
    }

    /// End of the measured window: as planned, or earlier where the run ended within it.
    pub(crate) fn end_us(self) -> i64 {
        let PhaseOutcome { measured_from_us, scheduled_end_us, .. } = *self.outcome;
        if self.outcome.ran_to_its_end() {
            return scheduled_end_us;
        }
        self.tally.last_measured_us.unwrap_or(measured_from_us).min(scheduled_end_us)
    }

    fn duration_sec(self) -> f64 {
        seconds(self.end_us() - self.outcome.measured_from_us)
    }

    fn drain_sec(self) -> Option<f64> {
        let drained = self.outcome.drained_us.filter(|_| self.is_drained())?;
        Some(seconds(drained - self.end_us()))
    }

    fn is_drained(self) -> bool {
        matches!(self.outcome.drain, DrainVerdict::Drained | DrainVerdict::NotNeeded)
    }

    /// Seconds from the window's start until the producers had sent what was due in it.
    ///
    /// Two things say how long they went on beyond its end: when the last answer came, and how late
    /// the latest row was sent. The shorter one counts. For the first one alone holds slow answers
    /// against a generator that sent in time, the second one alone a pause that it made up for.
    pub(crate) fn sending_sec(self) -> f64 {
        let last_sample = self.measured_producers().and_then(|tally| tally.last_us);
        let Some(done_us) = self.outcome.producers_done_us.or(last_sample) else {
            return self.duration_sec();
        };
        let mut beyond_us = done_us - self.end_us();
        if let Some(tally) = self.measured_producers().filter(|t| t.lateness.over() == 0)
            && let Some(late_us) = tally.lateness.max_us()
        {
            beyond_us = beyond_us.min(late_us.cast_signed());
        }
        let caught_up = if beyond_us > CATCH_UP_FROM_US { seconds(beyond_us) } else { 0.0 };
        self.duration_sec() + caught_up
    }

    fn producer(self) -> ProducerFigures {
        let tally = self.measured_producers();
        let counts = tally.map(|tally| tally.counts).unwrap_or_default();
        let errors = tally.map(|tally| tally.errors.clone()).unwrap_or_default();
        let timing =
            |pick: fn(&ProducerTally) -> TimingFigures| tally.map(pick).unwrap_or_default();
        let due_rows = counts.rows + counts.failed_rows + counts.unsent_rows + counts.unknown_rows;
        let achieved = tally.and_then(|_| ratio(counts.rows as f64, self.sending_sec()));
        let due_rate = ratio(self.rows_to_hold(due_rows), self.duration_sec());
        let shortfall = |(achieved, due): (f64, f64)| {
            (due > 0.0).then(|| (100.0 * (1.0 - achieved / due)).max(0.0))
        };
        ProducerFigures {
            rows: counts.rows,
            inserts: counts.inserts,
            updates: counts.updates,
            deletes: counts.deletes,
            transactions: counts.transactions,
            due_rows,
            achieved_throughput: achieved,
            shortfall_percent: achieved.or(Some(0.0)).zip(due_rate).and_then(shortfall),
            errors: errors.values().sum(),
            errors_by_sqlstate: errors,
            late_rows: counts.late_rows,
            failed_rows: counts.failed_rows,
            unsent_rows: counts.unsent_rows,
            unknown_rows: counts.unknown_rows,
            missed_updates: counts.missed_updates,
            retries: counts.retries,
            bytes: counts.bytes,
            lateness_us: timing(|tally| (&tally.lateness).into()),
            service_us: timing(|tally| (&tally.service).into()),
            response_us: timing(|tally| (&tally.response).into()),
            cpu_us_per_row: self.cpu_us_per_row(Role::Producer, counts.rows),
            max_rss_bytes: self.max_rss_bytes(Role::Producer),
        }
    }

    /// Rows that had to be sent for the rate to be held: those that were due by the samples, but
    /// not fewer than the plan says, for a worker that says nothing holds no rate.
    ///
    /// The plan's number is taken with its slack: a window holds whole transactions, and with
    /// Poisson arrivals their number varies by its square root (five of them, once in a million).
    fn rows_to_hold(self, due_rows: u64) -> f64 {
        if !self.outcome.ran_to_its_end() {
            return due_rows as f64;
        }
        let batch = f64::from(self.plan.producer.batch_size);
        let slack = match self.plan.producer.arrivals {
            Arrivals::Uniform => batch,
            Arrivals::Poisson => 5.0 * (self.planned_rows() * batch).sqrt() + batch,
        };
        (self.planned_rows() - slack).max(due_rows as f64)
    }

    fn consumer(self) -> ConsumerFigures {
        let tally = self.measured_consumers();
        let counts = tally.map(|tally| tally.counts).unwrap_or_default();
        let after_end = tally.map_or(0, |tally| tally.rows_after_end);
        let draining =
            self.tally.consumers.get(&Window::Drain).map(|t| t.counts).unwrap_or_default();
        let drain_sec = self.drain_sec();
        let stall = self.longest_stall();
        let drained = drain_sec.filter(|sec| *sec >= DRAIN_FROM_SEC && after_end > 0);
        // What it does not tell is not known of another program.
        let own = |count: u64| (!self.plan.consumer.is_external()).then_some(count);
        let over = |rows: u64, sec: f64| tally.and_then(|_| ratio(rows as f64, sec));
        ConsumerFigures {
            rows: counts.rows,
            received_rows: counts.received_rows,
            batches: counts.batches,
            mean_batch_rows: ratio(counts.rows as f64, counts.batches as f64),
            transactions: counts.transactions,
            throughput: over(counts.rows.saturating_sub(after_end), self.duration_sec()),
            drain_throughput: drained.and_then(|sec| over(after_end, sec)),
            end_to_end_throughput: drain_sec
                .and_then(|sec| over(counts.rows, self.duration_sec() + sec)),
            bytes: own(counts.sent_bytes),
            received_bytes: counts.received_bytes,
            encoded_bytes: own(counts.encoded_bytes),
            longest_stall_sec: stall.map(|stall| stall.sec),
            catch_up_sec: stall.and_then(|stall| stall.catch_up_sec),
            retries: own(counts.retries + draining.retries),
            errors: own(counts.errors + draining.errors),
            reconnects: counts.reconnects + draining.reconnects,
            clamped_values: own(counts.clamped_values + draining.clamped_values),
            rejected_rows: own(counts.rejected_rows + draining.rejected_rows),
            unstamped_rows: counts.unstamped_rows + draining.unstamped_rows,
            flush_us: tally.map(|tally| (&tally.flush).into()).unwrap_or_default(),
            lag_us: tally.map(lag).unwrap_or_default(),
            negative_lag_samples: tally.map_or(0, |tally| tally.lag.negative()),
            cpu_us_per_row: self.cpu_us_per_row(Role::Consumer, counts.rows),
            max_rss_bytes: self.max_rss_bytes(Role::Consumer),
        }
    }

    /// Of rows that walbench wrote: when others are written, it does not know.
    fn longest_stall(self) -> Option<Stall> {
        self.plan.producer.enabled.then_some(())?;
        self.tally.timeline.longest_stall(self.receivers())
    }

    /// How many consumers receive each row.
    pub(crate) fn receivers(self) -> u64 {
        match self.plan.consumer.distribution {
            Distribution::All => self.plan.consumer.processes.into(),
            Distribution::Divided => 1,
        }
    }

    fn postgres(self) -> PostgresFigures {
        let state = self.postgres_state();
        let of = |pick: fn(&PostgresTally) -> u64| state.as_ref().map(pick);
        let server = self.used(Role::Postgres);
        PostgresFigures {
            walsender_cpu_us_per_row: self.cpu_us_per_row(Role::Walsender, self.delivered_rows()),
            cpu_us_per_row: self.cpu_us_per_row(Role::Postgres, self.written_rows()),
            cpu_seconds: server.map(|used| used.cpu_us as f64 / 1e6),
            max_rss_bytes: server.map(|used| used.max_rss_bytes),
            slot_lag_bytes_max: of(|state| state.slot_lag_bytes_max),
            retained_bytes_max: of(|state| state.retained_bytes_max),
            wal_bytes: self.wal_bytes().or_else(|| of(|state| state.wal_lsn.1 - state.wal_lsn.0)),
            spill_bytes: self.spill_bytes(),
        }
    }

    /// A server that is measured as a process tells nothing of its own if it is the mock; one on
    /// another machine tells, and is not measured.
    fn clickhouse(self) -> Option<ClickhouseFigures> {
        let windows = COUNTED.iter().filter_map(|window| self.tally.resources.get(window));
        let told = windows.filter_map(|window| window.clickhouse).reduce(|mut all, later| {
            all.merge(&later);
            all
        });
        let process = self.used(Role::Clickhouse);
        if told.is_none() && process.is_none() {
            return None;
        }
        let cpu_us = process.map(|used| used.cpu_us).or_else(|| told?.cpu_us);
        let of = |pick: fn(&ClickhouseUse) -> u64| told.as_ref().map(pick);
        Some(ClickhouseFigures {
            cpu_us_per_row: cpu_us.and_then(|us| ratio(us as f64, self.delivered_rows() as f64)),
            cpu_seconds: cpu_us.map(|us| us as f64 / 1e6),
            max_rss_bytes: process.map(|used| used.max_rss_bytes),
            inserts: of(|told| told.inserts),
            inserted_rows: of(|told| told.inserted_rows),
            inserted_bytes: of(|told| told.inserted_bytes),
            merges: of(|told| told.merges),
            merged_rows: of(|told| told.merged_rows),
            active_parts_max: of(|told| told.active_parts),
            disk_bytes_max: of(|told| told.disk_bytes),
            delayed_inserts: of(|told| told.delayed_inserts),
            rejected_inserts: of(|told| told.rejected_inserts),
        })
    }

    fn wal_bytes(self) -> Option<u64> {
        self.outcome.wal_end_lsn?.checked_sub(self.outcome.wal_start_lsn?)
    }

    fn postgres_state(self) -> Option<PostgresTally> {
        let states =
            COUNTED.iter().filter_map(|window| self.tally.resources.get(window)?.postgres.clone());
        states.reduce(|mut all, other| {
            all.merge(other);
            all
        })
    }

    /// The counters run since the slots were made, so the first value of the phase, warm-up
    /// included, is what was there before.
    fn spill_bytes(self) -> Option<u64> {
        let states = self.tally.resources.values().filter_map(|window| window.postgres.clone());
        let whole = states.reduce(|mut all, other| {
            all.merge(other);
            all
        })?;
        Some(whole.spill_bytes.values().map(|(least, most)| most - least).sum())
    }

    /// Each process in the counted windows.
    fn used_by_process(self) -> BTreeMap<&'a (Role, String), ProcessTally> {
        let mut all: BTreeMap<_, ProcessTally> = BTreeMap::new();
        for window in COUNTED {
            for (key, used) in self.tally.resources.get(&window).iter().flat_map(|r| &r.processes) {
                all.entry(key).or_default().merge(used);
            }
        }
        all
    }

    /// All processes of a role together; the memory is that of the largest.
    fn used(self, role: Role) -> Option<ProcessTally> {
        let of_role = self.used_by_process().into_iter().filter(|(key, _)| key.0 == role);
        of_role.map(|(_, used)| used).reduce(|mut all, other| {
            all.merge(&other);
            all
        })
    }

    fn cpu_us_per_row(self, role: Role, rows: u64) -> Option<f64> {
        ratio(self.used(role)?.cpu_us as f64, rows as f64)
    }

    fn max_rss_bytes(self, role: Role) -> Option<u64> {
        Some(self.used(role)?.max_rss_bytes)
    }

    fn delivered_rows(self) -> u64 {
        self.measured_consumers().map_or(0, |tally| tally.counts.rows)
    }

    /// Rows written to the source; where others write them, those that were delivered.
    fn written_rows(self) -> u64 {
        if !self.plan.producer.enabled {
            return self.delivered_rows();
        }
        self.measured_producers().map_or(0, |tally| tally.counts.rows)
    }

    fn processes(self) -> Vec<ProcessFigures> {
        let measured = self.tally.resources.get(&Window::Measured);
        let processes = self.used_by_process().into_iter().map(|(key, used)| {
            let (role, name) = key;
            let in_window = measured.and_then(|resources| resources.processes.get(key));
            ProcessFigures {
                name: name.clone(),
                role: *role,
                cpu_seconds: used.cpu_us as f64 / 1e6,
                cpu_us_per_row: ratio(used.cpu_us as f64, self.rows_of(*role, name) as f64),
                cpu_share: share(&used),
                measured_cpu_share: in_window.and_then(share),
                max_rss_bytes: used.max_rss_bytes,
                max_allocated_bytes: self.max_allocated_bytes(name),
            }
        });
        processes.collect()
    }

    fn max_allocated_bytes(self, consumer: &str) -> Option<u64> {
        let windows = COUNTED.iter().filter_map(|window| self.tally.consumers.get(window));
        let vitals = windows.filter_map(|window| window.vitals.get(consumer));
        vitals.filter_map(|vitals| Some(vitals.allocator?.allocated_bytes)).max()
    }

    /// Rows a process worked on.
    fn rows_of(self, role: Role, name: &str) -> u64 {
        let written = self.measured_producers().map(|tally| &tally.rows_by_worker);
        let delivered = self.measured_consumers().map(|tally| &tally.rows_by_worker);
        match role {
            Role::Producer => written.and_then(|rows| rows.get(name)).copied().unwrap_or_default(),
            Role::Consumer => {
                delivered.and_then(|rows| rows.get(name)).copied().unwrap_or_default()
            }
            // `walsender-1` sends to `consumer-1`; of one that is called otherwise nobody knows.
            Role::Walsender => {
                let consumer = name.replace("walsender", "consumer");
                delivered.and_then(|rows| rows.get(&consumer)).copied().unwrap_or_default()
            }
            Role::Clickhouse => self.delivered_rows(),
            Role::Orchestrator | Role::Postgres => self.written_rows(),
        }
    }
}

fn lag(tally: &ConsumerTally) -> LagFigures {
    LagFigures {
        commit_to_received: (&tally.lag.commit_to_received).into(),
        received_to_flushed: (&tally.lag.received_to_flushed).into(),
        commit_to_flushed: (&tally.lag.commit_to_flushed).into(),
        due_to_flushed: (&tally.lag.due_to_flushed).into(),
        commit_to_visible: Some(&tally.lag.commit_to_visible)
            .filter(|timing| !timing.is_empty())
            .map(Into::into),
    }
}

fn share(used: &ProcessTally) -> Option<f64> {
    ratio(used.cpu_us as f64, used.wall_us as f64)
}

/// `None` instead of a division by nothing.
pub(crate) fn ratio(amount: f64, by: f64) -> Option<f64> {
    (by > 0.0).then(|| amount / by)
}

/// µs as seconds; a negative length, which two clocks can make, is none.
fn seconds(us: i64) -> f64 {
    us.max(0) as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use walbench_metrics::sample::{Interval, ProducerCounts, Sample};

    use super::*;
    use crate::metrics_json::Metrics;
    use crate::outcome::RunOutcome;
    use crate::tally::Tally;
    use crate::testing::{environment, outcome, passing_samples, plan, producer};

    fn metrics(plan: &Plan, outcome: &RunOutcome, samples: &[Sample]) -> Metrics {
        let tally = Tally::replay(plan, outcome, samples);
        crate::metrics(plan, &tally, outcome, &environment())
    }

    /// The first phase's figures when its measured rows were written like this.
    fn written(plan: &Plan, done_late_us: i64, samples: &[(u64, i64)]) -> PhaseFigures {
        let mut outcome = outcome();
        let end_us = outcome.phases[0].scheduled_end_us;
        outcome.phases[0].producers_done_us = Some(end_us + done_late_us);
        let start_us = outcome.phases[0].measured_from_us;
        let at = Interval { phase: 0, window: Window::Measured, start_us, end_us };
        let samples: Vec<Sample> =
            samples.iter().map(|(rows, late_us)| producer(at, *rows, *late_us)).collect();
        metrics(plan, &outcome, &samples).phases.remove(0)
    }

    fn achieved_and_short(figures: &PhaseFigures) -> (f64, f64) {
        let producer = figures.producer.as_ref().unwrap();
        (producer.achieved_throughput.unwrap().round(), producer.shortfall_percent.unwrap().round())
    }

    #[test]
    fn slow_answers_are_no_shortfall() {
        let figures = written(&plan(), 900_000, &[(10_000, 90)]);
        assert_eq!(achieved_and_short(&figures), (1_000.0, 0.0));
    }

    #[test]
    fn a_pause_that_was_made_up_for_is_no_shortfall() {
        let figures = written(&plan(), 5_000, &[(8_000, 90), (2_000, 2_000_000)]);
        assert_eq!(achieved_and_short(&figures), (1_000.0, 0.0));
    }

    #[test]
    fn catching_up_after_the_end_is_a_shortfall() {
        let figures = written(&plan(), 2_500_000, &[(5_000, 1_250_000), (5_000, 2_499_000)]);
        assert_eq!(achieved_and_short(&figures), (800.0, 20.0));
        assert_eq!(figures.verdict, Verdict::Invalid);
    }

    #[test]
    fn rows_that_were_never_sent_are_a_shortfall() {
        let mut outcome = outcome();
        outcome.phases.truncate(1);
        let mut samples = passing_samples();
        for sample in &mut samples {
            if let Sample::Producer(sample) = sample {
                let ProducerCounts { rows, unsent_rows, .. } = &mut sample.counts;
                (*rows, *unsent_rows) = (800, 200);
            }
        }
        let figures = metrics(&plan(), &outcome, &samples).phases.remove(0);
        assert_eq!(achieved_and_short(&figures), (800.0, 20.0));
        assert_eq!(figures.verdict, Verdict::Invalid);
        assert_eq!(figures.reasons.len(), 2, "{:?}", figures.reasons);
    }

    #[test]
    fn a_worker_that_says_nothing_is_a_shortfall() {
        let figures = written(&plan(), 0, &[(5_000, 90)]);
        assert_eq!(achieved_and_short(&figures), (500.0, 50.0));
    }

    #[test]
    fn chance_is_no_shortfall() {
        let mut plan = plan();
        plan.producer.arrivals = Arrivals::Poisson;
        let figures = written(&plan, 0, &[(9_500, 90)]);
        assert_eq!(achieved_and_short(&figures), (950.0, 0.0));
        let figures = written(&plan, 0, &[(5_000, 90)]);
        assert!(achieved_and_short(&figures).1 > 30.0);
    }

    #[test]
    fn window_drain_and_both_have_rates_of_their_own() {
        let figures = metrics(&plan(), &outcome(), &passing_samples()).phases.remove(0);
        let consumer = &figures.consumer;
        assert_eq!(consumer.rows, 10_000);
        assert_eq!(consumer.throughput, Some(990.0));
        assert_eq!(consumer.drain_throughput.map(f64::round), Some(667.0));
        assert_eq!(consumer.end_to_end_throughput.map(f64::round), Some(985.0));
    }

    #[test]
    fn a_drain_too_short_has_no_rate() {
        let mut outcome = outcome();
        outcome.phases[0].drained_us = Some(outcome.phases[0].scheduled_end_us + 50_000);
        let figures = metrics(&plan(), &outcome, &passing_samples()).phases.remove(0);
        assert_eq!(figures.drain_sec, Some(0.05));
        assert_eq!(figures.consumer.drain_throughput, None);
    }

    #[test]
    fn cpu_is_that_of_window_and_drain_and_not_of_the_warm_up() {
        let figures = metrics(&plan(), &outcome(), &passing_samples()).phases.remove(0);
        // 5 % of a core for 10 s and 2.5 % for the drain of 0.15 s, over 10,000 rows.
        assert_eq!(figures.producer.unwrap().cpu_us_per_row, Some(50.375));
        let postgres = figures.processes.iter().find(|p| p.role == Role::Postgres).unwrap();
        assert_eq!(postgres.measured_cpu_share, Some(0.2));
    }

    #[test]
    fn what_was_not_measured_is_not_zero() {
        let figures = metrics(&plan(), &outcome(), &[]).phases.remove(0);
        let producer = figures.producer.as_ref().unwrap();
        assert_eq!((producer.achieved_throughput, producer.cpu_us_per_row), (None, None));
        assert_eq!(producer.lateness_us, TimingFigures::default());
        assert_eq!(figures.consumer.throughput, None);
        let outcome_knows =
            PostgresFigures { wal_bytes: Some(12_000_000), ..PostgresFigures::default() };
        assert_eq!(figures.postgres, outcome_knows);
        assert_eq!(figures.verdict, Verdict::Inconclusive);
    }

    #[test]
    fn without_producers_there_are_no_figures_of_them() {
        let mut plan = plan();
        plan.producer.enabled = false;
        let samples: Vec<Sample> =
            passing_samples().into_iter().filter(|s| !matches!(s, Sample::Producer(_))).collect();
        let figures = metrics(&plan, &outcome(), &samples).phases.remove(0);
        assert_eq!(figures.producer, None);
        assert!(figures.consumer.throughput.is_some() && figures.postgres.cpu_us_per_row.is_some());
    }
}
