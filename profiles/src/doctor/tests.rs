//! Each rule at both sides of its thresholds, and what they say together.

use std::collections::BTreeMap;

use super::*;

/// A phase that held its rate with room to spare.
fn quiet() -> Signals {
    let looks = LooksShares {
        heartbeat_p99_us: Some(1_500),
        socket_bytes: Some(0.0),
        flush_age_us: Some(500.0),
        ..LooksShares::default()
    };
    Signals {
        measured: true,
        window_sec: 30.0,
        held: "1,000 of 1,000 rows/s were held".into(),
        cores: 4.0,
        used_cores: Some(0.9),
        machine: Some(MachineShares {
            busy_cores: 1.0,
            others_cores: Some(0.1),
            cpu_pressure: Some(0.02),
            io_pressure: Some(0.01),
            ..MachineShares::default()
        }),
        producers: vec![process("producer-0", 0.2)],
        connections: Some(Busy { share: 0.3, of: 4 }),
        backends: Some(waits(&[("running", 0.9), ("io/walsync", 0.1)])),
        lanes: vec![Lane {
            consumer: "consumer-0".into(),
            process: Some(process("consumer-0", 0.1)),
            receiver: Some(ReceiverShares {
                waits: 0.9,
                works: 0.1,
                looks: Some(looks),
                ..ReceiverShares::default()
            }),
            walsender: Some(Walsender {
                name: "walsender-0".into(),
                cores: Some(0.25),
                waits: Some(waits(&[("client/walsenderwaitforwal", 0.9), ("running", 0.1)])),
            }),
            in_transit_bytes: Some(20_000),
            unconfirmed_bytes: None,
            connection: None,
        }],
        sink: SinkSignals {
            flushes: Some(Busy { share: 0.1, of: 4 }),
            queued: Some(0.0),
            flush_p99_us: Some(2_000),
            ..SinkSignals::default()
        },
        backlog: Some(Backlog { first_bytes: 10_000, last_bytes: 9_000, growth: None }),
        spilled_bytes: Some(0),
        confirm_stall_sec: Some(0.0),
        durable_stall_sec: Some(0.0),
        is_local: true,
        ..Signals::default()
    }
}

fn process(name: &str, cores: f64) -> ProcessShares {
    ProcessShares {
        name: name.into(),
        cores,
        run_delay_cores: Some(0.01),
        busiest_thread: Some(("receiver".into(), cores / 2.0)),
    }
}

fn waits(events: &[(&str, f64)]) -> WaitShares {
    let events: BTreeMap<String, f64> =
        events.iter().map(|(event, share)| ((*event).to_owned(), *share)).collect();
    WaitShares { looks: 300, events }
}

/// The generator fell short, and all its connections waited.
fn short() -> Signals {
    Signals {
        short: Some("the generator fell short".into()),
        connections: Some(Busy { share: 0.97, of: 4 }),
        ..quiet()
    }
}

/// The consumers fell behind, and the walsender waits for them.
fn behind() -> Signals {
    let mut signals = Signals {
        behind: Some("the consumers fell behind".into()),
        backlog: Some(Backlog {
            first_bytes: 10_000,
            last_bytes: 90_000_000,
            growth: Some(Growth { bytes_per_sec: 3e6, mean_bytes: 4.5e7 }),
        }),
        ..quiet()
    };
    walsender_waits(&mut signals, &[("client/walsenderwritedata", 0.9)]);
    receiver(&mut signals).waits = 0.1;
    signals
}

fn walsender_waits(signals: &mut Signals, events: &[(&str, f64)]) {
    walsender(signals).waits = Some(waits(events));
}

fn walsender(signals: &mut Signals) -> &mut Walsender {
    signals.lanes[0].walsender.as_mut().unwrap()
}

fn receiver(signals: &mut Signals) -> &mut ReceiverShares {
    signals.lanes[0].receiver.as_mut().unwrap()
}

fn run_delay(signals: &mut Signals, cores: f64) {
    signals.lanes[0].process.as_mut().unwrap().run_delay_cores = Some(cores);
}

fn looks(signals: &mut Signals) -> &mut LooksShares {
    receiver(signals).looks.as_mut().unwrap()
}

