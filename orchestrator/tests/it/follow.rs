//! `walbench follow` and `walbench ceiling` as their users meet them.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use walbench_consumer::replication::{lsn_text, parse_lsn};

use crate::cluster::{Cluster, Version};
use crate::database::{Database, assert_said, on_every_server};
use crate::followed::Followed;
use crate::home::{Ended, Walbench};
use crate::processes::until;

on_every_server![
    a_report_has_every_key,
    it_ends_where_it_is_told_to,
    it_ends_in_order_when_it_is_told_to,
    a_slow_sink_is_waited_for,
    it_makes_the_slot_that_is_missing,
    what_is_missing_is_named,
    a_slot_that_another_holds_is_left_alone,
    a_slot_that_is_free_soon_is_waited_for,
    two_may_share_a_folder,
    a_failure_has_a_report,
    logins,
    servers_that_can_not_replicate,
    a_slot_whose_wal_is_gone,
    new_tables_need_no_more_places_of_wal_senders,
    a_server_that_takes_nobody_in_is_asked_again,
    losses_are_said_while_they_happen,
    silence_is_broken_in_time,
    both_ways_of_reading_meet_the_same_rows,
];

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, note text)";
const TO_HERE: [&str; 2] = ["--until-lsn", "current"];

async fn insert(followed: &Followed, from: i32, to: i32) {
    let rows = format!("SELECT n, 'note ' || n FROM generate_series({from}, {to}) n");
    followed.execute(&format!("INSERT INTO t {rows}")).await;
}

fn json(ended: &Ended) -> Value {
    serde_json::from_str(&ended.stdout).unwrap()
}

