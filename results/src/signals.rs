//! The signals that the doctor looks at, taken from a phase's samples and figures.

use walbench_metrics::Window;
use walbench_metrics::sample::Role;
use walbench_metrics::vitals::{ConsumerVitals, MachineUse, TcpUse, Waits};
use walbench_phases::address::{Host, PostgresAddress};
use walbench_profiles::doctor::{
    Backlog, Busy, ConnectionShares, Errors, Growth, Lane, LooksShares, MachineShares,
    MemoryGrowth, ProcessShares, ReceiverShares, Signals, SinkSignals, WaitShares, Walsender,
};

use crate::ceilings::can_do;
use crate::environment::Environment;
use crate::human;
use crate::metrics_json::PhaseFigures;
use crate::outcome::DrainVerdict;
use crate::phase_figures::{PhaseSource, ratio};
use crate::tally::ResourceTally;
use crate::trend::Trend;
use crate::verdict::shortfall;

/// Share of the measured rows up to which what is delivered after the window's end is no backlog.
const BACKLOG_SHARE: f64 = 0.05;
/// Seconds' worth of rows up to which it isn't either, beside the time batches wait by design.
const BACKLOG_SEC: f64 = 1.0;

/// The longest time from one confirmation to the next that is no delay, in seconds: PostgreSQL's own
/// receivers confirm as rarely (`wal_receiver_status_interval`).
const LONGEST_CONFIRMATION_SEC: f64 = 10.0;

/// What a consumer's receiving thread is called.
const RECEIVER: &str = "receiver";

/// What the doctor's rules look at.
pub(crate) fn signals(
    source: PhaseSource<'_>,
    figures: &PhaseFigures,
    environment: &Environment,
) -> Signals {
    let PhaseFigures { producer, consumer, .. } = figures;
    let rows = producer.as_ref().map_or(0, |producer| producer.rows) + consumer.rows;
    let measured = source.tally.resources.get(&Window::Measured);
    // What a container may use of a machine is less than what that has and does.
    let is_whole = environment.machine.cores() >= f64::from(environment.machine.logical_cores);
    let machine = measured.and_then(|tally| tally.machine).filter(|_| is_whole);
    let window_us = (source.outcome.measured_from_us, source.end_us());
    let used_cores = used_cores(figures);
    let knows_all = knows_all(source, figures);
    Signals {
        measured: rows > 0,
        window_sec: figures.duration_sec,
        short: shortfall(source.plan, figures),
        behind: behind(source, figures),
        held: held(figures),
        errors: failed(figures),
        cores: environment.machine.cores(),
        used_cores: used_cores.filter(|_| environment.machine.logical_cores > 0),
        machine: machine.as_ref().and_then(|it| {
            of_machine(it, environment.machine.logical_cores, used_cores, knows_all)
        }),
        producers: processes(figures, measured, Role::Producer),
        connections: connections(source, figures),
        backends: measured.and_then(|tally| tally.waits.get("backends")).and_then(of_all),
        lanes: lanes(source, figures),
        sink: sink(source, figures),
        backlog: backlog(source),
        spilled_bytes: figures.postgres.spill_bytes,
        confirm_stall_sec: source.tally.ladder.confirm_stall_sec(window_us),
        durable_stall_sec: durable_stall_sec(source, window_us),
        endangered_slot: measured
            .and_then(|tally| tally.postgres.as_ref())
            .and_then(|postgres| postgres.endangered_slot.clone()),
        memory: memory(source, figures),
        is_local: is_local(source),
        ceiling: figures.ceiling_shares.first().map(|it| (can_do(it.of).to_owned(), it.share)),
        is_external: source.plan.consumer.is_external(),
    }
}

/// The private server is reached over nothing that could be slow, and a Unix socket neither. What is
/// behind an address of this machine nobody knows: it may be the end of a tunnel.
fn is_local(source: PhaseSource<'_>) -> bool {
    let is_socket = |url: &String| {
        PostgresAddress::parse(url).is_ok_and(|address| matches!(address.host, Host::Unix(_)))
    };
    source.plan.consumer.launcher.is_empty()
        && source.plan.postgres.url.as_ref().is_none_or(is_socket)
}

