//! How fast a preloaded slot is drained into ClickHouse: `cargo bench --bench sink [-- ROWS ROUNDS]`.
//!
//! Into the embedded engine and into Debian's server of 2018 (`WALBENCH_CLICKHOUSE18_BIN`, left out
//! where that is not set), narrow rows (`event`, about 200 B) and wide ones (`task_run`, about 1 KB):
//! `walbench follow`, and against it the very requests that it had sent, sent again from memory by as
//! many connections that do nothing else. Both are interleaved, and each begins with an empty table.
//!
//! Then single inserts of 1,000 rows, one after the other: as `follow` measures them, and from memory.
#![allow(clippy::unwrap_used, reason = "a measurement that can't go on shall panic")]

#[path = "../../producer/tests/it/cluster.rs"]
mod cluster;
mod loaded;

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio_postgres::Client;
use walbench_phases::address::{Host, PostgresAddress};
use walbench_producer::connect;

use cluster::{Cluster, Version};
use loaded::{LOOK, Loaded, SERVER, drop_slot, load, median};

/// Connections, as many as the plan's default of flushes under way at once.
const CONNECTIONS: usize = 4;

/// A private ClickHouse.
struct Server {
    name: &'static str,
    child: Child,
    login: String,
    address: String,
}

impl Server {
    fn start(name: &'static str, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_walbench"))
            .arg("clickhouse")
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("http://").unwrap();
        let (login, address) = url.trim_end_matches('/').split_once('@').unwrap();
        Self { name, login: login.into(), address: address.into(), child }
    }

    fn url(&self, address: &str) -> String {
        format!("http://{}@{address}/", self.login)
    }

    fn ask(&self, sql: &str) -> String {
        let (user, password) = self.login.split_once(':').unwrap();
        let request = format!(
            "POST / HTTP/1.0\r\nX-ClickHouse-User: {user}\r\nX-ClickHouse-Key: {password}\r\n\
             Content-Length: {}\r\n\r\n{sql}",
            sql.len()
        );
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains(" 200 OK"), "{sql}: {answer}");
        answer.split_once("\r\n\r\n").unwrap().1.trim().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// What one round measured.
struct Round {
    follow_rows_per_s: f64,
    memory_rows_per_s: f64,
    follow_cpu_us_per_row: f64,
    peak_mb: f64,
}

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|text| text.parse::<u64>().ok());
    let (rows, rounds) = (numbers.next().unwrap_or(300_000), numbers.next().unwrap_or(5));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cluster = Cluster::start_with(Version::Newest, &SERVER, &[]);
    let address = cluster.address();
    let admin = runtime.block_on(connect(&address, "sink")).unwrap().client;
    let mut servers = vec![Server::start("embedded", &[])];
    if let Ok(bin) = std::env::var("WALBENCH_CLICKHOUSE18_BIN") {
        servers.push(Server::start("18.16", &["--clickhouse-bin", &bin]));
    }
    for name in ["event", "task_run"] {
        let loaded = runtime.block_on(load(&admin, &address, name, rows));
        for server in &servers {
            let bench = Bench { admin: &admin, address: &address, server, loaded: &loaded };
            runtime.block_on(bench.run(rounds));
        }
    }
}

struct Bench<'a> {
    admin: &'a Client,
    address: &'a PostgresAddress,
    server: &'a Server,
    loaded: &'a Loaded,
}