fn causes(signals: &Signals) -> Vec<Cause> {
    findings(signals).into_iter().map(|finding| finding.cause).collect()
}

#[track_caller]
fn first(signals: &Signals, cause: Cause, confidence: Confidence) -> Finding {
    let found = findings(signals).swap_remove(0);
    assert_eq!((found.cause, found.confidence), (cause, confidence), "{found:#?}");
    found
}

#[test]
fn without_a_measurement_there_is_no_data() {
    assert_eq!(causes(&Signals::default()), [Cause::NoData]);
}

#[test]
fn a_quiet_phase_is_healthy_and_says_how_far_it_could_go() {
    let found = first(&quiet(), Cause::Healthy, Confidence::High);
    assert!(!found.is_limit);
    // Of all that can be full, the producers' connections are fullest.
    assert!((found.evidence[0].value - 1.0 / 0.3).abs() < 1e-9, "{found:#?}");
    assert_eq!(found.evidence[1].name, "first to be full: 4 connections of the producers");
    assert_eq!(causes(&quiet()).len(), 1);
}

#[test]
fn what_is_not_measured_fires_nothing() {
    let signals = Signals { measured: true, ..Signals::default() };
    assert_eq!(causes(&signals), [Cause::Healthy]);
    let limited = Signals { behind: Some("behind".into()), ..signals.clone() };
    assert_eq!(causes(&limited), [Cause::Unknown]);
    let limited = Signals { short: Some("short".into()), ..signals };
    assert_eq!(causes(&limited), [Cause::Unknown]);
}

#[test]
fn refused_rows_are_the_reason_of_a_shortfall() {
    let signals =
        Signals { errors: Some(Errors { rows: 30, said: "30 rows failed".into() }), ..short() };
    assert_eq!(causes(&signals)[0], Cause::WriteErrors);
    assert!(!causes(&signals).contains(&Cause::HarnessBound));
}

#[test]
fn answers_that_take_long_are_the_producers_limit() {
    first(&short(), Cause::ProducerBound, Confidence::High);
    // With a walsender that has much to do nobody knows.
    let mut signals = short();
    walsender_waits(&mut signals, &[("running", 1.0)]);
    first(&signals, Cause::ProducerBound, Confidence::Medium);
    signals.connections = Some(Busy { share: 0.7, of: 4 });
    assert_eq!(causes(&signals), [Cause::Unknown]);
}

#[test]
fn commits_that_wait_for_their_disk_come_before_answers() {
    let mut signals = short();
    signals.backends = Some(waits(&[("io/walsync", 0.3), ("lwlock/walwrite", 0.4)]));
    let found = first(&signals, Cause::ProducerBound, Confidence::High);
    assert!(found.evidence.iter().any(|figure| figure.name.contains("lwlock/walwrite")));
    assert_eq!(causes(&signals), [Cause::ProducerBound, Cause::DiskWal]);
    signals.machine.as_mut().unwrap().io_pressure = Some(0.5);
    let found = first(&signals, Cause::DiskWal, Confidence::High);
    assert!((found.evidence[0].value - 0.7).abs() < 1e-9, "both together: {found:#?}");
    signals.backends = Some(waits(&[("io/walsync", 0.1)]));
    assert!(!causes(&signals).contains(&Cause::DiskWal));
}

#[test]
fn a_generator_that_is_busy_itself_is_named() {
    let mut signals = short();
    signals.connections = Some(Busy { share: 0.3, of: 4 });
    first(&signals, Cause::HarnessBound, Confidence::Low);
    signals.producers[0].busiest_thread = Some(("connection".into(), 0.95));
    first(&signals, Cause::HarnessBound, Confidence::High);
    // Nothing of that matters while the rate is held.
    signals.short = None;
    assert_eq!(causes(&signals), [Cause::Healthy]);
}

