//! `--profile doctor`: each cause that is planted into a run is found and named, and a quiet run is
//! healthy.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use walbench_profiles::doctor::{Cause, Confidence, Finding};
use walbench_profiles::sampler::Backend;

use crate::home::{Home, Walbench};
use crate::processes::until;
use crate::server::{Server, runtime};
use crate::turns::alone;

/// Eight seconds of narrow rows, which cost PostgreSQL little.
const PLAN: &str = r#"
name = "planted"

[[phases]]
name = "only"
warmup_sec = 1
duration_sec = 8
target_throughput = 1_000

[producer]
tables = ["event"]
insert_update_ratio = 1.0

[profiling]
tool = "doctor"

[limits]
drain_sec = 120
"#;

fn findings(home: &Home) -> Vec<Finding> {
    let metrics = home.metrics();
    assert!(metrics.limit.evidence.starts_with("phase only: "), "{:?}", metrics.limit);
    metrics.phases[0].findings.clone()
}

/// The finding that a run must have, and that limited it or not.
#[track_caller]
fn found(findings: &[Finding], cause: Cause, is_limit: bool) -> Finding {
    let found = findings.iter().find(|finding| finding.cause == cause);
    let found = found.unwrap_or_else(|| panic!("no {cause:?}: {findings:#?}"));
    assert_eq!(found.is_limit, is_limit, "{findings:#?}");
    assert!(!found.evidence.is_empty() && !found.advice.is_empty(), "{found:#?}");
    found.clone()
}

/// The weightiest finding.
#[track_caller]
fn first(findings: &[Finding], cause: Cause, confidence: Confidence) {
    let first = &findings[0];
    assert_eq!((first.cause, first.confidence), (cause, confidence), "{findings:#?}");
}

/// A value of a finding's evidence.
#[track_caller]
fn figure(finding: &Finding, name: &str) -> f64 {
    let found = finding.evidence.iter().find(|figure| figure.name.contains(name));
    found.unwrap_or_else(|| panic!("no {name:?}: {finding:#?}")).value
}

#[test]
fn a_quiet_run_is_healthy_and_loses_no_figure() {
    let _turn = alone();
    let home = Home::new();
    let command = home.run(PLAN).on(Server::shared(), "doctor_quiet");
    let ended = command.set("phases.0.target_throughput", "200").ended().with_code(0);
    let findings = findings(&home);
    first(&findings, Cause::Healthy, Confidence::High);
    let headroom = figure(&findings[0], "headroom");
    assert!(headroom > 2.0, "{findings:#?}");
    ended.answered("headroom, at least");
    let summary = fs::read_to_string(home.run_folder().join("SUMMARY.md")).unwrap();
    assert!(summary.contains("| no limit | very |"), "{summary}");
    // What an unprofiled run has, this one has too.
    let metrics = home.metrics();
    let phase = &metrics.phases[0];
    assert_eq!(phase.consumer.rows, 1_600);
    assert_eq!(phase.consumer.lag_us.commit_to_flushed.count, 1_600);
    assert!(phase.processes.iter().any(|process| process.name == "walsender-0"));
    home.assert_clean();
}

#[test]
fn a_slow_sink_is_found() {
    let _turn = alone();
    let home = Home::new();
    let plan = [
        ("consumer.mock_delay_ms", "200"),
        ("consumer.max_flush_concurrency", "1"),
        ("consumer.flush_batch_size", "300"),
        ("consumer.flush_batch_bytes", "65536"),
        ("consumer.max_in_flight_bytes", "131072"),
        ("phases.0.target_throughput", "3000"),
        ("phases.0.duration_sec", "5"),
    ];
    // A Unix socket holds little of what is not taken.
    let command = home.run(PLAN);
    let ended = plan.into_iter().fold(command, |it, (key, value)| it.set(key, value)).ended();
    let findings = findings(&home);
    first(&findings, Cause::SinkBound, Confidence::High);
    let sink = found(&findings, Cause::SinkBound, true);
    assert!(figure(&sink, "flushes under way") > 0.9, "{sink:#?}");
    assert!(figure(&sink, "for want of room") > 0.5, "{sink:#?}");
    assert!(figure(&sink, "waits for its consumer") > 0.6, "{sink:#?}");
    assert!(
        sink.advice.iter().any(|it| it.key.as_deref() == Some("consumer.max_flush_concurrency"))
    );
    ended.with_code(0).answered("raise consumer.max_flush_concurrency");
}