impl Bench<'_> {
    async fn run(&self, rounds: u64) {
        let requests = self.recorded().await;
        let mut measured = Vec::new();
        for round in 0..rounds {
            let mut turn = [None, None];
            for step in 0..2 {
                self.empty();
                // Nobody always comes first.
                let who = ((round + step) % 2) as usize;
                turn[who] = Some(match who {
                    0 => Turn::Follow(self.follow(&self.server.address, CONNECTIONS).await),
                    _ => Turn::Memory(self.send(&requests)),
                });
                self.check();
            }
            let [Some(Turn::Follow(report)), Some(Turn::Memory(seconds))] = turn else { panic!() };
            let number = |key: &str| report[key].as_f64().unwrap();
            let round = Round {
                follow_rows_per_s: number("rows_per_s"),
                memory_rows_per_s: self.loaded.rows as f64 / seconds,
                follow_cpu_us_per_row: number("cpu_us_per_row"),
                peak_mb: number("max_rss_bytes") / 1e6,
            };
            eprintln!(
                "{} {}: follow {:.0}, from memory {:.0} rows/s",
                self.server.name,
                self.loaded.name,
                round.follow_rows_per_s,
                round.memory_rows_per_s
            );
            measured.push(round);
        }
        self.report(&measured);
        self.single(&requests).await;
    }

    fn report(&self, rounds: &[Round]) {
        let of = |get: fn(&Round) -> f64| median(rounds.iter().map(get));
        println!(
            "{} into {}: follow {:.0} rows/s, from memory {:.0}, ratio {:.2} (medians of {}); {:.2} µs of \
             CPU a row, at most {:.1} MB",
            self.loaded.name,
            self.server.name,
            of(|r| r.follow_rows_per_s),
            of(|r| r.memory_rows_per_s),
            of(|r| r.follow_rows_per_s / r.memory_rows_per_s),
            rounds.len(),
            of(|r| r.follow_cpu_us_per_row),
            of(|r| r.peak_mb),
        );
    }

    /// Inserts one after the other.
    async fn single(&self, requests: &[Vec<u8>]) {
        self.empty();
        let report = self.follow(&self.server.address, 1).await;
        let at = |key: &str| report["flush_us"][key].as_f64().unwrap() / 1e3;
        let (p50, p99) = (at("p50"), at("p99"));
        self.empty();
        let mut connection = Connection::open(&self.server.address);
        let mut times: Vec<f64> = requests
            .iter()
            .map(|request| {
                let started = Instant::now();
                connection.send(request);
                started.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        times.sort_by(f64::total_cmp);
        let place = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        println!(
            "{} into {}: one insert of 1,000 rows: follow p50 {p50:.2} ms, p99 {p99:.2} ms; from memory \
             p50 {:.2} ms, p99 {:.2} ms",
            self.loaded.name,
            self.server.name,
            place(0.5),
            place(0.99),
        );
    }

    fn empty(&self) {
        let there = format!("EXISTS TABLE walbench.{}", self.loaded.name);
        if self.server.ask(&there) == "1" {
            self.server.ask(&format!("TRUNCATE TABLE walbench.{}", self.loaded.name));
        }
    }

    fn check(&self) {
        let count = format!("SELECT uniqExact(id) FROM walbench.{}", self.loaded.name);
        assert_eq!(self.server.ask(&count), self.loaded.rows.to_string());
    }

    /// `walbench follow` into a server, or somebody on the way to it; its report.
    async fn follow(&self, address: &str, connections: usize) -> Value {
        let copy = "SELECT pg_copy_logical_replication_slot($1, 'drain')";
        self.admin.execute(copy, &[&self.loaded.name]).await.unwrap();
        let Host::Unix(folder) = &self.address.host else { panic!("the server has a Unix socket") };
        let folder = folder.display().to_string().replace('/', "%2F");
        let Loaded { name, end, .. } = self.loaded;
        let output = Command::new(env!("CARGO_BIN_EXE_walbench"))
            .args(["follow", "--json", "--slot=drain"])
            .arg(format!("--clickhouse={}", self.server.url(address)))
            .arg(format!("--postgres=postgres://postgres@{folder}:{}/postgres", self.address.port))
            .args([format!("--publication={name}"), format!("--until-lsn={end}")])
            .arg(format!("--set=consumer.max_flush_concurrency={connections}"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        drop_slot(self.admin).await;
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The requests of inserts as `follow` sends them.
    async fn recorded(&self) -> Vec<Vec<u8>> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let through = listener.local_addr().unwrap().to_string();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (upstream, each) = (self.server.address.clone(), heard.clone());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (server, heard) = (TcpStream::connect(&upstream).unwrap(), each.clone());
                std::thread::spawn(move || pass_on(client.unwrap(), server, &heard));
            }
        });
        self.empty();
        self.follow(&through, CONNECTIONS).await;
        std::thread::sleep(LOOK);
        let heard = heard.lock().unwrap();
        let requests = heard.iter().flat_map(|bytes: &Vec<u8>| requests(bytes));
        requests
            .filter(|request| request[..request.len().min(200)].windows(6).any(|w| w == b"INSERT"))
            .collect()
    }

    /// Sends requests again; how long that takes.
    fn send(&self, requests: &[Vec<u8>]) -> f64 {
        let left: Mutex<VecDeque<&Vec<u8>>> = Mutex::new(requests.iter().collect());
        let connections: Vec<_> =
            (0..CONNECTIONS).map(|_| Connection::open(&self.server.address)).collect();
        let started = Instant::now();
        std::thread::scope(|scope| {
            for mut connection in connections {
                let left = &left;
                scope.spawn(move || {
                    loop {
                        let Some(request) = left.lock().unwrap().pop_front() else { break };
                        connection.send(request);
                    }
                });
            }
        });
        started.elapsed().as_secs_f64()
    }
}