/// How the consumers fell behind: they had more left at the window's end than a pipeline that keeps
/// up has under way.
fn behind(source: PhaseSource<'_>, figures: &PhaseFigures) -> Option<String> {
    let PhaseFigures { duration_sec, consumer, producer, .. } = figures;
    let tally = source.tally.consumers.get(&Window::Measured)?;
    let within = consumer.rows.saturating_sub(tally.rows_after_end);
    // Rows that never came are as far behind as it gets.
    let written = producer.as_ref().map_or(0, |producer| producer.rows) * source.receivers();
    let all = written.max(consumer.rows) as f64;
    let left = all - within as f64;
    let left_sec = ratio(left * duration_sec, all)?;
    if source.outcome.drain == DrainVerdict::TimedOut {
        let limit = human::sec(source.plan.limits.drain_sec);
        return Some(format!("rows had not arrived {limit} after the phase's end"));
    }
    let by_design_sec = match source.plan.consumer.is_external() {
        true => confirmation_sec(figures),
        false => {
            let consumer = &source.plan.consumer;
            (consumer.flush_interval_ms + consumer.mock_delay_ms) as f64 / 1e3
        }
    };
    let fell_behind = left > BACKLOG_SHARE * all && left_sec > BACKLOG_SEC + by_design_sec;
    fell_behind.then(|| {
        format!(
            "the consumers fell behind: at the window's end they had {} of {} rows left, {} of load",
            human::count(left as u64),
            human::count(all as u64),
            human::sec(left_sec)
        )
    })
}

/// Mean time from one confirmation to the next: another program confirms what it has at times of its
/// own. One that hardly ever does is late.
fn confirmation_sec(figures: &PhaseFigures) -> f64 {
    let mean_sec = ratio(figures.duration_sec, figures.consumer.batches as f64);
    let longest_sec = LONGEST_CONFIRMATION_SEC.min(figures.duration_sec / 2.0);
    mean_sec.map_or(longest_sec, |sec| sec.min(longest_sec))
}

fn held(figures: &PhaseFigures) -> String {
    let drained = match figures.drain_sec {
        Some(sec) => format!("the consumers kept up (drained in {})", human::sec(sec)),
        None => "the consumers kept up".into(),
    };
    match &figures.producer {
        Some(producer) => format!(
            "{} of {} rows/s were held and {drained}",
            human::rate(producer.achieved_throughput),
            human::rate(figures.planned_throughput)
        ),
        None => drained,
    }
}

/// Errors, where they alone make the shortfall.
fn failed(figures: &PhaseFigures) -> Option<Errors> {
    let producer = figures.producer.as_ref().filter(|producer| producer.failed_rows > 0)?;
    let codes: Vec<String> = producer
        .errors_by_sqlstate
        .iter()
        .map(|(code, count)| format!("{code} × {}", human::count(*count)))
        .collect();
    let rows = human::counted(producer.failed_rows, "row");
    let said = format!("{rows} failed after all attempts (errors: {})", codes.join(", "));
    Some(Errors { rows: producer.failed_rows, said })
}

/// Cores used by all processes in the measured window. Walsenders are part of the server already.
fn used_cores(figures: &PhaseFigures) -> Option<f64> {
    let all = figures.processes.iter().filter(|process| process.role != Role::Walsender);
    let shares: Vec<f64> = all.filter_map(|process| process.measured_cpu_share).collect();
    (!shares.is_empty()).then(|| shares.iter().sum())
}

/// A share of the time that passed.
fn of_time(us: u64, passed_us: u64) -> f64 {
    ratio(us as f64, passed_us as f64).unwrap_or_default()
}

