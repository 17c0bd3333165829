//! Locks, deadlocks and lost connections.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use walbench_metrics::Window;
use walbench_phases::address::PostgresAddress;
use walbench_producer::workload::builtin_ddl;

use crate::database::{database, look, own_server};
use crate::session::{Session, plan};

const TERMINATE_ONE: &str = "
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE application_name = 'walbench producer-0' AND datname = current_database()
    ORDER BY random() LIMIT 1";

async fn events() -> PostgresAddress {
    let address = database().await;
    look(&address).await.client.batch_execute(builtin_ddl("event").unwrap()).await.unwrap();
    address
}

async fn count(address: &PostgresAddress, table: &str) -> u64 {
    let sql = format!("SELECT count(*) FROM {table}");
    let row = look(address).await.client.query_one(&sql, &[]).await.unwrap();
    row.get::<_, i64>(0).cast_unsigned()
}

#[tokio::test]
async fn a_lost_connection_loses_and_doubles_nothing() {
    for (method, ratio) in [("insert", 0.7), ("pipelined", 1.0), ("copy", 0.7)] {
        let address = events().await;
        let producer = json!({
            "tables": ["event"], "connections": 3, "batch_size": 20, "write_method": method,
            "insert_update_ratio": ratio,
        });
        let mut session = Session::ready(&address, &plan(20_000.0, 3.0, producer)).await;
        session.start(0).await;
        let db = look(&address).await;
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            db.client.query(TERMINATE_ONE, &[]).await.unwrap();
        }
        session.finished(0).await;
        let sum = session.sum(0, Window::Measured);
        let done = session.stop().await;
        assert_eq!(count(&address, "event").await, sum.counts.inserts, "{method}: {sum:?}");
        assert_eq!(done.acknowledged.rows(), sum.counts.rows);
        assert_eq!(done.unknown.rows(), sum.counts.unknown_rows);
        assert_eq!(sum.counts.unknown_rows, 0, "{method}: {:?} {:?}", sum.counts, sum.errors);
        assert_eq!((sum.counts.rows, sum.counts.failed_rows), (60_000, 0), "{method}");
        assert!(sum.counts.retries > 0 && !sum.errors.is_empty(), "{method}: {sum:?}");
    }
}

#[tokio::test]
async fn updates_on_a_lost_connection_are_accounted_for() {
    let address = events().await;
    let producer = json!({
        "tables": ["event"], "connections": 2, "batch_size": 10, "insert_update_ratio": 0.0,
    });
    let mut session = Session::ready(&address, &plan(2_000.0, 2.0, producer)).await;
    session.start(0).await;
    let db = look(&address).await;
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        db.client.query(TERMINATE_ONE, &[]).await.unwrap();
    }
    session.finished(0).await;
    let sum = session.sum(0, Window::Measured);
    let done = session.stop().await;
    // Whether an update is there is told by the transaction's number alone, which may get lost.
    assert_eq!(sum.counts.rows + sum.counts.unknown_rows, 4_000, "{sum:?}");
    assert_eq!((sum.counts.failed_rows, sum.counts.missed_updates), (0, 0), "{sum:?}");
    assert_eq!(done.unknown.rows(), sum.counts.unknown_rows);
    assert_eq!(count(&address, "event").await, sum.counts.inserts, "{sum:?}");
}

#[tokio::test]
async fn a_server_that_crashes_and_comes_back_loses_and_doubles_nothing() {
    // A server of its own: all its connections are lost.
    let (_cluster, address) = own_server().await;
    let db = look(&address).await;
    db.client.batch_execute(builtin_ddl("event").unwrap()).await.unwrap();
    let producer = json!({ "tables": ["event"], "batch_size": 20, "insert_update_ratio": 0.7 });
    let mut session = Session::ready(&address, &plan(10_000.0, 3.0, producer)).await;
    session.start(0).await;
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let victim = look(&address).await;
        let row = victim.client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap();
        // The server restarts all its processes when one of them is killed.
        kill(Pid::from_raw(row.get(0)), Signal::SIGKILL).unwrap();
    }
    session.finished(0).await;
    let sum = session.sum(0, Window::Measured);
    assert_eq!(count(&address, "event").await, sum.counts.inserts, "{sum:?}");
    assert_eq!((sum.counts.rows, sum.counts.failed_rows), (30_000, 0), "{sum:?}");
    assert_eq!(sum.counts.unknown_rows, 0, "{sum:?}");
    assert!(sum.errors.contains_key("connection"), "{sum:?}");
    assert_eq!(session.stop().await.acknowledged.rows(), 30_000);
}

#[tokio::test]
async fn a_lock_delays_what_waits_for_it_and_every_row_arrives() {
    let address = events().await;
    let ddl = "CREATE TABLE free (id bigint PRIMARY KEY, note text)";
    look(&address).await.client.batch_execute(ddl).await.unwrap();
    let producer = json!({
        "tables": ["event", "free"], "connections": 32, "batch_size": 10,
        "insert_update_ratio": 1.0,
    });
    let mut session = Session::ready(&address, &plan(400.0, 3.0, producer)).await;
    session.start(0).await;
    let mut locker = look(&address).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    let lock = locker.client.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE event").await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    lock.commit().await.unwrap();
    session.finished(0).await;
    let sum = session.sum(0, Window::Measured);
    assert_eq!((sum.counts.rows, sum.counts.failed_rows), (1_200, 0), "{sum:?}");
    assert!(sum.response.max_us().unwrap() > 800_000, "{sum:?}");
    assert!(sum.service.quantile_us(0.5).unwrap() < 200_000, "{sum:?}");
    assert_eq!(count(&address, "event").await + count(&address, "free").await, 1_200);
}