#[test]
fn a_full_machine_comes_before_all_others() {
    let mut signals = behind();
    receiver(&mut signals).works = 0.95;
    signals.machine.as_mut().unwrap().busy_cores = 3.9;
    first(&signals, Cause::DecodeCpu, Confidence::High);
    signals.machine.as_mut().unwrap().cpu_pressure = Some(0.6);
    run_delay(&mut signals, 0.3);
    let found = first(&signals, Cause::HostCpu, Confidence::High);
    assert!(found.is_limit);
    assert_eq!(found.advice[0].key.as_deref(), Some("producer.launcher"));
    signals.machine.as_mut().unwrap().others_cores = Some(2.0);
    let found = first(&signals, Cause::HostCpu, Confidence::High);
    assert!(found.advice[0].why.contains("what else runs"), "{found:#?}");
}

#[test]
fn waiting_for_a_core_is_said_also_where_it_did_no_harm() {
    let mut signals = quiet();
    signals.machine.as_mut().unwrap().cpu_pressure = Some(0.4);
    assert_eq!(causes(&signals), [Cause::Healthy]);
    run_delay(&mut signals, 0.2);
    assert_eq!(causes(&signals), [Cause::Healthy, Cause::HostCpu]);
    signals.machine.as_mut().unwrap().cpu_pressure = Some(0.04);
    assert_eq!(causes(&signals), [Cause::Healthy]);
}

#[test]
fn a_slow_sink_is_seen_by_its_places_and_by_what_waits_for_them() {
    let mut signals = behind();
    signals.sink.flushes = Some(Busy { share: 0.99, of: 2 });
    first(&signals, Cause::SinkBound, Confidence::High);
    signals.sink.queued = Some(1.0);
    receiver(&mut signals).blocked = 0.9;
    let found = first(&signals, Cause::SinkBound, Confidence::High);
    assert_eq!(found.evidence.len(), 5, "{found:#?}");
    assert_eq!(found.advice[1].key.as_deref(), Some("consumer.max_flush_concurrency"));
    // Not their size ends batches, but their age.
    signals.sink.batch_fill = Some(0.04);
    let found = first(&signals, Cause::SinkBound, Confidence::High);
    assert_eq!(found.advice[0].key.as_deref(), Some("consumer.max_in_flight_bytes"));
    receiver(&mut signals).blocked = 0.1;
    let found = first(&signals, Cause::SinkBound, Confidence::High);
    assert_eq!(found.advice[0].key.as_deref(), Some("consumer.flush_interval_ms"));
    signals.sink.delayed_inserts = 7;
    let found = first(&signals, Cause::SinkBound, Confidence::High);
    assert_eq!(found.advice[1].change, Some(Change::Lower), "{found:#?}");
    // Batches that wait while none is under way wait for somebody else.
    let mut other = signals.clone();
    other.sink.delayed_inserts = 0;
    other.sink.flushes = Some(Busy { share: 0.2, of: 2 });
    assert!(!causes(&other).contains(&Cause::SinkBound));
    // It is busy, and that is enough.
    signals.behind = None;
    assert!(!causes(&signals).contains(&Cause::SinkBound));
}

#[test]
fn an_outage_that_was_made_up_for_is_said() {
    let signals = Signals { durable_stall_sec: Some(12.0), ..quiet() };
    assert_eq!(causes(&signals), [Cause::Healthy, Cause::SinkBound]);
    let signals = Signals { durable_stall_sec: Some(8.0), ..quiet() };
    assert_eq!(causes(&signals), [Cause::Healthy]);
}

#[test]
fn a_blocked_runtime_is_named_unless_the_machine_blocks_it() {
    let mut signals = quiet();
    looks(&mut signals).blocked_runtime = 0.3;
    let found = findings(&signals).swap_remove(1);
    assert_eq!((found.cause, found.confidence), (Cause::StarvedRuntime, Confidence::Medium));
    looks(&mut signals).heartbeat_p99_us = Some(250_000);
    let found = findings(&signals).swap_remove(1);
    assert_eq!((found.confidence, found.is_limit), (Confidence::High, false));
    run_delay(&mut signals, 0.5);
    assert!(!causes(&signals).contains(&Cause::StarvedRuntime));
    let mut signals = behind();
    looks(&mut signals).blocked_runtime = 0.3;
    looks(&mut signals).heartbeat_p99_us = Some(250_000);
    assert!(first(&signals, Cause::StarvedRuntime, Confidence::High).is_limit);
    // A stall now and then makes nobody late.
    looks(&mut signals).blocked_runtime = 0.05;
    assert_eq!(causes(&signals), [Cause::ConsumerBound, Cause::StarvedRuntime]);
}