/// All that the run has on this machine is measured: without that nobody knows whose the rest is.
fn knows_all(source: PhaseSource<'_>, figures: &PhaseFigures) -> bool {
    let has = |role| figures.processes.iter().any(|process| process.role == role);
    let PhaseSource { plan, .. } = source;
    has(Role::Postgres)
        && (figures.clickhouse.is_none() || has(Role::Clickhouse))
        && plan.producer.launcher.is_empty()
        && plan.consumer.launcher.is_empty()
}

/// What is by design is no stall: batches wait for their age, mocks take their time, and the slot is
/// not confirmed beyond what is prepared.
fn durable_stall_sec(source: PhaseSource<'_>, window_us: (i64, i64)) -> Option<f64> {
    let consumer = &source.plan.consumer;
    if consumer.two_phase {
        return None;
    }
    let by_design_ms = consumer.flush_interval_ms + consumer.mock_delay_ms;
    let stall_sec = source.tally.ladder.durable_stall_sec(window_us)?;
    Some((stall_sec - by_design_ms as f64 / 1e3).max(0.0))
}

fn of_machine(
    machine: &MachineUse,
    logical_cores: u32,
    used_cores: Option<f64>,
    knows_all: bool,
) -> Option<MachineShares> {
    let of = |us: u64| of_time(us, machine.passed_us);
    // Where the kernel counts busy time by ticks of its clock, it misses what is shorter; that a core
    // has nothing to do it knows exactly.
    let not_idle = f64::from(logical_cores) - of(machine.idle_us + machine.disk_wait_us);
    let ours = used_cores.unwrap_or_default();
    let busy_cores = not_idle.max(of(machine.busy_us())).max(ours);
    let others_cores = (busy_cores - of(machine.stolen_us) - ours).max(0.0);
    (machine.passed_us > 0).then(|| MachineShares {
        busy_cores,
        stolen_cores: of(machine.stolen_us),
        others_cores: knows_all.then_some(others_cores),
        cpu_pressure: machine.cpu_pressure_us.map(of),
        io_pressure: machine.io_pressure_us.map(of),
        disk_busy: of(machine.disk_busy_us),
    })
}

fn processes(
    figures: &PhaseFigures,
    measured: Option<&ResourceTally>,
    role: Role,
) -> Vec<ProcessShares> {
    let of_role = figures.processes.iter().filter(|process| process.role == role);
    let shares = of_role.filter_map(|process| {
        let name = &process.name;
        let used = measured?.processes.get(&(role, name.clone()))?;
        let threads = measured?.threads.iter().filter(|((process, _), _)| process == name);
        let busiest = threads.max_by_key(|(_, cpu_us)| **cpu_us);
        Some(ProcessShares {
            name: name.clone(),
            cores: process.measured_cpu_share?,
            run_delay_cores: used.run_delay_us.map(|us| of_time(us, used.wall_us)),
            busiest_thread: busiest
                .map(|((_, thread), us)| (thread.clone(), of_time(*us, used.wall_us))),
        })
    });
    shares.collect()
}

