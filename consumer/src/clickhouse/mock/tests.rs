//! The mock as clients meet it, in this process.

use std::sync::Arc;
use std::time::Duration;

use clickhouse::{Client, Compression, Row};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use walbench_metrics::Failure;
use walbench_metrics::clock::wall_us;
use walbench_phases::plan::{Fault, FaultKind, MockServer};

use super::check::Shape;
use super::{Counters, Mock, Options, ReservedPort, serve};
use crate::clickhouse::column_type::ColumnType;
use crate::clickhouse::ddl::Place;
use crate::clickhouse::version::Version;
use crate::rowbinary::{BinaryForm, Codec, Column};

struct Served {
    mock: Arc<Mock>,
    client: Client,
    _port: ReservedPort,
    _stop: oneshot::Sender<()>,
    serving: JoinHandle<Result<(), Failure>>,
}

impl Served {
    async fn new(faults: Vec<Fault>) -> Self {
        let plan = MockServer { faults, ..MockServer::default() };
        let mock = Mock::new(Options { plan, delay_ms: 0, seed: 42 });
        mock.begin("only", wall_us());
        let port = ReservedPort::take(0).unwrap();
        let ((ready, is_ready), (stop, stopped)) = (oneshot::channel(), oneshot::channel::<()>());
        let (served, number) = (mock.clone(), port.port());
        let serving = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            serve(served, number, || _ = ready.send(()), stopped).await
        });
        is_ready.await.unwrap();
        let url = format!("http://127.0.0.1:{}", port.port());
        let client = Client::default().with_url(url).with_compression(Compression::Lz4);
        Self { mock, client, _port: port, _stop: stop, serving }
    }

    /// One with the table of items.
    async fn with_items(faults: Vec<Fault>) -> Self {
        let served = Self::new(faults).await;
        served.execute(ITEMS).await.unwrap();
        served
    }

    async fn execute(&self, sql: &str) -> Result<(), String> {
        self.client.query_raw(sql).execute().await.map_err(|e| e.to_string())
    }

    async fn text(&self, sql: &str) -> String {
        let answer =
            self.client.query_raw(sql).fetch_bytes("TabSeparated").unwrap().collect().await;
        String::from_utf8_lossy(&answer.unwrap()).trim_end().to_owned()
    }

    async fn insert(&self, items: &[Item]) -> Result<(), String> {
        insert(&self.client, items).await
    }

    /// Inserts bytes as they are.
    async fn insert_bytes(&self, into: &str, bytes: &'static [u8]) -> Result<(), String> {
        let client = self.client.clone().with_compression(Compression::None);
        let mut insert = client.insert_formatted_with(format!("{into} FORMAT RowBinary"));
        let sent = async {
            insert.send(bytes.into()).await?;
            insert.end().await
        };
        sent.await.map_err(|e: clickhouse::error::Error| e.to_string())
    }

    fn counters(&self) -> Counters {
        self.mock.counters()
    }
}

const ITEMS: &str = "CREATE TABLE items (id UInt64, name String, _version UInt64, _is_deleted UInt8) \
    ENGINE = ReplacingMergeTree(_version, _is_deleted) ORDER BY id";

#[derive(Row, Serialize, Deserialize, Clone, Debug, PartialEq)]
struct Item {
    id: u64,
    name: String,
    _version: u64,
    _is_deleted: u8,
}

fn item(id: u64, name: &str, version: u64) -> Item {
    Item { id, name: name.into(), _version: version, _is_deleted: 0 }
}

async fn insert(client: &Client, items: &[Item]) -> Result<(), String> {
    let sent = async {
        let mut insert = client.insert::<Item>("items").await?;
        for item in items {
            insert.write(item).await?;
        }
        insert.end().await
    };
    sent.await.map_err(|e: clickhouse::error::Error| e.to_string())
}

#[track_caller]
fn assert_code(result: Result<(), String>, code: i32) {
    let said = result.unwrap_err();
    assert!(said.contains(&format!("Code: {code}.")), "{said}");
}

#[tokio::test]
async fn the_crate_writes_and_reads_rows() {
    let served = Served::with_items(Vec::new()).await;
    served.insert(&[item(1, "one", 5), item(2, "tab\there", 5)]).await.unwrap();
    served.insert(&[item(1, "uno", 6), Item { _is_deleted: 1, ..item(2, "", 7) }]).await.unwrap();
    let mut read =
        served.client.query("SELECT ?fields FROM items").fetch_all::<Item>().await.unwrap();
    read.sort_by_key(|item| item.id);
    assert_eq!(read, [item(1, "uno", 6), Item { _is_deleted: 1, ..item(2, "", 7) }]);
    assert_eq!(served.text("SELECT count() FROM items").await, "2");
    assert_eq!(served.text("SELECT count() FROM items FINAL WHERE _is_deleted = 0").await, "1");
    assert_eq!(served.text("SELECT name, id FROM items WHERE id = 1 LIMIT 1").await, "uno\t1");
    assert_eq!(served.text("SELECT version(), 1, 'x'").await, "26.3.1.1\t1\tx");
}

