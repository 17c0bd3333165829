//! The whole life of a worker.

use std::time::Duration;

use serde_json::json;
use walbench_metrics::message::{FromWorker, PROTOCOL_VERSION, ToWorker};
use walbench_metrics::stamp::{Stamp, run_number};
use walbench_metrics::{Window, clock};
use walbench_producer::workload::builtin_ddl;

use crate::database::{database, look};
use crate::session::{Session, plan};

#[tokio::test]
async fn two_phases_leave_figures_that_add_up() {
    let address = database().await;
    let db = look(&address).await;
    db.client.batch_execute(builtin_ddl("task_run").unwrap()).await.unwrap();
    db.client
        .query("SELECT pg_create_logical_replication_slot('stamps', 'test_decoding')", &[])
        .await
        .unwrap();
    let plan = json!({
        "phases": [
            { "name": "a", "target_throughput": 1_000, "duration_sec": 1.5, "warmup_sec": 0.5 },
            { "name": "b", "target_throughput": 2_000, "duration_sec": 1.0 },
        ],
        "producer": { "batch_size": 10, "insert_update_ratio": 0.8, "arrivals": "uniform" },
    });
    let mut session = Session::ready(&address, &plan).await;
    session.send(ToWorker::Ping { sent_us: 7 }).await;
    assert!(matches!(session.recv().await, FromWorker::Pong { sent_us: 7, now_us } if now_us > 0));
    let start_us = session.start(0).await;
    session.finished(0).await;
    session.phase(1).await;
    let expected =
        [(0, Window::Warmup, 500), (0, Window::Measured, 1_500), (1, Window::Measured, 2_000)];
    for (phase, window, rows) in expected {
        let sum = session.sum(phase, window);
        assert_eq!(sum.counts.rows, rows, "{phase} {window:?}");
        assert_eq!(sum.counts.inserts + sum.counts.updates, rows);
        assert_eq!(sum.counts.transactions, rows / 10);
        assert!(sum.counts.bytes > rows * 300);
        for timing in [&sum.lateness, &sum.service, &sum.response] {
            assert_eq!((timing.count(), timing.negative()), (rows, 0));
        }
        assert!(sum.response.max_us() >= sum.service.max_us());
        assert!(sum.errors.is_empty());
    }
    let first = session.samples[0].interval;
    assert_eq!(
        (first.start_us, first.end_us, first.window),
        (start_us, start_us + 500_000, Window::Warmup)
    );
    let gapless = session.samples.windows(2).all(|pair| {
        let (a, b) = (pair[0].interval, pair[1].interval);
        a.phase != b.phase || a.end_us == b.start_us || a.start_us == b.start_us
    });
    assert!(gapless, "{:?}", session.samples.iter().map(|s| s.interval).collect::<Vec<_>>());
    let done = session.stop().await;
    assert_eq!(done.acknowledged.rows(), 4_000);
    let sequences = &done.acknowledged.account(0, 0).unwrap().sequences;
    assert_eq!(sequences.ranges().collect::<Vec<_>>(), [(0, 199)]);
    assert!(done.unknown.accounts().next().is_none());
    check_stamps(&db.client, start_us).await;
}

/// Every transaction carries its stamp, before its rows.
async fn check_stamps(client: &tokio_postgres::Client, start_us: i64) {
    let rows = client
        .query(
            "SELECT data FROM pg_logical_slot_get_binary_changes('stamps', NULL, NULL) \
             WHERE substring(data FROM 1 FOR 8) = 'message:'::bytea",
            &[],
        )
        .await;
    client.execute("SELECT pg_drop_replication_slot('stamps')", &[]).await.unwrap();
    let mut stamps = Vec::new();
    for row in rows.unwrap() {
        let data: &[u8] = row.get(0);
        let head = b"content:";
        let at = data.windows(head.len()).position(|bytes| bytes == head).unwrap() + head.len();
        stamps.push(Stamp::decode(&data[at..]).unwrap());
    }
    assert_eq!(stamps.len(), 400);
    stamps.sort_by_key(|stamp| (stamp.phase, stamp.sequence));
    for (at, stamp) in stamps[..200].iter().enumerate() {
        assert_eq!((stamp.run, stamp.producer, stamp.sequence), (run_number("test"), 0, at as u64));
        assert_eq!(stamp.due_us, start_us + 10_000 * at as i64);
        assert_eq!(stamp.measured, at >= 50);
    }
}

