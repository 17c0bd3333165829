//! Whatever ends while rows are written, the consumer, its session or the server: nothing is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::task::JoinHandle;
use walbench_consumer::replication::parse_lsn;
use walbench_metrics::clock::wall_us;
use walbench_phases::address::PostgresAddress;

use crate::cluster::{Cluster, Version};
use crate::database::{Database, on_every_server};
use crate::followed::Followed;

on_every_server![
    killed_at_any_moment,
    killed_while_transactions_come_in_pieces,
    sessions_that_are_ended,
    servers_that_restart,
];

pub(crate) const TABLES: [&str; 2] = ["a", "b"];

pub(crate) const SCHEMA: &str = "
    CREATE TABLE a (id int PRIMARY KEY, note text, n bigint);
    CREATE TABLE b (y text, x int, n bigint, PRIMARY KEY (y, x));
    ALTER TABLE b REPLICA IDENTITY FULL;
    CREATE PUBLICATION p FOR TABLE a, b";

/// Kills over all tests here; `WALBENCH_KILLS=200` is the proof, the default is for every day.
pub(crate) fn kills() -> u64 {
    std::env::var("WALBENCH_KILLS").map_or(40, |text| text.parse().unwrap())
}

/// Numbers that differ from run to run; a failed test says with which it began.
#[derive(Debug)]
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) fn new() -> Self {
        let seed = wall_us().unsigned_abs() | 1;
        println!("drawn from {seed}");
        Self(seed)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }

    pub(crate) async fn wait_ms(&mut self, from: u64, to: u64) {
        tokio::time::sleep(Duration::from_millis(from + self.below(to - from))).await;
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// Writes into both tables until it is told to stop.
pub(crate) struct Writer {
    stop: Arc<AtomicBool>,
    task: JoinHandle<u64>,
}

impl Writer {
    pub(crate) fn start(address: PostgresAddress, prepares: bool) -> Self {
        Self::pausing(address, prepares, 5)
    }

    /// With so little to do that who follows catches up even where every tenth word is lost: each
    /// truncation waits for all that is before it.
    pub(crate) fn start_calmly(address: PostgresAddress) -> Self {
        Self::pausing(address, false, 80)
    }

    fn pausing(address: PostgresAddress, prepares: bool, longest_pause_ms: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(write(address, prepares, longest_pause_ms, stop.clone()));
        Self { stop, task }
    }

    pub(crate) async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        let transactions = self.task.await.unwrap();
        assert!(transactions > 20, "only {transactions} transactions were written");
    }
}

/// One transaction after the other. With the server some are lost, or can't be begun.
async fn write(
    address: PostgresAddress,
    prepares: bool,
    longest_pause_ms: u64,
    stop: Arc<AtomicBool>,
) -> u64 {
    let (mut draw, mut session, mut transactions) = (Draw::new(), None, 0);
    while !stop.load(Ordering::Relaxed) {
        let Some(client) = &session else {
            session = Database::try_session(&address).await;
            draw.wait_ms(1, 10).await;
            continue;
        };
        let end = match draw.below(10) {
            0 => "ROLLBACK",
            1..4 if prepares => "PREPARE TRANSACTION 'it'",
            _ => "COMMIT",
        };
        let sql = format!("BEGIN; {}; {end}", statements(&mut draw));
        let mut written = client.batch_execute(&sql).await;
        if written.is_ok() && end.starts_with("PREPARE") {
            draw.wait_ms(0, 50).await;
            let decision = if draw.one_in(4) { "ROLLBACK" } else { "COMMIT" };
            written = client.batch_execute(&format!("{decision} PREPARED 'it'")).await;
        }
        match written {
            Ok(()) => transactions += 1,
            Err(error) if error.is_closed() || error.as_db_error().is_none() => session = None,
            Err(error) => {
                let gone = error.code().is_some_and(|code| code.code().starts_with("57P"));
                assert!(gone, "{error:?}: {sql}");
                session = None;
            }
        }
        draw.wait_ms(0, longest_pause_ms).await;
    }
    transactions
}

fn statements(draw: &mut Draw) -> String {
    let count = if draw.one_in(10) { 100 } else { 1 + draw.below(10) };
    let mut statements: Vec<String> = (0..count).map(|_| statement(draw)).collect();
    if draw.one_in(8) {
        statements.insert(0, "SAVEPOINT s".into());
        statements.push(format!("ROLLBACK TO s; {}", statement(draw)));
    }
    statements.join("; ")
}