#[tokio::test]
async fn what_became_of_rows_is_told() {
    let served = Served::with_items(Vec::new()).await;
    served.insert(&[item(1, "one", 5), item(2, "two", 5)]).await.unwrap();
    served.insert(&[item(1, "one", 5), item(2, "due", 5), item(1, "old", 4)]).await.unwrap();
    let counters = served.counters();
    let fates = (counters.rows_new, counters.rows_replayed, counters.rows_conflicting);
    assert_eq!((fates, counters.rows_late, counters.inserts), ((2, 1, 1), 1, 2));
    assert_eq!(
        served.text("SELECT name FROM items WHERE id = 2").await,
        "due",
        "the last one wins"
    );
    let told = "SELECT value FROM system.walbench_mock WHERE name = 'rows_late'";
    assert_eq!(served.text(told).await, "1");
}

#[tokio::test]
async fn a_token_is_taken_once() {
    let served = Served::with_items(Vec::new()).await;
    let client =
        |token: &str| served.client.clone().with_setting("insert_deduplication_token", token);
    insert(&client("a"), &[item(1, "one", 5)]).await.unwrap();
    insert(&client("a"), &[item(2, "two", 5)]).await.unwrap();
    insert(&client("b"), &[item(3, "three", 5)]).await.unwrap();
    assert_eq!(served.text("SELECT count() FROM items").await, "2");
    assert_eq!(served.counters().inserts_deduplicated, 1);
    served.execute("TRUNCATE TABLE items").await.unwrap();
    insert(&client("a"), &[item(1, "one", 5)]).await.unwrap();
    assert_eq!(
        served.text("SELECT count() FROM items").await,
        "1",
        "it is forgotten with the rows"
    );
}

#[tokio::test]
async fn bad_bytes_write_nothing() {
    let served = Served::with_items(Vec::new()).await;
    let into = "INSERT INTO items (id, _version)";
    assert_code(served.insert_bytes(into, &[0; 31]).await, 33);
    assert_eq!(served.text("SELECT count() FROM items").await, "0", "also not the row before");
    assert_code(served.insert_bytes("INSERT INTO items (id, x)", &[0; 16]).await, 16);
    assert_code(served.insert_bytes("INSERT INTO missing", &[0; 16]).await, 60);
    assert_code(served.insert_bytes("INSERT INTO nowhere.items", &[0; 16]).await, 81);
    assert_code(served.insert_bytes("INSERT INTO items (name)", &[0; 16]).await, 48);
    let client = served.client.clone().with_compression(Compression::None);
    let client = client.with_setting("decompress", "1");
    let mut block = crate::sink::Compressor::default().blocks(&[0; 16]).to_vec();
    block[0] ^= 1;
    let mut insert = client.insert_formatted_with(format!("{into} FORMAT RowBinary"));
    let sent = async {
        insert.send(block.into()).await?;
        insert.end().await
    };
    assert_code(sent.await.map_err(|e: clickhouse::error::Error| e.to_string()), 40);
    assert_eq!(served.text("SELECT count() FROM items").await, "0");
    served.insert_bytes(into, &[0; 32]).await.unwrap();
    assert_eq!(served.counters().inserts_refused.values().sum::<u64>(), 6);
    assert_eq!(served.counters().rows_replayed, 1);
}

#[tokio::test]
async fn tables_change_and_their_rows_follow() {
    let served = Served::with_items(Vec::new()).await;
    served.insert(&[item(1, "one", 5)]).await.unwrap();
    served.execute("ALTER TABLE items ADD COLUMN n Nullable(Int16)").await.unwrap();
    served
        .insert_bytes(
            "INSERT INTO items (n, id, _version)",
            b"\0\x07\0\x02\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0",
        )
        .await
        .unwrap();
    served.execute("ALTER TABLE items MODIFY COLUMN n Nullable(Int64)").await.unwrap();
    assert_eq!(served.text("SELECT n FROM items WHERE id = 1").await, "\\N");
    assert_eq!(served.text("SELECT name, n FROM items WHERE id = 2").await, "\t7");
    // Rows of the narrower type are converted as they come.
    let into = "INSERT INTO items (id, n, _version) SELECT * FROM \
                input('id UInt64, n Nullable(Int16), _version UInt64')";
    served.insert_bytes(into, b"\x03\0\0\0\0\0\0\0\0\xff\xff\x05\0\0\0\0\0\0\0").await.unwrap();
    assert_eq!(served.text("SELECT n FROM items WHERE id = 3").await, "-1");
    // The same row as before, though its column was another.
    served.insert(&[item(1, "one", 5)]).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(served.counters().rows_replayed, 1);
    assert_code(served.execute("ALTER TABLE items MODIFY COLUMN n Nullable(Int8)").await, 48);
    assert_code(served.execute("ALTER TABLE items MODIFY COLUMN id String").await, 524);
    let types =
        "SELECT hex(name), hex(type) FROM system.columns WHERE table = 'items' AND name = 'n'";
    assert_eq!(served.text(types).await, "6E\t4E756C6C61626C6528496E74363429");
}

