//! The private ClickHouse as its users meet it, on both kinds: the embedded engine behind walbench's
//! own HTTP front, and Debian's server of 2018. What holds for one holds for the other, or it says
//! here why not.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use clickhouse::{Client, Compression, Row};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::home::{Home, Running, entries};
use crate::processes::{of_folder, until};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Embedded,
    Debian,
}

impl Kind {
    /// What names it to walbench.
    pub(crate) fn program(self) -> [&'static str; 2] {
        match self {
            Self::Embedded => ["--chdb-lib", library()],
            Self::Debian => ["--clickhouse-bin", debian().to_str().unwrap()],
        }
    }
}

pub(crate) const KINDS: [Kind; 2] = [Kind::Embedded, Kind::Debian];

/// The library that `walbench setup` gets, which it says again when it is there.
fn library() -> &'static str {
    static LIBRARY: OnceLock<String> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        if let Ok(given) = std::env::var("WALBENCH_CHDB_LIB") {
            return given;
        }
        let setup = || Home::new().walbench(["setup"]).ended().with_code(0).stdout;
        let (first, second) = (setup(), setup());
        assert!(second.contains("is there: "), "{first}{second}");
        let path = |said: &str| said.split_once(": ").unwrap().1.trim().to_owned();
        assert_eq!(path(&first), path(&second));
        path(&second)
    })
}

/// Where `.ci/setup` puts it.
pub(crate) fn debian() -> &'static Path {
    static DEBIAN: OnceLock<PathBuf> = OnceLock::new();
    DEBIAN.get_or_init(find_debian)
}

fn find_debian() -> PathBuf {
    if let Some(given) = std::env::var_os("WALBENCH_CLICKHOUSE18_BIN") {
        return given.into();
    }
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let own = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    let own = if nix::unistd::geteuid().is_root() { None } else { own };
    let caches = own.into_iter().chain([PathBuf::from("/var/cache")]);
    let mut bins = caches.map(|cache| cache.join("walbench/clickhouse-18.16/bin"));
    bins.find(|bin| bin.join("clickhouse-server").is_file()).expect(
        "these tests need ClickHouse 18.16: run .ci/setup as the user who runs them, or set \
         WALBENCH_CLICKHOUSE18_BIN to the folder of its clickhouse-server",
    )
}

/// A private ClickHouse in a folder of its own.
pub(crate) struct Private {
    running: Running,
    url: String,
    password: String,
    pub(crate) home: Home,
}

impl Private {
    pub(crate) fn start(kind: Kind) -> Self {
        let home = Home::new();
        let mut running = home.walbench(["clickhouse"]).arguments(&kind.program()).start();
        running.until_said("\nhttp://");
        let said = running.stdout();
        let (password, address) =
            said.trim().strip_prefix("http://walbench:").unwrap().split_once('@').unwrap();
        let url = format!("http://{address}");
        Self { running, url, password: password.into(), home }
    }

    /// As walbench wants it.
    pub(crate) fn login_url(&self) -> String {
        self.url.replace("://", &format!("://walbench:{}@", self.password))
    }

    fn client(&self) -> Client {
        Client::default()
            .with_url(&self.url)
            .with_user("walbench")
            .with_password(&self.password)
            .with_compression(Compression::Lz4)
            // 18.16 has no format with names and types.
            .with_validation(false)
    }

    /// A request by hand, as curl sends it; head and body of the answer.
    pub(crate) fn ask(&self, method: &str, query: &str, body: &[u8]) -> (String, String) {
        let head = format!(
            "{method} /{query} HTTP/1.0\r\nX-ClickHouse-User: walbench\r\n\
             X-ClickHouse-Key: {}\r\nContent-Length: {}\r\n\r\n",
            self.password,
            body.len()
        );
        self.exchange(&[head.as_bytes(), body].concat())
    }

