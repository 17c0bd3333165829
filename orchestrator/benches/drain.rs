//! How fast a preloaded slot is drained: `cargo bench --bench drain [-- ROWS ROUNDS]`.
//!
//! In one run, interleaved and on copies of the same slots: `pg_recvlogical` writing to /dev/null,
//! a bare reader (eager, coalescing), and `walbench follow` at discard and encode; narrow rows
//! (`event`, about 200 B) and wide ones (`task_run`, about 1 KB), over the Unix socket and TCP.
//! `follow` asks for binary columns, as it does by default; once more it asks for text.
//! Everything is measured from outside and in the same way for all: wall time from start to exit,
//! CPU of the reader and of its walsender, peak memory, and CPU that neither of them used. Our own
//! readers also say how long the stream took, from its first byte to its last, and `follow` until
//! every row of it was durable: of what a start costs they need not be told apart by that.
//!
//! Then the peak memory of `follow` where it is put to the test: one transaction of two million rows,
//! and a sink that is ten times too slow.
//!
//! And how late a reader is that reads late and large, at 100 transactions a second: commit →
//! received of `follow` and of a `follow` that reads as soon as there is anything.
#![allow(clippy::unwrap_used, reason = "a measurement that can't go on shall panic")]

#[path = "../../producer/tests/it/cluster.rs"]
mod cluster;
mod loaded;

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use tokio_postgres::Client;
use walbench_phases::address::{Host, PostgresAddress};
use walbench_producer::connect;

use cluster::{Cluster, Version};
use loaded::{LOOK, Loaded, SERVER, drop_slot, load, median};

/// Who drains.
const READERS: [&str; 6] = [
    "pg_recvlogical",
    "bare, eager",
    "bare, coalescing",
    "follow, discard",
    "follow, encode",
    "follow, as text",
];
const PEER: usize = 0;
const BARE: [usize; 2] = [1, 2];
const ENCODE: usize = 4;
const TEXT: usize = 5;

/// One drain.
#[derive(Clone, Copy, Debug)]
struct Drain {
    rows_per_s: f64,
    /// By its own clock, from the first byte until all was done; the same as above for the peer.
    stream_rows_per_s: f64,
    reader_us_per_row: f64,
    walsender_us_per_row: f64,
    others_us_per_row: f64,
    peak_mb: f64,
}