/// Each consumer with its walsender. Whichever of them tells something is known by it.
fn lanes(source: PhaseSource<'_>, figures: &PhaseFigures) -> Vec<Lane> {
    let measured = source.tally.resources.get(&Window::Measured);
    let consumers = processes(figures, measured, Role::Consumer);
    let walsenders = processes(figures, measured, Role::Walsender);
    let vitals = source.tally.consumers.get(&Window::Measured).map(|tally| &tally.vitals);
    let lane = |number: u32| {
        let (consumer, walsender) = (format!("consumer-{number}"), format!("walsender-{number}"));
        let cpu = || measured?.threads.get(&(consumer.clone(), RECEIVER.into()));
        let passed_us = measured.and_then(|tally| {
            Some(tally.processes.get(&(Role::Consumer, consumer.clone()))?.wall_us)
        });
        let cores = cpu().zip(passed_us).map(|(cpu_us, passed_us)| of_time(*cpu_us, passed_us));
        let vitals = vitals.and_then(|vitals| vitals.get(&consumer));
        let waits = measured.and_then(|tally| tally.waits.get(&walsender));
        let waits = waits.filter(|waits| waits.looks > 0).map(|waits| shares(waits, waits.looks));
        let used = walsenders.iter().find(|process| process.name == walsender);
        let is_known = used.is_some() || waits.is_some();
        Lane {
            process: consumers.iter().find(|process| process.name == consumer).cloned(),
            receiver: vitals
                .filter(|vitals| vitals.receiver.total_us() > 0)
                .map(|vitals| ReceiverShares { cores, ..receiver(vitals) }),
            walsender: is_known.then(|| Walsender {
                name: walsender,
                cores: used.map(|process| process.cores),
                waits,
            }),
            connection: measured
                .and_then(|tally| tally.connections.get(&format!("walsender-{number}")))
                .and_then(connection),
            in_transit_bytes: source.tally.ladder.in_transit_bytes(number, source.end_us()),
            unconfirmed_bytes: source
                .plan
                .consumer
                .is_external()
                .then(|| source.tally.ladder.unconfirmed_bytes(number, source.end_us()))
                .flatten(),
            consumer,
        }
    };
    (0..source.plan.consumer.processes).map(lane).collect()
}

fn connection(used: &TcpUse) -> Option<ConnectionShares> {
    let of = |us: u64| of_time(us, used.passed_us);
    let retransmitted = ratio(used.retransmits as f64, used.sent_segments as f64);
    (used.passed_us > 0).then(|| ConnectionShares {
        busy: of(used.busy_us),
        window_limited: of(used.window_limited_us),
        buffer_limited: of(used.buffer_limited_us),
        retransmitted: retransmitted.unwrap_or_default(),
        round_trip_us: used.round_trip_us.mean(),
    })
}

/// Of several processes each has its part of what was seen.
fn of_all(waits: &Waits) -> Option<WaitShares> {
    let seen: u64 = waits.events.values().sum();
    (seen > 0).then(|| shares(waits, seen))
}

fn shares(waits: &Waits, of: u64) -> WaitShares {
    let events = waits.events.iter().map(|(event, seen)| (event.clone(), *seen as f64 / of as f64));
    WaitShares { looks: waits.looks, events: events.collect() }
}

fn receiver(vitals: &ConsumerVitals) -> ReceiverShares {
    let time = vitals.receiver;
    let of = |us: u64| of_time(us, time.total_us());
    ReceiverShares {
        waits: of(time.waiting_us + time.pacing_us),
        works: of(time.working_us),
        blocked: of(time.blocked_us),
        disconnected: of(time.disconnected_us),
        cores: None,
        looks: vitals.looks.as_ref().filter(|looks| looks.looked_us > 0).map(|looks| LooksShares {
            heartbeat_p99_us: looks.heartbeat.quantile_us(0.99),
            blocked_runtime: of_time(looks.blocked_us, looks.looked_us),
            socket_bytes: looks.socket_bytes.mean(),
            flush_age_us: looks.flush_age_us.mean(),
        }),
    }
}

/// How full batches are, by rows or by bytes.
fn batch_fill(source: PhaseSource<'_>, figures: &PhaseFigures) -> Option<f64> {
    let plan = &source.plan.consumer;
    let consumer = &figures.consumer;
    let rows = consumer.mean_batch_rows? / f64::from(plan.flush_batch_size);
    let bytes = ratio(consumer.encoded_bytes? as f64, consumer.batches as f64).unwrap_or_default();
    Some(rows.max(bytes / plan.flush_batch_bytes as f64))
}

