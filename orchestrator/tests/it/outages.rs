//! ClickHouses that go away, refuse, hang and break off: nothing is lost, and nothing is wrong.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::clickhouse::{Kind, Private, debian};
use crate::cluster::{Cluster, Version};
use crate::database::Database;
use crate::followed::Followed;
use crate::home::{Ended, Running};
use crate::into_clickhouse::{on_both_kinds, postgres};
use crate::kills::{self, Draw, Writer};
use crate::processes::{self, PATIENCE, until};
use crate::stored::Stored;

on_both_kinds![
    a_way_that_fails_at_a_tenth,
    rows_without_a_key_over_such_a_way,
    one_that_hangs_is_waited_for,
    patience_ends,
    of_several_the_one_that_is_there_is_asked,
    an_insert_that_outlives_its_sender,
];

/// What somebody on the way does with bytes, instead of passing them on.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Answers for the server.
    Answers(&'static str),
    /// Passes on half of a request's part, and ends the connection.
    CutsRequest,
    /// Ends the connection when the server answers: it has done what it was asked.
    CutsAnswer,
    /// Passes it on later.
    Delays,
    /// Says nothing for longer than anybody waits, and ends the connection.
    Hangs,
}

const FAULTS: [Fault; 8] = [
    Fault::Answers("500 Internal Server Error\r\nContent-Length: 0"),
    Fault::Answers("503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"),
    Fault::Answers("429 Too Many Requests\r\nContent-Length: 0"),
    Fault::Answers(
        "500 Internal Server Error\r\nContent-Length: 70\r\n\r\n\
         Code: 252. DB::Exception: Too many parts (301) in all. (TOO_MANY_PARTS)",
    ),
    Fault::CutsRequest,
    Fault::CutsAnswer,
    Fault::Delays,
    Fault::Hangs,
];

/// Instead of one in so many parts: each is answered with a refusal.
const ALWAYS: u64 = u64::MAX;

/// Longer than an insert may take in these tests.
const HANGING: Duration = Duration::from_millis(700);
const INSERT_TIMEOUT: (&str, &str) = ("clickhouse.insert_timeout_sec", "0.5");

/// So much of an insert is passed on before its end is held back: old servers read a megabyte, and
/// then look what is asked.
const PASSED_BYTES: usize = 1_500_000;

/// Stands between walbench and a server.
struct Proxy {
    address: SocketAddr,
    way: Arc<Way>,
}

#[derive(Debug)]
struct Way {
    upstream: String,
    /// One in so many parts meets with a fault; 0: none does.
    one_in: AtomicU64,
    faults: AtomicU64,
    draw: Mutex<Draw>,
    /// The next insert's end is held back.
    holds: AtomicBool,
    held: Notify,
    let_go: Notify,
}

impl Proxy {
    async fn start(upstream: &str, one_in: u64) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (one_in, draw) = (AtomicU64::new(one_in), Mutex::new(Draw::new()));
        let way = Arc::new(Way {
            upstream: upstream.into(),
            one_in,
            faults: AtomicU64::new(0),
            draw,
            holds: AtomicBool::new(false),
            held: Notify::new(),
            let_go: Notify::new(),
        });
        let each = way.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let way = each.clone();
                tokio::spawn(async move { way.pass_on(client).await });
            }
        });
        Self { address, way }
    }

    fn set(&self, one_in: u64) {
        self.way.one_in.store(one_in, Ordering::Relaxed);
    }

    fn faults(&self) -> u64 {
        self.way.faults.load(Ordering::Relaxed)
    }
}

impl Way {
    fn fault(&self) -> Option<Fault> {
        let one_in = self.one_in.load(Ordering::Relaxed);
        if one_in == ALWAYS {
            return Some(Fault::Answers("503 Service Unavailable\r\nContent-Length: 0"));
        }
        let mut draw = self.draw.lock().unwrap();
        let fault = (one_in > 0 && draw.below(one_in) == 0)
            .then(|| FAULTS[draw.below(FAULTS.len() as u64) as usize]);
        self.faults.fetch_add(u64::from(fault.is_some()), Ordering::Relaxed);
        fault
    }

