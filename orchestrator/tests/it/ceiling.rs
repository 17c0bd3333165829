//! Ceilings: what the parts of a pipeline can do by themselves, in a run and by command.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::Value;
use walbench_metrics::ceiling::Contestant;
use walbench_results::metrics_json::Metrics;
use walbench_results::verdict::Verdict;

use crate::clickhouse::{Kind, Private};
use crate::cluster::Version;
use crate::followed::Followed;
use crate::home::{Ended, Home, Running, SHORT_PLAN, Walbench};
use crate::into_clickhouse::{on_both_kinds, postgres};
use crate::processes::{of_folder, until};
use crate::server::Server;
use crate::stored::Stored;
use crate::turns::together;

on_both_kinds![a_clickhouse_is_measured_beside_what_it_holds];

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, note text)";

const ROWS: &str = "INSERT INTO t SELECT n, 'note ' || n FROM generate_series(1, 5000) n";

const MEASURING: &str = "measuring ceilings";

/// The short plan with ceilings, on the shared server.
fn run(home: &Home, name: &str) -> Walbench {
    let command = home.run(SHORT_PLAN).on(Server::shared(), name).args(["--ceiling"]);
    // These runs share the machine, and nobody asks how fast they are.
    command.set("limits.rate_tolerance_percent", "100")
}

/// All that a run with ceilings has, which must fit together.
#[track_caller]
fn assert_whole(metrics: &Metrics, parts: &[Contestant]) {
    assert_eq!(metrics.verdict, Verdict::Pass, "{:?}", metrics.reasons);
    let ceiling = metrics.ceiling.as_ref().unwrap();
    assert_eq!(ceiling.parts.iter().map(|part| part.of).collect::<Vec<_>>(), parts);
    for part in &ceiling.parts {
        let rates = [part.rows_per_sec_min, part.rows_per_sec, part.rows_per_sec_max];
        assert!(rates[0] > 0.0 && rates.is_sorted(), "{part:?}");
    }
    // Who reads needs CPU for it.
    assert!(ceiling.parts[0].cpu_us_per_row > 0.0, "{ceiling:?}");
    let phase = &metrics.phases[0];
    let walsender = phase.ceiling_shares.iter().filter(|it| it.of < Contestant::Consumer);
    assert_eq!(walsender.count(), 1, "{:?}", phase.ceiling_shares);
    assert!(phase.ceiling_shares.is_sorted_by(|a, b| a.share >= b.share));
    for share in &phase.ceiling_shares {
        let part = ceiling.parts.iter().find(|part| part.of == share.of).unwrap();
        let used = share.share * part.rows_per_sec / phase.consumer.throughput.unwrap();
        assert!((used - 1.0).abs() < 1e-9, "{share:?} of {part:?}");
    }
}

const ALL: [Contestant; 4] =
    [Contestant::EagerReader, Contestant::LateReader, Contestant::Consumer, Contestant::Sink];

#[test]
fn a_run_ends_with_its_ceilings() {
    let _turn = together();
    let home = Home::new();
    let ended = run(&home, "ceilings_all").ended().with_code(0);
    assert_eq!(Server::shared().left("ceilings_all"), Vec::<String>::new());
    home.assert_clean();
    ended.said(MEASURING).answered("\nceilings: ").answered(" % of what the ");
    let metrics = home.metrics();
    assert_whole(&metrics, &ALL);
    let ceiling = metrics.ceiling.as_ref().unwrap();
    assert_eq!((ceiling.rounds, ceiling.rows, ceiling.is_bounded), (3, 500, false));
    assert_eq!(ceiling.sink_rows, Some(500));
    assert!(ceiling.sink.as_ref().unwrap().contains("no server"), "{ceiling:?}");
    let schema = jsonschema::validator_for(&walbench_results::schema()).unwrap();
    let json: Value = serde_json::from_str(&home.metrics_text()).unwrap();
    assert!(schema.is_valid(&json), "{:?}", schema.validate(&json).err());
    let file = |name| fs::read_to_string(home.run_folder().join(name)).unwrap();
    assert!(file("SUMMARY.md").contains("\n## Ceilings\n"));
    assert!(file("plan.toml").contains("ceiling = true"));
    let healthy = &metrics.phases[0].findings[0];
    assert!(healthy.evidence.iter().any(|it| it.name.starts_with("headroom, at most, by what")));
}