fn sink(source: PhaseSource<'_>, figures: &PhaseFigures) -> SinkSignals {
    let consumers = source.tally.consumers.get(&Window::Measured);
    let vitals = || consumers.into_iter().flat_map(|tally| tally.vitals.values());
    let allowed = source.plan.consumer.max_flush_concurrency;
    let busiest = |share: fn(&ConsumerVitals, f64) -> f64| {
        let shares = vitals()
            .filter(|it| it.flushes.passed_us > 0)
            .map(|it| share(it, f64::from(allowed.max(1))) / it.flushes.passed_us as f64);
        shares.max_by(f64::total_cmp)
    };
    let under_way = busiest(|it, allowed| it.flushes.under_way_us as f64 / allowed);
    let clickhouse = figures.clickhouse.as_ref();
    let counted = |of: Option<u64>| of.unwrap_or_default();
    SinkSignals {
        flushes: under_way.map(|share| Busy { share, of: allowed }),
        queued: busiest(|it, _| it.flushes.queued_us as f64),
        batch_fill: batch_fill(source, figures),
        flush_p99_us: figures.consumer.flush_us.p99,
        retries: counted(figures.consumer.retries),
        delayed_inserts: counted(clickhouse.and_then(|it| it.delayed_inserts)),
        rejected_inserts: counted(clickhouse.and_then(|it| it.rejected_inserts)),
        active_parts: clickhouse.and_then(|it| it.active_parts_max),
    }
}

/// Of those that rise for sure. Servers fill their caches, and rise for long.
fn memory(source: PhaseSource<'_>, figures: &PhaseFigures) -> Vec<MemoryGrowth> {
    let ours = [Role::Producer, Role::Consumer, Role::Orchestrator];
    let ours = figures.processes.iter().filter(|it| ours.contains(&it.role));
    let risen = ours.filter_map(|process| {
        let (name, window) = (&process.name, &Window::Measured);
        let resources = source.tally.resources.get(window);
        let consumers = source.tally.consumers.get(window);
        let held = consumers.and_then(|tally| tally.allocators.get(name));
        // The profiler's books grow with the stacks that it has seen.
        let books = held.and_then(|it| growth(&it.metadata)).map_or(0.0, |it| it.bytes_per_sec);
        let resident = resources.and_then(|tally| growth(tally.memory.get(name)?));
        let resident = resident
            .map(|it| Growth { bytes_per_sec: it.bytes_per_sec - books, ..it })
            .filter(|it| it.bytes_per_sec > 0.0);
        let allocated = held.and_then(|it| growth(&it.allocated));
        let of_process = figures.heaps.iter().filter(|it| it.process == *name);
        let mut files = of_process.flat_map(|it| &it.files);
        let heap = files.rfind(|file| file.ends_with(".svg")).cloned();
        let has_risen = resident.is_some() || allocated.is_some();
        has_risen.then(|| MemoryGrowth { process: name.clone(), resident, allocated, heap })
    });
    risen.collect()
}

fn growth(trend: &Trend) -> Option<Growth> {
    let rise = trend.rise()?;
    Some(Growth { bytes_per_sec: rise.per_sec, mean_bytes: rise.mean })
}

/// Share of the connections' time that was spent waiting for PostgreSQL: a connection carries one
/// transaction at a time.
fn connections(source: PhaseSource<'_>, figures: &PhaseFigures) -> Option<Busy> {
    let producer = figures.producer.as_ref()?;
    let connections = source.plan.producer.connections * source.plan.producer.processes;
    let waited_sec = producer.service_us.mean? / 1e6 * producer.transactions as f64;
    let busy = ratio(waited_sec, f64::from(connections) * source.sending_sec())?;
    Some(Busy { share: busy, of: connections })
}

fn backlog(source: PhaseSource<'_>) -> Option<Backlog> {
    let postgres = source.tally.resources.get(&Window::Measured)?.postgres.as_ref()?;
    Some(Backlog {
        first_bytes: postgres.first_lag.1,
        last_bytes: postgres.last_lag.1,
        growth: growth(&postgres.lag),
    })
}

#[cfg(test)]
mod tests {
    use walbench_metrics::allocator::AllocatorUse;
    use walbench_metrics::sample::{Sample, StreamPosition};
    use walbench_metrics::vitals::{
        ConsumerLooks, FlushTime, Gauge, ReceiverTime, Scheduling, ThreadUse,
    };
    use walbench_phases::Plan;