#[test]
fn a_receiver_without_a_pause_is_the_consumers_cpu() {
    let mut signals = behind();
    receiver(&mut signals).works = 0.97;
    first(&signals, Cause::DecodeCpu, Confidence::High);
    walsender(&mut signals).waits = None;
    first(&signals, Cause::DecodeCpu, Confidence::Medium);
    receiver(&mut signals).works = 0.7;
    assert_eq!(causes(&signals), [Cause::Unknown]);
}

#[test]
fn a_consumer_that_takes_too_little_is_named_even_if_nobody_knows_why() {
    first(&behind(), Cause::ConsumerBound, Confidence::Low);
}

/// Another program in the consumer's place, of which its process alone is known.
fn external(mut signals: Signals) -> Signals {
    signals.is_external = true;
    signals.lanes[0].receiver = None;
    signals.lanes[0].unconfirmed_bytes = Some(5_000_000);
    signals.sink = SinkSignals::default();
    (signals.confirm_stall_sec, signals.durable_stall_sec) = (None, None);
    signals
}

#[test]
fn of_a_program_that_tells_nothing_postgresql_says_whether_it_is_slow() {
    let found = first(&external(quiet()), Cause::Healthy, Confidence::Medium);
    assert!(!found.is_limit);
    let mut signals = external(behind());
    let found = first(&signals, Cause::ConsumerBound, Confidence::Medium);
    assert!(found.said.contains("too slowly"), "{found:#?}");
    signals.lanes[0].process.as_mut().unwrap().busiest_thread = Some(("main".into(), 0.97));
    first(&signals, Cause::ConsumerBound, Confidence::High);
    walsender_waits(&mut signals, &[("client/walsenderwritedata", 0.5)]);
    assert_eq!(causes(&signals), [Cause::Unknown]);
    // It took everything, and is late to confirm it.
    walsender_waits(&mut signals, &[("client/walsenderwaitforwal", 0.9)]);
    let found = first(&signals, Cause::ConsumerBound, Confidence::High);
    assert!(found.said.contains("late to confirm"), "{found:#?}");
    signals.lanes[0].unconfirmed_bytes = Some(0);
    assert_eq!(causes(&signals), [Cause::Unknown]);
    // It was not there.
    walsender_waits(&mut signals, &[("absent", 0.3), ("client/walsenderwritedata", 0.7)]);
    assert_eq!(causes(&signals), [Cause::Disconnected]);
    // What it is sent comes slowly.
    walsender_waits(&mut signals, &[("running", 0.95)]);
    walsender(&mut signals).cores = Some(0.97);
    let found = first(&signals, Cause::WalsenderBound, Confidence::High);
    assert_eq!(found.advice[0].key.as_deref(), Some("consumer.distribution"));
}

#[test]
fn nobody_is_told_to_change_what_another_program_does_not_know() {
    let mut signals = external(behind());
    signals.sink.delayed_inserts = 7;
    let found = first(&signals, Cause::SinkBound, Confidence::Medium);
    assert!(found.advice.is_empty(), "{found:#?}");
    signals.is_external = false;
    let found = first(&signals, Cause::SinkBound, Confidence::Medium);
    assert_eq!(found.advice.len(), 2, "{found:#?}");
}

fn connection(signals: &mut Signals) -> &mut ConnectionShares {
    signals.lanes[0].connection.get_or_insert_default()
}

#[test]
fn a_connection_without_room_at_the_consumers_end_is_a_slow_consumer() {
    // The doctor need not look for it.
    let mut signals = behind();
    walsender(&mut signals).waits = None;
    connection(&mut signals).window_limited = 0.49;
    assert_eq!(causes(&signals), [Cause::Unknown]);
    connection(&mut signals).window_limited = 0.51;
    let found = first(&signals, Cause::ConsumerBound, Confidence::Low);
    assert!(found.evidence[0].name.contains("no room at its other end"), "{found:#?}");
    receiver(&mut signals).works = 0.97;
    first(&signals, Cause::DecodeCpu, Confidence::High);
    receiver(&mut signals).works = 0.1;
    signals.sink.flushes = Some(Busy { share: 0.9, of: 2 });
    first(&signals, Cause::SinkBound, Confidence::High);
    connection(&mut signals).window_limited = 0.49;
    first(&signals, Cause::SinkBound, Confidence::Medium);
    // What waits says the same.
    let mut signals = behind();
    connection(&mut signals).window_limited = 0.51;
    first(&signals, Cause::ConsumerBound, Confidence::Medium);
}

