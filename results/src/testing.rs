//! A made-up run for tests: two phases of one producer and one consumer, second by second.

use std::collections::BTreeMap;

use walbench_metrics::ceiling::{Ceilings, Contestant, SinkAlone, Turn};
use walbench_metrics::clock::ClockOffset;
use walbench_metrics::ledger::Ledger;
use walbench_metrics::sample::{
    ConsumerCounts, ConsumerSample, Interval, Lag, PostgresState, ProcessUse, ProducerCounts,
    ProducerSample, ResourceSample, Role, Sample, SlotState, StreamPosition,
};
use walbench_metrics::{Timing, Window};
use walbench_phases::Plan;
use walbench_profiles::Machine;
use walbench_profiles::area::{Area, AreaSamples};
use walbench_profiles::heap::{Grown, HeapFigures, Holder};
use walbench_profiles::profile::Quality;

use crate::environment::{Environment, Server};
use crate::metrics_json::Metrics;
use crate::outcome::{Delivered, DrainVerdict, PhaseOutcome, RunOutcome, TableRows, WindowProfile};
use crate::tally::Tally;

const SECOND: i64 = 1_000_000;
const START: i64 = 1_767_225_600 * SECOND;
const BATCH: u64 = 10;

pub(crate) fn plan() -> Plan {
    toml::from_str(
        r#"
        name = "example"
        description = "A made-up run."
        [[phases]]
        name = "steady"
        target_throughput = 1000
        duration_sec = 10
        warmup_sec = 2
        [[phases]]
        name = "peak"
        target_throughput = 2000
        duration_sec = 5
        "#,
    )
    .unwrap()
}

pub(crate) fn environment() -> Environment {
    let fsync = BTreeMap::from([("fsync".into(), "on".into())]);
    Environment {
        machine: Machine {
            cpu_model: Some("Example CPU".into()),
            logical_cores: 4,
            memory_bytes: 8 << 30,
            kernel: Some("6.1.0".into()),
            load_average: Some([0.25, 0.2, 0.1]),
            ..Machine::default()
        },
        walbench_version: "0.1.0".into(),
        build_profile: "release".into(),
        worker_threads: 1,
        servers: vec![Server {
            name: "PostgreSQL".into(),
            version: "17.2".into(),
            settings: fsync,
            managed: true,
            description: None,
        }],
        clocks: BTreeMap::from([(
            "producer-0".into(),
            ClockOffset { offset_us: 3, uncertainty_us: 20 },
        )]),
        ..Environment::default()
    }
}

/// When a phase of [`plan`] starts: (start, measured from, end).
fn times(index: u32) -> (i64, i64, i64) {
    match index {
        0 => (START, START + 2 * SECOND, START + 12 * SECOND),
        _ => (START + 13 * SECOND, START + 13 * SECOND, START + 18 * SECOND),
    }
}

fn phase_outcome(index: u32) -> PhaseOutcome {
    let (started_us, measured_from_us, scheduled_end_us) = times(index);
    PhaseOutcome {
        index,
        started_us,
        measured_from_us,
        scheduled_end_us,
        producers_done_us: Some(scheduled_end_us + 5_000),
        drained_us: Some(scheduled_end_us + 150_000),
        drain: DrainVerdict::Drained,
        wal_start_lsn: Some(1 << 24),
        wal_end_lsn: Some((1 << 24) + 12_000_000),
        completed: true,
        profiles: profiles(index),
        heaps: heaps(index),
    }
}

/// Of the first phase alone.
fn heaps(index: u32) -> Vec<HeapFigures> {
    let heap = HeapFigures {
        process: "consumer-0".into(),
        after: "drain".into(),
        bytes: 12_400_000,
        allocated_bytes: 12_500_000,
        samples: 180,
        interval_bytes: 65_536,
        largest: vec![Holder {
            function: "walbench_consumer::receiver::run".into(),
            bytes: 8_388_608,
            margin_bytes: 120_000,
            objects: 2,
        }],
        grown: Some(vec![Grown {
            function: "walbench_consumer::stream::batch::Batch::new".into(),
            before_bytes: 1_000_000,
            after_bytes: 3_000_000,
            margin_bytes: 90_000,
        }]),
        files: vec![
            "profiles/steady-consumer-0-heap.svg".into(),
            "profiles/steady-consumer-0-heap-growth.svg".into(),
        ],
    };
    if index == 0 { vec![heap] } else { Vec::new() }
}

/// Of the first phase alone, and of its drain too few samples to say anything.
fn profiles(index: u32) -> Vec<WindowProfile> {
    let found = |area, samples, in_kernel| AreaSamples { area, samples, in_kernel };
    let profile = |window, cpu_ns, samples, areas| WindowProfile {
        process: "consumer-0".into(),
        window,
        backend: "perf-event on all CPUs".into(),
        cpu_ns,
        quality: Quality { samples, expected: samples + 20, truncated: 2, ..Quality::default() },
        areas,
        files: vec![format!("profiles/steady-consumer-0-{window:?}.svg")],
    };
    let areas = vec![found(Area::Read, 300, 270), found(Area::Decode, 80, 0)];
    let measured = profile(Window::Measured, 900_000_000, 380, areas);
    let draining = profile(Window::Drain, 60_000_000, 20, vec![found(Area::Decode, 20, 5)]);
    if index == 0 { vec![measured, draining] } else { Vec::new() }
}

