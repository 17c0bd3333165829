//! `walbench follow --initial-copy`: killed, interrupted, resumed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::home::{Home, SHORT_PLAN, Walbench};
use crate::server::{Server, Session};
use crate::turns::together;

/// Rows of 21 bytes in the destination's form.
const NARROW: &str = "
    CREATE TABLE t (id bigint PRIMARY KEY, n int NOT NULL);
    INSERT INTO t SELECT n, 0 FROM generate_series(1, 200000) n;
    CREATE PUBLICATION p FOR ALL TABLES";

/// A database of a test's own, with these tables.
fn database(name: &str, sql: &str) -> Session {
    Server::shared().session("postgres").execute(&format!("CREATE DATABASE {name}"));
    let session = Server::shared().session(name);
    session.execute(sql);
    session
}

fn follow(home: &Home, name: &str) -> Walbench {
    let url = Server::shared().url_of("postgres", name);
    let command = home.walbench(["follow", "--mock-clickhouse", "--create-slot"]);
    let command = command.args(["--postgres", &url, "--publication", "p", "--slot", name]);
    command.args(["--initial-copy", "--copy-state", "copy.json"])
}

/// One that keeps its rows, slowly.
fn slowly(home: &Home, name: &str) -> Walbench {
    let command = follow(home, name).args(["--mock-level", "files"]);
    let command = command.set("consumer.mock_dir", "sink").set("consumer.flush_batch_size", "2000");
    command.set("consumer.mock_delay_ms", "100").set("consumer.copy_connections", "2")
}

/// What the destination has of the table `t`: the version that wins of each row.
fn rows(folder: &Path) -> BTreeMap<i64, i32> {
    let names =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> =
        names.filter(|n| n.ends_with(".rowbinary") && !n.starts_with('.')).collect();
    names.sort();
    let mut rows: BTreeMap<i64, (u64, i32, bool)> = BTreeMap::new();
    for name in names {
        let bytes = fs::read(folder.join(name)).unwrap();
        let (chunks, rest) = bytes.as_chunks::<21>();
        assert!(rest.is_empty());
        for chunk in chunks {
            let id = i64::from_le_bytes(chunk[..8].try_into().unwrap());
            let n = i32::from_le_bytes(chunk[8..12].try_into().unwrap());
            let version = u64::from_le_bytes(chunk[12..20].try_into().unwrap());
            let old = rows.entry(id).or_default();
            if version >= old.0 {
                *old = (version, n, chunk[20] == 1);
            }
        }
    }
    let present = rows.into_iter().filter(|(_, (_, _, deleted))| !deleted);
    present.map(|(id, (_, n, _))| (id, n)).collect()
}

fn state(home: &Home) -> Value {
    let text = fs::read_to_string(home.path().join("copy.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_killed_copy_goes_on_and_ends_as_postgresql() {
    let _turn = together();
    let (home, session) = (Home::new(), database("killed", NARROW));
    let mut kills = 0;
    for (step, pause_ms) in [400, 900, 150, 1_200, 600].into_iter().enumerate() {
        let mut running = slowly(&home, "killed").start();
        if step == 0 {
            running.until_said("made slot");
        }
        std::thread::sleep(Duration::from_millis(pause_ms));
        running.signal(Signal::SIGKILL);
        drop(running.ended());
        kills += u32::from(state(&home)["complete"] == false);
        let from = step * 30_000;
        session.execute(&format!(
            "UPDATE t SET n = n + 1 WHERE id % 7 = {step};
             DELETE FROM t WHERE id BETWEEN {from} + 5 AND {from} + 500;
             UPDATE t SET id = id + 1000000 WHERE id BETWEEN {from} + 600 AND {from} + 900;
             INSERT INTO t VALUES (-{step}, 5)"
        ));
        if step == 1 {
            session.execute("VACUUM FULL t");
        }
    }
    assert!(kills >= 3, "{kills}");
    let last = slowly(&home, "killed").set("consumer.mock_delay_ms", "0");
    let ended = last.args(["--until-lsn", "current", "--json"]).ended().with_code(0);
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(state(&home)["complete"], true);
    assert!(report["copied_rows"].as_u64().unwrap() < 200_000 || kills < 5, "{report}");
    let text = "SELECT string_agg(id || ' ' || n, ',' ORDER BY id) FROM t";
    let source = session.value::<String>(text);
    let rows = rows(&home.path().join("sink"));
    let rows: Vec<_> = rows.into_iter().map(|(id, n)| format!("{id} {n}")).collect();
    assert!(rows.join(",") == source, "{} rows differ from PostgreSQL's", rows.len());
    session.execute("SELECT pg_drop_replication_slot('killed')");
}

#[test]
fn an_interrupted_copy_keeps_its_state_and_says_how_far_it_is() {
    let _turn = together();
    let (home, session) = (Home::new(), database("copied", NARROW));
    let mut running = slowly(&home, "copied").start();
    running.until_said("copying public.t: ");
    running.signal(Signal::SIGINT);
    let ended = running.ended().with_code(130);
    ended.said("made slot \"copied\"").answered("not all of it, the rest is to come");
    assert_eq!(state(&home)["complete"], false);

    let again = slowly(&home, "copied").set("consumer.mock_delay_ms", "0");
    let again = again.args(["--until-lsn", "current"]).ended().with_code(0);
    again.said("copying public.t: 100 %").answered("copied ");
    assert_eq!(rows(&home.path().join("sink")).len(), 200_000);

    // It is done, and not done again.
    let third = follow(&home, "copied").args(["--until-lsn", "current", "--json"]).ended();
    let report: Value = serde_json::from_str(&third.with_code(0).stdout).unwrap();
    assert_eq!(report["copied_rows"], 0);

    session.execute("SELECT pg_drop_replication_slot('copied')");
    let stale = follow(&home, "copied").ended().with_code(2);
    stale.said("the copy's state in copy.json is of slot copied, which is gone");
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'copied'";
    assert_eq!(session.value::<i64>(slots), 0, "no slot is left behind");
}

#[test]
fn a_slow_sink_does_not_fill_the_memory() {
    let _turn = together();
    let wide = "CREATE TABLE t (id int PRIMARY KEY, pad text);
                ALTER TABLE t ALTER pad SET STORAGE PLAIN;
                INSERT INTO t SELECT n, repeat(md5(n::text), 60) FROM generate_series(1, 60000) n;
                CREATE PUBLICATION p FOR ALL TABLES";
    let (home, session) = (Home::new(), database("slow", wide));
    let command = follow(&home, "slow").args(["--until-lsn", "current", "--json"]);
    let command = command.set("consumer.mock_delay_ms", "20");
    let command = command.set("consumer.flush_batch_bytes", "500000");
    let ended = command.set("consumer.max_in_flight_bytes", "2000000").ended().with_code(0);
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(report["copied_rows"], 60_000);
    let copied = report["copied_bytes"].as_u64().unwrap();
    let memory = report["max_rss_bytes"].as_u64().unwrap();
    assert!(copied > 110_000_000, "{report}");
    assert!(memory < copied / 2, "{report}");
    session.execute("SELECT pg_drop_replication_slot('slow')");
}

#[test]
fn a_run_refuses_what_would_copy_nothing() {
    let home = Home::new();
    let command = home.run(SHORT_PLAN).set("consumer.initial_copy", "true");
    let ended = command.ended().with_code(2);
    ended.said("consumer.initial_copy is for `walbench follow`").said("hint: leave it out");
}
