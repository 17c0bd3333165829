//! A consumer's life on its link, from its first word to its last.

use std::time::Duration;

use serde_json::json;
use walbench_metrics::Window;
use walbench_metrics::clock::wall_us;
use walbench_metrics::sample::{ConsumerCounts, ConsumerSample};
use walbench_metrics::stamp::{Stamp, run_number};

use crate::cluster::Version;
use crate::database::{Database, on_every_server};
use crate::session::{RUN, Session};

on_every_server![
    every_row_is_counted_measured_and_confirmed,
    at_the_bound_it_stops_reading_and_goes_on_later,
    it_stays_alive_however_slow_the_sink_is,
    only_what_the_sink_has_is_confirmed,
    writes_elsewhere_move_the_slot_too,
    an_unchanged_large_value_is_taken_from_the_old_row_or_refused,
    what_it_can_not_stream_is_said_with_what_to_do,
    a_lost_connection_comes_back_and_loses_nothing,
    it_ends_when_its_link_or_its_server_does,
];

const TABLE: &str = "CREATE TABLE t (id bigint PRIMARY KEY, note text)";

/// A transaction of `rows` rows with a stamp, as producers write it.
async fn write(database: &Database, run: &str, sequence: u64, rows: i64) {
    let stamp = Stamp {
        run: run_number(run),
        phase: 0,
        measured: true,
        producer: 3,
        sequence,
        due_us: wall_us(),
    };
    let first = i64::try_from(sequence).unwrap() * 1_000_000;
    let hex: String = stamp.encode().iter().map(|b| format!("{b:02x}")).collect();
    database
        .execute(&format!(
            "BEGIN; SELECT pg_logical_emit_message(true, 'walbench', '\\x{hex}'::bytea); \
             INSERT INTO t SELECT n, repeat('x', 100) \
             FROM generate_series({first} + 1, {first} + {rows}) n; COMMIT"
        ))
        .await;
}

fn sum(samples: &[ConsumerSample]) -> ConsumerCounts {
    let mut sum = ConsumerCounts::default();
    samples.iter().for_each(|sample| sum.merge(&sample.counts));
    sum
}

async fn every_row_is_counted_measured_and_confirmed(version: Version) {
    let database = Database::with(version, TABLE).await;
    let batches = json!({ "flush_batch_size": 250, "flush_interval_ms": 10, "mock_delay_ms": 3 });
    let mut session = Session::streaming(&database, &batches).await;
    for sequence in 0..20 {
        write(&database, RUN, sequence, 100).await;
    }
    // A transaction of many batches, one without a stamp, one of another run.
    write(&database, RUN, 20, 10_000).await;
    database.execute("UPDATE t SET note = 'changed' WHERE id <= 50").await;
    write(&database, "another run", 21, 7).await;
    session.drained(&database).await;
    let (delivered, samples) = session.stop().await;

    let account = delivered.ledger.account(0, 3).unwrap();
    assert_eq!(account.sequences.ranges().collect::<Vec<_>>(), [(0, 20)]);
    assert_eq!(account.rows, 12_000);
    assert_eq!(delivered.unstamped_rows, 57);
    assert_eq!((delivered.duplicated_rows, delivered.out_of_order), (0, 0));

    let counts = sum(&samples);
    assert_eq!((counts.rows, counts.received_rows, counts.unstamped_rows), (12_057, 12_057, 57));
    assert!(counts.batches >= 12_057 / 250, "{counts:?}");
    assert!(counts.sent_bytes > 0 && counts.sent_bytes < counts.encoded_bytes, "{counts:?}");
    assert!(counts.received_bytes > counts.encoded_bytes / 2);
    let mut lag = walbench_metrics::sample::Lag::default();
    let mut flush = walbench_metrics::Timing::default();
    for sample in &samples {
        lag.merge(&sample.lag);
        flush.merge(&sample.flush);
    }
    for stage in [&lag.commit_to_received, &lag.received_to_flushed, &lag.commit_to_flushed] {
        assert_eq!(stage.count() + stage.negative(), 12_057);
    }
    assert_eq!(lag.due_to_flushed.count(), 12_000);
    assert_eq!(flush.count(), counts.batches);
    assert!(flush.min_us() >= Some(3_000), "the mock's delay: {:?}", flush.min_us());
    assert!(lag.commit_to_flushed.max_us() >= lag.received_to_flushed.min_us());
    let in_window = samples.iter().all(|s| s.interval.window == Window::Measured);
    assert!(in_window, "the phase has no warm-up and goes on: {counts:?}");
}