    use super::*;
    use crate::figures;
    use crate::tally::Tally;
    use crate::testing::{self, environment, outcome, passing_samples, timing};

    /// The signals of the first phase, whose samples, plan and environment are changed before.
    fn of(
        sample: impl Fn(&mut Sample),
        plan: impl FnOnce(&mut Plan),
        machine: impl FnOnce(&mut walbench_profiles::Machine),
    ) -> Signals {
        let (mut planned, mut environment, outcome) = (testing::plan(), environment(), outcome());
        plan(&mut planned);
        machine(&mut environment.machine);
        let mut samples = passing_samples();
        samples.iter_mut().for_each(sample);
        let tally = Tally::replay(&planned, &outcome, &samples);
        let source = figures::sources(&planned, &tally, &outcome).next().unwrap();
        signals(source, &source.figures(), &environment)
    }

    /// What the consumer and its surroundings did in each second of a window.
    fn spent(sample: &mut Sample) {
        let window = sample.interval().window;
        // What is not measured would change every share.
        let times = if window == Window::Measured { 1 } else { 5 };
        match sample {
            Sample::Consumer(sample) => {
                let receiver = ReceiverTime {
                    waiting_us: 500_000,
                    pacing_us: 100_000,
                    working_us: 300_000 * times,
                    blocked_us: 100_000,
                    disconnected_us: 0,
                };
                let flushes = FlushTime {
                    passed_us: 1_000_000,
                    busy_us: 600_000,
                    under_way_us: 800_000 * times,
                    queued_us: 50_000,
                };
                let looks = ConsumerLooks {
                    looked_us: 1_000_000,
                    heartbeat: timing(&[(1_200, 50)]),
                    blocked_us: 100_000 * times,
                    socket_bytes: Gauge { looks: 10, sum: 40_000, max: 9_000 },
                    ..ConsumerLooks::default()
                };
                let looks = Some(looks);
                let vitals =
                    ConsumerVitals { receiver, flushes, reads: 100, allocator: None, looks };
                sample.vitals = Some(Box::new(vitals));
            }
            Sample::Resources(sample) => {
                let events = [("client/walsenderwaitforwal".to_owned(), 7), ("running".into(), 3)];
                let walsender = Waits { looks: 10 * times, events: events.into() };
                let events = [("io/walsync".to_owned(), 3 * times), ("running".into(), 1)];
                let backends = Waits { looks: 10, events: events.into() };
                sample.waits =
                    [("walsender-0".to_owned(), walsender), ("backends".into(), backends)].into();
                let wall_us = (sample.interval.end_us - sample.interval.start_us).unsigned_abs();
                let connection = TcpUse {
                    passed_us: wall_us,
                    busy_us: wall_us / 2,
                    window_limited_us: wall_us / 4,
                    sent_segments: 1_000,
                    retransmits: 5,
                    ..TcpUse::default()
                };
                sample.connections = [("walsender-0".to_owned(), connection)].into();
                sample.machine = Some(MachineUse {
                    passed_us: wall_us,
                    user_us: wall_us,
                    idle_us: 2 * wall_us,
                    stolen_us: wall_us / 10,
                    cpu_pressure_us: Some(wall_us / 5),
                    ..MachineUse::default()
                });
                let consumer = sample.processes.iter_mut().find(|it| it.name == "consumer-0");
                let thread =
                    |name: &str, cpu_us| ThreadUse { name: name.into(), cpu_us, run_delay_us: 0 };
                consumer.unwrap().scheduling = Some(Scheduling {
                    run_delay_us: wall_us / 20,
                    threads: vec![
                        thread("receiver/12", wall_us / 4),
                        thread("tokio-rt-worker/13", wall_us / 10),
                        thread("tokio-rt-worker/14", wall_us / 8),
                    ],
                    ..Scheduling::default()
                });
            }
            Sample::Producer(_) => {}
        }
    }

    fn near(found: f64, expected: f64) -> bool {
        (found - expected).abs() < 1e-6
    }