#[test]
fn a_connection_that_loses_what_is_sent_is_a_slow_way() {
    let mut signals = behind();
    signals.is_local = false;
    receiver(&mut signals).waits = 0.9;
    walsender(&mut signals).waits = None;
    let losing = ConnectionShares { busy: 0.51, retransmitted: 0.0011, ..Default::default() };
    let with = |lost: ConnectionShares| {
        let mut signals = signals.clone();
        signals.lanes[0].connection = Some(lost);
        signals
    };
    let found = first(&with(losing), Cause::Network, Confidence::High);
    assert!(found.evidence.iter().any(|it| it.name == "segments sent again"), "{found:#?}");
    for kept in [
        ConnectionShares { retransmitted: 0.0009, ..losing },
        ConnectionShares { busy: 0.49, ..losing },
    ] {
        assert_eq!(causes(&with(kept)), [Cause::Unknown], "{kept:?}");
    }
    // It is not for want of room at the other end, or that end is on the way and not the consumer's.
    let no_room = ConnectionShares { window_limited: 0.51, ..losing };
    let found = first(&with(no_room), Cause::Network, Confidence::High);
    assert!(found.evidence.iter().all(|it| it.name != "segments sent again"), "{found:#?}");
    let mut taken = with(no_room);
    looks(&mut taken).socket_bytes = Some(200_000.0);
    assert!(!causes(&taken).contains(&Cause::Network));
}

#[test]
fn a_measured_ceiling_bounds_the_headroom() {
    let mut signals = quiet();
    let named = |signals: &Signals| {
        let found = first(signals, Cause::Healthy, Confidence::High);
        let figure = found.evidence.into_iter().find(|it| it.name.starts_with("headroom, at most"));
        figure.map(|figure| (figure.name, figure.value))
    };
    assert_eq!(named(&signals), None);
    signals.ceiling = Some(("what the sink can take".into(), 0.04));
    let expected = ("headroom, at most, by what the sink can take".to_owned(), 25.0);
    assert_eq!(named(&signals), Some(expected));
}

#[test]
fn a_slow_way_leaves_both_ends_waiting() {
    let mut signals = behind();
    signals.is_local = false;
    receiver(&mut signals).waits = 0.9;
    first(&signals, Cause::Network, Confidence::High);
    // Bytes that wait to be read have come over it.
    looks(&mut signals).socket_bytes = Some(200_000.0);
    first(&signals, Cause::ConsumerBound, Confidence::Low);
    receiver(&mut signals).looks = None;
    first(&signals, Cause::Network, Confidence::Medium);
    // Large buffers on the way keep the walsender from waiting, for long.
    walsender_waits(&mut signals, &[("client/walsenderwaitforwal", 1.0)]);
    assert_eq!(causes(&signals), [Cause::Unknown]);
    signals.lanes[0].in_transit_bytes = Some(2_000_000);
    first(&signals, Cause::Network, Confidence::Medium);
    // A walsender that decodes says that it has sent what it has not.
    walsender_waits(&mut signals, &[("running", 0.9)]);
    assert_eq!(causes(&signals), [Cause::Unknown]);
}

#[test]
fn both_ends_waiting_for_each_other_on_one_machine_is_a_contradiction() {
    let mut signals = behind();
    receiver(&mut signals).waits = 0.9;
    let found = first(&signals, Cause::Unknown, Confidence::Low);
    assert_eq!(found.evidence.len(), 2);
    // Whatever else would have been said of the reading side.
    signals.sink.flushes = Some(Busy { share: 0.99, of: 2 });
    first(&signals, Cause::Unknown, Confidence::Low);
    assert_eq!(causes(&signals).len(), 1);
}