async fn at_the_bound_it_stops_reading_and_goes_on_later(version: Version) {
    let database = Database::with(version, TABLE).await;
    let bound = 65_536;
    let slow = json!({
        "flush_batch_size": 100, "flush_interval_ms": 5, "mock_delay_ms": 20,
        "max_flush_concurrency": 1, "max_in_flight_bytes": bound, "flush_batch_bytes": 20_000,
    });
    let mut session = Session::streaming(&database, &slow).await;
    for sequence in 0..10 {
        write(&database, RUN, sequence, 1_000).await;
    }
    session.drained(&database).await;
    let (delivered, samples) = session.stop().await;
    assert_eq!(delivered.ledger.rows(), 10_000);
    let most = samples.iter().map(|s| s.position.in_flight_bytes).max().unwrap();
    // A row may come on top of the bound, and hundreds of kilobytes were there to be read.
    assert!(most <= bound + 1_000, "{most}");
    assert!(most > 0, "the sink was the limit");
}

async fn it_stays_alive_however_slow_the_sink_is(version: Version) {
    let database = Database::with(version, TABLE).await;
    let name = database.address.dbname.as_deref().unwrap();
    database.execute(&format!("ALTER DATABASE {name} SET wal_sender_timeout = '500ms'")).await;
    let slow = json!({
        "flush_batch_size": 500, "max_flush_concurrency": 1, "max_in_flight_bytes": 65_536,
        "mock_delay_ms": 700, "reconnect_sec": 0,
    });
    let mut session = Session::streaming(&database, &slow).await;
    database
        .execute("INSERT INTO t SELECT n, repeat('x', 100) FROM generate_series(1, 2500) n")
        .await;
    session.drained(&database).await;
    let (delivered, samples) = session.stop().await;
    assert_eq!(delivered.unstamped_rows, 2_500);
    assert_eq!((sum(&samples).reconnects, sum(&samples).errors), (0, 0));
}

async fn only_what_the_sink_has_is_confirmed(version: Version) {
    let database = Database::with(version, TABLE).await;
    let never = json!({ "flush_batch_size": 10, "mock_delay_ms": 3_600_000 });
    let session = Session::streaming(&database, &never).await;
    write(&database, RUN, 0, 10).await;
    let (_, written) = database.positions().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(database.positions().await.0 < written, "nothing was flushed yet");
    // As a killed orchestrator leaves it: the link closes, the rows were never confirmed.
    drop(session);

    let mut session = reconnected(&database).await;
    session.drained(&database).await;
    let (delivered, _) = session.stop().await;
    assert_eq!(delivered.ledger.rows(), 10, "they come again");
}