enum Turn {
    Follow(Value),
    Memory(f64),
}

/// Passes bytes on, and keeps those of the client.
fn pass_on(mut client: TcpStream, mut server: TcpStream, heard: &Mutex<Vec<Vec<u8>>>) {
    let (mut answers, mut to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    std::thread::spawn(move || std::io::copy(&mut answers, &mut to_client));
    let (mut all, mut buffer) = (Vec::new(), vec![0; 1 << 20]);
    while let Ok(length @ 1..) = client.read(&mut buffer) {
        all.extend_from_slice(&buffer[..length]);
        server.write_all(&buffer[..length]).unwrap();
    }
    let _ = server.shutdown(std::net::Shutdown::Both);
    heard.lock().unwrap().push(all);
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Takes a connection's requests apart.
fn requests(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut requests = Vec::new();
    while let Some(head) = find(bytes, b"\r\n\r\n") {
        let end = head + 4 + body_bytes(&bytes[..head], &bytes[head + 4..]);
        requests.push(bytes[..end].to_vec());
        bytes = &bytes[end..];
    }
    requests
}

/// How long the body behind a head is.
fn body_bytes(head: &[u8], body: &[u8]) -> usize {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    if let Some((_, rest)) = head.split_once("content-length: ") {
        return rest.lines().next().unwrap().trim().parse().unwrap();
    }
    if !head.contains("transfer-encoding: chunked") {
        return 0;
    }
    let mut at = 0;
    loop {
        let line = find(&body[at..], b"\r\n").unwrap();
        let size = std::str::from_utf8(&body[at..at + line]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        at += line + 2 + size + 2;
        if size == 0 {
            return at;
        }
    }
}

/// A connection that sends what it is given, and reads answers.
struct Connection(TcpStream);

impl Connection {
    fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    fn send(&mut self, request: &[u8]) {
        self.0.write_all(request).unwrap();
        let (mut answer, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
        loop {
            let length = self.0.read(&mut buffer).unwrap();
            assert!(length > 0, "the connection was ended");
            answer.extend_from_slice(&buffer[..length]);
            let Some(head) = find(&answer, b"\r\n\r\n") else { continue };
            let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
            assert!(text.contains(" 200 ok"), "{}", String::from_utf8_lossy(&answer));
            let is_whole = match text.contains("transfer-encoding: chunked") {
                true => answer[head + 4..].ends_with(b"0\r\n\r\n"),
                false => answer.len() >= head + 4 + body_bytes(&answer[..head], &[]),
            };
            if is_whole {
                return;
            }
        }
    }
}