fn planted(home: &Home, name: &str, cause: &str) -> Walbench {
    home.run(PLAN).on(Server::shared(), name).env("WALBENCH_PLANTED", cause)
}

/// Each message costs 1.5 ms of CPU: two thirds of what comes can be handled.
#[test]
fn a_busy_receiver_is_found_and_its_hot_function_has_its_true_share() {
    let backend = if Backend::perf_event().is_ok() { "perf-event" } else { "pprof" };
    a_busy_receiver_is_found("doctor_decode", backend);
}

#[test]
fn so_it_has_where_the_consumer_samples_itself() {
    a_busy_receiver_is_found("doctor_own", "pprof");
}

fn a_busy_receiver_is_found(name: &str, backend: &str) {
    let _turn = alone();
    let home = Home::new();
    let command = planted(&home, name, "hot_function:1500").set("profiling.tool", "both");
    let command = command.set("profiling.backend", backend).set("phases.0.duration_sec", "5");
    command.ended().with_code(0);
    let metrics = home.metrics();
    let profile = metrics.phases[0].profiles.iter().find(|it| it.process == "consumer-0").unwrap();
    assert!(profile.backend.starts_with(backend) && profile.flaw.is_none(), "{profile:#?}");
    let decode = found(&findings(&home), Cause::DecodeCpu, true);
    assert!(figure(&decode, "receiving thread works") > 0.9, "{decode:#?}");
    let (mut hot_ns, mut all_ns) = (0, 0);
    for window in ["-warmup", "", "-drain"] {
        let file = home.run_folder().join(format!("profiles/only-consumer-0{window}.folded"));
        for line in fs::read_to_string(file).unwrap_or_default().lines() {
            let (stack, ns) = line.rsplit_once(' ').unwrap();
            let ns: u64 = ns.parse().unwrap();
            all_ns += ns;
            if stack.contains("planted::hot_function") {
                hot_ns += ns;
            }
        }
    }
    let log = fs::read_to_string(home.run_folder().join("logs/consumer-0.log")).unwrap();
    let used_us = log.lines().find_map(|line| line.strip_prefix("planted: hot_function used "));
    let used_us: f64 = used_us.unwrap().trim_end_matches(" us").parse().unwrap();
    let (found, truth) = (hot_ns as f64 / all_ns as f64, used_us * 1e3 / all_ns as f64);
    assert!((found - truth).abs() < 0.05, "{found} of the samples, {truth} by its own clock");
    assert!(truth > 0.8, "{truth}");
    home.assert_clean();
}

#[test]
fn a_task_that_does_not_come_back_is_a_starved_runtime() {
    let _turn = alone();
    let home = Home::new();
    let command = planted(&home, "doctor_runtime", "blocking_poll:500");
    command.set("phases.0.target_throughput", "200").ended().with_code(0);
    let findings = findings(&home);
    first(&findings, Cause::Healthy, Confidence::High);
    let starved = found(&findings, Cause::StarvedRuntime, false);
    // 500 of each 1,200 ms, less what is between two looks.
    let blocked = figure(&starved, "do not come back");
    assert!((0.2..0.5).contains(&blocked), "{starved:#?}");
}

