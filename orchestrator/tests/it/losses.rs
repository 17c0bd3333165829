//! Streams that end and begin anew: a server that hangs, a form of values that no longer serves, and
//! an end under load.

use std::time::Duration;

use nix::sys::signal::Signal;
use walbench_consumer::replication::parse_lsn;

use crate::cluster::Version;
use crate::database::on_every_server;
use crate::followed::Followed;
use crate::processes;

on_every_server![
    types_that_are_not_read_in_binary_form,
    a_server_that_hangs,
    what_is_told_at_the_end_arrives,
];

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, note text)";

const UNREADABLE: [&str; 4] = [
    "CREATE TABLE ranges (id int PRIMARY KEY, price money, span int4range);
     INSERT INTO t VALUES (2, 'before'); INSERT INTO ranges VALUES (1, 7, '[1,5)')",
    "ALTER TABLE t ADD spans int4multirange; INSERT INTO t VALUES (3, 'new', '{[1,5)}')",
    "CREATE TYPE pair AS (a int, b text); CREATE TABLE pairs (id int PRIMARY KEY, pair pair);
     INSERT INTO pairs VALUES (1, (2, 'b')); UPDATE pairs SET pair = (3, 'c')",
    "INSERT INTO t VALUES (4, 'after'); UPDATE t SET note = 'changed' WHERE id < 3",
];

async fn types_that_are_not_read_in_binary_form(version: Version) {
    let followed = Followed::new(version, TABLE).await;
    let running = followed.follow().start();
    followed.until_followed().await;
    followed.execute("INSERT INTO t VALUES (1, 'first')").await;
    for sql in UNREADABLE {
        followed.execute(sql).await;
        followed.until_confirmed().await;
    }
    running.signal(Signal::SIGINT);
    // Once it asks for text, it stays with that.
    running.ended().with_code(0).answered(" 1 reconnects");
    followed.assert_same(&["t", "ranges", "pairs"]).await;

    let followed = Followed::new(version, TABLE).await.set("consumer.column_format", "binary");
    let running = followed.follow().start();
    followed.until_followed().await;
    followed.execute(UNREADABLE[0]).await;
    let ended = running.ended().with_code(4);
    ended.said("public.ranges.price holds").said("set consumer.column_format = \"text\"");
}

async fn a_server_that_hangs(version: Version) {
    let followed = Followed::new(version, TABLE).await.set("consumer.receive_timeout_sec", "1");
    let running = followed.follow().start();
    followed.until_followed().await;
    followed.execute("INSERT INTO t VALUES (1, 'before')").await;
    followed.until_confirmed().await;
    // Silence alone is no loss: a server that is asked answers.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let walsender = followed.walsender().await.unwrap();
    processes::signal(walsender, Signal::SIGSTOP);
    followed.execute("INSERT INTO t VALUES (2, 'while it hangs')").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    processes::signal(walsender, Signal::SIGCONT);
    followed.until_confirmed().await;
    running.signal(Signal::SIGINT);
    running.ended().with_code(0).answered(" 1 reconnects");
    followed.assert_same(&["t"]).await;
}

/// The stream is full of what will not be read any more.
async fn what_is_told_at_the_end_arrives(version: Version) {
    let followed = Followed::new(version, TABLE).await;
    for from in 0..20 {
        let sql = format!(
            "INSERT INTO t SELECT n, repeat('x', 200) FROM generate_series({from}0001, {from}9999) n"
        );
        followed.execute(&sql).await;
    }
    for _ in 0..4 {
        followed.until_free().await;
        let running = followed.follow().start();
        followed.until_followed().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        running.signal(Signal::SIGINT);
        let ended = running.ended().with_code(0);
        let confirmed = ended.stdout.split_once("confirmed ").unwrap().1.trim_end();
        followed.until_free().await;
        let (now, _) = followed.database.positions().await;
        assert_eq!(Some(now), parse_lsn(confirmed), "{}", ended.stdout);
    }
}