    /// Passes bytes on in both directions until one of them ends, or a fault ends both.
    async fn pass_on(&self, mut client: TcpStream) {
        let Ok(mut server) = TcpStream::connect(&self.upstream).await else { return };
        let (mut asked, mut answered) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
        let mut held_after = None;
        loop {
            tokio::select! {
                read = client.read(&mut asked) => {
                    let Ok(length @ 1..) = read else { return };
                    match self.fault() {
                        Some(Fault::Answers(with)) => {
                            let ends = if with.contains("\r\n\r\n") { "" } else { "\r\n\r\n" };
                            let answer = format!("HTTP/1.1 {with}{ends}");
                            let _ = client.write_all(answer.as_bytes()).await;
                            let _ = client.shutdown().await;
                            return;
                        }
                        Some(Fault::CutsRequest) => {
                            let _ = server.write_all(&asked[..length / 2]).await;
                            return;
                        }
                        Some(Fault::Hangs) => return tokio::time::sleep(HANGING).await,
                        Some(Fault::Delays) => tokio::time::sleep(HANGING / 10).await,
                        Some(Fault::CutsAnswer) | None => {}
                    }
                    if server.write_all(&asked[..length]).await.is_err() {
                        return;
                    }
                    let is_insert = asked[..length].windows(6).any(|word| word == b"INSERT");
                    if is_insert && self.holds.swap(false, Ordering::Relaxed) {
                        held_after = Some(PASSED_BYTES);
                    }
                    held_after = held_after.map(|left| left.saturating_sub(length));
                    if held_after == Some(0) {
                        self.held.notify_one();
                        return self.let_go.notified().await;
                    }
                }
                read = server.read(&mut answered) => {
                    let Ok(length @ 1..) = read else { return };
                    match self.fault() {
                        Some(Fault::Delays) => tokio::time::sleep(HANGING / 10).await,
                        Some(_) => return,
                        None => {}
                    }
                    if client.write_all(&answered[..length]).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

fn interrupted(running: Running) -> Ended {
    running.signal(Signal::SIGINT);
    running.ended().with_code(0)
}

fn json(ended: &Ended) -> Value {
    serde_json::from_str(&ended.stdout).unwrap()
}

/// Two tables that are written by somebody all the time.
async fn followed(cluster: &Cluster, stored: Stored) -> Followed {
    let followed = Followed::in_database(Database::on(cluster).await, kills::SCHEMA).await;
    let followed = followed.into_clickhouse(stored).set(INSERT_TIMEOUT.0, INSERT_TIMEOUT.1);
    let followed = followed.set("consumer.flush_interval_ms", "20");
    kills::make_slot(&followed).await;
    followed
}

/// `WALBENCH_KILLS=400` kills it fifty times.
async fn a_way_that_fails_at_a_tenth(kind: Kind) {
    let (cluster, server) = (Cluster::start_version(postgres(kind)), Private::start(kind));
    let proxy = Proxy::start(server.address(), 0).await;
    let stored = Stored::of(&server).through(&proxy.address.to_string());
    let followed = followed(&cluster, stored).await;
    let writer = Writer::start_calmly(followed.database.address.clone());
    proxy.set(10);
    let mut draw = Draw::new();
    for _ in 0..kills::kills().div_ceil(8) {
        let running = followed.follow().start();
        draw.wait_ms(200, 1_500).await;
        running.signal(Signal::SIGKILL);
        let ended = running.ended();
        assert!(ended.was_killed(), "{}", ended.stderr);
    }
    let running = followed.follow().args(["--json"]).start();
    draw.wait_ms(1_000, 2_000).await;
    writer.stop().await;
    // As long as it takes, over the same way.
    followed.until_confirmed().await;
    let report = json(&interrupted(running));
    assert!(report["retries"].as_u64().unwrap() > 0, "{report}");
    println!("{} faults, {report}", proxy.faults());
    proxy.set(0);
    followed.assert_same(&kills::TABLES).await;
    server.end();
}

/// What tells its rows from others is a token of each batch; the oldest servers know of none.
async fn rows_without_a_key_over_such_a_way(kind: Kind) {
    let (cluster, server) = (Cluster::start_version(postgres(kind)), Private::start(kind));
    let proxy = Proxy::start(server.address(), 0).await;
    let sql = "CREATE TABLE log (n int); CREATE PUBLICATION p FOR TABLE log";
    let followed = Followed::published_in(Database::on(&cluster).await, sql).await;
    let stored = Stored::of(&server).through(&proxy.address.to_string());
    let followed = followed.into_clickhouse(stored).set(INSERT_TIMEOUT.0, INSERT_TIMEOUT.1);
    let followed = followed.set("consumer.flush_batch_size", "100");
    let running = followed.start_when_free().await;
    followed.until_followed().await;
    proxy.set(10);
    followed.execute("INSERT INTO log SELECT generate_series(1, 20000)").await;
    followed.until_confirmed().await;
    interrupted(running);
    assert!(proxy.faults() > 10, "{} faults", proxy.faults());
    let counts = followed.stored().ask("SELECT count(), uniqExact(n) FROM walbench.log");
    let (rows, different) = counts.split_once('\t').unwrap();
    assert_eq!(different, "20000");
    if kind == Kind::Embedded {
        assert_eq!(rows, "20000");
    }
    server.end();
}

/// How long a server is away; 30 is the proof, the default is for every day.
fn away() -> Duration {
    let seconds = std::env::var("WALBENCH_AWAY_SEC").map_or(3, |text| text.parse().unwrap());
    Duration::from_secs(seconds)
}

/// Meanwhile PostgreSQL waits, and what is in memory is bounded.
async fn one_that_hangs_is_waited_for(kind: Kind) {
    let (cluster, server) = (Cluster::start_version(postgres(kind)), Private::start(kind));
    let sql = "CREATE TABLE t (id int PRIMARY KEY, note text); CREATE PUBLICATION p FOR TABLE t";
    let followed = Followed::published_in(Database::on(&cluster).await, sql).await;
    let followed = followed.into_clickhouse(Stored::of(&server));
    let followed = followed.set(INSERT_TIMEOUT.0, INSERT_TIMEOUT.1);
    let followed = followed.set("consumer.max_in_flight_bytes", "2000000");
    let followed = followed.set("consumer.flush_batch_bytes", "500000");
    followed.execute("INSERT INTO t VALUES (0, 'before')").await;
    followed.until_free().await;
    let mut running = followed.follow().args(["--json"]).start();
    followed.until_confirmed().await;
    processes::signal(server.pid(), Signal::SIGSTOP);
    // Fifty times what it may hold.
    let rows = "INSERT INTO t SELECT n, repeat('x', 1000) FROM generate_series(1, 100000) n";
    followed.execute(rows).await;
    running.until_said("the first try of a flush failed: ClickHouse did not take a batch: timeout");
    tokio::time::sleep(away()).await;
    processes::signal(server.pid(), Signal::SIGCONT);
    running.until_said("flushes succeed again after ");
    followed.until_confirmed().await;
    let report = json(&interrupted(running));
    assert_eq!(report["rows"], 100_001, "{report}");
    assert!(report["retries"].as_u64().unwrap() > 0, "{report}");
    let mb = report["max_rss_bytes"].as_u64().unwrap() / 1_000_000;
    assert!(mb < 60, "{mb} MB");
    followed.assert_same(&["t"]).await;
    server.end();
}

async fn patience_ends(kind: Kind) {
    let server = Private::start(kind);
    let followed = Followed::new(postgres(kind), "CREATE TABLE t (id int PRIMARY KEY)").await;
    let proxy = Proxy::start(server.address(), 0).await;
    let stored = Stored::of(&server).through(&proxy.address.to_string());
    let followed = followed.into_clickhouse(stored).set("consumer.flush_retry_sec", "0.5");
    followed.until_free().await;
    let running = followed.follow().args(["--json"]).set(INSERT_TIMEOUT.0, "0.1").start();
    followed.until_followed().await;
    proxy.set(ALWAYS);
    followed.execute("INSERT INTO t VALUES (1)").await;
    let ended = running.ended().with_code(4).said("error: a batch could not be flushed in ");
    assert!(
        ended.stderr.contains("caused by: ClickHouse did not take a batch"),
        "{}",
        ended.stderr
    );
    let report = json(&ended);
    let (errors, retries) =
        (report["errors"].as_u64().unwrap(), report["retries"].as_u64().unwrap());
    assert!(retries > 0 && errors == retries + 1, "{report}");
    proxy.set(0);
    followed.assert_same(&["t"]).await;
    server.end();
}

async fn of_several_the_one_that_is_there_is_asked(kind: Kind) {
    let server = Private::start(kind);
    let followed =
        Followed::new(postgres(kind), "CREATE TABLE t (id int PRIMARY KEY, n int)").await;
    let (login, address) = (server.login(), server.address());
    let nobody = "127.0.0.1:1";
    for (round, url) in [
        format!("http://{login}@{address}/,http://{nobody}"),
        format!("http://{login}@{nobody}/,http://{address}"),
    ]
    .into_iter()
    .enumerate()
    {
        let sql = format!(
            "INSERT INTO t SELECT n, {round} FROM generate_series(1, 20000) n
                           ON CONFLICT (id) DO UPDATE SET n = excluded.n"
        );
        followed.execute(&sql).await;
        followed.until_free().await;
        let command = followed.home.walbench(["follow", "--clickhouse", &url, "--json"]);
        let command = followed.on(command).args(["--until-lsn", "current"]);
        let report = json(&command.set("consumer.flush_batch_size", "100").ended().with_code(0));
        // It is passed over for a while, and not tried with each other insert.
        assert_eq!(report["rows"], 20_000, "{report}");
        let errors = report["errors"].as_u64().unwrap();
        assert!(report["batches"].as_u64().unwrap() > 100 && errors < 20, "{report}");
    }
    let key = ["id".to_owned()];
    let state = Stored::of(&server).state("t", &key);
    assert!(state.len() == 20_000 && state.values().all(|row| row["n"] == "1"));
    server.end();
}

/// The next start finds it at work, and waits for its end, whether it can be killed or not.
async fn an_insert_that_outlives_its_sender(kind: Kind) {
    let server = Private::start(kind);
    let sql = "CREATE TABLE t (id int PRIMARY KEY, note text)";
    let followed = Followed::new(postgres(kind), sql).await;
    let proxy = Proxy::start(server.address(), 0).await;
    let stored = Stored::of(&server).through(&proxy.address.to_string());
    let followed = followed.into_clickhouse(stored).set("consumer.flush_batch_size", "50000");
    // All of them are one insert, however slowly they come.
    let followed = followed.set("consumer.flush_interval_ms", "60000");
    followed.execute("INSERT INTO t VALUES (0, 'before')").await;
    followed.drain().await;
    proxy.way.holds.store(true, Ordering::Relaxed);
    let rows = "INSERT INTO t SELECT n, md5(n::text) || md5((n + 1)::text)
                FROM generate_series(1, 50000) n";
    followed.execute(rows).await;
    let running = followed.start_when_free().await;
    tokio::time::timeout(PATIENCE, proxy.way.held.notified()).await.expect("no insert was held");
    running.signal(Signal::SIGKILL);
    assert!(running.ended().was_killed());
    let at_work = "SELECT count() FROM system.processes WHERE query LIKE '%INSERT INTO %'
                   AND query NOT LIKE '%system.processes%'";
    until("the insert at work", || (followed.stored().ask(at_work) == "1").then_some(()));
    let next = followed.start_when_free().await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    if kind == Kind::Debian {
        // It can't be killed there, and nothing is written before its end.
        let rows = "SELECT count() FROM walbench.t";
        assert_eq!([at_work, rows].map(|sql| followed.stored().ask(sql)), ["1", "1"]);
    }
    proxy.way.let_go.notify_one();
    followed.until_confirmed().await;
    interrupted(next);
    followed.assert_same(&["t"]).await;
    server.end();
}

/// Debian's server on a data folder of the test's, which outlives it. It ends with this process,
/// however that ends: its guardian waits for the end of its standard input.
struct Restarting {
    folder: TempDir,
    port: u16,
    guardian: Option<Child>,
}

const GUARDIAN: &str = r#"
"$1/clickhouse-server" "--config-file=$2/config.xml" >"$2/output" 2>&1 </dev/null &
echo $! >"$2/pid"
read -r _
kill -KILL $!
wait
"#;

impl Restarting {
    fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("wb-ch-").tempdir().unwrap();
        let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        let mut server = Self { folder, port, guardian: None };
        server.write_config();
        drop(free);
        server.run();
        server
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write_config(&self) {
        let (path, port) = (self.path().display(), self.port);
        for name in ["data", "tmp", "files"] {
            fs::create_dir(self.path().join(name)).unwrap();
        }
        let config = format!(
            "<yandex><logger><level>warning</level><log>{path}/log</log></logger>
             <listen_host>127.0.0.1</listen_host><http_port>{port}</http_port>
             <path>{path}/data/</path><tmp_path>{path}/tmp/</tmp_path>
             <user_files_path>{path}/files/</user_files_path>
             <format_schema_path>{path}/files/</format_schema_path>
             <users_config>{path}/users.xml</users_config>
             <default_profile>default</default_profile>
             <default_database>default</default_database>
             <mark_cache_size>268435456</mark_cache_size></yandex>"
        );
        let users = "<yandex><profiles><default/></profiles><quotas><default/></quotas>
             <users><default><password/><networks><ip>127.0.0.1</ip></networks>
             <profile>default</profile><quota>default</quota></default></users></yandex>";
        fs::write(self.path().join("config.xml"), config).unwrap();
        fs::write(self.path().join("users.xml"), users).unwrap();
    }

    fn run(&mut self) {
        let guardian = Command::new("sh")
            .args(["-c", GUARDIAN, "guardian"])
            .args([debian(), self.path()])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        self.guardian = Some(guardian);
        let address = format!("127.0.0.1:{}", self.port);
        until("a server that answers", || std::net::TcpStream::connect(&address).ok().map(drop));
    }

    /// Ends it as a crash does.
    fn kill(&mut self) {
        let pid = fs::read_to_string(self.path().join("pid")).unwrap().trim().parse().unwrap();
        processes::signal(pid, Signal::SIGKILL);
        let mut guardian = self.guardian.take().unwrap();
        drop(guardian.stdin.take());
        guardian.wait().unwrap();
    }

    fn stored(&self) -> Stored {
        Stored::at(&format!("127.0.0.1:{}", self.port), "default:")
    }
}

impl Drop for Restarting {
    fn drop(&mut self) {
        if self.guardian.is_some() {
            self.kill();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_crashes_and_comes_back() {
    let (cluster, mut server) =
        (Cluster::start_version(Version::Pg15OrInstalled), Restarting::start());
    let followed = followed(&cluster, server.stored()).await;
    let writer = Writer::start(followed.database.address.clone(), false);
    let running = followed.follow().start();
    followed.until_followed().await;
    let mut draw = Draw::new();
    for _ in 0..3 {
        draw.wait_ms(500, 1_500).await;
        server.kill();
        tokio::time::sleep(away() / 3).await;
        server.run();
        followed.until_confirmed().await;
    }
    writer.stop().await;
    followed.until_confirmed().await;
    interrupted(running).said("flushes succeed again after ");
    followed.assert_same(&kills::TABLES).await;
}