#[tokio::test]
async fn tables_without_a_key_keep_all() {
    let served = Served::new(Vec::new()).await;
    served.execute("CREATE DATABASE IF NOT EXISTS d").await.unwrap();
    served
        .execute("CREATE TABLE d.t (a UInt8) ENGINE = MergeTree() ORDER BY tuple()")
        .await
        .unwrap();
    served.insert_bytes("INSERT INTO d.t", &[1, 1, 2]).await.unwrap();
    served.insert_bytes("INSERT INTO d.t", &[1]).await.unwrap();
    assert_eq!(served.text("SELECT a FROM d.t").await, "1\n1\n2\n1");
    assert_code(served.execute("SELECT a FROM d.t FINAL").await, 181);
    served.execute("DROP TABLE d.t").await.unwrap();
    assert_code(served.execute("SELECT a FROM d.t").await, 60);
    served.execute("DROP DATABASE d").await.unwrap();
    assert_code(served.execute("SELECT a FROM d.t").await, 81);
}

#[tokio::test]
async fn errors_come_as_they_are_told_to() {
    let status = Fault { status: Some(503), ..Fault::new(FaultKind::Error) };
    let served = Served::with_items(vec![status]).await;
    let said = served.insert(&[item(1, "one", 5)]).await.unwrap_err();
    assert!(said.contains("503"), "{said}");
    assert_eq!(served.text("SELECT count() FROM items").await, "0", "queries are let through");
    let code = Fault { code: Some(252), applied_share: Some(1.0), ..Fault::new(FaultKind::Error) };
    let served = Served::with_items(vec![code]).await;
    assert_code(served.insert(&[item(1, "one", 5)]).await, 252);
    assert_eq!(
        served.text("SELECT count() FROM items").await,
        "1",
        "it was applied, and who knows"
    );
}

#[tokio::test]
async fn cut_inserts_are_whole_or_not_there() {
    let served = Served::with_items(vec![Fault::new(FaultKind::Cut)]).await;
    for n in 0..40 {
        let items: Vec<Item> = (0..100).map(|id| item(n * 100 + id, "name", 5)).collect();
        let said = served.insert(&items).await.unwrap_err();
        assert!(!said.contains("Code:"), "{said}");
    }
    // What was applied may be at it still.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let rows: u64 = served.text("SELECT count() FROM items").await.parse().unwrap();
    assert_eq!(rows % 100, 0);
    assert!((800..3_200).contains(&rows), "about half of them: {rows}");
    assert_eq!(served.counters().faults[&FaultKind::Cut], 40);
}

#[tokio::test]
async fn what_hangs_is_seen_and_can_be_killed() {
    let served = Served::with_items(vec![Fault::new(FaultKind::Hang)]).await;
    let client = served.client.clone().with_setting("query_id", "stuck");
    let hanging = tokio::spawn(async move { insert(&client, &[item(1, "one", 5)]).await });
    let count = "SELECT count() FROM system.processes WHERE query_id IN ('stuck')";
    while served.text(count).await != "1" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    served.execute("KILL QUERY WHERE query_id IN ('stuck') SYNC").await.unwrap();
    assert_eq!(served.text(count).await, "0");
    assert_code(hanging.await.unwrap(), 394);
    assert_eq!(served.text("SELECT count() FROM items").await, "0");
}