    fn exchange(&self, request: &[u8]) -> (String, String) {
        let (head, body) = exchange(self.address(), request);
        (head, String::from_utf8_lossy(&body).into_owned())
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> &str {
        self.url.trim_start_matches("http://").trim_end_matches('/')
    }

    /// Who may ask, as a URL has it.
    pub(crate) fn login(&self) -> String {
        format!("walbench:{}", self.password)
    }

    /// The process that writes into its folder.
    pub(crate) fn pid(&self) -> i32 {
        let folders = entries(&self.home.servers());
        let pid = |folder: &PathBuf| std::fs::read_to_string(folder.join("pid")).ok()?.parse().ok();
        // An embedded engine ends with its keeper.
        folders.iter().find_map(pid).unwrap_or_else(|| self.running.worker("clickhouse"))
    }

    /// What a query that succeeds answers.
    #[track_caller]
    pub(crate) fn answer(&self, query: &str, sql: &str) -> String {
        let (head, body) = self.ask("POST", query, sql.as_bytes());
        assert!(head.contains(" 200 OK"), "{head}\n{body}");
        body.trim_end().to_owned()
    }

    /// Ends it in order, and looks for what is left.
    pub(crate) fn end(self) {
        self.running.signal(Signal::SIGTERM);
        self.running.ended().with_code(0);
        self.home.assert_clean();
    }
}

/// Sends a request by hand; head and body of the answer.
pub(crate) fn exchange(address: &str, request: &[u8]) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap_or(answer.len());
    let body = answer.get(end + 4..).unwrap_or_default().to_vec();
    (String::from_utf8_lossy(&answer[..end]).into_owned(), body)
}

#[derive(Row, Serialize, Deserialize, Debug, PartialEq)]
struct Item {
    id: u64,
    name: String,
}

const TABLE: &str = "CREATE TABLE item (id UInt64, name String) ENGINE = MergeTree ORDER BY id";

