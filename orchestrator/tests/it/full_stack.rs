//! Runs with a ClickHouse behind them: the embedded engine, Debian's server of 2018, and the mock;
//! ours and others'.

use nix::sys::signal::Signal;
use walbench_results::destination::DestinationTable;

use crate::clickhouse::{KINDS, Kind, Private};
use crate::home::{Ended, Home, SHORT_PLAN, Walbench};
use crate::processes::until;
use crate::turns::together;

const PLAN: &str = r#"
name = "stack"

[[phases]]
name = "only"
duration_sec = 2
target_throughput = 1_000

[producer]
tables = ["task_run", "event"]

[clickhouse]
mode = "managed"
"#;

const INTO_URL: &str = r#"
[clickhouse]
mode = "url"
url = "${CH}"
"#;

/// One whose end is not waited for.
fn long(run: Walbench) -> Walbench {
    run.set("phases.0.duration_sec", "60")
}

fn into(home: &Home, server: &Private) -> Walbench {
    home.run(&format!("{SHORT_PLAN}{INTO_URL}")).env("CH", &server.login_url())
}

fn databases(server: &Private) -> String {
    let sql = "SELECT name FROM system.databases WHERE name LIKE 'walbench%' ORDER BY name";
    server.answer("", sql)
}

#[track_caller]
fn assert_same(home: &Home) {
    let metrics = home.metrics();
    let destination = metrics.verification.destination.unwrap();
    assert_eq!(destination.problem, None);
    let rows = |table: &DestinationTable| (table.source_rows, table.rows, table.differing());
    for table in &destination.tables {
        let (source_rows, rows, differing) = rows(table);
        assert!(source_rows > 0 && source_rows == rows && differing == 0, "{table:?}");
    }
    assert!(!destination.tables.is_empty());
}

#[test]
fn every_row_arrives_in_each_engine() {
    for kind in KINDS {
        let _turn = together();
        let home = Home::new();
        let ended = home.run(PLAN).arguments(&kind.program()).ended().with_code(0);
        let ended = ended.answered("PASS: ").answered(" rows as in PostgreSQL (0 missing,");
        assert!(!ended.stderr.contains("http://walbench:"), "a password:\n{}", ended.stderr);
        assert_same(&home);
        let metrics = home.metrics();
        assert_eq!(metrics.verification.destination.as_ref().unwrap().tables.len(), 2);
        let note = metrics.notes.iter().find(|note| note.starts_with("Sink: ")).unwrap();
        let engine = match kind {
            Kind::Embedded => "the embedded engine libchdb behind walbench's HTTP front",
            Kind::Debian => "ClickHouse 18.16.1, private server",
        };
        assert!(note.contains(engine), "{note}");
        let figures = metrics.phases[0].clickhouse.as_ref().unwrap();
        for figure in [
            figures.inserts,
            figures.inserted_rows,
            figures.inserted_bytes,
            figures.active_parts_max,
            figures.disk_bytes_max,
            figures.max_rss_bytes,
        ] {
            assert!(figure.unwrap() > 0, "{figures:?}");
        }
        assert!(figures.cpu_seconds.unwrap() > 0.0 && figures.cpu_us_per_row.unwrap() > 0.0);
        assert!(figures.merged_rows.is_some() && figures.rejected_inserts == Some(0));
        let consumer = &metrics.phases[0].consumer;
        assert!(consumer.flush_us.p50.unwrap() > 0 && consumer.bytes > Some(0));
        home.assert_clean();
    }
}

#[test]
fn a_database_on_a_server_of_others_is_made_and_dropped() {
    for kind in KINDS {
        let _turn = together();
        let (home, server) = (Home::new(), Private::start(kind));
        into(&home, &server).ended().with_code(0).answered("PASS: ");
        assert_same(&home);
        assert_eq!(databases(&server), "", "{kind:?}");
        home.assert_clean();
        server.end();
    }
}

#[test]
fn only_a_database_of_ours_is_touched() {
    let _turn = together();
    let server = Private::start(Kind::Embedded);
    server.answer("", "CREATE DATABASE walbench");
    let refused = |home: &Home| into(home, &server).ended().with_code(4);
    refused(&Home::new()).said("was not made by walbench").said("set another clickhouse.database");
    assert_eq!(databases(&server), "walbench");
    server.answer("", "DROP DATABASE walbench");

    into(&Home::new(), &server).args(["--keep"]).ended().with_code(0);
    let rows = server.answer("", "SELECT count() FROM walbench.event");
    assert!(rows.parse::<u64>().unwrap() > 0, "{rows}");
    refused(&Home::new()).said("was kept by run").said("DROP DATABASE walbench");
    let cleaned = clean(&server).answered("was to keep it");
    assert!(!cleaned.stdout.contains("removed"), "{cleaned:?}");
    server.answer("", "DROP DATABASE walbench");
    server.end();
}

fn clean(server: &Private) -> Ended {
    let url = server.login_url();
    Home::new().walbench(["clean", "--clickhouse", &url]).ended().with_code(0)
}