/// A consumer on a slot that its predecessor may hold for a moment still.
async fn reconnected(database: &Database) -> Session {
    let held = "SELECT active_pid FROM pg_replication_slots WHERE slot_name::text = $1";
    loop {
        let row = database.client.query_one(held, &[&database.slot]).await.unwrap();
        match row.get::<_, Option<i32>>(0) {
            None => return Session::streaming(database, &json!({})).await,
            // The receiving thread lives on in this test's process; its server side is ended.
            Some(pid) => {
                database.client.execute("SELECT pg_terminate_backend($1)", &[&pid]).await.unwrap();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

async fn writes_elsewhere_move_the_slot_too(version: Version) {
    let database = Database::with(version, TABLE).await;
    let mut session = Session::streaming(&database, &json!({})).await;
    // Unpublished: a temporary table is in no publication.
    database.execute("CREATE TEMP TABLE x AS SELECT generate_series(1, 1000)").await;
    session.drained(&database).await;
    let (delivered, samples) = session.stop().await;
    assert_eq!((delivered.unstamped_rows, sum(&samples).rows), (0, 0));
}

async fn an_unchanged_large_value_is_taken_from_the_old_row_or_refused(version: Version) {
    let wide = "CREATE TABLE t (id bigint PRIMARY KEY, note text, large text); \
                ALTER TABLE t ALTER large SET STORAGE EXTERNAL;";
    let insert = "INSERT INTO t VALUES (1, 'a', repeat('x', 100000)); \
                  UPDATE t SET note = 'b'";
    let database = Database::with(version, wide).await;
    let mut session = Session::streaming(&database, &json!({})).await;
    database.execute(insert).await;
    let failure = session.failure().await;
    assert!(
        failure.contains("public.t.large")
            && failure.contains("hint: set postgres.replica_identity = \"full\""),
        "{failure}"
    );

    let full = format!("{wide} ALTER TABLE t REPLICA IDENTITY FULL");
    let database = Database::with(version, &full).await;
    let mut session = Session::streaming(&database, &json!({})).await;
    database.execute(insert).await;
    session.drained(&database).await;
    let (delivered, samples) = session.stop().await;
    assert_eq!(delivered.unstamped_rows, 2);
    assert!(sum(&samples).encoded_bytes > 200_000, "both versions hold the large value");
}

async fn what_it_can_not_stream_is_said_with_what_to_do(version: Version) {
    let mut database = Database::with(version, TABLE).await;
    let _holder = Session::streaming(&database, &json!({})).await;
    let impatient = json!({ "reconnect_sec": 0.0 });
    let failure = Session::prepared(&database, &impatient).await.failure().await;
    assert!(failure.contains("is active for PID"), "{failure}");
    assert!(failure.contains("hint: the slot is in use"), "{failure}");

    database.slot = "missing".into();
    let failure = Session::prepared(&database, &json!({})).await.failure().await;
    assert!(failure.contains("replication slot \"missing\" does not exist"), "{failure}");

    let database = Database::new(version).await;
    let failure = Session::prepared(&database, &json!({})).await.failure().await;
    assert!(failure.contains("publication") && failure.contains("does not exist"), "{failure}");
}

/// Ends the session that streams, as a restarting server does.
async fn end_walsender(database: &Database) {
    let end = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots \
               WHERE slot_name::text = $1";
    database.client.execute(end, &[&database.slot]).await.unwrap();
}

async fn a_lost_connection_comes_back_and_loses_nothing(version: Version) {
    let database = Database::with(version, TABLE).await;
    let mut session = Session::streaming(&database, &json!({ "flush_batch_size": 7 })).await;
    for sequence in 0..5 {
        write(&database, RUN, sequence, 1_000).await;
        end_walsender(&database).await;
    }
    session.drained(&database).await;
    let (delivered, samples) = session.stop().await;
    let counts = sum(&samples);
    assert!(counts.reconnects >= 1, "{counts:?}");
    assert_eq!(delivered.ledger.rows(), 5_000, "{delivered:?}");
}

async fn it_ends_when_its_link_or_its_server_does(version: Version) {
    let database = Database::with(version, TABLE).await;
    let mut session = Session::streaming(&database, &json!({ "reconnect_sec": 0 })).await;
    end_walsender(&database).await;
    let failure = session.failure().await;
    assert!(failure.contains("ended the replication stream"), "{failure}");
    assert!(session.worker.await.unwrap().is_err());

    let session = reconnected(&database).await;
    session.abandoned().await.unwrap().unwrap();
}
