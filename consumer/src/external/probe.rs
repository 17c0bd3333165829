//! Probe rows: written into PostgreSQL, and looked for in ClickHouse.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use walbench_metrics::Failure;
use walbench_metrics::clock::wall_us;
use walbench_phases::address::PostgresAddress;
use walbench_phases::clickhouse::ClickhouseAddress;

use super::reckoning::Sight;
use crate::clickhouse::client::Clients;
use crate::replication::{Connection, ReplicationError};

/// The table that they are in: `id`, which only rises, and `written_at`.
pub const PROBE_TABLE: &str = "walbench_probe";

/// From one row to the next.
const WRITE_INTERVAL: Duration = Duration::from_millis(100);

/// From one look to the next: so much later than it came to be there a row is seen at most, beside
/// the time of an answer.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// A connection that is lost, and a server that answers with an error, are tried again after so long.
const AGAIN_INTERVAL: Duration = Duration::from_millis(500);

/// What was written last is waited for so long at the end.
const LAST_TIMEOUT: Duration = Duration::from_secs(5);

/// Writes and looks for as long as it is kept.
#[derive(Debug)]
pub(super) struct Probes {
    shared: Arc<Shared>,
    looking: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Rows are written.
    writes: AtomicBool,
    stop: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    written_id: i64,
    seen_id: i64,
    sights: Vec<Sight>,
    /// Why ClickHouse can't be asked.
    problem: Option<String>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Probes {
    /// Begins to look, by a query that says the largest number to be read; the clock's correction
    /// makes our times the orchestrator's.
    pub(super) fn begin(
        postgres: &PostgresAddress,
        worker: &str,
        clickhouse: &ClickhouseAddress,
        sql: String,
        correction_us: i64,
    ) -> Result<Self, Failure> {
        let clients = Clients::new(clickhouse)?;
        let shared = Arc::new(Shared::default());
        let (ours, address) = (shared.clone(), postgres.clone());
        let name = format!("walbench {worker} probe");
        std::thread::Builder::new()
            .name("probe".into())
            .spawn(move || write(&address, &name, &ours))
            .map_err(|e| Failure::new("a thread can't be started").caused_by(&e))?;
        let looking = tokio::spawn(look(clients, sql, correction_us, shared.clone()));
        Ok(Self { shared, looking })
    }

    /// Whether rows are written from now on.
    pub(super) fn write(&self, writes: bool) {
        self.shared.writes.store(writes, Ordering::Relaxed);
    }

    /// What was seen since the last time.
    pub(super) fn take(&self) -> Vec<Sight> {
        std::mem::take(&mut self.shared.state().sights)
    }

    /// Waits until all that was written is seen, for a while.
    pub(super) async fn until_all_are_seen(&self) {
        let deadline = Instant::now() + LAST_TIMEOUT;
        let is_left = || {
            let state = self.shared.state();
            state.seen_id < state.written_id
        };
        while is_left() && Instant::now() < deadline {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Why ClickHouse could not be asked at last.
    pub(super) fn problem(&self) -> Option<String> {
        self.shared.state().problem.clone()
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.looking.abort();
    }
}

fn write(address: &PostgresAddress, name: &str, shared: &Shared) {
    let mut connection: Option<Connection> = None;
    while !shared.stop.load(Ordering::Relaxed) {
        let next = Instant::now() + WRITE_INTERVAL;
        if shared.writes.load(Ordering::Relaxed) {
            let written = match &mut connection {
                Some(connection) => write_one(connection, shared),
                None => Connection::open_for_queries(address, name).map(|opened| {
                    connection = Some(opened);
                }),
            };
            if written.is_err() {
                connection = None;
                std::thread::sleep(AGAIN_INTERVAL);
            }
        }
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    if let Some(connection) = connection {
        connection.terminate();
    }
}

/// A row that was perhaps written before a connection was lost has had its number.
fn write_one(connection: &mut Connection, shared: &Shared) -> Result<(), ReplicationError> {
    let id = {
        let mut state = shared.state();
        state.written_id += 1;
        state.written_id
    };
    let sql = format!("INSERT INTO public.{PROBE_TABLE} VALUES ({id}, clock_timestamp())");
    connection.query("to write a probe row", &sql).map(drop)
}

async fn look(clients: Clients, sql: String, correction_us: i64, shared: Arc<Shared>) {
    loop {
        let next = tokio::time::Instant::now() + LOOK_INTERVAL;
        let answer = clients.next().text(&sql).await;
        let at_us = wall_us() - correction_us;
        let answer = match answer {
            Ok(text) => number(&text).ok_or(format!("it answered {text:?}, which is no number")),
            Err(error) => Err(error.failure("the query failed").line()),
        };
        match answer {
            Ok(id) => {
                shared.state().see(id, at_us);
                tokio::time::sleep_until(next).await;
            }
            // A table that the command makes is not there before its first row.
            Err(problem) => {
                shared.state().problem = Some(problem);
                tokio::time::sleep(AGAIN_INTERVAL).await;
            }
        }
    }
}

/// A count or a maximum; of nothing it may be NULL.
fn number(text: &str) -> Option<i64> {
    match text.trim() {
        "" | "\\N" => Some(0),
        text => text.parse().ok(),
    }
}

impl State {
    fn see(&mut self, id: i64, at_us: i64) {
        self.problem = None;
        if id > self.seen_id {
            self.seen_id = id;
            self.sights.push(Sight { at_us, id });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_numbers_and_only_newer_rows_are_seen() {
        assert_eq!(["7", "\\N", "", " 3\n"].map(number), [Some(7), Some(0), Some(0), Some(3)]);
        assert_eq!(["x", "1\t2", "1.5"].map(number), [None; 3]);
        let mut state = State { problem: Some("away".into()), ..State::default() };
        for (at_us, id) in [(1, 0), (2, 5), (3, 5), (4, 4), (5, 6)] {
            state.see(id, at_us);
        }
        let seen: Vec<_> = state.sights.iter().map(|sight| (sight.at_us, sight.id)).collect();
        assert_eq!(seen, [(2, 5), (5, 6)]);
        assert_eq!(state.problem, None);
    }
}