#[test]
fn a_walsender_that_works_and_waits_at_once_is_a_contradiction() {
    let mut signals = behind();
    walsender(&mut signals).cores = Some(0.98);
    first(&signals, Cause::Unknown, Confidence::Low);
}

#[test]
fn a_full_walsender_is_the_limit_if_its_backlog_grows() {
    let mut signals = behind();
    walsender(&mut signals).cores = Some(0.97);
    walsender_waits(&mut signals, &[("running", 0.95)]);
    receiver(&mut signals).waits = 0.9;
    let found = first(&signals, Cause::WalsenderBound, Confidence::High);
    assert!(found.is_limit);
    // Without the doctor's looks it is the only one to say so.
    walsender(&mut signals).waits = None;
    signals.lanes[0].receiver = None;
    first(&signals, Cause::WalsenderBound, Confidence::Medium);
    // It grows, and nothing is late yet.
    signals.behind = None;
    assert_eq!(causes(&signals), [Cause::Healthy, Cause::WalsenderBound]);
    signals.backlog = Some(Backlog { first_bytes: 5_000, last_bytes: 5_000, growth: None });
    assert_eq!(causes(&signals), [Cause::Healthy]);
}

#[test]
fn spilled_transactions_are_said_and_are_the_limit_where_they_are_felt() {
    let mut signals = quiet();
    signals.spilled_bytes = Some(50_000_000);
    assert_eq!(causes(&signals), [Cause::Healthy, Cause::WalsenderSpill]);
    signals.behind = Some("behind".into());
    walsender_waits(&mut signals, &[("io/reorderbufferread", 0.2), ("running", 0.5)]);
    first(&signals, Cause::WalsenderSpill, Confidence::High);
}

#[test]
fn what_is_durable_and_not_confirmed_is_said() {
    let signals = Signals { confirm_stall_sec: Some(15.0), ..quiet() };
    assert_eq!(causes(&signals), [Cause::Healthy, Cause::ConfirmStall]);
    let signals = Signals { endangered_slot: Some("unreserved".into()), ..quiet() };
    assert_eq!(causes(&signals), [Cause::Healthy, Cause::ConfirmStall]);
}

/// What is found of memory that grows by one measure or both.
fn grown(memory: MemoryGrowth, window_sec: f64) -> Option<Finding> {
    let memory = vec![MemoryGrowth { process: "consumer-0".into(), ..memory }];
    let found = findings(&Signals { memory, window_sec, ..quiet() });
    found.into_iter().find(|finding| finding.cause == Cause::MemoryGrowth)
}

#[test]
fn memory_that_grows_is_said_if_it_is_much_and_long() {
    let growth = Growth { bytes_per_sec: 2e6, mean_bytes: 1e8 };
    let both = [
        |it| MemoryGrowth { resident: Some(it), ..MemoryGrowth::default() },
        |it| MemoryGrowth { allocated: Some(it), ..MemoryGrowth::default() },
    ];
    for by in both {
        let grows = |growth, window_sec| grown(by(growth), window_sec).is_some();
        assert!(grows(growth, 30.0));
        assert!(!grows(growth, 10.0), "too short to say");
        assert!(!grows(Growth { bytes_per_sec: 1e5, ..growth }, 30.0), "3 MB");
        assert!(!grows(Growth { mean_bytes: 1e11, ..growth }, 30.0), "little of what there is");
    }
}

#[test]
fn memory_that_grows_by_both_measures_is_surer_and_its_heap_is_named() {
    let growth = Some(Growth { bytes_per_sec: 2e6, mean_bytes: 1e8 });
    let one = MemoryGrowth { resident: growth, ..MemoryGrowth::default() };
    let both = MemoryGrowth { allocated: growth, ..one.clone() };
    assert_eq!(grown(one, 30.0).unwrap().confidence, Confidence::Medium);
    let found = grown(both.clone(), 30.0).unwrap();
    assert_eq!((found.confidence, found.evidence.len()), (Confidence::High, 6));
    assert_eq!(found.advice[0].key.as_deref(), Some("profiling.heap"));
    let heap = Some("profiles/a-consumer-0-heap-growth.svg".to_owned());
    let found = grown(MemoryGrowth { heap, ..both }, 30.0).unwrap();
    assert!(found.advice[0].why.ends_with("a-consumer-0-heap-growth.svg"), "{found:#?}");
}

