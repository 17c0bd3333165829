//! The mock ClickHouse server as its users meet it: started by hand, written into by the sink while
//! it fails in every way it knows, and held against the real engine where bytes are wrong.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::clickhouse::{Kind, Private};
use crate::cluster::Version;
use crate::followed::Followed;
use crate::home::{Home, Running, entries};
use crate::processes::{PATIENCE, of_folder, until};

/// A mock in a folder of its own.
pub(crate) struct Mock {
    running: Running,
    address: String,
    home: Home,
}

impl Mock {
    pub(crate) fn start(faults: &str) -> Self {
        let home = Home::new();
        let command = home.walbench(["clickhouse", "--mock"]).set("clickhouse.mock.faults", faults);
        let mut running = command.start();
        running.until_said("\nhttp://");
        let address = running.stdout().trim().trim_start_matches("http://").replace('/', "");
        Self { running, address, home }
    }

    fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// What it answers; nothing while it is away.
    fn ask(&self, query: &str, body: &[u8]) -> Option<(String, String)> {
        let head = format!("POST /{query} HTTP/1.0\r\nContent-Length: {}\r\n\r\n", body.len());
        let mut stream = TcpStream::connect(&self.address).ok()?;
        stream.write_all(&[head.as_bytes(), body].concat()).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.to_owned(), body.to_owned()))
    }

    #[track_caller]
    fn answer(&self, sql: &str) -> String {
        let (head, body) = self.ask("", sql.as_bytes()).expect("it does not answer");
        assert!(head.contains(" 200 OK"), "{head}\n{body}");
        body.trim_end().to_owned()
    }

    /// One of its counters; 0 while it is away.
    fn counted(&self, name: &str) -> u64 {
        let sql = format!("SELECT value FROM system.walbench_mock WHERE name = '{name}'");
        let answer = self.ask("", sql.as_bytes());
        answer.and_then(|(_, body)| body.trim().parse().ok()).unwrap_or_default()
    }

    /// Ends it in order, and looks for what is left; what it has counted.
    pub(crate) fn end(self) -> String {
        self.running.signal(Signal::SIGTERM);
        let ended = self.running.ended().with_code(0);
        self.home.assert_clean();
        ended.stderr
    }
}

/// Writes a few hundred small transactions of all kinds of changes.
async fn write(followed: &Followed, round: i32) {
    for n in 0..20 {
        let first = round * 1_000 + n * 20;
        followed
            .execute(&format!(
                "INSERT INTO t SELECT n, 'note ' || n FROM generate_series({first}, {}) n;
                 UPDATE t SET note = note || ' again' WHERE id % 3 = 0 AND id >= {};
                 DELETE FROM t WHERE id = {first}",
                first + 19,
                first - 40,
            ))
            .await;
    }
}

/// What PostgreSQL has is what the mock has, row by row.
async fn assert_same(followed: &Followed, mock: &Mock) {
    let rows = "SELECT id, note FROM t ORDER BY id";
    let rows = followed.database.client.query(rows, &[]).await.unwrap();
    let row = |row: &tokio_postgres::Row| {
        format!("{}\t{}", row.get::<_, i32>(0), row.get::<_, String>(1))
    };
    let mut expected: Vec<String> = rows.iter().map(row).collect();
    let state = mock.answer("SELECT id, note FROM walbench.t FINAL WHERE _is_deleted = 0");
    let mut found: Vec<String> = state.lines().map(str::to_owned).collect();
    assert!(!expected.is_empty(), "nothing was written");
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
}

/// Follows into a mock with a fault until it has struck often enough, and then holds both states
/// against each other.
async fn follow_through(fault: &str, kind: &str, often: u64) {
    let table = "CREATE TABLE t (id int PRIMARY KEY, note text)";
    let followed = Followed::new(Version::Pg15OrInstalled, table).await;
    let mock = Mock::start(&format!("[{{ kind = \"{kind}\", {fault} }}]"));
    let command = followed.home.walbench(["follow", "--clickhouse", &mock.url()]);
    let running = followed
        .on(command)
        .set("consumer.flush_batch_size", "50")
        .set("consumer.flush_interval_ms", "20")
        .set("clickhouse.insert_timeout_sec", "1")
        .start();
    followed.until_followed().await;
    let (begun, mut round) = (Instant::now(), 0);
    while mock.counted(&format!("faults_{kind}")) < often {
        assert!(begun.elapsed() < PATIENCE, "{kind} does not strike");
        write(&followed, round).await;
        round += 1;
    }
    followed.until_confirmed().await;
    running.signal(Signal::SIGTERM);
    running.ended().with_code(0);
    assert_same(&followed, &mock).await;
    assert_eq!(mock.counted("rows_conflicting"), 0);
    mock.end();
}