#[test]
fn memory_that_is_lost_is_found() {
    let _turn = alone();
    let home = Home::new();
    let command = planted(&home, "doctor_memory", "leak:4096");
    let command = command.set("phases.0.target_throughput", "200").set("profiling.heap", "true");
    command.set("phases.0.duration_sec", "16").ended().with_code(0);
    let grown = found(&findings(&home), Cause::MemoryGrowth, false);
    assert_eq!(grown.said, "memory of consumer-0 grows");
    for measure in ["allocated", "resident"] {
        let per_sec = figure(&grown, &format!("growth of {measure} memory"));
        assert!((per_sec / (4.0 * 1024.0 * 1024.0) - 1.0).abs() < 0.2, "{grown:#?}");
    }
    let heap = "profiles/only-consumer-0-heap-growth.svg";
    assert!(grown.advice.iter().any(|it| it.why.ends_with(heap)), "{grown:#?}");
    assert!(home.run_folder().join(heap).exists());
}

#[test]
fn a_slot_that_is_not_confirmed_is_found() {
    let _turn = alone();
    let home = Home::new();
    let command = planted(&home, "doctor_confirm", "no_confirmation");
    let command = command.set("phases.0.target_throughput", "200").set("limits.drain_sec", "2");
    command.set("phases.0.duration_sec", "14").ended();
    let stalled = found(&findings(&home), Cause::ConfirmStall, false);
    assert!(figure(&stalled, "without a confirmation") >= 10.0, "{stalled:#?}");
}

#[test]
fn a_generator_that_is_busy_itself_is_found() {
    let _turn = alone();
    let home = Home::new();
    let command = planted(&home, "doctor_harness", "busy_producer:20000");
    let command = command.set("producer.connections", "1");
    command.set("phases.0.duration_sec", "5").ended().with_code(3);
    let findings = findings(&home);
    let harness = found(&findings, Cause::HarnessBound, true);
    assert_eq!(harness.confidence, Confidence::High, "{findings:#?}");
    assert!(figure(&harness, "CPU of its thread") > 0.9, "{harness:#?}");
}

/// Every row waits in a trigger.
#[test]
fn answers_that_take_long_are_found() {
    let _turn = alone();
    let home = Home::new();
    let server = Server::start();
    let mut running = home.run(PLAN).on(&server, "doctor_answers").start();
    running.until_said("workers started");
    server.session("doctor_answers").execute(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS \
         'BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END'; \
         CREATE TRIGGER wait BEFORE INSERT ON event FOR EACH ROW EXECUTE FUNCTION wait()",
    );
    running.ended().with_code(3).answered("PostgreSQL's answers are the limit");
    let findings = findings(&home);
    first(&findings, Cause::ProducerBound, Confidence::High);
    let answers = found(&findings, Cause::ProducerBound, true);
    assert!(figure(&answers, "timeout/pgsleep") > 0.5, "{answers:#?}");
    assert!(figure(&answers, "waits for new WAL") > 0.8, "{answers:#?}");
}

/// Each commit waits for a disk that takes 50 ms.
#[test]
fn a_slow_disk_is_found() {
    let _turn = alone();
    let home = Home::new();
    let server = Server::with_a_slow_disk();
    let command = home.run(PLAN).on(&server, "doctor_disk");
    let command = command.set("phases.0.target_throughput", "2000");
    command.set("phases.0.duration_sec", "5").ended().with_code(3);
    let slow = found(&findings(&home), Cause::DiskWal, true);
    assert!(figure(&slow, "wait for WAL to be written") > 0.5, "{slow:#?}");
    assert!(slow.advice.iter().any(|it| it.key.as_deref() == Some("producer.batch_size")));
}