fn main() {
    let (numbers, words): (Vec<_>, Vec<_>) =
        std::env::args().skip(1).partition(|text| text.parse::<u64>().is_ok());
    let mut numbers = numbers.iter().filter_map(|text| text.parse::<u64>().ok());
    let (rows, rounds) = (numbers.next().unwrap_or(500_000), numbers.next().unwrap_or(5));
    // `event`, `task_run`, `unix`, `tcp`, `memory`, `lag`: only that; nothing named is everything.
    let words: Vec<_> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let wants = |what: &str, among: &[&str]| {
        words.iter().any(|word| *word == what)
            || !words.iter().any(|word| among.contains(&word.as_str()))
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cluster = Cluster::start_with(Version::Newest, &SERVER, &[]);
    let address = cluster.address();
    let admin = runtime.block_on(connect(&address, "drain")).unwrap().client;
    let loaded =
        ["event", "task_run"].map(|name| runtime.block_on(load(&admin, &address, name, rows)));
    let mut drains: BTreeMap<(usize, &str, usize), Vec<Drain>> = BTreeMap::new();
    let (tables, transports) = (["event", "task_run"], ["unix", "tcp"]);
    let pairs = || {
        let tables = loaded.iter().enumerate().filter(|(_, table)| wants(table.name, &tables));
        tables
            .flat_map(|table| transports.map(|transport| (table, transport)))
            .filter(|(_, transport)| wants(transport, &transports))
    };
    for round in 0..rounds as usize {
        for ((table, loaded), transport) in pairs() {
            for turn in 0..READERS.len() {
                // Nobody always comes first.
                let reader = (turn + round) % READERS.len();
                let command = command(&address, loaded, transport, reader);
                let drain = runtime.block_on(drain(&admin, loaded, command));
                eprintln!(
                    "round {round} {} {transport} {}: {drain:?}",
                    loaded.name, READERS[reader]
                );
                drains.entry((table, transport, reader)).or_default().push(drain);
            }
        }
    }
    if wants("memory", &tables) {
        runtime.block_on(memory(&admin, &address, &loaded));
    }
    if wants("lag", &tables) {
        runtime.block_on(lags(&admin, &address, rounds));
    }
    for ((table, loaded), transport) in pairs() {
        let readers: Vec<_> =
            (0..READERS.len()).map(|reader| &drains[&(table, transport, reader)]).collect();
        report(loaded, transport, &readers);
    }
}

/// Rows of a transaction that is larger than anybody's memory is to be.
const LARGE_TRANSACTION_ROWS: u64 = 2_000_000;

/// A flush takes so long that four at once, of 1,000 rows, get a tenth of what is drained above.
const SLOW_SINK: &str = "--set=consumer.mock_delay_ms=170";

/// Peak memory where there is most to keep.
async fn memory(admin: &Client, address: &PostgresAddress, loaded: &[Loaded]) {
    println!();
    let print = |what: &str, drain: Drain| {
        println!("{what}: {:.1} MB at most, {:.0} rows/s", drain.peak_mb, drain.rows_per_s);
    };
    for loaded in loaded {
        let mut slow = command(address, loaded, "unix", ENCODE);
        slow.arg(SLOW_SINK);
        let what = format!("{}, a sink ten times too slow", loaded.name);
        print(&what, drain(admin, loaded, slow).await);
    }
    let large = load_at_once(admin, LARGE_TRANSACTION_ROWS).await;
    for streaming in ["off", "on"] {
        let mut whole = command(address, &large, "unix", ENCODE);
        whole.arg(format!("--set=consumer.streaming={streaming}"));
        let what =
            format!("one transaction of {LARGE_TRANSACTION_ROWS} rows, streaming {streaming}");
        print(&what, drain(admin, &large, whole).await);
    }
}

/// Rows of `event`, again and again, all in one transaction.
async fn load_at_once(admin: &Client, rows: u64) -> Loaded {
    let name = "large";
    let slot = "SELECT pg_create_logical_replication_slot($1, 'pgoutput')";
    let table = "CREATE TABLE large AS SELECT * FROM event LIMIT 0;
                 CREATE PUBLICATION large FOR TABLE large";
    admin.batch_execute(table).await.unwrap();
    admin.execute(slot, &[&name]).await.unwrap();
    let insert = format!(
        "INSERT INTO large SELECT event.* FROM event, generate_series(1, 1 + {rows} / \
         (SELECT count(*) FROM event)) LIMIT {rows}"
    );
    assert_eq!(admin.execute(&insert, &[]).await.unwrap(), rows);
    let end = admin.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap().get(0);
    Loaded { name, rows, end }
}

/// Transactions a second at which lag is measured: a reader that is caught up.
const LAG_RATE: u64 = 100;

/// How long each lag is measured.
const LAG_TIME: Duration = Duration::from_secs(10);

/// The p50 of commit → received in µs, while somebody writes slowly.
async fn lag_p50_us(admin: &Client, address: &PostgresAddress, eager: bool) -> f64 {
    let slot = "SELECT pg_create_logical_replication_slot('drain', 'pgoutput')";
    admin.execute(slot, &[]).await.unwrap();
    let now = Loaded { name: "event", rows: 0, end: "FFFFFFFF/0".into() };
    let mut command = command(address, &now, "unix", ENCODE);
    command.arg(format!("--for={}", LAG_TIME.as_secs()));
    command.arg(format!("--set=consumer.eager_reads={eager}"));
    let child = command.stdout(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    let mut pace = tokio::time::interval(Duration::from_secs(1) / LAG_RATE as u32);
    while started.elapsed() < LAG_TIME {
        pace.tick().await;
        // An update of one row: a transaction as small as they are.
        admin.batch_execute("UPDATE event SET payload = payload WHERE id = 1").await.unwrap();
    }
    let output = child.wait_with_output().unwrap();
    drop_slot(admin).await;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    report["lag_us"]["commit_to_received"]["p50"].as_f64().unwrap()
}

async fn lags(admin: &Client, address: &PostgresAddress, rounds: u64) {
    admin.batch_execute("SET synchronous_commit = on").await.unwrap();
    let (mut late, mut eager) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        late.push(lag_p50_us(admin, address, false).await);
        eager.push(lag_p50_us(admin, address, true).await);
    }
    let differences = late.iter().zip(&eager).map(|(late, eager)| late - eager);
    println!(
        "\ncommit → received at {LAG_RATE} transactions/s, p50, median of {rounds} interleaved runs: \
         follow {:.0} µs, reading eagerly {:.0} µs, difference {:.0} µs",
        median(late.iter().copied()),
        median(eager.iter().copied()),
        median(differences),
    );
}

fn report(loaded: &Loaded, transport: &str, readers: &[&Vec<Drain>]) {
    println!(
        "\n{}, {} rows, {transport}: medians of {} interleaved runs",
        loaded.name,
        loaded.rows,
        readers[0].len()
    );
    println!(
        "{:<18} {:>10} {:>8} {:>14} {:>14} {:>12} {:>9}",
        "", "rows/s", "÷ peer", "reader µs/row", "sender µs/row", "others", "peak MB"
    );
    for (reader, drains) in readers.iter().enumerate() {
        let of = |get: fn(&Drain) -> f64| median(drains.iter().map(get));
        println!(
            "{:<18} {:>10.0} {:>8.2} {:>14.2} {:>14.2} {:>12.2} {:>9.1}",
            READERS[reader],
            of(|d| d.rows_per_s),
            median(ratios(drains, readers[PEER])),
            of(|d| d.reader_us_per_row),
            of(|d| d.walsender_us_per_row),
            of(|d| d.others_us_per_row),
            of(|d| d.peak_mb),
        );
    }
    let lowest = |of: usize| ratios(readers[of], readers[PEER]).fold(f64::INFINITY, f64::min);
    let bare = BARE.map(|bare| median(ratios(readers[ENCODE], readers[bare])));
    let streams = BARE.map(|bare| {
        let pairs = readers[ENCODE].iter().zip(readers[bare]);
        median(pairs.map(|(of, to)| of.stream_rows_per_s / to.stream_rows_per_s))
    });
    println!(
        "follow, encode ÷ the better bare reader: {:.2} from start to exit, {:.2} from the first byte \
         on; ÷ pg_recvlogical, worst of all pairs: {:.2}, and {:.2} as text like it",
        bare[0].min(bare[1]),
        streams[0].min(streams[1]),
        lowest(ENCODE),
        lowest(TEXT),
    );
}

/// Round by round, because the machine is not the same a minute later.
fn ratios<'a>(of: &'a [Drain], to: &'a [Drain]) -> impl Iterator<Item = f64> + 'a {
    of.iter().zip(to).map(|(of, to)| of.rows_per_s / to.rows_per_s)
}

async fn drain(admin: &Client, loaded: &Loaded, mut command: Command) -> Drain {
    let copy = "SELECT pg_copy_logical_replication_slot($1, 'drain')";
    admin.execute(copy, &[&loaded.name]).await.unwrap();
    let (busy, used) = (machine_us(), children_us());
    let started = Instant::now();
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let (mut sender, mut sender_us, mut peak_kb) = (None, 0.0, 0);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if sender.is_none() {
            let pid = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = 'drain'";
            sender = admin.query_one(pid, &[]).await.unwrap().get::<_, Option<i32>>(0);
        }
        sender_us = sender.and_then(process_us).unwrap_or(sender_us);
        peak_kb = peak_memory_kb(child.id()).unwrap_or(peak_kb);
        std::thread::sleep(LOOK);
    };
    let seconds = started.elapsed().as_secs_f64();
    assert!(status.success(), "{command:?}: {status}");
    let reader_us = children_us() - used;
    // Less than a pipe holds, and so nobody had to read it before.
    let said = std::io::read_to_string(child.stdout.take().unwrap()).unwrap();
    let others_us = machine_us() - busy - reader_us - sender_us;
    drop_slot(admin).await;
    let rows = loaded.rows as f64;
    Drain {
        rows_per_s: rows / seconds,
        stream_rows_per_s: rows / stream_seconds(&said).unwrap_or(seconds),
        reader_us_per_row: reader_us / rows,
        walsender_us_per_row: sender_us / rows,
        others_us_per_row: others_us / rows,
        peak_mb: peak_kb as f64 * 1024.0 / 1e6,
    }
}