#[tokio::test]
async fn late_transactions_are_sent_late_and_measured_from_when_they_were_due() {
    let address = events().await;
    let producer = json!({
        "tables": ["event"], "connections": 1, "batch_size": 10, "insert_update_ratio": 1.0,
    });
    let mut session = Session::ready(&address, &plan(400.0, 2.0, producer)).await;
    session.start(0).await;
    let mut locker = look(&address).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let lock = locker.client.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE event").await.unwrap();
    tokio::time::sleep(Duration::from_millis(800)).await;
    lock.commit().await.unwrap();
    session.finished(0).await;
    let sum = session.sum(0, Window::Measured);
    assert_eq!(sum.counts.rows, 800);
    // One transaction waited; the ones behind it were late though each was quick itself.
    assert!(sum.service.quantile_us(0.9).unwrap() < 200_000, "{sum:?}");
    assert!(sum.lateness.quantile_us(0.9).unwrap() > 300_000, "{sum:?}");
    assert!(sum.response.quantile_us(0.9).unwrap() > 300_000, "{sum:?}");
    assert!(sum.counts.late_rows >= 200, "{sum:?}");
}

#[tokio::test]
async fn what_may_succeed_the_next_time_is_tried_again() {
    let address = events().await;
    let ddl = "CREATE SEQUENCE tries;
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF nextval('tries') % 5 = 0 THEN RAISE 'not now' USING ERRCODE = '40001'; END IF;
            RETURN NULL; END $$;
        CREATE TRIGGER refuse AFTER INSERT ON event FOR EACH STATEMENT EXECUTE FUNCTION refuse()";
    look(&address).await.client.batch_execute(ddl).await.unwrap();
    let producer = json!({
        "tables": ["event"], "batch_size": 10, "insert_update_ratio": 1.0, "max_attempts": 10,
    });
    let mut session = Session::ready(&address, &plan(500.0, 1.0, producer)).await;
    session.phase(0).await;
    let sum = session.sum(0, Window::Measured);
    assert_eq!((sum.counts.rows, sum.counts.failed_rows), (500, 0), "{sum:?}");
    assert!(sum.counts.retries >= 10 && sum.errors["40001"] == sum.counts.retries, "{sum:?}");
    assert_eq!(count(&address, "event").await, 500);
}

#[tokio::test]
async fn a_deadlock_is_tried_again() {
    let address = events().await;
    // A trigger that locks in an order of its own brings about what sorted updates avoid.
    let ddl = "CREATE TABLE a (id int); INSERT INTO a VALUES (1), (2);
        CREATE SEQUENCE turn;
        CREATE FUNCTION cross_locks() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE first int := nextval('turn') % 2 + 1; BEGIN
            PERFORM FROM a WHERE id = first FOR UPDATE; PERFORM pg_sleep(0.02);
            PERFORM FROM a WHERE id = 3 - first FOR UPDATE; RETURN NULL; END $$;
        CREATE TRIGGER cross_locks AFTER INSERT ON event FOR EACH STATEMENT EXECUTE FUNCTION cross_locks()";
    look(&address).await.client.batch_execute(ddl).await.unwrap();
    let producer = json!({
        "tables": ["event"], "connections": 2, "batch_size": 5, "insert_update_ratio": 1.0,
        "max_attempts": 50,
    });
    let mut session = Session::ready(&address, &plan(250.0, 1.0, producer)).await;
    session.phase(0).await;
    let sum = session.sum(0, Window::Measured);
    assert_eq!((sum.counts.rows, sum.counts.failed_rows), (250, 0), "{sum:?}");
    assert!(sum.errors.contains_key("40P01"), "{sum:?}");
}

#[tokio::test]
async fn what_cannot_be_caught_up_is_counted_as_unsent() {
    let address = events().await;
    let producer = json!({
        "tables": ["event"], "connections": 1, "batch_size": 10, "insert_update_ratio": 1.0,
    });
    let mut plan = plan(200.0, 1.0, producer);
    plan["limits"]["catch_up_sec"] = json!(0.5);
    let mut session = Session::ready(&address, &plan).await;
    session.start(0).await;
    let mut locker = look(&address).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let lock = locker.client.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE event").await.unwrap();
    tokio::time::sleep(Duration::from_millis(2_000)).await;
    lock.commit().await.unwrap();
    session.finished(0).await;
    let sum = session.sum(0, Window::Measured);
    assert!(sum.counts.unsent_rows > 50, "{sum:?}");
    assert_eq!(sum.counts.rows + sum.counts.unsent_rows, 200, "{sum:?}");
    assert_eq!(count(&address, "event").await, sum.counts.rows);
}