/// More than half of the transactions are refused.
#[test]
fn rows_that_are_refused_are_found() {
    let _turn = alone();
    let home = Home::new();
    let server = Server::start();
    let mut running = home.run(PLAN).on(&server, "doctor_errors").start();
    running.until_said("workers started");
    server.session("doctor_errors").execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
         'BEGIN IF random() < 0.08 THEN RAISE ''not this one''; END IF; RETURN NEW; END'; \
         CREATE TRIGGER refuse BEFORE INSERT ON event FOR EACH ROW EXECUTE FUNCTION refuse()",
    );
    running.ended().with_code(3).answered("P0001");
    let refused = found(&findings(&home), Cause::WriteErrors, true);
    assert!(refused.said.contains("P0001"), "{refused:#?}");
    assert!(figure(&refused, "rows that failed") > 100.0, "{refused:#?}");
}

/// Its connection is ended again and again, for three of the eight seconds.
#[test]
fn a_consumer_without_a_connection_is_found() {
    let _turn = alone();
    let home = Home::new();
    let server = Server::start();
    let mut running = home.run(PLAN).on(&server, "doctor_disconnected").start();
    running.until_under_load();
    let session = server.session("postgres");
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        session.execute(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots \
             WHERE active_pid IS NOT NULL",
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    running.ended().with_code(0);
    let findings = findings(&home);
    let lost = findings.iter().find(|finding| finding.cause == Cause::Disconnected);
    let lost = lost.unwrap_or_else(|| panic!("{findings:#?}"));
    assert!((0.1..0.6).contains(&figure(lost, "without a connection")), "{lost:#?}");
}

/// Transactions that don't fit into the memory of logical decoding.
#[test]
fn spilled_transactions_are_found() {
    let _turn = alone();
    let home = Home::new();
    let server = Server::with("logical_decoding_work_mem = '64kB'");
    let command = home.run(PLAN).on(&server, "doctor_spill");
    let plan = [("producer.batch_size", "2000"), ("consumer.streaming", "off")];
    plan.into_iter().fold(command, |it, (key, value)| it.set(key, value)).ended().with_code(0);
    let spilled = found(&findings(&home), Cause::WalsenderSpill, false);
    assert!(figure(&spilled, "spilled by decoding") > 100_000.0, "{spilled:#?}");
}

/// The walsender has to compute a digest of a long text for each row, to know whether it is
/// published.
#[test]
fn a_full_walsender_is_found() {
    let _turn = alone();
    let home = Home::new();
    let server = Server::start();
    let mut running = home.run(PLAN).on(&server, "doctor_walsender").start();
    running.until_said("workers started");
    let session = server.session("doctor_walsender");
    session.execute(
        "ALTER PUBLICATION walbench SET TABLE event WHERE (md5(repeat(kind, 150000)) <> '')",
    );
    drop(session);
    running.ended().with_code(0);
    let findings = findings(&home);
    let full = found(&findings, Cause::WalsenderBound, true);
    assert!(figure(&full, "its CPU") > 0.9, "{findings:#?}");
}

/// Passes bytes of a connection on, and of the server's only so many in a second.
async fn narrow(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    bytes_per_sec: Option<f64>,
) {
    let mut buffer = vec![0; 2_048];
    let mut free = Instant::now();
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if let Some(rate) = bytes_per_sec {
            // Whoever sends less than that is not held up.
            free = free.max(Instant::now() - Duration::from_millis(20));
            free += Duration::from_secs_f64(length as f64 / rate);
            tokio::time::sleep_until(free.into()).await;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

/// Half of what the rows need comes through.
#[test]
fn a_slow_way_is_found() {
    let _turn = alone();
    let home = Home::new();
    let server = Server::start();
    let port = runtime().block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let upstream = ([127, 0, 0, 1], server.port()).into();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpSocket::new_v4().unwrap();
                server.set_recv_buffer_size(16 * 1024).unwrap();
                let server = server.connect(upstream).await.unwrap();
                client.set_nodelay(true).unwrap();
                server.set_nodelay(true).unwrap();
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(narrow(from_client, to_server, None));
                tokio::spawn(narrow(from_server, to_client, Some(150_000.0)));
            }
        });
        port
    });
    let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
    let command = home.run(PLAN).on(&server, "doctor_way").set("postgres.url", &url);
    command.set("phases.0.target_throughput", "2000").ended().with_code(0);
    let findings = findings(&home);
    let slow = found(&findings, Cause::Network, true);
    assert!(figure(&slow, "WAL sent and not received") > 1e6, "{findings:#?}");
    assert!(figure(&slow, "waiting in its socket") < 65_536.0, "{findings:#?}");
    // The server's own kernel says so: who passes it on takes too little.
    assert!(figure(&slow, "no room at its other end") > 0.5, "{findings:#?}");
}