/// What one of our readers reports.
fn stream_seconds(said: &str) -> Option<f64> {
    let report: serde_json::Value = serde_json::from_str(said).ok()?;
    report.get("draining_seconds").or(report.get("seconds"))?.as_f64()
}

fn command(address: &PostgresAddress, loaded: &Loaded, transport: &str, reader: usize) -> Command {
    let Host::Unix(folder) = &address.host else { panic!("the server has a Unix socket") };
    let host = if transport == "unix" { folder.display().to_string() } else { "127.0.0.1".into() };
    let port = address.port.to_string();
    let Loaded { name, end, .. } = loaded;
    if reader == PEER {
        let mut command = Command::new("pg_recvlogical");
        command.args([
            "--start",
            "--slot=drain",
            "--no-loop",
            "--file=/dev/null",
            "--username=postgres",
        ]);
        command.args(["--dbname=postgres", "--option=proto_version=1", "--option=messages=true"]);
        command.args([
            format!("--host={host}"),
            format!("--port={port}"),
            format!("--endpos={end}"),
        ]);
        command.arg(format!("--option=publication_names={name}"));
        return command;
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_walbench"));
    let more: &[&str] = match READERS[reader] {
        "bare, eager" => &["ceiling", "--eager"],
        "bare, coalescing" => &["ceiling", "--late"],
        "follow, discard" => &["follow", "--mock-clickhouse", "--mock-level=discard"],
        "follow, as text" => &["follow", "--mock-clickhouse", "--set=consumer.column_format=text"],
        _ => &["follow", "--mock-clickhouse", "--mock-level=encode"],
    };
    let encoded = host.replace('/', "%2F");
    command.args(more).arg(format!("--postgres=postgres://postgres@{encoded}:{port}/postgres"));
    command.args([format!("--publication={name}"), format!("--until-lsn={end}")]);
    command.args(["--slot=drain", "--json"]);
    command
}

/// CPU time of a process in µs (proc(5), `/proc/pid/schedstat`).
fn process_us(pid: i32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    Some(text.split_whitespace().next()?.parse::<f64>().ok()? / 1e3)
}

fn peak_memory_kb(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// CPU time of children that were waited for, in µs.
fn children_us() -> f64 {
    let used = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    let us = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 * 1e6 + time.tv_usec() as f64;
    us(used.user_time()) + us(used.system_time())
}

/// CPU time that all of the machine has used, in µs: user, nice, system, irq, softirq.
fn machine_us() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap();
    let fields: Vec<f64> = text
        .lines()
        .next()
        .unwrap()
        .split_whitespace()
        .skip(1)
        .map(|n| n.parse().unwrap())
        .collect();
    let ticks: f64 = [0, 1, 2, 5, 6].iter().map(|field| fields[*field]).sum();
    ticks * 1e4
}