#[test]
fn consumers_that_divide_the_tables_are_measured_together() {
    let _turn = together();
    let home = Home::new();
    let command = run(&home, "ceilings_divided").set("consumer.processes", "2");
    let command = command.set("consumer.distribution", "divided");
    command.set("producer.tables", r#"["task_run", "event"]"#).ended().with_code(0);
    assert_eq!(Server::shared().left("ceilings_divided"), Vec::<String>::new());
    let metrics = home.metrics();
    assert_whole(&metrics, &ALL);
    assert_eq!(metrics.ceiling.unwrap().rows, 500);
}

/// A mock that fails in the run does not where it is measured, and counts the run's inserts alone.
#[test]
fn a_mock_server_is_measured_by_one_of_its_kind() {
    let _turn = together();
    let home = Home::new();
    let fault = "[{ kind = \"error\", status = 503, share = 1.0, for_sec = 0.5 }]";
    let command = run(&home, "ceilings_mock").set("consumer.mock_level", "http");
    command.set("clickhouse.mock.faults", fault).ended().with_code(0);
    let metrics = home.metrics();
    assert_whole(&metrics, &ALL);
    let sink = metrics.ceiling.as_ref().unwrap().sink.clone().unwrap();
    assert!(sink.starts_with("a mock ClickHouse without faults takes"), "{sink}");
    let destination = metrics.verification.destination.as_ref().unwrap();
    assert_eq!(destination.mock["rows"], 500, "{:?}", destination.mock);
    home.assert_clean();
}

#[test]
fn what_has_no_ceiling_is_left_out() {
    let _turn = together();
    let home = Home::new();
    let command = run(&home, "ceilings_discard").set("consumer.mock_level", "discard");
    command.ended().with_code(0);
    assert_whole(&home.metrics(), &ALL[..3]);
    assert_eq!(home.metrics().ceiling.unwrap().sink, None);
}

/// A run whose sink takes long: its ceilings take a while.
fn measuring(home: &Home, name: &str) -> Running {
    let command = run(home, name).set("consumer.mock_delay_ms", "2500");
    let mut running = command.set("consumer.flush_batch_size", "1000").start();
    running.until_said(MEASURING);
    running
}

#[test]
fn an_interrupt_ends_the_ceilings_and_spoils_nothing() {
    let _turn = together();
    for (name, signals) in [("ceilings_once", 1), ("ceilings_twice", 2)] {
        let home = Home::new();
        let mut running = measuring(&home, name);
        running.worker("ceiling");
        running.signal(Signal::SIGINT);
        if signals == 2 {
            running.until_said("once more to stop now");
            running.signal(Signal::SIGINT);
        }
        let ended = running.ended().with_code(130);
        ended.said("the ceilings were not measured: the run was ended").answered("PASS: ");
        assert_eq!(Server::shared().left(name), Vec::<String>::new());
        home.assert_clean();
        let metrics = home.metrics();
        // All that was to be measured of the run had been.
        assert_eq!((metrics.verdict, metrics.interrupted), (Verdict::Pass, false));
        assert_eq!(metrics.ceiling, None);
        assert!(metrics.notes.iter().any(|note| note.contains("not measured")), "{metrics:?}");
    }
}

#[test]
fn ceilings_that_can_not_be_measured_are_an_allowance() {
    let _turn = together();
    let home = Home::new();
    let command = run(&home, "ceilings_failed").set("phases.0.duration_sec", "3");
    let mut running = command.start();
    running.until_under_load();
    let drop = "SELECT pg_drop_replication_slot('ceilings_failed_0_ceiling')";
    Server::shared().session("postgres").execute(drop);
    running.ended().with_code(0).said("the ceilings were not measured: ");
    let metrics = home.metrics();
    assert_eq!((metrics.verdict, metrics.ceiling), (Verdict::Pass, None));
    let note = metrics.notes.iter().find(|note| note.contains("the ceilings were not measured"));
    assert!(note.unwrap().contains("ceilings_failed_0_ceiling"), "{note:?}");
    assert_eq!(Server::shared().left("ceilings_failed"), Vec::<String>::new());
}

#[test]
fn both_slots_of_a_killed_run_are_removed() {
    let _turn = together();
    let (home, server) = (Home::new(), Server::start());
    let command = home.run(SHORT_PLAN).on(&server, "killed").args(["--ceiling"]);
    let mut running = command.set("phases.0.duration_sec", "60").start();
    running.until_under_load();
    running.signal(Signal::SIGKILL);
    drop(running);
    until("the end of our processes", || of_folder(home.path()).is_empty().then_some(()));
    let left = ["database killed", "slot killed_0", "slot killed_0_ceiling"];
    assert_eq!(server.left("killed"), left);
    home.walbench(["clean", "--postgres", &server.url()]).ended().with_code(0);
    assert_eq!(server.left("killed"), Vec::<String>::new());
}

fn ceiling(followed: &Followed, arguments: &[&str]) -> Walbench {
    followed.on(followed.home.walbench(["ceiling"])).arguments(arguments)
}

fn json(ended: &Ended) -> Value {
    serde_json::from_str(&ended.stdout).unwrap()
}

/// What was measured, by name.
fn measured(report: &Value) -> Vec<&str> {
    let parts = report["parts"].as_array().unwrap().iter();
    parts.map(|part| part["of"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_measures_a_slot_and_confirms_nothing() {
    let followed = Followed::new(Version::Newest, TABLE).await;
    let nothing = ceiling(&followed, &[]).ended().with_code(2);
    nothing.said("there are no rows to measure with in slot");
    followed.execute(ROWS).await;
    followed.execute("TRUNCATE t").await;
    followed.execute(ROWS).await;
    let (before, _) = followed.database.positions().await;
    let ended = ceiling(&followed, &["--json", "--rounds", "2"]).ended().with_code(0);
    let report = json(&ended);
    assert_eq!(measured(&report), ["eager_reader", "late_reader", "consumer"]);
    assert_eq!((report["rounds"].as_u64(), report["rows"].as_u64()), (Some(2), Some(10_000)));
    assert_eq!(report["sink"], Value::Null);
    let ended = ceiling(&followed, &["--mock-clickhouse"]).ended().with_code(0);
    ended.answered("sink, blocks from memory").answered("the mock, which is no server, compresses");
    let mock = ["--json", "--mock-clickhouse", "--mock-level", "http", "--rounds", "1"];
    let ended = ceiling(&followed, &mock).ended().with_code(0);
    assert_eq!(json(&ended)["sink_rows"], 10_000, "{}", ended.stdout);
    let ended = ceiling(&followed, &["--mock-clickhouse", "--mock-level", "discard"]).ended();
    ended.with_code(2).said("has no ceiling");
    followed.until_free().await;
    assert_eq!(followed.database.positions().await.0, before);
    assert_eq!(followed.drain().await["rows"], 10_000);
    followed.home.assert_clean();
}

async fn a_clickhouse_is_measured_beside_what_it_holds(kind: Kind) {
    let server = Private::start(kind);
    let stored = Stored::of(&server);
    let followed = Followed::new(postgres(kind), TABLE).await;
    let theirs = "CREATE DATABASE theirs_ceiling";
    stored.ask(theirs);
    followed.execute(ROWS).await;
    let into = |database: &str| {
        let url = format!("{}{database}", stored.url);
        ceiling(&followed, &["--json", "--rounds", "2", "--clickhouse", &url])
    };
    let report = json(&into("").ended().with_code(0));
    assert_eq!(measured(&report), ["eager_reader", "late_reader", "consumer", "sink"]);
    assert_eq!(report["sink_rows"], 5_000);
    let databases = "SELECT name FROM system.databases WHERE name LIKE '%\\_ceiling'";
    assert_eq!(stored.ask(databases), "theirs_ceiling");
    // What has the name and not the mark is left alone.
    into("theirs").ended().with_code(4).said("was not made by walbench");
    assert_eq!(stored.ask(databases), "theirs_ceiling");

    let home = Home::new();
    let name = format!("ceilings_{kind:?}").to_lowercase();
    let command = || {
        let command = run(&home, &name).set("clickhouse.mode", "url");
        command.set("clickhouse.url", &stored.url).ended().with_code(0);
        Server::shared().left(&name)
    };
    // The shared server's sessions have a runtime of their own.
    assert_eq!(tokio::task::block_in_place(command), Vec::<String>::new());
    assert_whole(&home.metrics(), &ALL);
    let left = "SELECT name FROM system.databases WHERE name LIKE 'walbench%'";
    assert_eq!(stored.ask(left), "");
    server.end();
}
