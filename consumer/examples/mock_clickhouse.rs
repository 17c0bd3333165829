//! How fast the mock ClickHouse server takes rows: inserts of narrow rows over loopback into a
//! server in this process, from memory, with what it costs in CPU.
//!
//! `cargo run --release --example mock_clickhouse -p walbench-consumer`
#![allow(clippy::unwrap_used, reason = "a measurement that can't go on shall panic")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use clickhouse::{Client, Compression};
use nix::sys::resource::{UsageWho, getrusage};
use tokio::sync::oneshot;
use walbench_consumer::clickhouse::column_type::ColumnType;
use walbench_consumer::clickhouse::mock::check::Shape;
use walbench_consumer::clickhouse::mock::{Mock, Options, ReservedPort, serve};
use walbench_phases::plan::MockServer;

/// The built-in table `event`, as the sink makes it.
const COLUMNS: [(&str, &str); 8] = [
    ("id", "Int64"),
    ("account_id", "Int64"),
    ("kind", "LowCardinality(String)"),
    ("payload", "String"),
    ("created_at", "DateTime64(6, 'UTC')"),
    ("note", "Nullable(String)"),
    ("_version", "UInt64"),
    ("_is_deleted", "UInt8"),
];

const ROWS_OF_A_BLOCK: u64 = 10_000;
const BLOCKS: u64 = 200;
const CONNECTIONS: u64 = 2;

fn rows(first: u64, version: u64) -> Vec<u8> {
    let mut rows = Vec::new();
    for id in first..first + ROWS_OF_A_BLOCK {
        rows.extend(id.to_le_bytes());
        rows.extend((id % 1_000).to_le_bytes());
        rows.extend(b"\x05click");
        rows.push(96);
        rows.extend((0..96).map(|n| (id.wrapping_mul(31 + n) >> 3) as u8));
        rows.extend((1_700_000_000_000_000 + id).to_le_bytes());
        rows.extend(b"\x01");
        rows.extend(version.to_le_bytes());
        rows.push(0);
    }
    rows
}

fn cpu() -> Duration {
    let used = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let time = |t: nix::sys::time::TimeVal| {
        Duration::new(t.tv_sec().cast_unsigned(), (t.tv_usec() * 1_000) as u32)
    };
    time(used.user_time()) + time(used.system_time())
}

fn say(what: &str, rows: u64, wall: Duration, cpu: Duration) {
    println!(
        "{what}: {:.0} rows/s, {:.2} µs of CPU a row",
        rows as f64 / wall.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / rows as f64
    );
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let columns = COLUMNS.map(|(name, kind)| (name.to_owned(), ColumnType::parse(kind).unwrap()));
    let shape = Shape { columns: columns.into(), key: vec![0], version: Some(6) };
    let block = rows(0, 1);
    let (begun, used) = (Instant::now(), cpu());
    for _ in 0..BLOCKS {
        assert_eq!(shape.check(&block).unwrap().len() as u64, ROWS_OF_A_BLOCK);
    }
    say("checking alone", ROWS_OF_A_BLOCK * BLOCKS, begun.elapsed(), cpu() - used);

    let mock = Mock::new(Options { plan: MockServer::default(), delay_ms: 0, seed: 1 });
    let port = ReservedPort::take(0).unwrap();
    let (ready, is_ready) = oneshot::channel();
    let number = port.port();
    let served = mock.clone();
    tokio::spawn(async move {
        serve(served, number, || _ = ready.send(()), std::future::pending()).await.unwrap();
    });
    is_ready.await.unwrap();
    let url = format!("http://127.0.0.1:{number}");
    let client = Client::default().with_url(url).with_compression(Compression::None);
    let list = COLUMNS.map(|(name, kind)| format!("{name} {kind}")).join(", ");
    let create = format!(
        "CREATE TABLE event ({list}) ENGINE = ReplacingMergeTree(_version, _is_deleted) ORDER BY id"
    );
    client.query_raw(&create).execute().await.unwrap();
    for (what, version) in [("new rows", 1), ("the same again", 1), ("newer rows", 2)] {
        let blocks: Vec<Vec<u8>> =
            (0..BLOCKS).map(|n| rows(n * ROWS_OF_A_BLOCK, version)).collect();
        let (begun, used) = (Instant::now(), cpu());
        let mut writers = Vec::new();
        for writer in 0..CONNECTIONS {
            let of_writer = blocks.iter().skip(writer as usize).step_by(CONNECTIONS as usize);
            let (client, mine) = (client.clone(), of_writer.cloned().map(Bytes::from));
            let mine: Vec<Bytes> = mine.collect();
            writers.push(tokio::spawn(async move {
                for block in mine {
                    let mut insert =
                        client.insert_formatted_with("INSERT INTO event FORMAT RowBinary");
                    insert.send(block).await.unwrap();
                    insert.end().await.unwrap();
                }
            }));
        }
        for writer in writers {
            writer.await.unwrap();
        }
        say(what, ROWS_OF_A_BLOCK * BLOCKS, begun.elapsed(), cpu() - used);
    }
    println!("{:?}", mock.counters());
}