#[test]
fn what_a_killed_run_left_is_removed_by_the_next_one_or_by_hand() {
    let _turn = together();
    let server = Private::start(Kind::Embedded);
    let home = Home::new();
    let mut running = long(into(&home, &server)).start();
    running.until_under_load();
    into(&Home::new(), &server).ended().with_code(4).said("is in use by run");
    clean(&server).answered("is using it");
    running.signal(Signal::SIGKILL);
    running.ended();
    assert_eq!(databases(&server), "walbench");
    into(&Home::new(), &server).ended().with_code(0).answered("PASS: ");
    assert_eq!(databases(&server), "");

    let home = Home::new();
    let mut running = long(into(&home, &server)).start();
    running.until_under_load();
    running.signal(Signal::SIGKILL);
    running.ended();
    clean(&server).answered("removed database \"walbench\" in ClickHouse");
    assert_eq!(databases(&server), "");
    clean(&server).answered("nothing was left behind");
    server.end();
}

#[test]
fn a_private_clickhouse_that_dies_ends_the_run_and_is_named() {
    for kind in KINDS {
        let _turn = together();
        let home = Home::new();
        let mut running = long(home.run(PLAN)).arguments(&kind.program()).start();
        running.until_under_load();
        let keeper = running.worker("clickhouse");
        let server = match kind {
            Kind::Embedded => keeper,
            Kind::Debian => until("the server", || crate::processes::child(keeper, "config.xml")),
        };
        crate::processes::signal(server, Signal::SIGKILL);
        let ended = running.ended().with_code(4).said("error: clickhouse ");
        assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
        home.assert_clean();
        assert!(home.run_folder().join("metrics.json").is_file(), "what was measured is lost");
    }
}

#[test]
fn an_interrupted_run_says_what_it_could_not_compare() {
    let _turn = together();
    let home = Home::new();
    let mut running = long(home.run(PLAN)).arguments(&Kind::Embedded.program()).start();
    running.until_under_load();
    running.signal(Signal::SIGINT);
    running.ended().with_code(130);
    home.assert_clean();
    let destination = home.metrics().verification.destination;
    let destination = destination.expect("an interrupted run has drained, or says that it has not");
    let compared = destination.tables.iter().all(|table| table.differing() == 0);
    assert!(compared && (destination.problem.is_some() || !destination.tables.is_empty()));
}

#[test]
fn a_clickhouse_that_can_t_be_reached_is_told_before_anything_is_written() {
    let _turn = together();
    let home = Home::new();
    let url = "http://me:hunter2@127.0.0.1:1/";
    let ended = home.run(&format!("{SHORT_PLAN}{INTO_URL}")).env("CH", url).ended().with_code(4);
    let ended = ended.said("ClickHouse at http://me:***@127.0.0.1:1/");
    assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
    home.assert_clean();
}

#[test]
fn the_mock_server_takes_a_run_and_leaves_its_account() {
    let _turn = together();
    let home = Home::new();
    let run = home.run(PLAN).args(["--mock-clickhouse"]).set("consumer.mock_level", "\"http\"");
    run.ended().with_code(0).answered("PASS: ");
    assert_same(&home);
    home.assert_clean();
    let metrics = home.metrics();
    let destination = metrics.verification.destination.unwrap();
    let rows: u64 = destination.tables.iter().map(|table| table.rows).sum();
    assert_eq!(destination.mock["rows_new"], rows, "{:?}", destination.mock);
    assert!(metrics.phases[0].clickhouse.as_ref().unwrap().cpu_seconds.unwrap() > 0.0);
}

/// Everything that can go wrong on the way, at a time that the plan says, and nothing is lost.
#[test]
fn faults_by_schedule_lose_nothing() {
    let _turn = together();
    let home = Home::new();
    let faults = r#"[
        { kind = "outage", at_sec = 0.5, for_sec = 0.7 },
        { kind = "error", at_sec = 1.3, for_sec = 0.3, status = 429 },
        { kind = "error", at_sec = 1.6, for_sec = 0.3, code = 252 },
        { kind = "cut", at_sec = 2.0, for_sec = 0.5, share = 0.5 },
        { kind = "error", at_sec = 2.5, for_sec = 0.3, status = 500, share = 0.5 },
        { kind = "delay", at_sec = 2.8, for_sec = 0.2, delay_ms = 50 },
    ]"#;
    let run = home.run(PLAN).args(["--mock-clickhouse"]).set("consumer.mock_level", "\"http\"");
    let run = run.set("phases.0.duration_sec", "4").set("consumer.flush_batch_size", "50");
    let faults = faults.replace('\n', " ");
    run.set("clickhouse.mock.faults", &faults).ended().with_code(0).answered("PASS: ");
    assert_same(&home);
    let metrics = home.metrics();
    assert!(metrics.phases[0].consumer.retries > Some(0));
    let mock = metrics.verification.destination.unwrap().mock;
    for fault in ["faults_outage", "faults_error", "faults_cut"] {
        assert!(mock.get(fault).is_some_and(|n| *n > 0), "{fault}: {mock:?}");
    }
}
