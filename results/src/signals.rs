//! The signals that the doctor looks at, taken from a phase's samples and figures.

use walbench_metrics::Window;
use walbench_metrics::sample::Role;
use walbench_metrics::vitals::{ConsumerVitals, MachineUse, Waits};
use walbench_phases::address::{Host, PostgresAddress};
use walbench_profiles::doctor::{
    Backlog, Busy, Growth, Lane, LooksShares, MachineShares, ProcessShares, ReceiverShares,
    Signals, SinkSignals, WaitShares, Walsender,
};

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
        memory: measured.map(|tally| memory(figures, tally)).unwrap_or_default(),
        is_local: is_local(source),
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
    let by_design = source.plan.consumer.flush_interval_ms + source.plan.consumer.mock_delay_ms;
    let fell_behind = left > BACKLOG_SHARE * all && left_sec > BACKLOG_SEC + by_design as f64 / 1e3;
    fell_behind.then(|| {
        format!(
            "the consumers fell behind: at the window's end they had {} of {} rows left, {} of load",
            human::count(left as u64),
            human::count(all as u64),
            human::sec(left_sec)
        )
    })
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
fn failed(figures: &PhaseFigures) -> Option<String> {
    let producer = figures.producer.as_ref().filter(|producer| producer.failed_rows > 0)?;
    let codes: Vec<String> = producer
        .errors_by_sqlstate
        .iter()
        .map(|(code, count)| format!("{code} × {}", human::count(*count)))
        .collect();
    let rows = human::counted(producer.failed_rows, "row");
    Some(format!("{rows} failed after all attempts (errors: {})", codes.join(", ")))
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
            in_transit_bytes: source.tally.ladder.in_transit_bytes(number, source.end_us()),
            consumer,
        }
    };
    (0..source.plan.consumer.processes).map(lane).collect()
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
    let bytes = ratio(consumer.encoded_bytes as f64, consumer.batches as f64).unwrap_or_default();
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
        retries: figures.consumer.retries,
        delayed_inserts: counted(clickhouse.and_then(|it| it.delayed_inserts)),
        rejected_inserts: counted(clickhouse.and_then(|it| it.rejected_inserts)),
        active_parts: clickhouse.and_then(|it| it.active_parts_max),
    }
}

/// Of those that rise for sure. Servers fill their caches, and rise for long.
fn memory(figures: &PhaseFigures, measured: &ResourceTally) -> Vec<(String, Growth)> {
    let ours = [Role::Producer, Role::Consumer, Role::Orchestrator];
    let risen = figures.processes.iter().filter(|it| ours.contains(&it.role));
    let risen = risen.filter_map(|process| {
        let growth = growth(measured.memory.get(&process.name)?)?;
        Some((process.name.clone(), growth))
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