#[tokio::test]
async fn in_an_outage_nobody_listens_and_then_all_is_there_again() {
    let outage = Fault { at_sec: 0.5, for_sec: Some(0.5), ..Fault::new(FaultKind::Outage) };
    let served = Served::with_items(vec![outage]).await;
    served.insert(&[item(1, "one", 5)]).await.unwrap();
    let (mut refused, begun) = (false, std::time::Instant::now());
    while !refused || served.execute("SELECT 1").await.is_err() {
        refused |= served.execute("SELECT 1").await.is_err();
        assert!(begun.elapsed() < Duration::from_secs(20), "{refused}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(served.text("SELECT name FROM items").await, "one");
    assert_eq!(served.counters().faults[&FaultKind::Outage], 1);
    assert!(!served.serving.is_finished());
}

#[tokio::test]
async fn delays_and_throttles_take_their_time() {
    let delay = Fault { delay_ms: Some(150), ..Fault::new(FaultKind::Delay) };
    let throttle = Fault { rows_per_sec: Some(100.0), ..Fault::new(FaultKind::Throttle) };
    for slow in [delay, throttle] {
        let served = Served::with_items(vec![slow]).await;
        let begun = std::time::Instant::now();
        let items: Vec<Item> = (0..20).map(|id| item(id, "name", 5)).collect();
        served.insert(&items).await.unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(150));
    }
}

/// A column and a value of its type, as PostgreSQL writes it.
fn column_and_text() -> impl Strategy<Value = (Codec, String)> {
    let text = || Codec::Text(BinaryForm::Text);
    prop_oneof![
        any::<bool>().prop_map(|b| (Codec::Bool, if b { "t" } else { "f" }.to_owned())),
        any::<i16>().prop_map(|n| (Codec::Int16, n.to_string())),
        any::<i32>().prop_map(|n| (Codec::Int32, n.to_string())),
        any::<i64>().prop_map(|n| (Codec::Int64, n.to_string())),
        any::<u32>().prop_map(|n| (Codec::UInt32, n.to_string())),
        any::<f64>().prop_map(|n| (Codec::Float64, format!("{n:e}"))),
        (-999_999i64..999_999)
            .prop_map(|n| { (Codec::Decimal { precision: 30, scale: 2 }, format!("{n}.25")) }),
        any::<[u8; 16]>().prop_map(|bytes| {
            let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
            let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
            (Codec::Uuid, parts.join("-"))
        }),
        (1900u32..2299, 1u32..13, 1u32..29)
            .prop_map(|(y, m, d)| (Codec::Date, format!("{y:04}-{m:02}-{d:02}"))),
        (0u32..24, 0u32..60).prop_map(|(h, m)| {
            (Codec::Timestamp, format!("2024-02-29 {h:02}:{m:02}:59.123456+00"))
        }),
        ".{0,200}".prop_map(move |text_value| (text(), text_value)),
        prop::collection::vec(any::<i32>(), 0..5).prop_map(|numbers| {
            let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
            let array = Codec::Array { element: Box::new(Codec::Int32), delimiter: b',' };
            (array, format!("{{{}}}", numbers.join(",")))
        }),
    ]
}

proptest! {
    /// Both descriptions of a row agree on every byte of it.
    #[test]
    fn rows_of_our_codecs_are_taken_whole_and_only_whole(
        columns in prop::collection::vec((column_and_text(), any::<bool>(), any::<bool>()), 1..8),
        version: u64,
        cut: prop::sample::Index,
    ) {
        let place = Place {
            database: "d".into(),
            version: Version { major: 26, minor: 3 },
            cluster: None,
        };
        let (mut row, mut shape) = (Vec::new(), Shape::default());
        for (n, ((codec, text), nullable, null)) in columns.into_iter().enumerate() {
            let nullable = nullable && !matches!(codec, Codec::Array { .. });
            let column = Column {
                name: format!("c{n}"),
                codec,
                nullable,
                key: false,
                loses_null: false,
                type_name: "t".into(),
            };
            let kind = ColumnType::parse(&place.column_type(&column)).unwrap();
            shape.columns.push((column.name.clone(), kind));
            if nullable {
                row.push(u8::from(null));
            }
            if !(nullable && null) {
                column.codec.encode_text(text.as_bytes(), &mut row).unwrap();
            }
        }
        shape.key = vec![0];
        shape.version = Some(shape.columns.len());
        shape.columns.push(("_version".into(), ColumnType::UInt(64)));
        shape.columns.push(("_is_deleted".into(), ColumnType::UInt(8)));
        row.extend(version.to_le_bytes());
        row.push(0);
        let rows = shape.check(&[&row[..], &row].concat()).unwrap();
        prop_assert_eq!(rows.len(), 2);
        prop_assert_eq!((rows[0].version, rows[0].end, rows[1].end), (version, row.len(), row.len() * 2));
        prop_assert_eq!(rows[0].key, rows[1].key);
        prop_assert!(shape.check(&row[..row.len() - 1]).is_err());
        let cut = cut.index(row.len());
        prop_assert!(cut == 0 || shape.check(&row[..cut]).is_err());
    }
}