fn ledger(transactions: [u64; 2]) -> Ledger {
    let mut ledger = Ledger::default();
    for (phase, count) in (0..).zip(transactions) {
        for sequence in 0..count {
            ledger.insert(phase, 0, sequence, BATCH);
        }
    }
    ledger
}

/// Everything went as planned.
pub(crate) fn outcome() -> RunOutcome {
    RunOutcome {
        run_id: "20260101T000000Z-example".into(),
        started_at: "2026-01-01T00:00:00Z".parse().unwrap(),
        finished_at: "2026-01-01T00:00:19Z".parse().unwrap(),
        phases: vec![phase_outcome(0), phase_outcome(1)],
        acknowledged: vec![ledger([1_200, 1_000])],
        unknown: vec![Ledger::default()],
        delivered: vec![Delivered { ledger: ledger([1_200, 1_000]), ..Delivered::default() }],
        table_rows: vec![TableRows { table: "task_run".into(), expected: 17_600, counted: 17_600 }],
        destination: None,
        ceilings: None,
        interrupted: false,
        failure: None,
    }
}

/// Three rounds; the sink has fewer rows, and less time than it would need for them.
pub(crate) fn ceilings() -> Ceilings {
    let turn = |rows: u64, rows_per_sec: u64, cpu_us_per_row: u64| Turn {
        rows,
        seconds: rows as f64 / rows_per_sec as f64,
        cpu_us: cpu_us_per_row * rows,
    };
    let round = |percent: u64| {
        vec![
            (Contestant::EagerReader, turn(50_000, 1_000 * percent, 2)),
            (Contestant::LateReader, turn(50_000, 2_000 * percent, 1)),
            (Contestant::Consumer, turn(50_000, 1_000 * percent, 6)),
            (Contestant::Sink, turn(20_000, 400 * percent, 3)),
        ]
    };
    Ceilings {
        rounds: [80, 125, 100].map(round).into(),
        until_lsn: 1 << 24,
        is_bounded: true,
        sink: Some(SinkAlone {
            said: "ClickHouse takes the consumer's blocks".into(),
            rows: 20_000,
            is_bounded: true,
        }),
    }
}

pub(crate) fn timing(us: &[(i64, u64)]) -> Timing {
    let mut timing = Timing::default();
    us.iter().for_each(|(us, count)| timing.record_n(*us, *count));
    timing
}

pub(crate) fn producer(interval: Interval, rows: u64, late_us: i64) -> Sample {
    let most = rows - rows / 50;
    let few = rows / 50;
    Sample::Producer(Box::new(ProducerSample {
        worker: "producer-0".into(),
        interval,
        counts: ProducerCounts {
            rows,
            inserts: rows * 4 / 5,
            updates: rows - rows * 4 / 5,
            transactions: rows / BATCH,
            late_rows: if late_us > 10_000 { most } else { 0 },
            bytes: rows * 1_000,
            ..ProducerCounts::default()
        },
        lateness: timing(&[(late_us, most), (late_us + 900, few)]),
        service: timing(&[(1_200, most), (4_000, few)]),
        response: timing(&[(late_us + 1_200, most), (late_us + 4_900, few)]),
        errors: BTreeMap::new(),
    }))
}

pub(crate) fn consumer(interval: Interval, rows: u64, lag_us: i64) -> Sample {
    let batches = rows.div_ceil(500);
    Sample::Consumer(Box::new(ConsumerSample {
        worker: "consumer-0".into(),
        interval,
        counts: ConsumerCounts {
            rows,
            received_rows: rows,
            batches,
            transactions: rows / BATCH,
            received_bytes: rows * 1_100,
            encoded_bytes: rows * 900,
            sent_bytes: rows * 400,
            ..ConsumerCounts::default()
        },
        flush: timing(&[(2_500, batches)]),
        lag: Lag {
            commit_to_received: timing(&[(800, rows)]),
            received_to_flushed: timing(&[(lag_us, rows)]),
            commit_to_flushed: timing(&[(lag_us + 800, rows)]),
            due_to_flushed: timing(&[(lag_us + 2_000, rows)]),
            ..Lag::default()
        },
        position: StreamPosition::default(),
        vitals: None,
    }))
}

