//! How fast a preloaded slot is drained into ClickHouse: `cargo bench --bench sink [-- ROWS ROUNDS
//! TABLE]`.
//!
//! Into the embedded engine and into Debian's server of 2018 (`WALBENCH_CLICKHOUSE18_BIN`, left out
//! where that is not set), narrow rows (`event`, about 200 B) and wide ones (`task_run`, about 1 KB):
//! `walbench follow`; the same with the replication stream from memory, so that no walsender shares the
//! cores; and against both the very requests that were sent, sent again from memory by as many
//! connections that do nothing else. They are interleaved, and each begins with an empty table. How much
//! of the machine was busy says what could have been faster.
//!
//! All of it twice: with ClickHouse on the same cores as everybody else, where whoever uses CPU takes it
//! from ClickHouse; and with a core for ClickHouse, and one for everybody else, as on two machines.
//!
//! Then single inserts of 1,000 rows, one after the other: as `follow` measures them, and from memory.
#![allow(clippy::unwrap_used, reason = "a measurement that can't go on shall panic")]

#[path = "../../producer/tests/it/cluster.rs"]
mod cluster;
mod loaded;
mod replay;

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio_postgres::Client;
use walbench_phases::address::{Host, PostgresAddress};
use walbench_producer::connect;

use cluster::{Cluster, Version};
use loaded::{LOOK, Loaded, SERVER, drop_slot, load, median};
use replay::Replay;

/// Connections, as many as the plan's default of flushes under way at once.
const CONNECTIONS: usize = 4;

const TABLES: [&str; 2] = ["event", "task_run"];

/// A private ClickHouse.
struct Server {
    name: &'static str,
    child: Child,
    login: String,
    address: String,
}

impl Server {
    /// The embedded engine, or a server in a folder.
    fn start(cores: Cores, bin: Option<&String>) -> Self {
        let name = if bin.is_none() { "embedded" } else { "18.16" };
        cores.stay_on(CLICKHOUSES);
        let mut child = Command::new(env!("CARGO_BIN_EXE_walbench"))
            .arg("clickhouse")
            .args(bin.map(|bin| format!("--clickhouse-bin={bin}")))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        cores.stay_on_ours();
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

/// What drained a slot.
#[derive(Clone, Copy, Debug)]
enum Who {
    Follow,
    /// `follow`, whose replication stream comes from memory.
    Replayed,
    /// Its requests, from memory.
    Requests,
}

const CONTESTANTS: [Who; 3] = [Who::Follow, Who::Replayed, Who::Requests];

/// What one turn measured.
#[derive(Clone, Copy, Default)]
struct Turn {
    rows_per_s: f64,
    /// Share of the machine's CPU time, by whomever.
    busy: f64,
    cpu_us_per_row: f64,
    peak_mb: f64,
}

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|text| text.parse::<u64>().ok());
    let (rows, rounds) = (numbers.next().unwrap_or(300_000), numbers.next().unwrap_or(5));
    // cargo adds one of its own.
    let table = std::env::args().skip(1).find(|text| TABLES.contains(&text.as_str()));
    let tables: Vec<_> = TABLES
        .into_iter()
        .filter(|name| table.as_ref().is_none_or(|table| table == name))
        .collect();
    for cores in [Cores::Shared, Cores::Apart] {
        println!("== {}", cores.text());
        cores.stay_on_ours();
        measure(cores, &tables, rows, rounds);
    }
}