/// Both tables have at most 300 keys, so that most rows are written many times.
fn statement(draw: &mut Draw) -> String {
    let (from, n) = (draw.below(300), draw.below(1_000_000));
    let to = from + draw.below(60);
    let other = draw.below(300);
    match draw.below(100) {
        0 => "TRUNCATE a".into(),
        1 => "TRUNCATE a, b".into(),
        2..30 => format!(
            "INSERT INTO a SELECT id, 'note {n}', {n} FROM generate_series({from}, {to}) id \
             ON CONFLICT (id) DO UPDATE SET note = excluded.note, n = excluded.n"
        ),
        30..50 => format!(
            "INSERT INTO b SELECT 'y' || x % 7, x, {n} FROM generate_series({from}, {to}) x \
             ON CONFLICT (y, x) DO UPDATE SET n = excluded.n"
        ),
        50..60 => format!("UPDATE a SET note = NULL, n = {n} WHERE id BETWEEN {from} AND {to}"),
        60..70 => format!("UPDATE b SET n = {n} WHERE x BETWEEN {from} AND {to}"),
        70..80 => format!(
            "UPDATE a SET id = {other}, n = {n} WHERE id = {from} \
             AND NOT EXISTS (SELECT FROM a WHERE id = {other})"
        ),
        80..90 => format!(
            "UPDATE b SET y = 'z{n}' WHERE (y, x) = \
             (SELECT min(y), x FROM b WHERE x = {from} GROUP BY x) \
             AND NOT EXISTS (SELECT FROM b WHERE y = 'z{n}' AND x = {from})"
        ),
        90..95 => format!("DELETE FROM a WHERE id BETWEEN {from} AND {to}"),
        _ => format!("DELETE FROM b WHERE x BETWEEN {from} AND {to}"),
    }
}

async fn followed(cluster: &Cluster) -> Followed {
    let followed = Followed::in_database(Database::on(cluster).await, SCHEMA).await;
    // Many batches, many of them under way at once.
    let followed = followed.set("consumer.flush_batch_size", "50");
    followed.set("consumer.flush_interval_ms", "20")
}

pub(crate) async fn make_slot(followed: &Followed) {
    let command = followed.follow().args(["--create-slot", "--until-lsn", "current"]);
    command.ended().with_code(0);
}

/// Starts it again and again; what it confirmed stays confirmed.
pub(crate) async fn kill_again_and_again(followed: &Followed, kills: u64) {
    let (mut draw, mut confirmed) = (Draw::new(), 0);
    for _ in 0..kills {
        let running = followed.follow().start();
        draw.wait_ms(5, 300).await;
        running.signal(Signal::SIGKILL);
        let ended = running.ended();
        // PostgreSQL may take a moment to notice that the one before it is gone: that is waited for.
        assert!(ended.was_killed(), "{}", ended.stderr);
        let (now, _) = followed.database.positions().await;
        assert!(now >= confirmed, "confirmed {confirmed:X}, then {now:X}");
        confirmed = now;
    }
}

/// Kills it a quarter of the times that are asked for, while rows are written.
async fn nothing_is_lost(followed: &Followed, prepares: bool) {
    make_slot(followed).await;
    let writer = Writer::start(followed.database.address.clone(), prepares);
    kill_again_and_again(followed, kills() / 4).await;
    writer.stop().await;
    followed.until_free().await;
    followed.assert_same(&TABLES).await;
}

async fn killed_at_any_moment(version: Version) {
    let cluster = Cluster::start_version(version);
    let followed = followed(&cluster).await;
    nothing_is_lost(&followed, false).await;
}

async fn killed_while_transactions_come_in_pieces(version: Version) {
    let cluster = Cluster::start_version(version);
    let followed = followed(&cluster).await.set("consumer.streaming", "on");
    let followed = followed.set("consumer.spool_memory_bytes", "65536");
    let followed = followed.set("consumer.two_phase", "true");
    let sql = "ALTER SYSTEM SET logical_decoding_work_mem = '64kB'";
    followed.execute(sql).await;
    followed.execute("SELECT pg_reload_conf()").await;
    nothing_is_lost(&followed, true).await;
}

/// What it says of its confirmed position each second never falls.
fn assert_confirmed_rises(said: &str) {
    let positions = said.lines().filter_map(|line| {
        let position = line.split_once("confirmed ")?.1.split_whitespace().next()?;
        parse_lsn(position)
    });
    let positions: Vec<_> = positions.collect();
    assert!(!positions.is_empty() && positions.is_sorted(), "{said}");
}

async fn sessions_that_are_ended(version: Version) {
    let cluster = Cluster::start_version(version);
    let followed = followed(&cluster).await;
    make_slot(&followed).await;
    let writer = Writer::start(followed.database.address.clone(), false);
    let (mut draw, running) = (Draw::new(), followed.start_when_free().await);
    followed.until_followed().await;
    for _ in 0..20 {
        draw.wait_ms(1, 150).await;
        followed.end_walsender().await;
    }
    writer.stop().await;
    followed.until_confirmed().await;
    running.signal(Signal::SIGINT);
    let ended = running.ended().with_code(0).answered(" 20 reconnects");
    assert_confirmed_rises(&ended.stderr);
    followed.assert_same(&TABLES).await;
}

async fn servers_that_restart(version: Version) {
    let cluster = Cluster::start_version(version);
    let mut followed = followed(&cluster).await;
    make_slot(&followed).await;
    let writer = Writer::start(followed.database.address.clone(), false);
    let (mut draw, running) = (Draw::new(), followed.start_when_free().await);
    followed.until_followed().await;
    for mode in ["fast", "immediate", "immediate", "fast"] {
        draw.wait_ms(100, 600).await;
        cluster.restart(mode);
        followed.database.client = followed.database.session().await;
        followed.until_confirmed().await;
    }
    writer.stop().await;
    followed.until_confirmed().await;
    running.signal(Signal::SIGINT);
    let ended = running.ended().with_code(0);
    assert_confirmed_rises(&ended.stderr);
    followed.assert_same(&TABLES).await;
}