async fn insert(client: &Client, ids: std::ops::Range<u64>) -> clickhouse::error::Result<()> {
    let mut insert = client.insert::<Item>("item").await?;
    for id in ids {
        insert.write(&Item { id, name: format!("item {id}") }).await?;
    }
    insert.end().await
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn the_crate_writes_and_reads_rows() {
    for kind in KINDS {
        let server = Private::start(kind);
        runtime().block_on(async {
            let client = server.client();
            client.query(TABLE).execute().await.unwrap();
            insert(&client, 0..20_000).await.unwrap();
            let read = "SELECT ?fields FROM item WHERE id >= ? ORDER BY id";
            let items = client.query(read).bind(19_998).fetch_all::<Item>().await.unwrap();
            let item = |id| Item { id, name: format!("item {id}") };
            assert_eq!(items, [item(19_998), item(19_999)], "{kind:?}");
            let count = "SELECT toUInt64(count()) FROM item";
            assert_eq!(client.query(count).fetch_one::<u64>().await.unwrap(), 20_000);
        });
        server.end();
    }
}

#[test]
fn large_results_come_whole() {
    for kind in KINDS {
        let server = Private::start(kind);
        let sum = runtime().block_on(async {
            let numbers = "SELECT number FROM system.numbers LIMIT 3000000";
            let mut cursor = server.client().query(numbers).fetch::<u64>().unwrap();
            let (mut rows, mut sum) = (0u64, 0u64);
            while let Some(number) = cursor.next().await.unwrap() {
                rows += 1;
                sum += number;
            }
            (rows, sum)
        });
        assert_eq!(sum, (3_000_000, 2_999_999 * 1_500_000), "{kind:?}");
        server.end();
    }
}

#[test]
fn many_write_and_read_at_once() {
    for kind in KINDS {
        let server = Private::start(kind);
        runtime().block_on(async {
            let client = server.client();
            client.query(TABLE).execute().await.unwrap();
            let write = |writer: u64| {
                let client = client.clone();
                tokio::spawn(async move {
                    for block in 0..10 {
                        let first = (writer * 10 + block) * 100;
                        insert(&client, first..first + 100).await.unwrap();
                        let count = "SELECT toUInt64(count()) FROM item";
                        assert!(client.query(count).fetch_one::<u64>().await.unwrap() >= 100);
                    }
                })
            };
            let writers: Vec<_> = (0..12).map(write).collect();
            for writer in writers {
                writer.await.unwrap();
            }
            let distinct = "SELECT toUInt64(uniqExact(id)) FROM item";
            assert_eq!(client.query(distinct).fetch_one::<u64>().await.unwrap(), 12_000);
        });
        server.end();
    }
}

#[test]
fn errors_are_told_by_their_codes() {
    for kind in KINDS {
        let server = Private::start(kind);
        runtime().block_on(async {
            let client = server.client();
            for (sql, code) in [("SELECT * FROM missing", 60), ("SELEC 1", 62), ("SELECT x", 47)] {
                let error = client.query(sql).execute().await.unwrap_err().to_string();
                assert!(error.contains(&format!("Code: {code}")), "{kind:?} {sql}: {error}");
            }
            let error = insert(&client, 0..10).await.unwrap_err().to_string();
            assert!(error.contains("Code: 60"), "{kind:?}: {error}");
            assert_eq!(client.query("SELECT 7").fetch_one::<u8>().await.unwrap(), 7);
        });
        server.end();
    }
}

#[test]
fn bad_bytes_write_no_row_and_are_named() {
    for kind in KINDS {
        let server = Private::start(kind);
        server.answer("", TABLE);
        let mut row = 7u64.to_le_bytes().to_vec();
        row.extend(b"\x03abc");
        let block = |raw: &[u8]| {
            let mut block = vec![0x02];
            block.extend(u32::try_from(raw.len() + 9).unwrap().to_le_bytes());
            block.extend(u32::try_from(raw.len()).unwrap().to_le_bytes());
            block.extend(raw);
            let checksum = cityhash_rs::cityhash_102_128(&block).rotate_left(64);
            [&checksum.to_le_bytes()[..], &block].concat()
        };
        let insert = "?query=INSERT+INTO+item+FORMAT+RowBinary";
        let compressed = format!("{insert}&decompress=1");
        let mut flipped = block(&row);
        *flipped.last_mut().unwrap() ^= 1;
        let good = block(&row);
        for (query, body, code) in [
            (&compressed, flipped, 40),
            (&compressed, good[..good.len() - 2].to_vec(), 33),
            (&compressed, block(&row[..row.len() - 1]), 33),
            (&insert.to_owned(), row[..row.len() - 1].to_vec(), 33),
        ] {
            let (head, text) = server.ask("POST", query, &body);
            assert!(head.contains(" 500 "), "{kind:?} {head}\n{text}");
            assert!(text.starts_with(&format!("Code: {code}")), "{kind:?} {query}: {text}");
        }
        assert_eq!(server.answer("", "SELECT count() FROM item"), "0", "{kind:?}");
        server.ask("POST", &compressed, &good);
        assert_eq!(server.answer("", "SELECT * FROM item"), "7\tabc", "{kind:?}");
        server.end();
    }
}

#[test]
fn what_curl_sends_is_understood() {
    for kind in KINDS {
        let server = Private::start(kind);
        let ping = server.exchange(b"GET /ping HTTP/1.0\r\n\r\n");
        assert!(ping.0.contains(" 200 OK") && ping.1 == "Ok.\n", "{ping:?}");
        server.answer("", TABLE);
        server.answer("", "INSERT INTO item VALUES (1, 'a'), (2, 'b')");
        server.answer("", "INSERT INTO item FORMAT TabSeparated\n3\tc\n");
        server.answer("?query=INSERT+INTO+item+FORMAT+CSV", "4,d\n");
        let read = server.answer("?default_format=CSV", "SELECT * FROM item ORDER BY id");
        assert_eq!(read, "1,\"a\"\n2,\"b\"\n3,\"c\"\n4,\"d\"", "{kind:?}");
        let got = server.ask("GET", "?query=SELECT+max(id)+FROM+item", b"");
        assert_eq!(got.1, "4\n", "{kind:?}");
        let changed = server.ask("GET", "?query=DROP+TABLE+item", b"");
        assert!(changed.1.starts_with("Code: 164"), "{kind:?} {changed:?}");
        let stranger = server.exchange(b"POST / HTTP/1.0\r\nContent-Length: 8\r\n\r\nSELECT 1");
        assert!(!stranger.0.contains(" 200 ") && stranger.1.starts_with("Code: "), "{stranger:?}");
        server.end();
    }
}

#[test]
fn settings_and_databases_are_a_querys_own() {
    for kind in KINDS {
        let server = Private::start(kind);
        server.answer("", "CREATE DATABASE other");
        let asked = "SELECT currentDatabase(), (SELECT value FROM system.settings WHERE name = 'max_block_size')";
        let own = server.answer("?database=other&max_block_size=777", asked);
        assert_eq!(own, "other\t777", "{kind:?}");
        let next = server.answer("", asked);
        assert!(next.starts_with("default\t") && !next.ends_with("\t777"), "{kind:?} {next}");
        let unknown = server.ask("POST", "?no_such_setting=1", b"SELECT 1");
        assert!(unknown.1.starts_with("Code: 115"), "{kind:?} {unknown:?}");
        let nowhere = server.ask("POST", "?database=nowhere", b"SELECT 1");
        assert!(nowhere.1.starts_with("Code: 81"), "{kind:?} {nowhere:?}");
        server.end();
    }
}

/// The embedded engine's connections are used again.
#[test]
fn settings_of_an_insert_are_its_own() {
    let server = Private::start(Kind::Embedded);
    server.answer("", "CREATE TABLE item (id UInt64) ENGINE = MergeTree ORDER BY id");
    let into = "?query=INSERT+INTO+item+FORMAT+CSV";
    let bad = "1\nx\n";
    let refused = |query: &str, code: &str| {
        let answer = server.ask("POST", query, bad.as_bytes());
        assert!(answer.1.starts_with(&format!("Code: {code}")), "{query} {answer:?}");
    };
    refused(into, "117");
    let lenient = format!("{into}&input_format_allow_errors_num=1");
    for rows in 1..=3 {
        server.answer(&lenient, bad);
        assert_eq!(server.answer("", "SELECT count() FROM item"), rows.to_string());
        refused(into, "117");
    }
    refused(&format!("{into}&no_such_setting=1"), "115");
    refused(&format!("{into}&readonly=1"), "164");
    server.answer(&format!("{lenient}&log_comment=it%27s%5C"), bad);
    let own = "?query=INSERT+INTO+item+SETTINGS+input_format_allow_errors_num=1+FORMAT+CSV";
    server.answer(&format!("{own}&max_threads=2"), bad);
    let commented = "?query=INSERT+INTO+item+--%0A+FORMAT+CSV&input_format_allow_errors_num=1";
    server.answer(commented, bad);
    assert_eq!(server.answer("", "SELECT count() FROM item"), "6");
    server.end();
}

/// 18.16 has no parameters, and an answer's end looks to the crate like data.
#[test]
fn the_embedded_engine_takes_parameters_and_breaks_off_audibly() {
    let server = Private::start(Kind::Embedded);
    runtime().block_on(async {
        let client = server.client();
        let query =
            client.query("SELECT {x:UInt32} + 1, {s:String}").param("x", 4).param("s", "a\tb'");
        assert_eq!(query.fetch_one::<(u64, String)>().await.unwrap(), (5, "a\tb'".into()));
        let fails = "SELECT toUInt64(throwIf(number = 3000000)) FROM system.numbers";
        let mut cursor = client.query(fails).fetch::<u64>().unwrap();
        let error = loop {
            match cursor.next().await {
                Ok(row) => assert!(row.is_some(), "it ended in silence"),
                Err(error) => break error.to_string(),
            }
        };
        assert!(error.contains("Code: 395"), "{error}");
    });
    server.end();
}

#[test]
fn a_killed_parent_takes_its_clickhouse_with_it() {
    for kind in KINDS {
        let Private { running, home, .. } = Private::start(kind);
        assert!(of_folder(home.path()).len() > 1, "the keeper is not seen");
        running.signal(Signal::SIGKILL);
        drop(running);
        until("the end of our processes", || of_folder(home.path()).is_empty().then_some(()));
        assert_eq!(entries(&home.servers()), Vec::<PathBuf>::new(), "{kind:?}");
    }
}

#[test]
fn what_a_killed_keeper_left_is_cleaned_up() {
    for kind in KINDS {
        let server = Private::start(kind);
        let keeper = server.running.worker("clickhouse");
        crate::processes::signal(keeper, Signal::SIGKILL);
        let ended = server.running.ended().with_code(4);
        assert!(ended.stderr.contains("clickhouse ended"), "{}", ended.stderr);
        let home = server.home;
        home.walbench(["clean"]).ended().with_code(0).answered("removed ");
        home.assert_clean();
    }
}

#[test]
fn a_server_that_does_not_start_says_why_and_leaves_nothing() {
    let home = Home::new();
    let fake = home.write("clickhouse-server", "#!/bin/sh\necho the disk is on fire >&2\nexit 3\n");
    std::fs::set_permissions(&fake, std::fs::Permissions::from_mode(0o755)).unwrap();
    let ended = home.walbench(["clickhouse", "--clickhouse-bin", path(&fake)]).ended().with_code(4);
    assert!(ended.stderr.contains("ended while starting"), "{}", ended.stderr);
    assert!(ended.stderr.contains("the disk is on fire"), "{}", ended.stderr);
    let broken = home.write("libchdb.so", "no library");
    let ended = home.walbench(["clickhouse", "--chdb-lib", path(&broken)]).ended().with_code(4);
    ended.said("libchdb.so can't be loaded").said("hint: `walbench setup` gets");
    home.assert_clean();
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