#[tokio::test]
async fn two_processes_share_the_rate_and_make_different_rows() {
    let address = database().await;
    let db = look(&address).await;
    db.client.batch_execute(builtin_ddl("event").unwrap()).await.unwrap();
    let producer = json!({
        "tables": ["event"], "processes": 2, "batch_size": 10, "insert_update_ratio": 0.75,
    });
    let plan = plan(2_000.0, 1.0, producer);
    let (mut one, mut two) = (Session::greet().await, Session::greet().await);
    one.prepare_as(0, &address, &plan).await;
    two.prepare_as(1, &address, &plan).await;
    for session in [&mut one, &mut two] {
        assert!(matches!(session.recv().await, FromWorker::Ready));
    }
    tokio::join!(one.phase(0), two.phase(0));
    let sums = [one.sum(0, Window::Measured).counts, two.sum(0, Window::Measured).counts];
    assert_eq!(sums.map(|counts| counts.rows), [1_000, 1_000]);
    let sql = "SELECT count(*), count(*) FILTER (WHERE id % 2 = 1) FROM event";
    let row = db.client.query_one(sql, &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0).cast_unsigned(), sums[0].inserts + sums[1].inserts);
    assert_eq!(row.get::<_, i64>(1).cast_unsigned(), sums[0].inserts);
}

#[tokio::test]
async fn a_phase_lasts_its_time_even_when_nothing_is_due() {
    let address = database().await;
    let db = look(&address).await;
    db.client.batch_execute(builtin_ddl("event").unwrap()).await.unwrap();
    let mut plan = plan(0.0, 1.5, json!({ "tables": ["event"] }));
    plan["phases"][0]["warmup_sec"] = json!(0.7);
    let mut session = Session::ready(&address, &plan).await;
    let start_us = session.start(0).await;
    session.finished(0).await;
    assert!(clock::wall_us() >= start_us + 2_200_000);
    let ends: Vec<_> = session
        .samples
        .iter()
        .map(|sample| (sample.interval.window, sample.interval.end_us - start_us))
        .filter(|(window, _)| *window != Window::Drain)
        .collect();
    let expected = [
        (Window::Warmup, 700_000),
        (Window::Measured, 1_000_000),
        (Window::Measured, 2_000_000),
        (Window::Measured, 2_200_000),
    ];
    assert_eq!(ends, expected);
}

#[tokio::test]
async fn a_phase_can_be_finished_early() {
    let address = database().await;
    let db = look(&address).await;
    db.client.batch_execute(builtin_ddl("event").unwrap()).await.unwrap();
    let producer = json!({ "tables": ["event"], "batch_size": 10 });
    let mut session = Session::ready(&address, &plan(1_000.0, 60.0, producer)).await;
    session.start(0).await;
    tokio::time::sleep(Duration::from_millis(1_050)).await;
    session.finish(0).await;
    session.finished(0).await;
    let sum = session.sum(0, Window::Measured);
    assert!((900..1_300).contains(&sum.counts.rows), "{sum:?}");
    assert_eq!(sum.counts.unsent_rows, 0);
    let done = session.stop().await;
    assert_eq!(done.acknowledged.account(0, 0).unwrap().sequences.ranges().count(), 1);
}

#[tokio::test]
async fn a_stop_in_mid_phase_ends_what_is_under_way() {
    let address = database().await;
    let db = look(&address).await;
    db.client.batch_execute(builtin_ddl("event").unwrap()).await.unwrap();
    let producer = json!({ "tables": ["event"], "insert_update_ratio": 1.0 });
    let mut session = Session::ready(&address, &plan(1_000.0, 60.0, producer)).await;
    session.start(0).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    session.send(ToWorker::Stop).await;
    session.finished(0).await;
    let FromWorker::Done(done) = session.recv().await else { panic!("not done") };
    let row = db.client.query_one("SELECT count(*) FROM event", &[]).await.unwrap();
    assert_eq!(done.acknowledged.rows(), row.get::<_, i64>(0).cast_unsigned());
}

#[tokio::test]
async fn a_closed_link_ends_the_worker() {
    let address = database().await;
    look(&address).await.client.batch_execute(builtin_ddl("event").unwrap()).await.unwrap();
    let producer = json!({ "tables": ["event"] });
    let mut session = Session::ready(&address, &plan(1_000.0, 60.0, producer)).await;
    session.start(0).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let Session { reader, writer, serving, .. } = session;
    drop((reader, writer));
    let ended = tokio::time::timeout(Duration::from_secs(1), serving).await;
    ended.expect("it goes on").unwrap().unwrap();
}

#[tokio::test]
async fn another_version_is_refused() {
    let mut session = Session::greet().await;
    session.send(ToWorker::Hello { protocol: PROTOCOL_VERSION + 1, worker: "x".into() }).await;
    let FromWorker::Failed(failure) = session.recv().await else { panic!("it did not fail") };
    assert!(failure.to_string().contains("speaks version"), "{failure}");
}