/// The kernel's figures of both ends; over a Unix socket there are none, which is not zero.
#[test]
fn connections_over_tcp_are_read() {
    let _turn = alone();
    for (transport, is_tcp) in [("tcp", true), ("unix", false)] {
        let home = Home::new();
        let command = home.run(PLAN).set("postgres.transport", transport);
        command.set("phases.0.duration_sec", "3").ended().with_code(0);
        let samples = fs::read_to_string(home.run_folder().join("samples.jsonl")).unwrap();
        let samples = samples.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let read: Vec<Value> = samples
            .filter_map(|sample| sample.pointer("/resources/connections").cloned())
            .collect();
        assert_eq!(!read.is_empty(), is_tcp, "{transport}");
        let sum = |process: &str, key: &str| {
            read.iter().filter_map(|it| it.get(process)?.get(key)?.as_u64()).sum::<u64>()
        };
        let rows_bytes = if is_tcp { 3_000 * 100 } else { 0 };
        assert!(sum("walsender-0", "acknowledged_bytes") >= rows_bytes, "{read:?}");
        // Who confirms sends a little.
        assert!(sum("consumer-0", "acknowledged_bytes") > 0 || !is_tcp, "{read:?}");
        assert!(sum("walsender-0", "busy_us") <= sum("walsender-0", "passed_us"), "{read:?}");
    }
}

/// Others take the machine.
#[test]
fn a_machine_without_a_core_left_is_found() {
    let _turn = alone();
    let home = Home::new();
    let stop = Arc::new(AtomicBool::new(false));
    let cores = std::thread::available_parallelism().unwrap().get();
    let spinners: Vec<_> = (0..3 * cores)
        .map(|_| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        })
        .collect();
    let ended = home.run(PLAN).on(Server::shared(), "doctor_host").ended();
    stop.store(true, Ordering::Relaxed);
    spinners.into_iter().for_each(|spinner| spinner.join().unwrap());
    let findings = findings(&home);
    let host = findings.iter().find(|finding| finding.cause == Cause::HostCpu);
    let host = host.unwrap_or_else(|| panic!("{findings:#?}\n{}", ended.stderr));
    assert_eq!(host.confidence, Confidence::High, "{host:#?}");
    assert!(figure(host, "programs that are not of the run") > 0.5 * cores as f64, "{host:#?}");
    assert!(host.advice[0].why.contains("what else runs"), "{host:#?}");
}

/// Without the doctor nobody looks, and what is counted all the same says what it can.
#[test]
fn without_the_doctor_nothing_is_asked_of_postgres() {
    let _turn = alone();
    let home = Home::new();
    let command = home.run(PLAN).on(Server::shared(), "doctor_away");
    command.set("profiling.tool", "none").set("phases.0.duration_sec", "2").ended().with_code(0);
    first(&findings(&home), Cause::Healthy, Confidence::Medium);
    let samples =
        until("samples", || fs::read_to_string(home.run_folder().join("samples.jsonl")).ok());
    // A gauge's looks are a number: the kernel's figures of a connection have one.
    assert!(!samples.contains("\"waits\"") && !samples.contains("\"looks\":{"), "nobody looked");
    assert!(samples.contains("\"run_delay_us\"") && samples.contains("\"waiting_us\""));
}
