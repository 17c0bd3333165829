//! Where the followed slot is confirmed, as PostgreSQL tells.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use walbench_metrics::Failure;
use walbench_metrics::clock::wall_us;
use walbench_phases::address::PostgresAddress;

use super::reckoning::Confirmation;
use crate::replication::{Connection, ReplicationError, parse_lsn, quote};

/// From one look to the next: so much later than it happened a confirmation is seen at most, beside
/// the time of an answer.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// A connection that is lost is made again after so long.
const REOPEN_INTERVAL: Duration = Duration::from_millis(500);

/// A server that takes longer to answer is away.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Looks at a slot for as long as it is kept.
#[derive(Debug)]
pub(super) struct SlotWatch(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    seen: Mutex<Seen>,
    stop: AtomicBool,
}

#[derive(Debug, Default)]
struct Seen {
    looks: u64,
    walsender: Option<u32>,
    reconnects: u64,
    confirmed_lsn: u64,
    confirmations: Vec<Confirmation>,
}

/// What was seen since the last time.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Moments at which the slot was confirmed further than ever before.
    pub(super) confirmations: Vec<Confirmation>,
    /// Walsenders that took the place of another.
    pub(super) reconnects: u64,
}

impl SlotWatch {
    /// Begins to look. The clock's correction makes our times the orchestrator's.
    pub(super) async fn begin(
        address: &PostgresAddress,
        worker: &str,
        slot: &str,
        correction_us: i64,
    ) -> Result<Self, Failure> {
        let way =
            Way { address: address.clone(), name: format!("walbench {worker}"), slot: slot.into() };
        let opening = tokio::task::spawn_blocking(move || way.open().map(|opened| (way, opened)));
        let opened = opening.await.map_err(|e| Failure::new("a thread died").caused_by(&e))?;
        let (way, connection) = opened.map_err(|error| {
            let failed = Failure::new("the slot can't be looked at");
            failed.because(error.into_failure())
        })?;
        let shared = Arc::new(Shared::default());
        let looking = shared.clone();
        std::thread::Builder::new()
            .name("slot".into())
            .spawn(move || look(&way, connection, &looking, correction_us))
            .map_err(|e| Failure::new("a thread can't be started").caused_by(&e))?;
        Ok(Self(shared))
    }

    /// Somebody streams from it.
    pub(super) fn is_active(&self) -> bool {
        self.0.seen().walsender.is_some()
    }

    /// How far it is confirmed.
    pub(super) fn confirmed_lsn(&self) -> u64 {
        self.0.seen().confirmed_lsn
    }

    /// What was seen since the last time, after one more look that has not begun yet.
    pub(super) async fn settled(&self) -> News {
        // One may be under way.
        let enough = self.0.seen().looks + 2;
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        while self.0.seen().looks < enough && Instant::now() < deadline {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        let mut seen = self.0.seen();
        News {
            confirmations: std::mem::take(&mut seen.confirmations),
            reconnects: std::mem::take(&mut seen.reconnects),
        }
    }
}

impl Drop for SlotWatch {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Way {
    address: PostgresAddress,
    name: String,
    slot: String,
}

impl Way {
    /// A session in which the question is understood once.
    fn open(&self) -> Result<Connection, ReplicationError> {
        let mut connection = Connection::open_for_queries(&self.address, &self.name)?;
        let sql = format!(
            "PREPARE look AS SELECT confirmed_flush_lsn, active_pid \
             FROM pg_catalog.pg_replication_slots WHERE slot_name = {}",
            quote(&self.slot)
        );
        connection.query("to look at the slot", &sql)?;
        Ok(connection)
    }
}

fn ask(connection: &mut Connection) -> Result<Option<(u64, Option<u32>)>, ReplicationError> {
    let rows = connection.query("to look at the slot", "EXECUTE look")?;
    let text = |column: usize| rows.first().and_then(|row| row.get(column)?.as_deref());
    let confirmed = text(0).and_then(parse_lsn);
    Ok(confirmed.map(|lsn| (lsn, text(1).and_then(|pid| pid.parse().ok()))))
}

fn look(way: &Way, connection: Connection, shared: &Shared, correction_us: i64) {
    let mut connection = Some(connection);
    while !shared.stop.load(Ordering::Relaxed) {
        let next = Instant::now() + LOOK_INTERVAL;
        match connection.as_mut().map(ask) {
            Some(Ok(answer)) => shared.seen().take(answer, wall_us() - correction_us),
            // A server that was started again has another way.
            Some(Err(_)) | None => {
                std::thread::sleep(REOPEN_INTERVAL);
                connection = way.open().ok();
            }
        }
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    if let Some(connection) = connection {
        connection.terminate();
    }
}

impl Seen {
    fn take(&mut self, answer: Option<(u64, Option<u32>)>, at_us: i64) {
        self.looks += 1;
        let Some((lsn, walsender)) = answer else { return };
        // After a crash of the server a position may come again: what was confirmed stays so.
        if lsn > self.confirmed_lsn {
            self.confirmed_lsn = lsn;
            self.confirmations.push(Confirmation { at_us, lsn });
        }
        if walsender.is_some() && self.walsender != walsender {
            self.reconnects += u64::from(self.walsender.is_some());
            self.walsender = walsender;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_progress_is_kept() {
        let mut seen = Seen::default();
        for (at_us, lsn, pid) in [(1, 10, None), (2, 10, Some(7)), (3, 20, Some(7)), (4, 15, None)]
        {
            seen.take(Some((lsn, pid)), at_us);
        }
        seen.take(None, 5);
        seen.take(Some((30, Some(8))), 6);
        let kept: Vec<_> = seen.confirmations.iter().map(|c| (c.at_us, c.lsn)).collect();
        assert_eq!(kept, [(1, 10), (3, 20), (6, 30)]);
        assert_eq!((seen.looks, seen.reconnects, seen.confirmed_lsn), (6, 1, 30));
    }
}