macro_rules! faults {
    ($($name:ident: $kind:literal, $fault:literal, $often:literal;)+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                follow_through($fault, $kind, $often).await;
            }
        )+
    };
}

faults! {
    an_outage_loses_nothing: "outage", "at_sec = 3, for_sec = 2", 1;
    errors_lose_nothing: "error", "status = 503, share = 0.3, applied_share = 0.5", 10;
    too_many_parts_lose_nothing: "error", "code = 252, share = 0.3", 10;
    hanging_loses_nothing: "hang", "share = 0.1, applied_share = 0.5, for_sec = 8", 2;
    cut_connections_lose_nothing: "cut", "share = 0.3", 20;
    delays_lose_nothing: "delay", "delay_ms = 30, share = 0.5", 20;
    a_throttle_loses_nothing: "throttle", "rows_per_sec = 2000", 20;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn follow_may_have_a_mock_of_its_own() {
    let table = "CREATE TABLE t (id int PRIMARY KEY, note text)";
    let followed = Followed::new(Version::Pg15OrInstalled, table).await;
    followed.execute("INSERT INTO t SELECT n, 'note' FROM generate_series(1, 500) n").await;
    let command = followed.home.walbench(["follow", "--mock-clickhouse", "--mock-level", "http"]);
    let command = followed.on(command).args(["--until-lsn", "current"]);
    let command = command.set("clickhouse.mock.delay_ms", "5");
    let ended = command.ended().with_code(0).answered("500 rows in 1 transactions");
    ended.said("the mock's counters: inserts ").said("rows_new 500, rows_newer 0, ");
    followed.home.assert_clean();
}

/// Bytes that are not rows of `(a <type>, b UInt8)`.
const BAD: &[(&str, &[u8])] = &[
    ("Int32", b"\x01\x02\x03"),
    ("Int32", b"\x01\x02\x03\x04"),
    ("Int32", b"\x01\x02\x03\x04\x01\x01"),
    ("String", b"\x05abc"),
    ("String", b"\x05"),
    ("String", b"\x80"),
    ("String", b"\x03abc"),
    ("String", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
    ("String", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
    ("String", b"\x80\x80\x80\x80\x08\x01"),
    ("String", b"\x80\x80\x80\x80\x02\x01"),
    ("Nullable(Int16)", b"\x00\x01"),
    ("Nullable(Int16)", b"\x00"),
    ("Nullable(Int16)", b"\x01"),
    ("Array(Int16)", b"\x02\x01\x01"),
    ("Array(Int16)", b"\x02\x01\x01\x01"),
    ("Array(Int16)", b"\x02"),
    ("Array(Int16)", b"\x80"),
    ("Array(Int16)", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
    ("Array(Int16)", b"\x80\x80\x80\x80\x08\x01"),
    ("Array(String)", b"\x02\x01a"),
    ("Array(String)", b"\x02\x01a\x03b"),
    ("Array(Nullable(String))", b"\x02\x01"),
    ("Map(String, UInt8)", b"\x02\x01a"),
    ("Tuple(UInt8, String)", b"\x02"),
    ("UUID", b"\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01"),
    ("FixedString(4)", b"abc"),
    ("LowCardinality(String)", b"\x05abc"),
    ("Decimal(20, 4)", b"\x05abc"),
    ("DateTime64(6)", b"\x05abc"),
];

/// Bytes that ClickHouse takes, and the mock does not: nobody who means what he writes sends them.
/// To ClickHouse any byte but 0 is a `true`, and the flag of a NULL.
const STRICTER: &[(&str, &[u8], i32)] = &[
    ("Bool", b"\x02\x01", 467),
    ("Nullable(Int16)", b"\x02\x01", 117),
    ("Array(Nullable(Int8))", b"\x01\x03\x01", 117),
];

fn code_of((head, body): &(String, String)) -> Option<i32> {
    if head.contains(" 200 OK") {
        return None;
    }
    let code = body.strip_prefix("Code: ").and_then(|rest| rest.split_once('.'));
    Some(code.unwrap_or_else(|| panic!("{head}\n{body}")).0.parse().unwrap())
}

#[test]
fn bad_bytes_are_refused_as_by_the_real_engine() {
    let (real, mock) = (Private::start(Kind::Embedded), Mock::start("[]"));
    let insert = "?query=INSERT+INTO+bad+FORMAT+RowBinary";
    let ask_both = |kind: &str, bytes: &[u8]| {
        let create =
            format!("CREATE TABLE bad (a {kind}, b UInt8) ENGINE = MergeTree ORDER BY tuple()");
        for sql in ["DROP TABLE IF EXISTS bad", &create] {
            real.answer("", sql);
            mock.answer(sql);
        }
        let codes = [real.ask("POST", insert, bytes), mock.ask(insert, bytes).unwrap()];
        let codes = codes.map(|answer| code_of(&answer));
        if codes[1].is_some() {
            assert_eq!(mock.answer("SELECT count() FROM bad"), "0", "{kind} {bytes:?}");
        }
        codes
    };
    for (kind, bytes) in BAD {
        let [real, mock] = ask_both(kind, bytes);
        assert!(real.is_some(), "{kind} {bytes:?}");
        assert_eq!(mock, real, "{kind} {bytes:?}");
    }
    for (kind, bytes, code) in STRICTER {
        assert_eq!(ask_both(kind, bytes), [None, Some(*code)], "{kind} {bytes:?}");
    }
    assert_eq!(ask_both("Int32", b""), [None, None]);
    mock.end();
    real.end();
}

/// Statements that fail, and some that don't.
const STATEMENTS: &[&str] = &[
    "CREATE TABLE k (a Int8, v UInt64, s String) ENGINE = ReplacingMergeTree(v) ORDER BY a",
    "CREATE TABLE k (a Int8) ENGINE = MergeTree ORDER BY a",
    "CREATE DATABASE default",
    "DROP TABLE missing",
    "DROP DATABASE missing",
    "TRUNCATE TABLE missing",
    "TRUNCATE TABLE IF EXISTS missing",
    "ALTER TABLE k ADD COLUMN a Int8",
    "ALTER TABLE k MODIFY COLUMN missing Int8",
    "ALTER TABLE k MODIFY COLUMN a Int16",
    "ALTER TABLE k MODIFY COLUMN v String",
    "ALTER TABLE missing ADD COLUMN a Int8",
    "CREATE TABLE x (a Nonsense) ENGINE = MergeTree ORDER BY a",
    "CREATE TABLE x (a Nullable(Array(Int8))) ENGINE = MergeTree ORDER BY a",
    "CREATE TABLE x (a LowCardinality(Array(Int8))) ENGINE = MergeTree ORDER BY a",
    "CREATE TABLE x (a Int8, a Int8) ENGINE = MergeTree ORDER BY a",
    "CREATE TABLE x (a Int8) ENGINE = MergeTree ORDER BY b",
    "CREATE TABLE x (a Int8) ENGINE = ReplacingMergeTree(b) ORDER BY a",
    "CREATE TABLE x (a Int8, b String) ENGINE = ReplacingMergeTree(b) ORDER BY a",
    "CREATE TABLE x (a Decimal(77, 1)) ENGINE = MergeTree ORDER BY a",
    "CREATE TABLE x (a DateTime64(10)) ENGINE = MergeTree ORDER BY a",
    "SELECT missing FROM k",
    "SELECT * FROM missing",
    "SELECT * FROM missing.k",
    "SELEC 1",
    "SELECT 1 FORMAT Nonsense",
    "INSERT INTO k (missing) FORMAT RowBinary\nx",
    "INSERT INTO k (a, a) FORMAT RowBinary\nx",
    "INSERT INTO missing FORMAT RowBinary\nx",
    "INSERT INTO missing.k FORMAT RowBinary\nx",
    "INSERT INTO k FORMAT Nonsense\nx",
    "SELECT 1, 'it\\'s a\ttab'",
    "DESCRIBE TABLE k",
    "SELECT count() FROM k FINAL",
    "SELECT hex(name), hex(type) FROM system.columns WHERE database = 'default' AND table = 'k'",
    "SELECT count() FROM system.processes WHERE query_id IN ('nobody')",
];

#[test]
fn statements_end_as_with_the_real_engine() {
    let (real, mock) = (Private::start(Kind::Embedded), Mock::start("[]"));
    for sql in STATEMENTS {
        let (theirs, ours) = (real.ask("POST", "", sql.as_bytes()), mock.ask("", sql.as_bytes()));
        let ours = ours.unwrap();
        assert_eq!(code_of(&ours), code_of(&theirs), "{sql}: {} {}", ours.1, theirs.1);
        if code_of(&ours).is_none() {
            assert_eq!(ours.1, theirs.1, "{sql}");
        }
    }
    mock.end();
    real.end();
}

/// Values of each type, of which both show the same text.
const SHOWN: &[(&str, &[u8])] = &[
    ("Float64", &1e21f64.to_le_bytes()),
    ("Float64", &123_456_789_012_345_678f64.to_le_bytes()),
    ("Float64", &1e-7f64.to_le_bytes()),
    ("Float64", &(-0.0f64).to_le_bytes()),
    ("Float64", &f64::NAN.to_le_bytes()),
    ("Float32", &0.1f32.to_le_bytes()),
    ("Decimal(20, 4)", &(-1_500i128).to_le_bytes()),
    ("Bool", b"\x01"),
    ("Int8", b"\xff"),
    ("UInt64", b"\xff\xff\xff\xff\xff\xff\xff\xff"),
    ("UUID", b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f"),
    ("Date32", &(-25_567i32).to_le_bytes()),
    ("Date", &[0x10, 0x27]),
    ("DateTime64(6, 'UTC')", &1_700_000_000_123_456i64.to_le_bytes()),
    ("DateTime('UTC')", &1_700_000_000u32.to_le_bytes()),
    ("String", b"\x08a\tb\n'\\\0\xff"),
    ("Nullable(String)", b"\x01"),
    ("Array(Nullable(String))", b"\x02\x00\x04it's\x01"),
    ("Array(Date32)", b"\x01\x00\x00\x00\x00"),
    ("Map(String, UInt8)", b"\x01\x01a\x07"),
    ("Tuple(UInt8, String)", b"\x01\x01x"),
    ("Enum8('a' = 1)", b"\x01"),
    ("IPv4", b"\x01\x00\x00\x7f"),
    ("FixedString(3)", b"a\0b"),
];

#[test]
fn values_are_shown_as_by_the_real_engine() {
    let (real, mock) = (Private::start(Kind::Embedded), Mock::start("[]"));
    for (kind, value) in SHOWN {
        let create = format!("CREATE TABLE shown (a {kind}) ENGINE = MergeTree ORDER BY tuple()");
        for sql in ["DROP TABLE IF EXISTS shown", &create] {
            real.answer("", sql);
            mock.answer(sql);
        }
        let insert = "?query=INSERT+INTO+shown+FORMAT+RowBinary";
        assert_eq!(code_of(&real.ask("POST", insert, value)), None, "{kind}");
        assert_eq!(code_of(&mock.ask(insert, value).unwrap()), None, "{kind}");
        for format in ["TabSeparated", "RowBinary", "RowBinaryWithNamesAndTypes"] {
            let sql = format!("SELECT * FROM shown FORMAT {format}");
            let shown = [real.answer("", &sql), mock.answer(&sql)];
            assert_eq!(shown[0], shown[1], "{kind} {format}");
        }
    }
    mock.end();
    real.end();
}

#[test]
fn a_mock_says_what_it_has_counted_and_leaves_nothing() {
    let mock = Mock::start("[]");
    mock.answer("CREATE TABLE t (a UInt8) ENGINE = MergeTree ORDER BY a");
    mock.ask("?query=INSERT+INTO+t+FORMAT+RowBinary", b"\x01\x02").unwrap();
    assert_eq!(mock.answer("SELECT a FROM t"), "1\n2");
    let said = mock.end();
    assert!(said.contains("counters: inserts 1, rows 2, bytes 2, "), "{said}");
}

#[test]
fn wrong_usage_of_a_mock_is_told() {
    let home = Home::new();
    let mock = || home.walbench(["clickhouse", "--mock"]);
    mock().set("consumer.flush_batch_size", "5").ended().with_code(2).said("means nothing here");
    let fault = r#"[{ kind = "error" }]"#;
    let ended = mock().set("clickhouse.mock.faults", fault).ended().with_code(2);
    ended.said("an error has either a status or a code").said("hint: status = 503");
    home.walbench(["clickhouse", "--port", "1234"]).ended().with_code(2);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let ended = mock().args(["--port", &port]).ended().with_code(4);
    ended.said(&format!("port {port} can't be used")).said("Address already in use");
    home.assert_clean();
}

#[test]
fn a_killed_parent_takes_its_mock_with_it() {
    let Mock { running, home, .. } = Mock::start("[]");
    assert!(of_folder(home.path()).len() > 1, "the mock is not seen");
    running.signal(Signal::SIGKILL);
    drop(running);
    until("the end of our processes", || of_folder(home.path()).is_empty().then_some(()));
    assert_eq!(entries(&home.servers()), Vec::<PathBuf>::new());
}