    #[test]
    fn shares_are_of_the_measured_window() {
        let signals = of(spent, |_| (), |_| ());
        let [lane] = &signals.lanes[..] else { panic!("{:?}", signals.lanes) };
        let receiver = lane.receiver.as_ref().unwrap();
        assert!(near(receiver.waits, 0.6) && near(receiver.works, 0.3), "{receiver:?}");
        assert!(near(receiver.blocked, 0.1) && near(receiver.cores.unwrap(), 0.25), "{receiver:?}");
        let looks = receiver.looks.unwrap();
        assert!(near(looks.blocked_runtime, 0.1), "{looks:?}");
        assert!(near(looks.socket_bytes.unwrap(), 4_000.0), "{looks:?}");
        let walsender = lane.walsender.as_ref().unwrap();
        let waits = walsender.waits.as_ref().unwrap();
        assert!(near(waits.of("walsenderwaitforwal"), 0.7) && near(waits.of("running"), 0.3));
        assert!(near(walsender.cores.unwrap(), 0.03), "{walsender:?}");
        let connection = lane.connection.unwrap();
        assert!(near(connection.busy, 0.5) && near(connection.window_limited, 0.25));
        assert!(near(connection.retransmitted, 0.005), "{connection:?}");
        assert_eq!(connection.round_trip_us, None);
        // Of all that backends were seen at, not of the looks.
        assert!(near(signals.backends.unwrap().of("walsync"), 0.75));
        let process = lane.process.as_ref().unwrap();
        assert!(near(process.run_delay_cores.unwrap(), 0.05), "{process:?}");
        assert_eq!(process.busiest_thread.as_ref().unwrap().0, "receiver");
        // Four may be under way.
        assert!(near(signals.sink.flushes.unwrap().share, 0.2), "{:?}", signals.sink);
        assert!(near(signals.sink.queued.unwrap(), 0.05), "{:?}", signals.sink);
    }

    #[test]
    fn what_is_not_idle_is_busy_and_what_is_not_ours_is_others() {
        let signals = of(spent, |_| (), |_| ());
        let machine = signals.machine.unwrap();
        // Two of four cores are idle; ours used 0.3, and 0.1 was stolen.
        assert!(near(machine.busy_cores, 2.0), "{machine:?}");
        assert!(near(machine.others_cores.unwrap(), 2.0 - 0.3 - 0.1), "{machine:?}");
        assert!(near(machine.cpu_pressure.unwrap(), 0.2), "{machine:?}");
        // A container's part of it is another matter.
        let signals = of(spent, |_| (), |machine| machine.cgroup_cpu_limit = Some(1.5));
        assert!(signals.machine.is_none() && near(signals.cores, 1.5));
        // Where the server is elsewhere, or something is started by others, nobody knows.
        let without_postgres = |sample: &mut Sample| {
            spent(sample);
            if let Sample::Resources(sample) = sample {
                sample.processes.retain(|process| process.role != Role::Postgres);
            }
        };
        let signals = of(without_postgres, |_| (), |_| ());
        assert_eq!(signals.machine.unwrap().others_cores, None);
        let launched = |plan: &mut Plan| plan.producer.launcher = vec!["ssh".into()];
        assert_eq!(of(spent, launched, |_| ()).machine.unwrap().others_cores, None);
    }

    /// A consumer whose resident memory grows by as many bytes a second, of which its allocator's books
    /// take as many, and what it has of its allocator by as many.
    fn growing(resident: u64, books: u64, allocated: u64) -> Vec<MemoryGrowth> {
        let at = |sample: &Sample, bytes: u64| {
            bytes * (sample.interval().end_us.unsigned_abs() / 1_000_000 % 100_000)
        };
        let grow = |sample: &mut Sample| {
            spent(sample);
            let now = [resident, books, allocated].map(|bytes| at(sample, bytes));
            match sample {
                Sample::Consumer(sample) => {
                    let held = AllocatorUse {
                        allocated_bytes: now[2],
                        metadata_bytes: now[1],
                        ..AllocatorUse::default()
                    };
                    sample.vitals.as_mut().unwrap().allocator = Some(held);
                }
                Sample::Resources(sample) => {
                    let consumer = sample.processes.iter_mut().find(|it| it.name == "consumer-0");
                    consumer.unwrap().rss_bytes = now[0];
                }
                Sample::Producer(_) => {}
            }
        };
        of(grow, |_| (), |_| ()).memory
    }