#[test]
fn what_limits_comes_before_what_does_no_harm_and_the_surer_first() {
    let mut signals = behind();
    receiver(&mut signals).works = 0.95;
    signals.spilled_bytes = Some(1);
    signals.sink.flushes = Some(Busy { share: 0.9, of: 2 });
    walsender(&mut signals).waits = None;
    let found = findings(&signals);
    let told: Vec<_> = found.iter().map(|f| (f.cause, f.is_limit, f.confidence)).collect();
    assert_eq!(
        told,
        [
            (Cause::SinkBound, true, Confidence::Medium),
            (Cause::DecodeCpu, true, Confidence::Medium),
            (Cause::WalsenderSpill, false, Confidence::Medium),
        ]
    );
}

#[test]
fn a_slow_producer_and_a_slow_consumer_are_both_told() {
    let mut signals = behind();
    signals.short = Some("the generator fell short".into());
    signals.connections = Some(Busy { share: 0.99, of: 4 });
    signals.sink.flushes = Some(Busy { share: 0.9, of: 2 });
    let found = causes(&signals);
    assert!(
        found.contains(&Cause::ProducerBound) && found.contains(&Cause::SinkBound),
        "{found:?}"
    );
}

#[test]
fn work_without_a_core_is_no_work_of_the_cpu() {
    let mut signals = behind();
    receiver(&mut signals).works = 0.97;
    receiver(&mut signals).cores = Some(0.95);
    // Whatever else wants its core.
    run_delay(&mut signals, 0.2);
    first(&signals, Cause::DecodeCpu, Confidence::High);
    receiver(&mut signals).cores = Some(0.2);
    first(&signals, Cause::ConsumerBound, Confidence::Low);
}

#[test]
fn a_lost_connection_is_the_reason_and_nothing_else_is_concluded_from_it() {
    let mut signals = behind();
    receiver(&mut signals).disconnected = 0.6;
    signals.confirm_stall_sec = Some(20.0);
    first(&signals, Cause::Disconnected, Confidence::High);
    assert!(!causes(&signals).contains(&Cause::ConfirmStall));
}

/// One consumer decodes without a pause, the other has nothing to do.
#[test]
fn what_one_consumer_does_says_nothing_of_another() {
    let mut signals = behind();
    signals.is_local = false;
    receiver(&mut signals).works = 0.97;
    let mut idle = quiet().lanes.remove(0);
    idle.consumer = "consumer-1".into();
    signals.lanes.push(idle.clone());
    assert_eq!(causes(&signals), [Cause::DecodeCpu]);

    // One walsender is full, the other waits for WAL.
    let mut signals = behind();
    walsender(&mut signals).cores = Some(0.97);
    walsender_waits(&mut signals, &[("running", 0.97)]);
    receiver(&mut signals).waits = 0.9;
    signals.lanes.push(idle);
    assert_eq!(causes(&signals), [Cause::WalsenderBound]);
}

#[test]
fn a_walsender_elsewhere_is_known_by_its_waits_alone() {
    let mut signals = behind();
    signals.is_local = false;
    walsender(&mut signals).cores = None;
    walsender_waits(&mut signals, &[("running", 0.95)]);
    receiver(&mut signals).waits = 0.9;
    signals.lanes[0].in_transit_bytes = Some(50_000_000);
    first(&signals, Cause::WalsenderBound, Confidence::Medium);
    assert!(!causes(&signals).contains(&Cause::Network));
}

#[test]
fn connections_that_all_wait_are_not_the_generators_fault() {
    let mut signals = short();
    signals.producers[0].cores = 1.9;
    assert_eq!(causes(&signals), [Cause::ProducerBound]);
}

#[test]
fn what_only_one_of_two_troubles_explains_leaves_the_other_unknown() {
    let mut signals = behind();
    signals.short = Some("the generator fell short".into());
    signals.connections = Some(Busy { share: 0.6, of: 4 });
    signals.sink.flushes = Some(Busy { share: 0.99, of: 2 });
    assert_eq!(causes(&signals), [Cause::SinkBound, Cause::Unknown]);
}