fn measure(cores: Cores, tables: &[&'static str], rows: u64, rounds: u64) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cluster = Cluster::start_with(Version::Newest, &SERVER, &[]);
    let address = cluster.address();
    let admin = runtime.block_on(connect(&address, "sink")).unwrap().client;
    let debian = std::env::var("WALBENCH_CLICKHOUSE18_BIN").ok();
    for name in tables.iter().copied() {
        let loaded = runtime.block_on(load(&admin, &address, name, rows));
        for bin in [None, debian.as_ref()].into_iter().take(1 + usize::from(debian.is_some())) {
            let server = Server::start(cores, bin);
            let (admin, address) = (&admin, &address);
            let bench = Bench { admin, address, server: &server, loaded: &loaded };
            runtime.block_on(bench.run(rounds));
        }
    }
}

/// Who runs where.
#[derive(Clone, Copy)]
enum Cores {
    Shared,
    Apart,
}

/// ClickHouse's core, and that of all others.
const CLICKHOUSES: usize = 0;
const OURS: usize = 1;

impl Cores {
    fn text(self) -> &'static str {
        match self {
            Self::Shared => "all on the same cores",
            Self::Apart => "a core for ClickHouse, a core for all others",
        }
    }

    /// For this thread, and for whatever it starts.
    fn stay_on_ours(self) {
        self.stay_on(OURS);
    }

    fn stay_on(self, cpu: usize) {
        if matches!(self, Self::Apart) {
            let mut set = CpuSet::new();
            set.set(cpu).unwrap();
            sched_setaffinity(Pid::from_raw(0), &set).unwrap();
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
        let replay = self.replay();
        let requests = self.recorded(&replay).await;
        let mut measured = Vec::new();
        for round in 0..rounds as usize {
            let mut turns = [Turn::default(); CONTESTANTS.len()];
            for step in 0..CONTESTANTS.len() {
                // Nobody always comes first.
                let who = (round + step) % CONTESTANTS.len();
                turns[who] = self.turn(CONTESTANTS[who], &replay, &requests).await;
            }
            let rates = turns.map(|turn| format!("{:.0}", turn.rows_per_s)).join(", ");
            eprintln!("{} {}: {rates} rows/s", self.server.name, self.loaded.name);
            measured.push(turns);
        }
        self.report(&measured);
        self.single(&replay, &requests).await;
    }

    async fn turn(&self, who: Who, replay: &Replay, requests: &[Vec<u8>]) -> Turn {
        self.empty();
        let before = CpuTime::now();
        let (rows_per_s, report) = match who {
            Who::Requests => (self.loaded.rows as f64 / self.send(requests), None),
            Who::Follow | Who::Replayed => {
                let folder = match who {
                    Who::Replayed => replay.folder(),
                    _ => self.postgres_folder(),
                };
                let report = self.follow(&self.server.address, folder, CONNECTIONS).await;
                (report["rows_per_s"].as_f64().unwrap(), Some(report))
            }
        };
        let busy = CpuTime::now().busy_since(&before);
        self.check();
        let number = |key: &str| report.as_ref().map_or(0.0, |r| r[key].as_f64().unwrap());
        let (cpu_us_per_row, peak_mb) = (number("cpu_us_per_row"), number("max_rss_bytes") / 1e6);
        Turn { rows_per_s, busy, cpu_us_per_row, peak_mb }
    }

    fn report(&self, rounds: &[[Turn; CONTESTANTS.len()]]) {
        let of = |get: &dyn Fn(&[Turn; 3]) -> f64| median(rounds.iter().map(get));
        println!("{} into {}, medians of {}:", self.loaded.name, self.server.name, rounds.len());
        for (who, name) in
            ["follow", "follow, stream from memory", "requests from memory"].into_iter().enumerate()
        {
            println!(
                "  {name}: {:.0} rows/s, {:.2} of the requests', {:.0} % of the machine busy; {:.2} µs of CPU \
                 a row, at most {:.1} MB",
                of(&|turns| turns[who].rows_per_s),
                of(&|turns| turns[who].rows_per_s / turns[2].rows_per_s),
                of(&|turns| turns[who].busy * 100.0),
                of(&|turns| turns[who].cpu_us_per_row),
                of(&|turns| turns[who].peak_mb),
            );
        }
    }

    /// Inserts one after the other.
    async fn single(&self, replay: &Replay, requests: &[Vec<u8>]) {
        for (name, folder) in
            [("follow", self.postgres_folder()), ("follow, stream from memory", replay.folder())]
        {
            self.empty();
            let report = self.follow(&self.server.address, folder, 1).await;
            let at = |key: &str| report["flush_us"][key].as_f64().unwrap() / 1e3;
            println!(
                "  one insert of 1,000 rows, {name}: p50 {:.2} ms, p99 {:.2} ms",
                at("p50"),
                at("p99")
            );
        }
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
        let (p50, p99) = (place(0.5), place(0.99));
        println!(
            "  one insert of 1,000 rows, request from memory: p50 {p50:.2} ms, p99 {p99:.2} ms"
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

    fn postgres_folder(&self) -> &Path {
        let Host::Unix(folder) = &self.address.host else { panic!("the server has a Unix socket") };
        folder
    }

    fn replay(&self) -> Replay {
        Replay::of(self.postgres_folder(), self.address.port)
    }

    /// `walbench follow` into a server, or somebody on the way to it, of PostgreSQL at a socket in a
    /// folder; its report.
    async fn follow(&self, address: &str, folder: &Path, connections: usize) -> Value {
        let copy = "SELECT pg_copy_logical_replication_slot($1, 'drain')";
        self.admin.execute(copy, &[&self.loaded.name]).await.unwrap();
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

    /// The requests of inserts as `follow` sends them; the stream is recorded as well.
    async fn recorded(&self, replay: &Replay) -> Vec<Vec<u8>> {
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
        self.follow(&through, replay.folder(), CONNECTIONS).await;
        replay.assert_recorded();
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

/// CPU time of the whole machine, in ticks (`/proc/stat`).
struct CpuTime {
    all: u64,
    idle: u64,
}

impl CpuTime {
    fn now() -> Self {
        let stat = std::fs::read_to_string("/proc/stat").unwrap();
        let ticks = stat.lines().next().unwrap().split_whitespace().skip(1);
        // Guests' time is in the users' already.
        let ticks: Vec<u64> = ticks.take(8).map(|text| text.parse().unwrap()).collect();
        Self { all: ticks.iter().sum(), idle: ticks[3] + ticks[4] }
    }

    fn busy_since(&self, before: &Self) -> f64 {
        1.0 - (self.idle - before.idle) as f64 / (self.all - before.all) as f64
    }
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