fn position(report: &Value, key: &str) -> u64 {
    parse_lsn(report[key].as_str().unwrap()).unwrap()
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// What was said, without what differs from run to run.
fn said(ended: &Ended, followed: &Followed) -> String {
    let Database { address, slot, .. } = &followed.database;
    let said = ended.stderr_anywhere();
    let said = said.replace(slot, "SLOT").replace(address.dbname.as_deref().unwrap(), "DATABASE");
    said.replace(&address.port.to_string(), "PORT")
}

async fn a_report_has_every_key(version: Version) {
    let followed = Followed::new(version, TABLE).await;
    insert(&followed, 1, 1_000).await;
    followed.execute("UPDATE t SET note = NULL WHERE id <= 500").await;
    let (_, end) = followed.database.positions().await;
    let report = followed.drain().await;
    assert_eq!(
        keys(&report),
        [
            "batches",
            "bytes",
            "clamped_values",
            "confirmed_lsn",
            "copied_bytes",
            "copied_rows",
            "copy_complete",
            "copy_seconds",
            "cpu_us_per_row",
            "draining_seconds",
            "encoded_bytes",
            "errors",
            "flush_us",
            "lag_us",
            "max_rss_bytes",
            "received_lsn",
            "reconnects",
            "rejected_rows",
            "retries",
            "rows",
            "rows_per_s",
            "seconds",
            "sent_bytes",
            "transactions",
        ]
    );
    assert_eq!((&report["rows"], &report["transactions"]), (&1_500.into(), &2.into()));
    for key in ["clamped_values", "errors", "reconnects", "retries"] {
        assert_eq!(report[key], 0, "{key}");
    }
    let number = |key: &str| report[key].as_f64().unwrap();
    // Each row has its number, and most have a note.
    assert!(number("bytes") > 1_500.0 * 20.0 && number("bytes") < 1_500.0 * 200.0, "{report}");
    assert!(number("encoded_bytes") > 1_500.0 * 14.0, "{report}");
    assert_eq!(report["sent_bytes"], report["encoded_bytes"]);
    let rate = number("rows") / number("draining_seconds");
    assert!((number("rows_per_s") - rate).abs() < 1.0, "{report}");
    assert!(number("cpu_us_per_row") > 0.1 && number("max_rss_bytes") > 1e6, "{report}");
    assert!(position(&report, "confirmed_lsn") >= end, "{report}");
    assert!(position(&report, "received_lsn") >= position(&report, "confirmed_lsn"), "{report}");
    let timing = ["count", "max", "mean", "min", "p50", "p90", "p95", "p99", "p999"];
    assert_eq!(keys(&report["flush_us"]), timing);
    assert_eq!(report["flush_us"]["count"], report["batches"]);
    let stages = ["commit_to_flushed", "commit_to_received", "received_to_flushed"];
    assert_eq!(keys(&report["lag_us"]), stages);
    for stage in stages {
        let lag = &report["lag_us"][stage];
        assert_eq!(keys(lag), timing);
        assert_eq!(lag["count"], 1_500, "{stage}");
        let quantiles = ["min", "p50", "p90", "p95", "p99", "p999", "max"];
        assert!(quantiles.map(|q| lag[q].as_u64().unwrap()).is_sorted(), "{lag}");
    }
    // There is nothing more: what was confirmed stays where it is, and that is known.
    let again = followed.drain().await;
    assert_eq!((&again["rows"], &again["rows_per_s"]), (&0.into(), &Value::Null), "{again}");
    assert!(position(&again, "confirmed_lsn") >= end, "{again}");
    // For a reader it is the same.
    insert(&followed, 2_001, 2_010).await;
    followed.until_free().await;
    let ended = followed.follow().args(TO_HERE).ended().with_code(0);
    let ended = ended.answered("10 rows in 1 transactions").answered("of CPU a row");
    ended.answered("lag commit → flushed: p50 ").answered(" 0 reconnects, 0 values clamped");
}

async fn it_ends_where_it_is_told_to(version: Version) {
    let followed = Followed::new(version, TABLE).await;
    let follow = async |arguments: [&str; 2]| {
        followed.until_free().await;
        followed.follow().args(arguments).args(["--json"]).ended()
    };
    insert(&followed, 1, 10).await;
    let (_, end) = followed.database.positions().await;
    let report = json(&follow(["--until-lsn", &lsn_text(end)]).await.with_code(0));
    assert_eq!(report["rows"], 10, "{report}");
    // What is committed counts, be it on disk or not yet.
    for id in -3..0 {
        let sql = "BEGIN; SET LOCAL synchronous_commit = off; INSERT INTO t VALUES";
        followed.execute(&format!("{sql} ({id}); COMMIT")).await;
        let report = json(&follow(TO_HERE).await.with_code(0));
        assert_eq!(report["rows"], 1, "{report}");
    }
    // What lies behind is nothing to wait for.
    for lsn in ["0/0", "0/1"] {
        follow(["--until-lsn", lsn]).await.with_code(0);
    }
    insert(&followed, 11, 20).await;
    let report = json(&follow(["--for", "0.5"]).await.with_code(0));
    assert_eq!(report["rows"], 10, "{report}");
    // Whichever comes first.
    followed.until_free().await;
    let far = ["--until-lsn", "FF/FFFFFFFF", "--for", "0.2"];
    followed.follow().args(far).ended().with_code(0);

    let ended = follow(["--until-lsn", "tomorrow"]).await.with_code(2);
    assert_said!(said(&ended, &followed), @r#"
    error: --until-lsn tomorrow is no WAL position
      hint: a position looks like 16/B374D848; `current` is where the WAL ends now
    "#);
    for length in ["-1", "nan", "inf", "1e30", "soon"] {
        let ended = follow(["--for", length]).await.with_code(2);
        ended.said("a number of seconds from 0");
    }
}

async fn it_ends_in_order_when_it_is_told_to(version: Version) {
    let followed = Followed::new(version, TABLE).await;
    // Without an end that was set, a signal is the end that is meant.
    let ends: [(&[&str], Signal, i32); 4] = [
        (&[], Signal::SIGINT, 0),
        (&[], Signal::SIGTERM, 0),
        (&["--for", "600"], Signal::SIGINT, 130),
        (&["--until-lsn", "FF/FFFFFFFF"], Signal::SIGINT, 130),
    ];
    for (n, (arguments, signal, code)) in (0..).zip(ends) {
        followed.until_free().await;
        // What is not old enough to be flushed is flushed at the end.
        let command =
            followed.follow().set("consumer.flush_interval_ms", "60000").arguments(arguments);
        let running = command.args(["--json"]).start();
        followed.until_followed().await;
        insert(&followed, n * 100 + 1, n * 100 + 100).await;
        let (_, end) = followed.database.positions().await;
        followed.until_sent(end).await;
        running.signal(signal);
        let report = json(&running.ended().with_code(code));
        assert_eq!((&report["rows"], &report["batches"]), (&100.into(), &1.into()), "{report}");
        followed.until_free().await;
        let (confirmed, _) = followed.database.positions().await;
        assert!(confirmed >= end && position(&report, "confirmed_lsn") >= end, "{report}");
    }
    followed.assert_same(&["t"]).await;
}

/// An end that was set is an end with everything durable.
async fn a_slow_sink_is_waited_for(version: Version) {
    let followed = Followed::new(version, TABLE).await.set("consumer.mock_delay_ms", "6000");
    insert(&followed, 1, 10).await;
    let (_, end) = followed.database.positions().await;
    let report = followed.drain().await;
    assert_eq!(report["rows"], 10, "{report}");
    assert!(position(&report, "confirmed_lsn") >= end, "{report}");
}

async fn slots(followed: &Followed) -> i64 {
    let sql = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1";
    followed.database.client.query_one(sql, &[&followed.database.slot]).await.unwrap().get(0)
}

async fn it_makes_the_slot_that_is_missing(version: Version) {
    let sql = format!("{TABLE}; CREATE PUBLICATION p FOR TABLE t");
    let followed = Followed::without_slot(version, &sql).await;
    let create = || followed.follow().args(TO_HERE).args(["--create-slot"]);
    let ended = create().ended().with_code(0);
    ended.said(&format!("made slot \"{}\" at ", followed.database.slot));
    insert(&followed, 1, 10).await;
    followed.until_free().await;
    let ended = create().ended().with_code(0).answered("10 rows in 1 transactions");
    assert!(!ended.stderr.contains("made slot"), "{}", ended.stderr);
    // One that is for this alone goes with it, however it is ended.
    let named = format!("{}_2", followed.database.slot);
    let temporary = || followed.on_slot(&named).args(["--create-slot", "--drop-slot"]);
    let dropped = format!("dropped slot \"{named}\" again");
    temporary().args(TO_HERE).ended().with_code(0).said("dropped at the end").said(&dropped);
    let mut running = temporary().start();
    running.until_said("confirmed ");
    running.signal(Signal::SIGINT);
    running.ended().with_code(0).said(&dropped);
    // But none that was there before.
    create().args(["--drop-slot"]).ended().with_code(0);
    assert_eq!(slots(&followed).await, 1);
    // One that is made for nothing does not stay.
    let drop_slot = "SELECT pg_drop_replication_slot($1)";
    followed.until_free().await;
    followed.database.client.execute(drop_slot, &[&followed.database.slot]).await.unwrap();
    followed.execute("DROP PUBLICATION p").await;
    create().ended().with_code(2).said("publication \"p\" does not exist");
    assert_eq!(slots(&followed).await, 0);
}

async fn what_is_missing_is_named(version: Version) {
    let followed = Followed::without_slot(version, TABLE).await;
    let follow = || followed.follow().args(TO_HERE);
    let ended = follow().ended().with_code(2);
    assert_said!(said(&ended, &followed), @r#"
    error: publication "p" does not exist in the database
      hint: CREATE PUBLICATION "p" FOR ALL TABLES (or FOR TABLE …)
    "#);
    followed.execute("CREATE PUBLICATION \"it is there\" FOR TABLE t").await;
    let ended = follow().ended().with_code(2);
    assert_said!(said(&ended, &followed), @r#"
    error: publication "p" does not exist in the database
      hint: CREATE PUBLICATION "p" FOR ALL TABLES (or FOR TABLE …), or name one that exists: it is there
    "#);
    followed.execute("CREATE PUBLICATION p FOR TABLE t").await;
    let ended = follow().ended().with_code(2);
    assert_said!(said(&ended, &followed), @r#"
    error: replication slot "SLOT" does not exist
      hint: create it: SELECT pg_create_logical_replication_slot('SLOT', 'pgoutput'), or use --create-slot
    "#);
}

async fn a_slot_that_another_holds_is_left_alone(version: Version) {
    let followed = Followed::new(version, TABLE).await;
    let running = followed.follow().start();
    followed.until_followed().await;
    let pid = followed.walsender().await.unwrap().to_string();
    let second = followed.follow().args(TO_HERE);
    let second = second.set("consumer.reconnect_sec", "0");
    let ended = second.set("consumer.mock_dir", "second").ended().with_code(2);
    assert_said!(said(&ended, &followed).replace(&pid, "7"), @r#"
    error: replication slot "SLOT" is active for PID 7 (application "walbench follow")
      hint: the slot is in use by another connection, and walbench does not take it over: stop the other one, or name another slot
    "#);
    assert_eq!(followed.walsender().await.unwrap().to_string(), pid);
    running.signal(Signal::SIGINT);
    running.ended().with_code(0);
}

async fn a_slot_that_is_free_soon_is_waited_for(version: Version) {
    let followed = Followed::new(version, TABLE).await;
    let first = followed.follow().start();
    followed.until_followed().await;
    let mut second = followed.follow().args(TO_HERE).start();
    second.until_said("waiting for the slot, up to 10 s: replication slot");
    insert(&followed, 1, 10).await;
    first.signal(Signal::SIGINT);
    first.ended().with_code(0);
    let ended = second.ended().with_code(0);
    assert_eq!(ended.stderr.matches("waiting for").count(), 1, "{}", ended.stderr);
    followed.assert_same(&["t"]).await;
}

/// Each keeps its own files, and all of them.
async fn two_may_share_a_folder(version: Version) {
    let followed = Followed::new(version, TABLE).await;
    let slot = "SELECT pg_create_logical_replication_slot('another', 'pgoutput')";
    followed.execute(&slot.replace("another", &format!("{}_2", followed.database.slot))).await;
    insert(&followed, 1, 1_000).await;
    let follow = |slot: &str| {
        let command = followed.on_slot(slot).set("consumer.flush_batch_size", "10");
        command.args(TO_HERE).args(["--json"]).start()
    };
    let slot = &followed.database.slot;
    let both = [follow(slot), follow(&format!("{slot}_2"))];
    for running in both {
        assert_eq!(json(&running.ended().with_code(0))["rows"], 1_000);
    }
    assert_eq!(followed.folder().log(&["public.t".into()]).len(), 2_000);
}

/// What was done until then is reported.
async fn a_failure_has_a_report(version: Version) {
    let followed = Followed::new(version, TABLE).await;
    insert(&followed, 1, 10).await;
    let fail = async |arguments: &[&str], from, to| {
        followed.until_free().await;
        let running = followed.follow().set("consumer.flush_retry_sec", "0").arguments(arguments);
        let running = running.start();
        followed.until_confirmed().await;
        let (sink, away) = (followed.folder().0, followed.home.path().join("away"));
        std::fs::rename(&sink, &away).unwrap();
        insert(&followed, from, to).await;
        let ended = running.ended().with_code(4).said("\n  caused by: No such file or directory");
        std::fs::rename(&away, &sink).unwrap();
        ended
    };
    let ended = fail(&["--json"], 11, 20).await;
    let report = json(&ended);
    assert_eq!((&report["rows"], &report["errors"]), (&10.into(), &1.into()), "{report}");
    assert!(report["draining_seconds"].as_f64().unwrap() > 0.0, "{report}");
    let error = report["error"].as_str().unwrap();
    assert!(error.ends_with(": No such file or directory (os error 2)"), "{error}");
    fail(&[], 21, 30).await.answered("10 rows in 2 transactions");
}

/// `walbench follow` of a URL.
fn follow_url(followed: &Followed, url: &str) -> Walbench {
    let command = followed.home.walbench(["follow", "--mock-clickhouse", "--postgres", url]);
    command.args(["--publication", "p", "--slot", &followed.database.slot])
}

async fn logins(version: Version) {
    let followed = Followed::new(version, TABLE).await;
    followed.execute("CREATE ROLE password_user LOGIN REPLICATION PASSWORD 'right'").await;
    let address = &followed.database.address;
    let (port, database) = (address.port, address.dbname.clone().unwrap());
    let url = format!("postgres://password_user:wr0ng@127.0.0.1:{port}/{database}");
    let ended = follow_url(&followed, &url).ended().with_code(2);
    assert!(!ended.stderr.contains("wr0ng"), "{}", ended.stderr);
    assert_said!(said(&ended, &followed), @r#"
    error: PostgreSQL refused the login of user "password_user"
      caused by: password authentication failed for user "password_user" (SQLSTATE 28P01)
      hint: check user, password and pg_hba.conf (a line for `replication` is not needed; logical replication uses the database's line)
    "#);
    let url = format!("postgres://postgres@127.0.0.1:{port}/nowhere");
    let ended = follow_url(&followed, &url).ended().with_code(2);
    assert_said!(said(&ended, &followed), @r#"
    error: database "nowhere" does not exist
      caused by: database "nowhere" does not exist (SQLSTATE 3D000)
      hint: name another database in the address, or CREATE DATABASE "nowhere"
    "#);
    let ended = follow_url(&followed, "mysql://postgres@127.0.0.1/x").ended().with_code(2);
    assert_said!(said(&ended, &followed), @r#"
    error: --postgres can't be used
      caused by: the URL's scheme is not postgres
      hint: write postgres://user@host:5432/
    "#);
    let refused = "postgres://postgres@127.0.0.1/x?target_session_attrs=primary";
    let ended = follow_url(&followed, refused).ended().with_code(2);
    assert_said!(said(&ended, &followed), @r#"
    error: --postgres can't be used
      caused by: walbench can't do what target_session_attrs asks for
      hint: leave it out, and name the server that you mean
    "#);
    passwords_from_elsewhere(&followed).await;
    // Nobody listens at a port that was just given back.
    let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = free.local_addr().unwrap().port().to_string();
    drop(free);
    let url = format!("postgres://postgres@127.0.0.1:{port}/x");
    let ended = follow_url(&followed, &url).ended().with_code(4);
    assert_said!(ended.stderr.replace(&port, "PORT"), @r#"
    error: can't connect to PostgreSQL at postgres://postgres@127.0.0.1:PORT/x?sslmode=prefer
      caused by: Connection refused (os error 111)
    "#);
}

/// What the URL leaves out is where libpq looks for it.
async fn passwords_from_elsewhere(followed: &Followed) {
    let address = &followed.database.address;
    let (port, database) = (address.port, address.dbname.as_deref().unwrap());
    followed.execute("CREATE PUBLICATION p FOR TABLE t").await;
    let without_user = format!("postgres://127.0.0.1:{port}/{database}");
    let url = format!("postgres://password_user@127.0.0.1:{port}/{database}");
    let follow = |url: &str, env: &[(&str, &str)]| {
        let command = follow_url(followed, url).args(TO_HERE).env("HOME", "/nowhere");
        env.iter().fold(command, |command, (name, value)| command.env(name, value)).ended()
    };
    follow(&url, &[]).with_code(2).said("neither the URL has one nor PGPASSWORD");
    follow(&url, &[("PGPASSWORD", "right")]).with_code(0);
    let file = followed.home.write("passwords", &format!("*:{port}:*:password_user:right\n"));
    let allow = |mode| std::fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
    let in_file = [("PGPASSFILE", file.to_str().unwrap()), ("PGUSER", "password_user")];
    allow(0o600);
    followed.until_free().await;
    follow(&without_user, &in_file).with_code(0);
    allow(0o640);
    let ended = follow(&without_user, &in_file).with_code(2).said("u=rw (0600)");
    assert!(!ended.stderr.contains("right"), "{}", ended.stderr);
    allow(0o600);
    let clean = followed.home.walbench(["clean", "--dry-run", "--postgres", &without_user]);
    clean.env(in_file[0].0, in_file[0].1).env(in_file[1].0, in_file[1].1).ended().with_code(0);
}

async fn servers_that_can_not_replicate(version: Version) {
    let cluster = Cluster::start_with(version, &["wal_level = replica"], &[]);
    let sql = format!("{TABLE}; CREATE PUBLICATION p FOR TABLE t");
    let followed = Followed::in_database(Database::on(&cluster).await, &sql).await;
    let ended = followed.follow().args(TO_HERE).ended().with_code(2);
    assert_said!(said(&ended, &followed), @r#"
    error: wal_level is replica, and logical replication needs logical
      hint: ALTER SYSTEM SET wal_level = 'logical'; and restart the server
    "#);
    let ended = followed.follow().args(TO_HERE).args(["--create-slot"]).ended().with_code(2);
    ended.said("wal_level is replica");
}

async fn a_slot_whose_wal_is_gone(version: Version) {
    let settings = ["max_slot_wal_keep_size = 1MB", "min_wal_size = 32MB", "max_wal_size = 32MB"];
    let cluster = Cluster::start_with(version, &settings, &[]);
    let sql =
        format!("{TABLE}; CREATE TABLE others (note text); CREATE PUBLICATION p FOR TABLE t;");
    let followed = Followed::in_database(Database::on(&cluster).await, &sql).await;
    followed.follow().args(TO_HERE).args(["--create-slot"]).ended().with_code(0);
    followed.until_free().await;
    // While it is followed by somebody who hangs.
    let running = followed.follow().start();
    followed.until_followed().await;
    running.signal(Signal::SIGSTOP);
    let is_lost = async || {
        let sql = "SELECT wal_status = 'lost' FROM pg_replication_slots WHERE slot_name = $1";
        let (client, slot) = (&followed.database.client, &followed.database.slot);
        client.query_one(sql, &[slot]).await.unwrap().get::<_, bool>(0)
    };
    for _ in 0..100 {
        if is_lost().await {
            break;
        }
        followed
            .execute("INSERT INTO others SELECT repeat('x', 1000) FROM generate_series(1, 20000)")
            .await;
        followed.execute("SELECT pg_switch_wal(); CHECKPOINT").await;
    }
    assert!(is_lost().await);
    running.signal(Signal::SIGCONT);
    let ended = running.ended().with_code(4);
    ended.said("is lost: WAL that it needs was removed").said("fill the destination again");
    let ended = followed.follow().args(TO_HERE).ended().with_code(4);
    assert_said!(said(&ended, &followed), @r#"
    error: replication slot "SLOT" is lost: WAL that it needs was removed
      hint: the slot can't be repaired: raise max_slot_wal_keep_size, drop it with pg_drop_replication_slot, create it again, and fill the destination again
    "#);
}

async fn new_tables_need_no_more_places_of_wal_senders(version: Version) {
    let cluster = Cluster::start_with(version, &["max_wal_senders = 1"], &[]);
    let sql = format!("{TABLE}; CREATE PUBLICATION p FOR ALL TABLES");
    let followed = Followed::in_database(Database::on(&cluster).await, &sql).await;
    followed.make_slot().await;
    let running = followed.follow().start();
    followed.until_followed().await;
    followed.execute("CREATE TABLE new (id int PRIMARY KEY); INSERT INTO new VALUES (1)").await;
    followed.until_confirmed().await;
    running.signal(Signal::SIGINT);
    running.ended().with_code(0).answered(" 0 reconnects");
    followed.assert_same(&["new"]).await;
}

/// The catalogue is asked in mid-stream, and what can't be asked now may be soon.
async fn a_server_that_takes_nobody_in_is_asked_again(version: Version) {
    let cluster = Cluster::start_with(version, &["max_connections = 6"], &[]);
    let sql = format!("{TABLE}; CREATE PUBLICATION p FOR ALL TABLES");
    let followed = Followed::in_database(Database::on(&cluster).await, &sql).await;
    followed.make_slot().await;
    let running = followed.follow().start();
    followed.until_followed().await;
    let mut others = Vec::new();
    while let Some(other) = Database::try_session(&followed.database.address).await {
        others.push(other);
    }
    followed.execute("INSERT INTO t VALUES (1, 'before')").await;
    followed.execute("CREATE TABLE new (id int PRIMARY KEY); INSERT INTO new VALUES (1)").await;
    let before = followed.walsender().await;
    until("another try", || {
        let now = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(followed.walsender())
        });
        (now.is_some() && now != before).then_some(())
    });
    drop(others);
    followed.until_confirmed().await;
    running.signal(Signal::SIGINT);
    running.ended().with_code(0);
    followed.assert_same(&["t", "new"]).await;
}

async fn losses_are_said_while_they_happen(version: Version) {
    let followed = Followed::new(version, TABLE).await;
    // With JSON as well: progress is not said there, but losses are.
    let mut running = followed.follow().args(["--json"]).start();
    followed.until_followed().await;
    followed.end_walsender().await;
    running.until_said("lost the replication connection: PostgreSQL ended the replication stream");
    running.until_said("the replication connection is back after ");
    // The folder is gone, and comes back.
    let (sink, away) = (followed.folder().0, followed.home.path().join("away"));
    std::fs::rename(&sink, &away).unwrap();
    insert(&followed, 1, 10).await;
    running.until_said("the first try of a flush failed: the flush can't be kept in sink");
    std::fs::rename(&away, &sink).unwrap();
    followed.until_confirmed().await;
    running.signal(Signal::SIGINT);
    let ended = running.ended().with_code(0);
    let report = json(&ended);
    assert_eq!((&report["rows"], &report["reconnects"]), (&10.into(), &1.into()), "{report}");
    assert!(report["retries"].as_u64().unwrap() > 0, "{report}");
    assert_eq!(ended.stderr.matches("first try").count(), 1, "{}", ended.stderr);
    followed.assert_same(&["t"]).await;
}

async fn silence_is_broken_in_time(version: Version) {
    let followed = Followed::new(version, TABLE).await;
    let database = followed.database.address.dbname.clone().unwrap();
    let sql = format!("ALTER DATABASE {database} SET wal_sender_timeout = '600ms'");
    followed.execute(&sql).await;
    let running = followed.follow().start();
    followed.until_followed().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    insert(&followed, 1, 10).await;
    followed.until_confirmed().await;
    running.signal(Signal::SIGINT);
    running.ended().with_code(0).answered("10 rows").answered(" 0 reconnects");

    followed.until_free().await;
    let (_, end) = followed.database.positions().await;
    let running =
        ceiling(&followed, &["--late", "--until-lsn", &lsn_text(end + 2_000_000)]).start();
    followed.until_followed().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    insert(&followed, 11, 30_000).await;
    running.ended().with_code(0).answered(" rows, ");
}

fn ceiling(followed: &Followed, arguments: &[&str]) -> Walbench {
    followed.on(followed.home.walbench(["ceiling"])).arguments(arguments)
}

async fn both_ways_of_reading_meet_the_same_rows(version: Version) {
    let followed = Followed::new(version, TABLE).await;
    insert(&followed, 1, 5_000).await;
    followed
        .execute("UPDATE t SET note = NULL WHERE id % 2 = 0; DELETE FROM t WHERE id > 4000")
        .await;
    followed.execute("BEGIN; INSERT INTO t VALUES (-1); ROLLBACK; TRUNCATE t").await;
    let (before, _) = followed.database.positions().await;
    let ways: [&[&str]; 4] = [
        &["--json", "--late"],
        &["--json", "--eager"],
        &["--json", "--late", "--set", "consumer.column_format=text"],
        &["--json", "--eager", "--set", "consumer.streaming=on"],
    ];
    for way in ways {
        followed.until_free().await;
        let ended = ceiling(&followed, way).args(TO_HERE).ended().with_code(0);
        let report = json(&ended);
        let expected =
            ["bytes", "cpu_us_per_row", "max_rss_bytes", "reads", "rows", "rows_per_s", "seconds"];
        assert_eq!(keys(&report), expected);
        assert_eq!(report["rows"], 8_500, "{report}");
        assert!(
            report["bytes"].as_u64().unwrap() > 100_000 && report["reads"].as_u64().unwrap() > 0
        );
    }
    followed.until_free().await;
    // It confirms nothing.
    assert_eq!(followed.database.positions().await.0, before);
    let report = followed.drain().await;
    assert_eq!(report["rows"], 8_500, "{report}");
    let ended = ceiling(&followed, &["--until-lsn", "0"]).ended().with_code(2);
    ended.said("--until-lsn 0 is no WAL position");
}

/// What needs no server.
#[test]
fn wrong_usage_is_refused() {
    let home = crate::home::Home::new();
    home.write("file", "");
    let follow = |arguments: &[&str]| {
        let url = "postgres://postgres@127.0.0.1:1/x";
        let command = home.walbench(["follow", "--postgres", url, "--publication", "p"]);
        command.args(["--slot", "s"]).arguments(arguments).ended().with_code(2).stderr
    };
    let mock = |arguments: &[&str]| follow(&[&["--mock-clickhouse"], arguments].concat());
    insta::assert_snapshot!(mock(&["--set", "producer.batch_size=5"]), @r#"
    error: --set producer.batch_size=5: that key means nothing here
      hint: keys of [consumer] do, such as --set consumer.flush_batch_size=500
    "#);
    insta::assert_snapshot!(mock(&["--set", "consumer.flush_batch_siz=5"]), @r#"
    error: --set consumer.flush_batch_siz=5: consumer.flush_batch_siz: unknown key "flush_batch_siz"
      hint: did you mean "flush_batch_size"?
    "#);
    insta::assert_snapshot!(mock(&["--set", "consumer.flush_batch_size=none"]), @r#"
    error: --set consumer.flush_batch_size=none: consumer.flush_batch_size: expected an integer, found the string "none"
    "#);
    insta::assert_snapshot!(mock(&["--mock-level", "most"]), @r#"
    error: --mock-level most: consumer.mock_level: "most" is not one of "discard", "encode", "files", "http"
    "#);
    insta::assert_snapshot!(mock(&["--mock-level", "files"]), @r#"
    error: consumer.mock_level = "files" needs a folder
      hint: set consumer.mock_dir
    "#);
    let in_file = ["--mock-level", "files", "--set", "consumer.mock_dir=file/sink"];
    insta::assert_snapshot!(mock(&in_file), @r#"
    error: consumer.mock_dir file/sink can't be used
      caused by: Not a directory (os error 20)
    "#);
    assert!(follow(&[]).contains("--mock-clickhouse"));
}