    #[test]
    fn what_the_profiler_needs_is_no_growth() {
        let [grown] = &growing(5_000, 2_000, 3_000)[..] else { panic!("nothing grew") };
        // The last sample is of a part of a second.
        let is_3_000 =
            |growth: Option<Growth>| (2_900.0..3_100.0).contains(&growth.unwrap().bytes_per_sec);
        assert!(is_3_000(grown.resident) && is_3_000(grown.allocated), "{grown:?}");
        let heap = grown.heap.as_deref();
        assert_eq!(heap, Some("profiles/steady-consumer-0-heap-growth.svg"));
        assert_eq!(growing(2_000, 2_100, 0), []);
        let [grown] = &growing(0, 0, 3_000)[..] else { panic!("nothing grew") };
        assert!(grown.resident.is_none() && grown.allocated.is_some(), "{grown:?}");
    }

    #[test]
    fn without_vitals_and_looks_nothing_is_known_of_them() {
        let signals = of(|_| (), |_| (), |_| ());
        assert!(signals.lanes[0].receiver.is_none() && signals.machine.is_none());
        assert!(signals.sink.flushes.is_none() && signals.backends.is_none());
        assert!(signals.lanes[0].walsender.as_ref().unwrap().waits.is_none());
        // Over a Unix socket there is none.
        assert_eq!(signals.lanes[0].connection, None);
    }

    #[test]
    fn a_socket_of_this_machine_is_no_way() {
        let is_local = |url: Option<&str>| {
            let set = |plan: &mut Plan| plan.postgres.url = url.map(Into::into);
            of(|_| (), set, |_| ()).is_local
        };
        assert!(is_local(None) && is_local(Some("postgres://me@%2Frun%2Fpostgresql/")));
        assert!(!is_local(Some("postgres://me@127.0.0.1/")), "it may be a tunnel's end");
        let launched = |plan: &mut Plan| plan.consumer.launcher = vec!["ssh".into()];
        assert!(!of(|_| (), launched, |_| ()).is_local);
    }

    #[test]
    fn batches_are_full_by_rows_or_by_bytes() {
        let fill = |rows: u32, bytes: u64| {
            let set = |plan: &mut Plan| {
                plan.consumer.flush_batch_size = rows;
                plan.consumer.flush_batch_bytes = bytes;
            };
            of(|_| (), set, |_| ()).sink.batch_fill.unwrap()
        };
        // 500 rows or a little less of 900 B each.
        assert!((0.4..=0.5).contains(&fill(1_000, 1 << 30)));
        assert!((0.9..=1.0).contains(&fill(1_000, 450_000)));
    }

    #[test]
    fn time_that_batches_wait_by_design_is_no_stall() {
        let stuck = |sample: &mut Sample| {
            spent(sample);
            if let Sample::Consumer(sample) = sample {
                let received_lsn = sample.interval.end_us.unsigned_abs();
                sample.position =
                    StreamPosition { received_lsn, confirmed_lsn: 5, ..Default::default() };
            }
        };
        let stall = |flush_interval_ms| {
            let set = |plan: &mut Plan| plan.consumer.flush_interval_ms = flush_interval_ms;
            of(stuck, set, |_| ()).durable_stall_sec.unwrap()
        };
        // The window has ten seconds.
        assert!(near(stall(0), 9.0), "{}", stall(0));
        assert!(near(stall(6_000), 3.0) && near(stall(60_000), 0.0));
        let two_phase = |plan: &mut Plan| plan.consumer.two_phase = true;
        assert_eq!(of(stuck, two_phase, |_| ()).durable_stall_sec, None);
    }
}