pub(crate) fn resources(interval: Interval, busy: f64) -> Sample {
    let wall = (interval.end_us - interval.start_us) as f64;
    let process = |name: &str, role, cores: f64, rss_bytes| ProcessUse {
        name: name.into(),
        role,
        cpu_us: (wall * cores * busy) as u64,
        rss_bytes,
        scheduling: None,
    };
    Sample::Resources(Box::new(ResourceSample {
        interval,
        processes: vec![
            process("producer-0", Role::Producer, 0.05, 20 << 20),
            process("consumer-0", Role::Consumer, 0.04, 40 << 20),
            process("walbench", Role::Orchestrator, 0.01, 30 << 20),
            process("walsender-0", Role::Walsender, 0.03, 15 << 20),
            process("postgres", Role::Postgres, 0.2, 180 << 20),
        ],
        postgres: Some(PostgresState {
            wal_lsn: (1 << 24) + interval.end_us.unsigned_abs() % 1_000,
            slots: vec![SlotState {
                name: "walbench_0".into(),
                lag_bytes: 120_000,
                retained_bytes: 16 << 20,
                spill_bytes: 0,
                stream_bytes: 0,
                sent_lsn: None,
                confirmed_lsn: 0,
                wal_status: Some("reserved".into()),
                safe_wal_bytes: None,
            }],
            checkpoints: 3,
        }),
        clickhouse: None,
        machine: None,
        waits: BTreeMap::new(),
        connections: BTreeMap::new(),
    }))
}

/// A run's samples: `rate(phase)` rows every second are written, each `late(phase, second)` µs
/// late; of the last second's rows a tenth is delivered in the drain.
fn samples(phases: u32, late: impl Fn(u32, i64) -> i64) -> Vec<Sample> {
    let mut samples = Vec::new();
    for phase in 0..phases {
        let (start, measured_from, end) = times(phase);
        let rate = if phase == 0 { 1_000 } else { 2_000 };
        for start_us in (start..end).step_by(SECOND as usize) {
            let window = if start_us < measured_from { Window::Warmup } else { Window::Measured };
            let interval = Interval { phase, window, start_us, end_us: start_us + SECOND };
            let left = if interval.end_us == end { rate / 10 } else { 0 };
            samples.push(producer(interval, rate, late(phase, (start_us - start) / SECOND)));
            samples.push(consumer(interval, rate - left, 60_000));
            samples.push(resources(interval, 1.0));
        }
        let drain = Interval { phase, window: Window::Drain, start_us: end, end_us: end + 150_000 };
        let delivered = Interval { window: Window::Measured, ..drain };
        samples.push(consumer(delivered, rate / 10, 90_000));
        samples.push(resources(drain, 0.5));
    }
    samples
}

pub(crate) fn passing_samples() -> Vec<Sample> {
    samples(2, |_, _| 90)
}

fn of(plan: &Plan, outcome: &RunOutcome, samples: &[Sample]) -> Metrics {
    let tally = Tally::replay(plan, outcome, samples);
    crate::metrics(plan, &tally, outcome, &environment())
}

/// The target was held and all rows arrived, and the ceilings were measured.
pub(crate) fn passing() -> Metrics {
    let outcome = RunOutcome { ceilings: Some(ceilings()), ..outcome() };
    of(&with_thresholds("< 500ms"), &outcome, &passing_samples())
}

fn with_thresholds(limit: &str) -> Plan {
    let mut plan = plan();
    plan.thresholds.insert("lag stays low".into(), format!("lag.commit_to_flushed.p99 {limit}"));
    plan.thresholds.insert("nothing lost".into(), "lost == 0".into());
    plan
}

/// Two transactions never arrived in the second phase, and a threshold did not hold.
pub(crate) fn failing() -> Metrics {
    let mut outcome = outcome();
    outcome.phases[1].drain = DrainVerdict::TimedOut;
    outcome.phases[1].drained_us = None;
    outcome.delivered[0].ledger = ledger([1_200, 998]);
    outcome.delivered[0].duplicated_rows = 500;
    outcome.table_rows[0].counted = 17_580;
    of(&with_thresholds("< 20ms"), &outcome, &passing_samples())
}

/// The generator fell further and further behind in the second phase.
pub(crate) fn invalid() -> Metrics {
    let mut outcome = outcome();
    outcome.phases[1].producers_done_us = Some(times(1).2 + SECOND);
    let samples = samples(2, |phase, second| if phase == 1 { second * 250_000 } else { 90 });
    of(&plan(), &outcome, &samples)
}

/// The user ended the run in the middle of the first phase.
pub(crate) fn interrupted() -> Metrics {
    let mut outcome = outcome();
    outcome.phases.truncate(1);
    outcome.phases[0] = PhaseOutcome {
        producers_done_us: None,
        drained_us: None,
        drain: DrainVerdict::Interrupted,
        wal_end_lsn: None,
        completed: false,
        profiles: Vec::new(),
        heaps: Vec::new(),
        ..phase_outcome(0)
    };
    outcome.interrupted = true;
    outcome.acknowledged = vec![ledger([700, 0])];
    outcome.delivered[0].ledger = ledger([690, 0]);
    outcome.table_rows.clear();
    let cut = times(0).0 + 7 * SECOND;
    let samples: Vec<Sample> =
        samples(1, |_, _| 90).into_iter().filter(|s| s.interval().end_us <= cut).collect();
    of(&plan(), &outcome, &samples)
}
